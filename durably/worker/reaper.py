"""The reaper thread: recovers the runs of dead and hung engines, and deletes what is old."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock
from durably.codec.json_text import load
from durably.execution.emitter import Emitter
from durably.execution.unseen_failures import UnseenFailures, see_attempt
from durably.models import ErrorInfo, RunStatus
from durably.store import bounds
from durably.store.change_feed import ChangeFeed
from durably.store.outcome import OwnerDead, OwnerHung
from durably.store.owners import Liveness, OwnerRow
from durably.store.rows import RunRow
from durably.worker.run_log import say_given_up, say_recovered
from durably.worker.service import ErrorSink, Service

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.worker.retention import Retention

RETENTION_INTERVAL_S: Final = 60.0
SWEEP_INTERVAL_S: Final = 300.0
ORPHAN_AGE_S: Final = 60.0
PURGE_BATCH: Final = 500
SHRINK_PAGES: Final = 2000
LARGE_WAL: Final = 16 * 1024 * 1024


class Reaper(Service):
    """Watch the other owners of the file.

    An owner whose lock is free is dead: its runs are put back at once. An owner whose lock is
    taken, but whose heartbeat has not changed while *this* engine committed heartbeats for the
    threshold, is hung: its running runs are put back, and their fences reject its writes. An owner
    whose lock file is missing is watched in the same way, and removed when its heartbeat does not
    change. No clock is compared: whatever stops every process (another program's lock on the file,
    a suspended machine) stops the observer's heartbeats as well.

    Args:
        owner: returns the number of this engine's owner row, which it does not watch.
        committed_beats: returns how many heartbeats this engine has committed.
        max_deaths: how often the process of a run may die without another checkpoint.
    """

    def __init__(
        self,
        store: Store,
        *,
        owner: Callable[[], int],
        committed_beats: Callable[[], int],
        emitter: Emitter,
        changes: ChangeFeed,
        labels_of: Callable[[RunRow], dict[str, str]],
        clock: Clock,
        interval_s: float,
        heartbeat_interval_s: float,
        stale_threshold_s: float,
        retain_runs: timedelta | None,
        max_deaths: int,
        unseen_failures: UnseenFailures,
        on_error: ErrorSink,
    ) -> None:
        super().__init__("reaper", clock=clock, interval_s=interval_s, on_error=on_error)
        self._store = store
        self._owner = owner
        self._committed_beats = committed_beats
        self._emitter = emitter
        self._changes = changes
        self._labels_of = labels_of
        self._heartbeat_interval_s = heartbeat_interval_s
        self._stale_threshold_s = stale_threshold_s
        self._max_deaths = max_deaths
        self._unseen_failures = unseen_failures
        self._retention: Retention | None = None
        if retain_runs is not None:
            from durably.worker.retention import Retention  # noqa: PLC0415 - where first needed

            self._retention = Retention(store, clock, retain_runs)
        # For each owner: its last known heartbeat, and how many of this engine's were committed
        # by then.
        self._watched: dict[int, tuple[int, int]] = {}
        self._next_retention = -math.inf
        self._next_sweep = -math.inf

    def tick(self) -> None:
        """Recover, then delete what is due."""
        self.recover()
        now = self._clock.monotonic()
        if self._retention is not None and now >= self._next_retention:
            self._retain(self._retention, now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self._sweep()
        self._store.wal_checkpoint(above_bytes=LARGE_WAL)

    def recover(self, shown: Callable[[RunRow], bool] | None = None) -> int:
        """Put back the runs of dead and hung owners, and return how many.

        Args:
            shown: whether the caller goes on with a run itself, and shows a person that it does.
        """
        if self._retention is not None:
            self._retention.begin()
        others = [row for row in self._store.owners() if row.owner != self._owner()]
        watched = self._watched  # another thread may be recovering
        self._watched = {row.owner: watched[row.owner] for row in others if row.owner in watched}
        return sum(self._recover_from(row, shown or (lambda _: False)) for row in others)

    def _recover_from(self, other: OwnerRow, shown: Callable[[RunRow], bool]) -> int:
        # The event of each recovery comes before the one of the run's next start.
        with self._emitter.announcing(other.token):
            recovered, reason = self._judge(other)
            return self._emit(recovered, reason, shown)

    def _judge(self, other: OwnerRow) -> tuple[list[RunRow], str]:
        """Put back the runs of an owner that is dead or hung, and return them and why."""
        state = self._store.liveness_of(other.token)
        if state is Liveness.DEAD:
            return self._recover_dead(other), "dead"
        committed = self._committed_beats()
        seen = self._watched.get(other.owner)
        if seen is None or seen[0] != other.beat:
            self._watched[other.owner] = (other.beat, committed)
            return [], ""
        is_past = committed - seen[1] >= self._patience_with(other)
        if is_past and (other.has_runs or state is Liveness.UNKNOWN):
            now_us = self._clock.now_us()
            if state is Liveness.UNKNOWN:
                # Without a file no lock will ever show that it has died, and its row, and the keys
                # of its cancelled runs, would stay for ever. If it lives, it registers again.
                recovered = self._store.requeue(OwnerDead(other.owner, other.beat), now_us)
            else:
                recovered = self._store.requeue(OwnerHung(other.owner, other.beat), now_us)
            self._watched[other.owner] = (other.beat, committed)
            return recovered, "stale"
        return [], ""

    def _patience_with(self, other: OwnerRow) -> int:
        """Return after how many of this engine's heartbeats *other* is hung.

        That is at least the time of two of its own.
        """
        interval_us = other.heartbeat_interval_us
        if interval_us > bounds.OWNER["heartbeat_interval_us"].most:
            interval_us = 0  # no engine has such an interval
        threshold_s = max(self._stale_threshold_s, 2 * interval_us / 1e6)
        return max(2, math.ceil(threshold_s / self._heartbeat_interval_s))

    def _recover_dead(self, other: OwnerRow) -> list[RunRow]:
        # A token is never used again, and only another reaper, for a moment, can take the lock of a
        # dead owner: what was dead before this transaction is dead in it.
        dead = OwnerDead(other.owner, max_deaths=self._max_deaths)
        recovered = self._store.requeue(dead, self._clock.now_us())
        self._store.remove_owner_lock(other.token)
        return recovered

    def _emit(self, found: list[RunRow], reason: str, shown: Callable[[RunRow], bool]) -> int:
        recovered = [row for row in found if row.status != RunStatus.FAILED]
        say_recovered(recovered, reason, shown)
        for row in found:
            if row.status == RunStatus.FAILED:
                self._emit_failure(row)
        for row in recovered:
            self._emitter.emit(
                "run:recover",
                run_id=row.id,
                job_name=row.job_name,
                labels=self._labels_of(row),
                reason=reason,
            )
        if found:
            # Only now, because this wakes the thread that emits the run's start.
            self._changes.notify_dispatcher()
        return len(recovered)

    def _emit_failure(self, row: RunRow) -> None:
        """Emit that a run has failed because it kills its process."""
        self._unseen_failures.note(row.id, row.attempt)
        error = ErrorInfo(**load(row.error or "{}"))
        say_given_up(row, error)
        started_us, ended_us = row.started_at_us, row.completed_at_us
        assert started_us is not None and ended_us is not None  # noqa: S101, PT018 - it was executed
        is_heard = self._emitter.emit(
            "run:fail",
            run_id=row.id,
            job_name=row.job_name,
            labels=self._labels_of(row),
            error=error,
            failed_step=None,
            duration=max(0, ended_us - started_us) / 1e6,
        )
        if is_heard:
            see_attempt(row.id, row.attempt)

    def _retain(self, retention: Retention, now: float) -> None:
        before_us = retention.before_us()
        if before_us is None:
            return  # checked again at each tick: a trigger may confirm the clock
        if self._purge(before_us) < PURGE_BATCH:
            self._next_retention = now + RETENTION_INTERVAL_S
        else:
            self.wake()

    def _purge(self, before_us: int) -> int:
        deleted = self._store.purge(before_us, PURGE_BATCH)
        for row in deleted:
            self._emitter.emit(
                "run:delete", run_id=row.id, job_name=row.job_name, labels=self._labels_of(row)
            )
        if deleted:
            # Last: the runs are deleted, and their events emitted, also if this fails.
            self._store.shrink(SHRINK_PAGES)
        return len(deleted)

    def _sweep(self) -> None:
        """Remove locks of engines that died before their row was stored, and files of no run."""
        known = {row.token for row in self._store.owners()}
        self._store.sweep_owner_locks(known, older_than_s=ORPHAN_AGE_S)
        self._store.sweep_files()
