"""Handles trigger and read the runs of one job, and are typed by it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durably._platform.signals import door, entered
from durably.client.arguments import NOT_GIVEN, OnLog, OnProgress, StatusFilter, Trigger, several
from durably.errors import DurablyError, NotFoundError
from durably.jobs import Job, check_job
from durably.jobs.registry import missing_job
from durably.models import Run, RunList
from durably.rendering.bases import Shown
from durably.settings import Coalesce, Duration, OnPayloadChange, optional_timeout

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    from durably.client.submit import Submitter
    from durably.settings.retries import Retry

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class JobHandles(Mapping[str, "JobHandle[Any, Any]"]):
    """The handles of the jobs that were registered when it was made, by name; read-only.

    An unknown name raises a ``KeyError`` that lists the known ones.
    """

    def __init__(self, handles: dict[str, JobHandle[Any, Any]]) -> None:
        self._handles = handles

    def __getitem__(self, name: str) -> JobHandle[Any, Any]:
        try:
            return self._handles[name]
        except KeyError:
            raise KeyError(missing_job(name, self._handles)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._handles

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __repr__(self) -> str:
        return f"<jobs: {', '.join(map(repr, self._handles)) or 'none'}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._handles)


@door
class JobHandle(Shown, Generic[P, R]):
    """Trigger and read the runs of one job. Usable from any thread.

    A notebook shows how many runs there are of each status.

    .. versionadded:: 0.1.0
    """

    def __init__(self, name: str, submitter: Submitter) -> None:
        self._name = name
        self._submitter = submitter

    @property
    def name(self) -> str:
        """Return the name of the job.

        .. versionadded:: 0.1.0
        """
        return self._name

    @property
    def job(self) -> Job[P, R]:
        """Return the job as it is registered now; in an interactive session, as it is defined now.

        .. versionadded:: 0.1.0
        """
        return self._submitter.registry.require_as_defined_now(self._name)

    def __repr__(self) -> str:
        return f"<JobHandle {self._name!r}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the job, and the number of its runs by status.

        Of a large file the newest 100,000 runs of the job are counted.

        .. versionadded:: 0.2.0
        """
        self._submitter.check()
        counts = self._submitter.reader.overview(self._name).by_job()
        return {"name": self._name, "runs": counts.get(self._name, {})}

    def to_frame(self) -> pd.DataFrame:
        """Return the numbers of the job's runs as a DataFrame, as ``Durably.to_frame`` does.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        self._submitter.check()
        return self._submitter.reader.overview(self._name).to_frame()

    @entered
    def _repr_html_(self) -> str:
        from durably.rendering.tables import card  # noqa: PLC0415 - where first needed

        heading = [("name", self._name)]
        try:
            self._submitter.check()
            overview = self._submitter.reader.overview(self._name)
        except DurablyError as exc:
            return card(heading, [], note=str(exc))
        counts = overview.by_job().get(self._name)
        return card(heading, [("runs", "counts", counts)], note=overview.note())

    def trigger(
        self,
        payload: P | Mapping[str, Any] | None = NOT_GIVEN,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Coalesce = False,
        retry_failed: bool = False,
        on_payload_change: OnPayloadChange = "warn",
        run_at: datetime | None = None,
        delay: Duration | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        labels: dict[str, str] | None = None,
    ) -> Run[P, R]:
        """Store a run of this job and return it.

        When this returns the run is on disk and survives a crash; it may not have started.

        Args:
            payload: an instance of the job's input type, or data that structures into it. Without
                it the default of the job's parameter is used, if there is one, else ``None``.
            idempotency_key: a trigger with the same key again returns the first run.
            concurrency_key: of all runs with this key at most one is executed at a time.
            coalesce: return a pending run of this job and concurrency key, if there is one; with
                ``"active"`` also one that is waiting or running. ``True`` is ``"pending"``.
            retry_failed: put the run that the idempotency key finds back to pending, if it
                failed or was cancelled; its checkpoints are kept.
            on_payload_change: what happens if the run that the idempotency key finds has another
                payload. ``"warn"`` warns with ``PayloadChangedWarning`` and leaves it as it is;
                ``"refuse"`` raises ``ConflictError``; ``"extend"`` gives it the new payload and, if
                it has ended, puts it back to pending with its checkpoints.
            run_at: when the run may begin, an aware ``datetime``; it is pending until then. The
                time is that of the wall clock, and outlasts a restart.
            delay: the same as seconds from now (or a ``timedelta``).
            retry: how the run is tried again after a failure, in place of what the job says. It is
                stored with the run, so it has no functions.
            timeout: how long one execution may take, in place of what the job says: seconds (or a
                ``timedelta``).
            labels: for filtering.

        Returns:
            The run. Its ``disposition`` says how the trigger was resolved.

        Raises:
            ValidationError: the payload, a key or a label is not acceptable. Nothing is stored.
            ConflictError: the run with the idempotency key has another payload, and that is
                refused, or it is to be extended and is being executed. Nothing is stored.
            DatabaseError: the database cannot be written now. Nothing is stored.

        .. versionadded:: 0.1.0
        """
        self._submitter.check()
        return self._submitter.trigger(
            self.job,
            Trigger(
                payload,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
                coalesce=coalesce,
                retry_failed=retry_failed,
                on_payload_change=on_payload_change,
                run_at=run_at,
                delay=delay,
                retry=retry,
                timeout=timeout,
                labels=labels,
            ),
        )

    def trigger_and_wait(
        self,
        payload: P | Mapping[str, Any] | None = NOT_GIVEN,
        *,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        on_log: OnLog | None = None,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Coalesce = False,
        retry_failed: bool = False,
        on_payload_change: OnPayloadChange = "warn",
        run_at: datetime | None = None,
        delay: Duration | None = None,
        retry: Retry | None = None,
        labels: dict[str, str] | None = None,
    ) -> Run[P, R]:
        """Store a run of this job, block until it has completed, and return it.

        Args:
            timeout: seconds (or a ``timedelta``) to wait at most; the run continues after that.
            on_progress: called in this thread with each new ``Progress``.
            on_log: called in this thread with each ``LogEntry``.

        The other arguments are those of ``trigger``, but for its *timeout*.

        Raises:
            RunFailedError: the run failed; it has ``.run``. It is raised from the job's own
                exception if the run was executed by this engine during the call.
            RunCancelledError: the run was cancelled; it has ``.run``.
            WaitTimeoutError: the timeout has expired; the run is stored and continues.
            DatabaseError: the run could not be stored in that time. Nothing is stored.
            NoWorkerError: no timeout was given, and no engine could execute the run.

        It also raises the errors of ``trigger``.

        .. versionadded:: 0.1.0
        """
        timeout_s = optional_timeout(timeout)
        self._submitter.check()
        return self._submitter.trigger_and_wait(
            self.job,
            Trigger(
                payload,
                idempotency_key=idempotency_key,
                concurrency_key=concurrency_key,
                coalesce=coalesce,
                retry_failed=retry_failed,
                on_payload_change=on_payload_change,
                run_at=run_at,
                delay=delay,
                retry=retry,
                labels=labels,
            ),
            timeout_s,
            on_progress,
            on_log,
        )

    def batch_trigger(self, items: Iterable[P | Mapping[str, Any] | Trigger[P]]) -> RunList[P, R]:
        """Store a run for each item in one transaction: all of them or none.

        Args:
            items: payloads, or ``Trigger(payload, idempotency_key=..., ...)``.

        Returns:
            The runs in the order of the items.

        Raises:
            ValidationError: an item is not acceptable; the message says which. Nothing is stored.
            ConflictError: as for ``trigger``. Nothing is stored.
            DatabaseError: the database cannot be written now. Nothing is stored.

        .. versionadded:: 0.1.0
        """
        self._submitter.check()
        return self._submitter.trigger_all(self.job, several(items, "the items of a batch"))

    def get_run(self, run_id: str | Run[Any, Any]) -> Run[P, R] | None:
        """Return the run with that id if it is a run of this job, else ``None``.

        .. versionadded:: 0.1.0
        """
        self._submitter.check()
        return self._submitter.reader.find(run_id, self._name)

    def get_runs(
        self,
        *,
        status: StatusFilter = None,
        labels: dict[str, str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> RunList[P, R]:
        """Return the runs of this job that match, newest first; see ``Durably.get_runs``.

        Raises:
            ValidationError: an unknown status, or a negative number.

        .. versionadded:: 0.1.0
        """
        self._submitter.check()
        return self._submitter.reader.find_many(
            status, self._name, labels, limit, offset, kind="job"
        )


class Handles:
    """The handles of the jobs of one engine. Usable from any thread."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._registry = submitter.registry
        self._lock = threading.RLock()  # guards replacing a job together with its handle
        self._handles: dict[str, JobHandle[Any, Any]] = {}
        for name in self._registry.names():
            self._handles[name] = JobHandle(name, submitter)

    def register(self, job: Job[P, R]) -> JobHandle[P, R]:
        """Register a job, and return its handle."""
        with self._lock:
            self._registry.add(job)
            handle: JobHandle[P, R] = self._handles.setdefault(
                job.name, JobHandle(job.name, self._submitter)
            )
        # Pending runs of this job may have waited for it.
        self._submitter.notify_dispatcher()
        return handle

    def all(self) -> JobHandles:
        """Return the handles of the jobs that are registered now."""
        with self._lock:
            return JobHandles(dict(self._handles))

    def find(self, job: Job[Any, Any] | str, call: str) -> JobHandle[Any, Any]:
        """Return the handle of a job, which is registered if it is not, or of a name.

        Args:
            call: the method that was called with *job*, for a message.
        """
        if isinstance(job, str):
            with self._lock:
                handle = self._handles.get(job)
            if handle is None:
                raise NotFoundError(missing_job(job, self._handles))
            return handle
        check_job(job, f"{call} takes a Job or its name; it was given")
        with self._lock:
            if self._registry.get(job.name) is job:
                return self._handles[job.name]
        return self.register(job)
