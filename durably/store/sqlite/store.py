"""The store on one SQLite file: each verb of ``store.api`` as one operation on a connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from durably.store.api import Checkpoints, Liveness
from durably.store.outcome import Completed, NotExecuted, Outcome, RequeueReason
from durably.store.rows import (
    Beat,
    Begun,
    Brief,
    Checkpoint,
    Claim,
    Ended,
    Enqueued,
    Filters,
    LogLine,
    LogRow,
    NewRun,
    OwnerRow,
    RunKey,
    RunRow,
    StepRow,
    Window,
)
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks import owner_lock
from durably.store.sqlite.locks.owner_lock import OwnerLock
from durably.store.sqlite.sql import claims, logs, owners, queries, requeue, runs, settle, steps
from durably.store.sqlite.sql import enqueue as enqueueing


class SqliteCheckpoints:
    """The checkpoints of runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, run: int, name: str) -> Checkpoint | None:
        """Return what is stored of the step of that name."""
        return self._database.read(steps.find, run, name)

    def window(self, run: int, first_index: int) -> Window:
        """Return the checkpoints from *first_index* on, as many as one window holds."""
        return self._database.read(steps.window, run, first_index)

    def save(
        self,
        run: int,
        fence: int,
        index: int,
        name: str,
        output: str,
        started_at_us: int,
        completed_at_us: int,
    ) -> bool:
        """Store a step's result; return ``False`` if this claim is not the current one."""
        return self._database.write(
            steps.complete, run, fence, index, name, output, started_at_us, completed_at_us
        )

    def save_many(self, results: Sequence[tuple[int, int, int, str, str, int, int]]) -> list[bool]:
        """Store several results in one commit; return for each what ``save`` would return."""
        return self._database.write(steps.complete_all, results)

    def fail(
        self,
        run: int,
        fence: int,
        index: int,
        name: str,
        error: str,
        started_at_us: int,
        completed_at_us: int,
    ) -> bool:
        """Store that a step failed; return ``False`` if this claim is not the current one."""
        return self._database.write(
            steps.fail, run, fence, index, name, error, started_at_us, completed_at_us
        )

    def cancel(
        self,
        run: int,
        fence: int,
        index: int,
        name: str,
        started_at_us: int,
        completed_at_us: int,
    ) -> bool:
        """Store that a step ended too late; return ``False`` if there was a later claim."""
        return self._database.write(
            steps.cancel, run, fence, index, name, started_at_us, completed_at_us
        )

    def state(self, run: int) -> tuple[str, int] | None:
        """Return the status and the fence of a run, ``None`` if it was deleted."""
        return self._database.read(queries.state_of, run)


class SqliteStore:
    """A store on one SQLite file; see ``store.api.Store`` for what each verb promises."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.path = database.path
        self.changes = database.changes
        self.checkpoints: Checkpoints = SqliteCheckpoints(database)

    # -- a run's life ------------------------------------------------------------------------

    def enqueue(self, new: NewRun, now_us: int) -> Enqueued:
        """Store a run, or find the one that its keys lead to."""
        return self.database.write(
            enqueueing.enqueue_plain if new.is_plain else enqueueing.enqueue, new, now_us
        )

    def enqueue_many(self, new_runs: Sequence[NewRun], now_us: int) -> list[Enqueued]:
        """Store or find several runs, in order; all of them or none."""
        return self.database.write(enqueueing.enqueue_many, new_runs, now_us)

    def enqueue_and_claim(
        self, new: NewRun, now_us: int, claim: Claim
    ) -> tuple[Enqueued, RunRow | None]:
        """Store a run as ``enqueue`` does, and claim the first run in line, as ``claim`` does."""
        if new.is_plain and new.concurrency_key is None:
            # One statement, where no other run is before it in line.
            started = self.database.write(enqueueing.start, new, now_us, claim)
            if started is not None:
                return started
        return self.database.write(enqueueing.enqueue_and_claim, new, now_us, claim)

    def has_claimable(self, claim: Claim) -> bool:
        """Return whether ``claim`` would find a run. Writes nothing."""
        return self.database.read(queries.has_claimable, claim.jobs, claim.inside(), claim.origins)

    def claim(self, claim: Claim) -> list[RunRow]:
        """Make the owner execute up to ``claim.limit`` runs, those triggered first."""
        return self.database.write(claims.claim, claim)

    def settle(
        self,
        run_pk: RunKey,
        fence: int,
        outcome: Outcome,
        now_us: int,
        *,
        progress: str | None = None,
        keep_steps: bool = True,
        claim_next: Claim | None = None,
    ) -> Ended:
        """Store how an execution has left its job, and claim the next run with it."""
        leaving = run_pk, fence, outcome, now_us, progress
        if claim_next is None and (keep_steps or not isinstance(outcome, Completed)):
            return Ended(self.database.write(settle.settle, *leaving), None)
        return self.database.write(settle.settle_and_claim, *leaving, keep_steps, claim_next)

    def requeue(self, reason: RequeueReason, now_us: int) -> list[RunRow]:
        """Make running runs that nothing executes pending again; return those that are."""
        is_one = isinstance(reason, NotExecuted)
        write = self.database.beat if is_one else self.database.write
        return write(requeue.requeue, reason, now_us)

    def wake_due(self, now_us: int) -> bool:
        """Make runs pending that are due; return whether any were, so that more may be."""
        return self.database.write(requeue.wake_due, now_us)

    def next_due_us(self) -> int | None:
        """Return when the next run is due, ``None`` if no run waits for a time."""
        return self.database.read(requeue.next_due_us)

    def set_progress(self, updates: Sequence[tuple[int, int, str]], now_us: int) -> int:
        """Store progress, given as (run, fence, JSON text); return how many took effect."""
        return self.database.write(runs.set_progress, updates, now_us)

    # -- what a user asks for ----------------------------------------------------------------

    def cancel(self, run_id: str, now_us: int) -> RunRow:
        """Cancel a pending or running run."""
        return self.database.write(runs.cancel, run_id, now_us)

    def retry(self, run_id: str, now_us: int) -> RunRow:
        """Put a failed or cancelled run back to pending, its checkpoints kept."""
        return self.database.write(runs.retry, run_id, now_us)

    def adopt(self, run_id: str, origin: str | None, now_us: int) -> RunRow:
        """Make *origin* the one of a pending run that has checkpoints; ``None`` for any."""
        return self.database.write(runs.adopt, run_id, origin, now_us)

    def delete(self, run_id: str) -> RunRow:
        """Delete a terminal run with its steps, log lines and labels."""
        return self.database.write(runs.delete, run_id)

    def purge(self, before_us: int, limit: int) -> list[RunRow]:
        """Delete up to *limit* terminal runs that ended before *before_us*, oldest first."""
        return self.database.write(runs.purge, before_us, limit)

    # -- reading -----------------------------------------------------------------------------

    def find_run(self, run_id: str) -> RunRow | None:
        """Return the run with that id, ``None`` if there is none."""
        return self.database.read(queries.find, run_id)

    def get_run(self, run_id: str) -> RunRow:
        """Return the run with that id; raise ``NotFoundError`` if there is none."""
        return self.database.read(queries.get, run_id)

    def find_runs(self, filters: Filters, limit: int | None, offset: int) -> list[RunRow]:
        """Return the runs that fit, newest first."""
        return self.database.read(queries.find_many, filters, limit, offset)

    def count_runs(self, filters: Filters) -> int:
        """Return how many runs fit."""
        return self.database.read(queries.count, filters)

    def brief(self, run_id: str) -> Brief | None:
        """Return the state of a run, ``None`` if there is none."""
        return self.database.read(queries.brief, run_id)

    def briefs(self, run_ids: Sequence[str]) -> dict[str, Brief]:
        """Return the state of each of the runs that exists, by id."""
        return self.database.read(queries.briefs, run_ids)

    def begun(self, jobs: str) -> list[Begun]:
        """Return a pending run with checkpoints for each of these jobs and origin of such runs."""
        return self.database.read(queries.begun, jobs)

    def begun_of_many(self, run_ids: Sequence[str]) -> list[Begun]:
        """Return those of the runs that are pending and have checkpoints."""
        return self.database.read(queries.begun_of_many, run_ids)

    def steps_of(self, run_id: str) -> list[StepRow]:
        """Return what is stored of the run's steps, in the order of their index."""
        return self.database.read(steps.of_run, run_id)

    def log_lines_of(
        self, run_id: str, *, after: int = 0, except_owners: Sequence[int] = ()
    ) -> list[LogRow]:
        """Return the run's log lines, oldest first: newer than *after*, not of these owners."""
        return self.database.read(logs.of_run, run_id, after=after, except_owners=except_owners)

    def newest_log_line(self) -> int:
        """Return the number of the newest log line, 0 if there is none."""
        return self.database.read(logs.newest)

    def newest_time_us(self) -> int | None:
        """Return the newest time at which anything happened to a run, ``None`` if there is none."""
        return self.database.read(runs.newest_time)

    def newest_trigger_us(self) -> int:
        """Return when the newest run was triggered, 0 if there is none."""
        return self.database.read(runs.newest_trigger)

    def has_ended_before(self, before_us: int) -> bool:
        """Return whether ``purge`` would find a run."""
        return self.database.read(runs.has_ended_before, before_us)

    # -- log lines and owners ------------------------------------------------------------------

    def append_log_lines(self, lines: Sequence[LogLine]) -> None:
        """Store log lines in order; those of runs that were deleted are dropped."""
        self.database.write(logs.append, lines)

    def register_owner(self, token: str, heartbeat_interval_us: int, now_us: int) -> int:
        """Store an owner row, whose lock must be held already; return its number."""
        return self.database.write(
            owners.register,
            token=token,
            boot_id=owner_lock.current_boot_id(),
            pid=os.getpid(),
            heartbeat_interval_us=heartbeat_interval_us,
            now_us=now_us,
        )

    def set_owner_started(self, owner: int, *, is_started: bool) -> None:
        """Store whether an engine claims runs by itself, for the waiting threads of others."""
        self.database.write(owners.set_started, owner, is_started=is_started)

    def beat(self, owner: int, now_us: Callable[[], int]) -> Beat:
        """Mark the owner and all its running runs as alive. Waits for no long write."""
        return self.database.beat(owners.beat, owner, now_us)

    def owners(self) -> list[OwnerRow]:
        """Return every owner that has not left in order."""
        return self.database.read(owners.list_all)

    def owns_running(self, owner: int) -> bool:
        """Return whether the owner has a running run."""
        return self.database.read(queries.has_running, owner)

    def remove_owner(self, owner: int) -> bool:
        """Delete the row of an owner that has no runs any more; return whether it is gone."""
        return self.database.write(owners.remove, owner)

    def lock_owner(self, token: str) -> OwnerLock:
        """Take the lock that proves that the owner with that token is alive."""
        return OwnerLock.acquire(self.path, token)

    def liveness_of(self, token: str) -> Liveness:
        """Return whether the process that took the lock of that token is alive."""
        return owner_lock.probe(self.path, token)

    def remove_owner_lock(self, token: str) -> None:
        """Remove what is left of the lock of an owner that is dead."""
        owner_lock.remove_lock(self.path, token)

    def sweep_owner_locks(self, known: Collection[str], *, older_than_s: float) -> None:
        """Remove the locks of owners that died before their row was stored."""
        owner_lock.sweep_orphans(self.path, set(known), older_than_s=older_than_s)

    # -- care ----------------------------------------------------------------------------------

    def check_in_place(self) -> None:
        """Check that the path still leads to the file that is open."""
        self.database.check_in_place()

    def check_log(self) -> None:
        """Check that the log and its index are still those that are open."""
        self.database.check_log()

    def wal_checkpoint(self, *, above_bytes: int) -> None:
        """Copy the write-ahead log into the file if it has grown beyond *above_bytes*."""
        self.database.wal_checkpoint(above_bytes=above_bytes)

    def shrink(self, most_pages: int) -> None:
        """Give up to *most_pages* free pages back to the file system."""
        self.database.shrink(most_pages)

    def hurried(self, ends_s: float) -> AbstractContextManager[None]:
        """End waits for locks of others at *ends_s*, in all threads, during the block."""
        return self.database.hurried(ends_s)

    @property
    def is_closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self.database.is_closed

    def close(self) -> None:
        """Close every connection, after the transaction in progress. Idempotent."""
        self.database.close()
