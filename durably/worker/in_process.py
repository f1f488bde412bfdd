"""The worker as clients in its own process see it: what ``client.local_worker`` describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import attrs

from durably.errors import OwnershipLost, RunCancelled, StopRun
from durably.execution.current_run import CurrentRun
from durably.execution.live_failures import FailureWatch, LiveFailures
from durably.store.rows import Enqueued, NewRun, RunRow
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.foreign_runs import ForeignRuns
from durably.worker.ownership import Ownership

if TYPE_CHECKING:
    from durably.worker.callers_thread import CallersThread


@attrs.define(eq=False, repr=False, slots=False)
class InProcessWorker:
    """Answer the clients of the same process. Usable from any thread.

    Args:
        callers_thread: returns what begins and executes runs for the calling thread.
        check_in_place: raises ``DatabaseLostError`` if the database file is gone.
        flush_log_lines: stores the log lines that are buffered.
    """

    _claimer: Claimer
    _runs: CurrentRuns
    _ownership: Ownership
    _foreign: ForeignRuns
    _live_failures: LiveFailures
    _callers_thread: Callable[[], CallersThread]
    check_in_place: Callable[[], None]
    flush_log_lines: Callable[[], None]

    @property
    def callers_thread(self) -> CallersThread:
        """Return what begins and executes certain runs for the calling thread."""
        return self._callers_thread()

    def enqueue_and_claim(self, new: NewRun, now_us: int) -> Enqueued | None:
        """Store a run and start the first in line; ``None`` if no runs are claimed now."""
        return self._claimer.enqueue_and_claim(new, now_us)

    def is_executing(self, run_id: str) -> bool:
        """Return whether the run is inside its job here, or its last event is not yet emitted."""
        return any(
            run.id == run_id and run.stop_reason not in (RunCancelled, OwnershipLost)
            for run in self._runs.all()
        )

    def executing(self) -> list[CurrentRun]:
        """Return the runs that are inside their jobs here."""
        return self._runs.all()

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""
        self._runs.stop_run(row, reason)

    def watching(self, run_id: str | None = None) -> AbstractContextManager[FailureWatch]:
        """Watch within the block for the exception that fails a run here."""
        return self._live_failures.watched(run_id)

    # -- waiting -------------------------------------------------------------------------------

    @contextmanager
    def waiting(self) -> Iterator[InProcessWorker]:
        """Mark that the calling thread waits for a run within the block."""
        with self._runs.waiting():
            yield self

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if this is a job's thread and its run is to stop."""
        self._runs.check_job(is_futile=is_futile)

    @property
    def is_claiming(self) -> bool:
        """Return whether runs are claimed now, by itself or for a call of ``run_until_idle``."""
        return self._claimer.may_claim

    @property
    def is_stuck(self) -> bool:
        """Return whether this is a job's thread, and every slot has a job that waits for a run."""
        return self._runs.is_inside_job and self._claimer.are_slots_waiting

    def left_alone(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return those of the runs that this engine leaves to other code, and why, by id."""
        found = self._foreign.among(run_ids)
        return {run_id: self._foreign.explain(begun) for run_id, begun in found.items()}

    @property
    def owner(self) -> int | None:
        """Return the number of this engine's owner row, if it has one now."""
        return self._ownership.owner

    @property
    def owners(self) -> tuple[int, ...]:
        """Return the number of each owner row that this engine has had."""
        return self._ownership.owners
