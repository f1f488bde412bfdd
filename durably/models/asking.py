"""What a run that came from an engine can be asked, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import attrs

from durably._platform.signals import entered
from durably._platform.values import Value
from durably.errors import ConflictError
from durably.settings import Duration

if TYPE_CHECKING:
    from durably.models.plans import Plan
    from durably.models.records import (
        AttemptList,
        ItemList,
        ItemRecord,
        ItemStatus,
        LogEntry,
        LogList,
        StepList,
    )
    from durably.rendering.timeline import Timeline

R = TypeVar("R")


@attrs.frozen(eq=False, repr=False)
class Progress(Value):
    """How far a run is, in units that the job chooses.

    .. versionadded:: 0.1.0
    """

    current: float
    total: float | None = None
    message: str | None = None


class RunEngine(Protocol):
    """What answers for runs: the engine that they came from. Usable from any thread."""

    @property
    def path(self) -> str:
        """Return the real path of its file."""

    def wait(
        self,
        run: Any,
        timeout: Duration | None,
        on_progress: Callable[[Progress], object] | None,
        on_log: Callable[[LogEntry], object] | None,
    ) -> Any:
        """Block until the run has completed, and return it."""

    def read(self, run: Any) -> Any:
        """Return the run as it is now."""

    def steps(self, run: Any) -> StepList:
        """Return the records of the run's steps."""

    def items(
        self, run: Any, name: str, status: ItemStatus | None, limit: int | None, offset: int
    ) -> ItemList:
        """Return the records of the items of a map."""

    def attempts(self, run: Any) -> AttemptList:
        """Return how the run was executed."""

    def plan(self, run: Any) -> Plan:
        """Return which results of the run are stored, and by which code."""

    def logs(self, run: Any) -> LogList:
        """Return the persisted log lines of the run."""

    def cancel(self, run: Any) -> None:
        """Cancel the run."""

    def timeline(self, run: Any) -> Timeline:
        """Return a picture of the run's steps over time."""

    def retry(self, run: Any, only: str | Callable[[ItemRecord], object] | None) -> Any:
        """Put the run back to pending."""

    def redo(self, run: Any, from_step: str | None, only: str | None) -> Any:
        """Forget results of the run, and make it pending."""

    def fork(self, run: Any, from_step: str | None, payload: Any, key: str | None) -> Any:
        """Store a new run with copies of the results of the run."""

    def set_step(self, run: Any, name: str, value: Any) -> None:
        """Set the result of a step of the run."""

    def set_item(self, run: Any, name: str, key: str | int, value: Any) -> None:
        """Set the result of an item of a map of the run."""


class Asking(Value, Generic[R]):
    """Base of ``Run``: what it can be asked, which its engine answers.

    The engine is no field: it takes no part in ``==``, ``repr()``, ``attrs.asdict`` and pickling.
    """

    __slots__ = ("_engine",)

    id: str

    def _ask(self) -> RunEngine:
        engine: RunEngine | None = getattr(self, "_engine", None)
        if engine is None:
            raise ConflictError(
                f"this Run came from no engine, as it was copied, unpickled or made by hand; get "
                f"it from one that has it, with app.get_run({self.id!r:.80})"
            )
        return engine

    @entered
    def result(self, timeout: Duration | None = None) -> R:
        """Block until the run has completed, whatever process executes it; return its output.

        Args:
            timeout: seconds (or a ``timedelta``) to wait at most; the run continues after that.

        Raises:
            RunFailedError: the run failed; it has ``.run``.
            RunCancelledError: the run was cancelled; it has ``.run``.
            WaitTimeoutError: the timeout has expired; the run continues.
            NoWorkerError: no timeout was given, and no engine could execute the run.
            NotFoundError: it was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        output: R = self._ask().wait(self, timeout, None, None).output
        return output

    @entered
    def wait(
        self,
        *,
        timeout: Duration | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[LogEntry], object] | None = None,
    ) -> Self:
        """Block until the run has completed, and return it, as ``Durably.wait`` does.

        Raises:
            ConflictError: this ``Run`` came from no engine.

        It also raises the errors of ``Durably.wait``.

        .. versionadded:: 0.2.0
        """
        run: Self = self._ask().wait(self, timeout, on_progress, on_log)
        return run

    @entered
    def refresh(self) -> Self:
        """Return the run as it is now; this object stays as it is.

        Raises:
            NotFoundError: it was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        run: Self = self._ask().read(self)
        return run

    @property
    @entered
    def steps(self) -> StepList:
        """Return the records of the run's steps as they are now, as of ``Durably.get_steps``.

        Each access reads the database.

        Raises:
            NotFoundError: the run was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        return self._ask().steps(self)

    @entered
    def items(
        self,
        name: str,
        *,
        status: ItemStatus | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> ItemList:
        """Return the records of the items of a map, as ``Durably.get_items`` does.

        Raises:
            ConflictError: this ``Run`` came from no engine.

        It also raises the errors of ``Durably.get_items``.

        .. versionadded:: 0.2.0
        """
        return self._ask().items(self, name, status, limit, offset)

    @property
    @entered
    def attempts(self) -> AttemptList:
        """Return how the run was executed, as of ``Durably.get_attempts``; the last may be running.

        Each access reads the database.

        Raises:
            NotFoundError: the run was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        return self._ask().attempts(self)

    @entered
    def plan(self) -> Plan:
        """Return which results are stored, and which other code has made, as ``Durably.plan`` does.

        Raises:
            NotFoundError: the run was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        return self._ask().plan(self)

    @property
    @entered
    def logs(self) -> LogList:
        """Return the persisted log lines of the run as they are now, as of ``Durably.get_logs``.

        Each access reads the database.

        Raises:
            NotFoundError: the run was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        return self._ask().logs(self)

    @entered
    def cancel(self) -> None:
        """Cancel the run, if it is pending or running, as ``Durably.cancel`` does.

        Raises:
            ConflictError: the run has ended, or this ``Run`` came from no engine.
            NotFoundError: it was deleted.

        .. versionadded:: 0.2.0
        """
        self._ask().cancel(self)

    @entered
    def retry(self, *, only: str | Callable[[ItemRecord], object] | None = None) -> Self:
        """Put the run back to pending, if it has failed or was cancelled, and return it.

        Its completed steps are kept, as by ``Durably.retry``.

        Args:
            only: which failed items of its maps are tried again, all by default.

        Raises:
            ConflictError: the run is in another state, or this ``Run`` came from no engine.
            NotFoundError: it was deleted, or no failed item is meant by *only*.
            ValidationError: *only* is neither the name of a type nor a function.

        .. versionadded:: 0.2.0
        """
        run: Self = self._ask().retry(self, only)
        return run

    @entered
    def redo(self, *, from_step: str | None = None, only: str | None = None) -> Self:
        """Forget results of the run, so that their steps are executed again, and return it.

        It is pending again, as after ``Durably.redo``, which says what becomes of the rest.

        Args:
            from_step: the first step to execute again, with all that follow it.
            only: one step to execute again, or ``"map[key]"`` for one item of a map.

        Raises:
            ConflictError: the run is being executed, or this ``Run`` came from no engine.
            NotFoundError: it was deleted, or has no such step.
            ValidationError: both *from_step* and *only* were given.

        .. versionadded:: 0.2.0
        """
        run: Self = self._ask().redo(self, from_step, only)
        return run

    @entered
    def fork(
        self, *, from_step: str | None = None, payload: Any = ..., key: str | None = None
    ) -> Self:
        """Store a new run that begins with copies of this one's results, as ``Durably.fork`` does.

        Args:
            from_step: the first step that the new run executes.
            payload: of the new run, by default that of this one.
            key: the idempotency key of the new run.

        Raises: as ``Durably.fork``, and
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        run: Self = self._ask().fork(self, from_step, payload, key)
        return run

    @entered
    def set_step(self, name: str, value: Any) -> None:
        """Set the result of a step of the run, as ``Durably.set_step`` does.

        Raises: as ``Durably.set_step``, and
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        self._ask().set_step(self, name, value)

    @entered
    def set_item(self, name: str, key: str | int, value: Any) -> None:
        """Set the result of an item of a map of the run, as ``Durably.set_item`` does.

        Raises: as ``Durably.set_item``, and
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        self._ask().set_item(self, name, key, value)

    @entered
    def timeline(self) -> Timeline:
        """Return a picture of the run's steps over time, as they are now.

        A notebook shows it, and its ``save(path)`` writes it as an SVG file. The items of a map are
        a band, as high as many have ended, with those that failed in red. At most 50 steps are
        drawn, and the time between two launches is not drawn to scale.

        Raises:
            NotFoundError: the run was deleted.
            ConflictError: this ``Run`` came from no engine.

        .. versionadded:: 0.2.0
        """
        return self._ask().timeline(self)


A = TypeVar("A", bound=Asking[Any])


def answered_by(run: A, engine: RunEngine | None) -> A:
    """Make *engine* the one that answers for *run*, which has just been made; return the run."""
    object.__setattr__(run, "_engine", engine)
    return run


def engine_of(run: Asking[Any]) -> RunEngine | None:
    """Return the engine that answers for *run*, if there is one."""
    return getattr(run, "_engine", None)
