"""The calls of an engine that only read runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durably._platform.displayable import escaped
from durably._platform.signals import door, entered
from durably.client.arguments import AnyRun, NameFilter, StatusFilter
from durably.errors import DurablyError
from durably.models import RunList
from durably.rendering.bases import Shown

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    from durably.client.client import Client
    from durably.models.plans import Plan
    from durably.models.records import AttemptList, ItemList, ItemStatus, LogList, StepList


@door
class ReadCalls(Shown):
    """What an engine can be asked about the runs that are stored."""

    _client: Client
    # Raises unless the engine can be used.
    _check: Callable[[], None]

    def to_dict(self) -> dict[str, Any]:
        """Return the path of the file, the names of the registered jobs, and the numbers of runs.

        The last ones are a dict of the number by status, for each job that has runs. Of a large
        file the newest 100,000 runs are counted.

        .. versionadded:: 0.2.0
        """
        self._check()
        return {
            "path": self._client.path,
            "jobs": list(self._client.handles.all()),
            "runs": self._client.reader.overview().by_job(),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the numbers of runs as a pandas DataFrame: ``job_name``, ``status``, ``runs``.

        Of a large file the newest 100,000 runs are counted. The runs themselves are a frame by
        ``app.runs().to_frame()``.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.reader.overview().to_frame()

    @entered
    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(include, exclude)
        try:
            self._check()
            runs = self._client.reader.overview().line()
        except DurablyError:
            return bundle
        return {**bundle, "text/plain": f"Durably {escaped(self._client.path)} · {runs}"}

    @entered
    def _repr_html_(self) -> str:
        from durably.rendering.tables import card  # noqa: PLC0415 - where first needed

        heading = [("name", "Durably"), ("path", self._client.path)]
        try:
            self._check()
            overview = self._client.reader.overview()
        except DurablyError as exc:
            return card(heading, [], note=str(exc))
        jobs = ", ".join(self._client.handles.all())
        fields = [("jobs", "message", jobs or None), *overview.fields()]
        return card(heading, fields, note=overview.note())

    def get_run(self, run_id: str | AnyRun) -> AnyRun | None:
        """Return the run with that id as it is now, ``None`` if there is none.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.reader.find(run_id)

    def get_runs(
        self,
        *,
        status: StatusFilter = None,
        job_name: NameFilter = None,
        labels: dict[str, str] | None = None,
        limit: int | None = None,
        offset: int = 0,
        parent: AnyRun | str | None = None,
    ) -> RunList[Any, Any]:
        """Return the runs that match, newest first.

        Args:
            status: one or several; an empty list matches nothing.
            job_name: one or several; an empty list matches nothing.
            labels: all of them must match.
            limit: how many at most.
            offset: how many to skip first.
            parent: only the runs that ``step.trigger`` of this run has triggered.

        Raises:
            ValidationError: an unknown status, or a negative number.

        .. versionadded:: 0.1.0
        .. versionchanged:: 0.2.0 Has *parent*.
        """
        self._check()
        return self._client.reader.find_many(status, job_name, labels, limit, offset, parent=parent)

    # A short name, for those who type.
    runs = get_runs

    def count_runs(
        self,
        *,
        status: StatusFilter = None,
        job_name: NameFilter = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """Return how many runs match; the filters are those of ``get_runs``.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.reader.count(status, job_name, labels)

    def get_steps(self, run: AnyRun | str) -> StepList:
        """Return the records of the run's steps, one for each name, in the order of their index.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        return self._client.answers.steps(run)

    steps = get_steps

    def get_items(
        self,
        run: AnyRun | str,
        name: str,
        *,
        status: ItemStatus | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> ItemList:
        """Return the stored records of the items of a map, in the order of their index.

        Items that are in progress, or were not executed yet, have none. The map may still be
        executed, by whatever process.

        Args:
            name: of the map.
            status: ``"completed"`` or ``"failed"``, for those alone.
            limit: return so many at the most, after the first *offset*.

        Raises:
            NotFoundError: there is no such run.
            ValidationError: an argument is not what it must be.

        .. versionadded:: 0.2.0
        """
        return self._client.answers.items(run, name, status, limit, offset)

    def get_attempts(self, run: AnyRun | str) -> AttemptList:
        """Return how the run was executed, the first time first; the last one may be running.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.2.0
        """
        return self._client.answers.attempts(run)

    def plan(self, run: AnyRun | str) -> Plan:
        """Return which results of a run are stored, and which of them other code has made.

        Nothing is executed. A step's function is found by its name in what is loaded.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.2.0
        """
        return self._client.answers.plan(run)

    def get_logs(self, run: AnyRun | str) -> LogList:
        """Return the persisted log lines of the run; empty without ``persist_logs=True``.

        Oldest first. They include lines that were written in this process before the call.

        Raises:
            NotFoundError: there is no such run.

        .. versionadded:: 0.1.0
        """
        return self._client.answers.logs(run)
