"""What a client asks of the worker in its own process, if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from durably.errors import StopRun
from durably.execution.live_failures import FailureWatch
from durably.store.api import Store
from durably.store.rows import Enqueued, NewRun, RunRow


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


class LocalWorker(Protocol):
    """The worker of this process, as clients see it. Usable from any thread."""

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

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""


class NoWorker:
    """The worker of a process that has none: nothing is executed or claimed."""

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
        """Return: no thread is a job's."""

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the database file is not in its place any more."""
        self._store.check_in_place()

    def left_alone(self, run_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 - as above
        """Return none."""
        return {}

    def is_executing(self, run_id: str) -> bool:  # noqa: ARG002 - of the protocol
        """Return ``False``: nothing is executed here."""
        return False

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Return: nothing is executed."""
