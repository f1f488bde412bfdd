"""What a client asks of the worker in its own process, if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from durably.errors import StopRun
from durably.execution.current_run import CurrentRun
from durably.execution.live_failures import FailureWatch
from durably.jobs import Job
from durably.store.rows import Beginning, BeginOptions, Enqueued, NewRun, RunRow

if TYPE_CHECKING:
    from durably.store.api import Store

T = TypeVar("T")


class Waiting(Protocol):
    """What a thread that waits for runs asks of the worker."""

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if this is a job's thread and its run is to stop: waiting is a step boundary.

        Args:
            is_futile: whether the wait cannot succeed; the run goes back if the engine is stopping.
        """

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the database file is not in its place any more."""

    @property
    def is_claiming(self) -> bool:
        """Return whether runs are claimed now, by itself or for a call of ``run_until_idle``."""

    @property
    def is_stuck(self) -> bool:
        """Return whether this is a job's thread, and every slot has a job that waits for a run."""

    def left_alone(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return those of the runs that the worker leaves to other code, and why, by id."""

    @property
    def owner(self) -> int | None:
        """Return the number of the worker's owner row, if it has one now."""

    @property
    def owners(self) -> tuple[int, ...]:
        """Return the number of each owner row that the worker has had."""


class CallersThread(Protocol):
    """What a call that executes a certain run in its own thread asks of the worker."""

    @property
    def recover(self) -> Callable[..., object]:
        """Return what puts back what dead and hung engines have left.

        Its argument, if there is one, returns whether the call goes on with a run and shows it.
        """

    def raise_if_inside_job(self) -> None:
        """Raise ``ConflictError`` if the calling thread executes a job of this engine."""

    def raise_if_unusable(self) -> None:
        """Raise ``EngineClosedError`` if the engine is closed, or is being closed.

        Raise ``DatabaseLostError`` if the file is not in its place.
        """

    def with_threads(self, call: Callable[[], T]) -> T:
        """Make a call while the worker's threads run, and return its result."""

    def begin(
        self, new: NewRun, origins: str, codes: str, **options: Unpack[BeginOptions]
    ) -> tuple[Beginning, CurrentRun | None]:
        """Create or continue a certain run, and claim it if possible, as ``Store.begin`` does."""

    def execute(
        self,
        run: CurrentRun,
        job: Job[Any, Any],
        *,
        announce: Callable[[], object],
        timeout_s: float | None,
    ) -> bool:
        """Execute a run that was begun; return whether its timeout was over before its end.

        Args:
            announce: called before; the run goes back if it raises.
            timeout_s: after which the run stops at its next step boundary.

        Raises:
            DatabaseError: its end could not be stored.
            BaseException: what a signal handler has raised in this thread. The run goes back.
        """


class LocalWorker(Protocol):
    """The worker of this process, as clients see it. Usable from any thread."""

    @property
    def callers_thread(self) -> CallersThread | None:
        """Return what executes certain runs; ``None`` in a process that executes nothing."""

    def enqueue_and_claim(self, new: NewRun, now_us: int) -> Enqueued | None:
        """Store a run and start the run that is first in line, which need not be the new one.

        Return ``None``, and store nothing, if the worker does not claim runs by itself now.
        """

    def waiting(self) -> AbstractContextManager[Waiting]:
        """Mark that the calling thread waits for a run within the block."""

    def watching(self, run_id: str | None = None) -> AbstractContextManager[FailureWatch]:
        """Watch within the block for the exception that fails a run here.

        Args:
            run_id: ``None`` for every run, until the watch learns which one is meant.
        """

    def check_job(self) -> None:
        """Raise if this is a job's thread and its run is to stop."""

    def is_executing(self, run_id: str) -> bool:
        """Return whether the run is inside its job here, or its last event is not yet emitted.

        A run that was cancelled has ended, and one that another engine recovered ends there,
        however long its job continues here.
        """

    def executing(self) -> list[CurrentRun]:
        """Return the runs that are inside their jobs here."""

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""

    @property
    def flush_log_lines(self) -> Callable[[], object]:
        """Return what stores the log lines that were written here and are to be stored."""


class NoWorker:
    """The worker of a process that has none: nothing is executed or claimed."""

    callers_thread: CallersThread | None = None
    is_claiming = False
    is_stuck = False
    owner: int | None = None
    owners: tuple[int, ...] = ()

    def __init__(self, store: Store) -> None:
        self._store = store

    def enqueue_and_claim(self, new: NewRun, now_us: int) -> None:
        """Return ``None``: a run that is triggered starts elsewhere."""

    @contextmanager
    def waiting(self) -> Iterator[Waiting]:
        """Execute the block."""
        yield self

    @contextmanager
    def watching(self, run_id: str | None = None) -> Iterator[FailureWatch]:
        """Execute the block: no run fails here."""
        yield FailureWatch(run_id)

    def check_job(self, *, is_futile: bool = False) -> None:
        """Do nothing: no thread is a job's."""

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the database file is not in its place any more."""
        self._store.check_in_place()

    def left_alone(self, run_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 - as above
        """Return none."""
        return {}

    def is_executing(self, run_id: str) -> bool:  # noqa: ARG002 - of the protocol
        """Return ``False``: nothing is executed here."""
        return False

    def executing(self) -> list[CurrentRun]:
        """Return none."""
        return []

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Do nothing: nothing is executed."""

    def flush_log_lines(self) -> None:
        """Do nothing: no log lines are written."""
