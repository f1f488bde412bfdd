"""The store on one SQLite file: each verb of ``store.api`` as one operation on a connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, TypeVar

from durably.store.api import Checkpoints, Liveness
from durably.store.conditions import Condition, Sizes
from durably.store.outcome import Completed, NotExecuted, Outcome, RequeueReason
from durably.store.rows import (
    Beat,
    Claim,
    Ended,
    Enqueued,
    NewRun,
    RunKey,
    RunRow,
    Shrunk,
)
from durably.store.sqlite.condition import condition_of, sizes_of
from durably.store.sqlite.connection.write_request import Operation
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks import owner_lock
from durably.store.sqlite.locks.owner_lock import OwnerLock
from durably.store.sqlite.sql import (
    attempts,
    claims,
    conditions,
    items,
    logs,
    lookups,
    queries,
    runs,
    settle,
    steps,
    waits,
)
from durably.store.sqlite.sql import begin as beginning
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.store.sqlite.sql import owners as owner_rows
from durably.store.sqlite.sql import requeue as requeueing

Ps = ParamSpec("Ps")
T = TypeVar("T")


class _OnDatabase:
    """What has verbs that are operations on a database."""

    def __init__(self, database: Database) -> None:
        self.database = database


def _writes(operation: Operation[Ps, T]) -> Callable[Concatenate[_OnDatabase, Ps], T]:
    """Return the verb that executes *operation* in a transaction, and commits it."""

    def verb(self: _OnDatabase, /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        return self.database.write(operation, *args, **kwargs)

    return verb


def _reads(query: Operation[Ps, T]) -> Callable[Concatenate[_OnDatabase, Ps], T]:
    """Return the verb that executes *query*."""

    def verb(self: _OnDatabase, /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        return self.database.read(query, *args, **kwargs)

    return verb


class SqliteCheckpoints(_OnDatabase):
    """The checkpoints of runs in one database; see ``store.api.Checkpoints`` for each verb."""

    find = _reads(steps.find)
    window = _reads(steps.window)
    save_many = _writes(steps.complete_all)
    fail = _writes(steps.fail)
    cancel = _writes(steps.cancel)
    state = _reads(queries.state_of)
    save_items = _writes(items.save)
    find_map = _reads(items.find_map)
    count_items = _reads(items.count)
    item_window = _reads(items.window)
    find_item = _reads(items.find)
    item_at = _reads(items.at)
    open_wait = _writes(waits.open_wait)
    find_wait = _reads(waits.find)
    note_check = _writes(waits.note_check)
    close_wait = _writes(waits.close_wait)
    discard_answer = _writes(waits.discard_answer)
    find_run = _reads(queries.find)

    def save(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        output: str,
        started_at_us: int,
        completed_at_us: int,
    ) -> bool:
        """Store a step's result; return ``False`` if this claim is not the current one."""
        # Each step calls this, and would pay a hundredth of its time for packing the arguments.
        return self.database.write(
            steps.complete, run_pk, fence, index, name, output, started_at_us, completed_at_us
        )


class SqliteStore(_OnDatabase):
    """A store on one SQLite file; see ``store.api.Store`` for what each verb promises."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.path = database.path
        self.changes = database.changes
        self.closing = database.closing
        self.checkpoints: Checkpoints = SqliteCheckpoints(database)

    # -- a run's life ------------------------------------------------------------------------

    def enqueue(self, new: NewRun, now_us: int) -> Enqueued:
        """Store a run, or find the one that its keys lead to."""
        return self.database.write(
            enqueueing.enqueue_plain if new.is_plain else enqueueing.enqueue, new, now_us
        )

    enqueue_many = _writes(enqueueing.enqueue_many)
    spawn = _writes(enqueueing.spawn)

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

    claim = _writes(claims.claim)
    begin = _writes(beginning.begin)
    claim_child = _writes(claims.claim_child)

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
        return write(requeueing.requeue, reason, now_us)

    wake_due = _writes(requeueing.wake_due)
    next_due_us = _reads(requeueing.next_due_us)
    set_progress = _writes(runs.set_progress)

    # -- what a user asks for ----------------------------------------------------------------

    cancel = _writes(runs.cancel_all)
    retry = _writes(runs.retry)
    adopt = _writes(runs.adopt)
    delete = _writes(runs.delete)
    purge = _writes(runs.purge)
    answer = _writes(waits.answer)
    find_wait = _reads(waits.find_wait)
    questions = _reads(waits.questions)

    # -- reading -----------------------------------------------------------------------------

    find_run = _reads(queries.find)
    find_by_key = _reads(beginning.find_by_key)
    get_run = _reads(queries.get)
    find_runs = _reads(queries.find_many)
    count_runs = _reads(queries.count)
    count_by_status = _reads(queries.count_by_status)
    brief = _reads(queries.brief)
    briefs = _reads(queries.briefs)
    begun = _reads(queries.begun)
    begun_of_many = _reads(queries.begun_of_many)
    steps_of = _reads(steps.of_run)
    items_of = _reads(items.of_map)
    count_items_by_time = _reads(items.count_by_time)
    attempts_of = _reads(attempts.of_run)
    log_lines_of = _reads(logs.of_run)
    newest_log_line = _reads(logs.newest)
    purgeable = _reads(lookups.purgeable)
    runs_named = _reads(lookups.named)
    running = _reads(lookups.running)
    executor_of = _reads(lookups.executor_of)
    open_maps = _reads(lookups.open_maps)
    failures_of = _reads(lookups.failures)
    newest_time_us = _reads(runs.newest_time)
    newest_trigger_us = _reads(runs.newest_trigger)
    has_ended_before = _reads(runs.has_ended_before)

    # -- log lines and owners ------------------------------------------------------------------

    append_log_lines = _writes(logs.append)

    def register_owner(self, token: str, heartbeat_interval_us: int, now_us: int) -> int:
        """Store an owner row, whose lock must be held already; return its number."""
        return self.database.write(
            owner_rows.register,
            token=token,
            boot_id=owner_lock.current_boot_id(),
            pid=os.getpid(),
            heartbeat_interval_us=heartbeat_interval_us,
            now_us=now_us,
        )

    set_owner_started = _writes(owner_rows.set_started)

    def beat(self, owner: int, now_us: Callable[[], int]) -> Beat:
        """Mark the owner and all its running runs as alive. Waits for no long write."""
        return self.database.beat(owner_rows.beat, owner, now_us)

    owners = _reads(owner_rows.list_all)
    owns_running = _reads(queries.has_running)
    remove_owner = _writes(owner_rows.remove)

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
        self.database.care.wal_checkpoint(above_bytes=above_bytes)

    def shrink(self, most_pages: int) -> Shrunk:
        """Return up to *most_pages* free pages to the file system."""
        return self.database.shrink(most_pages)

    usage = _reads(conditions.usage)

    def sizes(self) -> Sizes:
        """Return how large the file is."""
        return sizes_of(self.database)

    def condition(self, *, most_failures: int) -> Condition:
        """Return what may be unusual about the file and those that use it."""
        return condition_of(self.database, most_failures)

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool, now_us: int) -> None:
        """Store a copy at *path* in which nothing is executed, while others write."""
        from durably.store.sqlite.backup import back_up  # noqa: PLC0415 - where first needed

        back_up(self.database, path, overwrite=overwrite, now_us=now_us)

    def hurried(self, ends_s: float) -> AbstractContextManager[None]:
        """End waits for locks of others at *ends_s*, in all threads, during the block."""
        return self.database.hurried(ends_s)

    @property
    def file(self) -> object:
        """Return what identifies what is open: equal for two stores on it, by whatever names."""
        return self.database.file

    @property
    def is_closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self.database.is_closed

    def close(self) -> None:
        """Close every connection, after the transaction in progress. Idempotent."""
        self.database.close()
