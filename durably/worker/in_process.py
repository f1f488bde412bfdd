"""The worker as clients in its own process see it: what ``client.local_worker`` describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from durably.emitter import Emitter
from durably.errors import DatabaseError, OwnershipLost, RunCancelled, StopRun
from durably.execution.current_run import Slot, tell_worker_error
from durably.store.api import Store
from durably.store.rows import Claim, RunRow
from durably.worker.foreign_runs import ForeignRuns
from durably.worker.ownership import Ownership
from durably.worker.pool import Pool


class SlotReservation:
    """A slot for the run that is claimed in the transaction of a trigger.

    It is for the first run in line, which need not be the one that is triggered.
    """

    def __init__(self, pool: Pool, store: Store, emitter: Emitter, run_id: str) -> None:
        self._pool = pool
        self._store = store
        self._emitter = emitter
        self._run_id = run_id
        self._slot = Slot()

    def take(self) -> Claim | None:
        """Take a slot, and return what to claim for it; ``None`` if nothing is to be claimed."""
        return self._pool.reserve_slot(self._slot)

    def enter(self, row: RunRow) -> None:
        """Put the run that was claimed into the slot: from now on it counts as about to start."""
        self._pool.enter(row, self._slot)

    def settle(self) -> None:
        """Start the run of the slot, or return the slot if there is none."""
        active = self._slot.active
        if active is None:
            self._pool.return_slot(self._slot)
        # The run that was triggered waits in line. Checked after the commit, and before the end of
        # the run that starts now: a thread that frees a slot from here on claims for it.
        if (active is None or active.id != self._run_id) and self._pool.has_free_slot():
            self._store.changes.offer()
        if active is not None:
            self._begin(active.id)

    def _begin(self, run_id: str) -> None:
        try:
            self._pool.begin(self._slot)
        except DatabaseError as exc:
            # No thread can be started, and the run could not be put back: the heartbeat will do so.
            tell_worker_error(self._emitter, exc, "starting a run", run_id)


@attrs.define(eq=False, repr=False, slots=False)
class InProcessWorker:
    """Answer the clients of the same process. Usable from any thread.

    Args:
        takes_runs: returns whether the engine claims runs by itself now.
        may_claim: returns whether it claims any, also for a call of ``run_until_idle``.
        check_in_place: raises ``DatabaseLostError`` if the database file is gone.
    """

    _pool: Pool
    _store: Store
    _emitter: Emitter
    _ownership: Ownership
    _foreign: ForeignRuns
    _takes_runs: Callable[[], bool]
    _may_claim: Callable[[], bool]
    check_in_place: Callable[[], None]

    def reservation(self, run_id: str) -> SlotReservation | None:
        """Return a reservation for a trigger, ``None`` if no runs are claimed now."""
        if not self._takes_runs():
            return None
        return SlotReservation(self._pool, self._store, self._emitter, run_id)

    def is_executing(self, run_id: str) -> bool:
        """Return whether the run is inside its job here, or its last event is not yet emitted."""
        return any(
            active.id == run_id and active.stop_reason not in (RunCancelled, OwnershipLost)
            for active in self._pool.active()
        )

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""
        self._pool.stop_run(row, reason)

    # -- waiting -------------------------------------------------------------------------------

    @contextmanager
    def waiting(self) -> Iterator[InProcessWorker]:
        """Mark that the calling thread waits for a run within the block."""
        with self._pool.waiting():
            yield self

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if this is a job's thread and its run is to stop."""
        self._pool.check_job(is_futile=is_futile)

    @property
    def is_claiming(self) -> bool:
        """Return whether runs are claimed now, by itself or for a call of ``run_until_idle``."""
        return self._may_claim()

    @property
    def is_stuck(self) -> bool:
        """Return whether this is a job's thread, and every slot has a job that waits for a run."""
        return self._pool.is_inside_job and self._pool.is_stuck

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
