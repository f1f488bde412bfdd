"""The store on one SQLite file: each verb of ``store.api`` as one operation on a connection."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from durably.store.calls import Left
from durably.store.outcome import (
    Completed,
    Failed,
    NotExecuted,
    Outcome,
    OwnerDead,
    OwnerHung,
    RequeueReason,
    TriedAgain,
)
from durably.store.owners import Beat, Liveness
from durably.store.rows import (
    Begin,
    Beginning,
    Claim,
    Ended,
    Enqueued,
    NewRun,
    RunKey,
    RunRow,
    Shrunk,
)
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.by_hand import ByHand
from durably.store.sqlite.checkpoints import SqliteCheckpoints
from durably.store.sqlite.locks import owner_lock
from durably.store.sqlite.locks.owner_lock import OwnerLock
from durably.store.sqlite.sql import (
    attempts,
    claims,
    codes,
    face_queries,
    items,
    logs,
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
from durably.store.sqlite.verbs import Answers, reads, writes

if TYPE_CHECKING:
    from durably.codec.parts import Files
    from durably.store.api import Checkpoints
    from durably.store.conditions import Condition, JobUsage, Sizes
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.locks.begun_steps import Begun
    from durably.store.sqlite.read_only import ReadOnlyFile

T = TypeVar("T")

logger = logging.getLogger("durably")


class SqliteStore(Answers, ByHand):
    """A store on one SQLite file; see ``store.api.Store`` for what each verb promises."""

    def __init__(self, database: Database | ReadOnlyFile, filing: Filing | None = None) -> None:
        filing = Filing(database) if filing is None else filing
        super().__init__(database, filing)
        self.path = database.path
        self.changes = database.changes
        self.closing = database.closing
        self.checkpoints: Checkpoints = SqliteCheckpoints(database, filing)

    # -- a run's life ------------------------------------------------------------------------

    def enqueue(self, new: NewRun, now_us: int) -> Enqueued:
        """Store a run, or find the one that its keys lead to."""
        if self.filing.refers(new.payload):
            return self.filing.write(
                enqueueing.enqueue,
                [new.payload],
                lambda stored: (new._replace(payload=stored[0]), now_us),
                lambda enqueued, stored: _runs_with(stored, [enqueued.row]),
                part="run",
            )
        return self.database.write(
            enqueueing.enqueue_plain if new.is_plain else enqueueing.enqueue, new, now_us
        )

    def enqueue_many(self, new_runs: Sequence[NewRun], now_us: int) -> list[Enqueued]:
        """Store or find all of *new_runs*, in order; all of them or none."""
        if not any(self.filing.refers(new.payload) for new in new_runs):
            return self.database.write(enqueueing.enqueue_many, new_runs, now_us)

        def rebuild(stored: list[Any]) -> tuple[Any, ...]:
            replaced = [
                new._replace(payload=payload) for new, payload in zip(new_runs, stored, strict=True)
            ]
            return replaced, now_us

        return self.filing.write(
            enqueueing.enqueue_many,
            [new.payload for new in new_runs],
            rebuild,
            lambda enqueued, stored: _runs_with(stored, [each.row for each in enqueued]),
            part="run",
        )

    def spawn(self, fence: int, new: NewRun, now_us: int) -> Enqueued | None:
        """Store the child of a run, or find it; ``None`` if this claim is not the current one."""
        if self.filing.refers(new.payload):
            return self.filing.write(
                enqueueing.spawn,
                [new.payload],
                lambda stored: (fence, new._replace(payload=stored[0]), now_us),
                lambda spawned, stored: (
                    [None] if spawned is None else _runs_with(stored, [spawned.row])
                ),
                part="run",
            )
        return self.database.write(enqueueing.spawn, fence, new, now_us)

    def enqueue_and_claim(
        self, new: NewRun, now_us: int, claim: Claim
    ) -> tuple[Enqueued, RunRow | None]:
        """Store a run as ``enqueue`` does, and claim the first run in line, as ``claim`` does."""
        if self.filing.refers(new.payload):
            return self.filing.write(
                enqueueing.enqueue_and_claim,
                [new.payload],
                lambda stored: (new._replace(payload=stored[0]), now_us, claim),
                lambda result, stored: _runs_with(stored, [result[0].row]),
                part="run",
            )
        if new.is_plain and new.concurrency_key is None:
            # One statement, where no other run is before it in line.
            started = self.database.write(enqueueing.start, new, now_us, claim)
            if started is not None:
                return started
        return self.database.write(enqueueing.enqueue_and_claim, new, now_us, claim)

    def has_claimable(self, claim: Claim) -> bool:
        """Return whether ``claim`` would find a run. Writes nothing."""
        return self.database.read(queries.has_claimable, claim.jobs, claim.inside(), claim.origins)

    claim = writes(claims.claim)

    def begin(self, wanted: Begin) -> Beginning:
        """Claim the run that is wanted, after creating it or putting it back, if that can be."""
        if self.filing.refers(wanted.new.payload):
            return self.filing.write(
                beginning.begin,
                [wanted.new.payload],
                lambda stored: (wanted._replace(new=wanted.new._replace(payload=stored[0])),),
                lambda beginning, stored: _runs_with(stored, [beginning.row]),
                part="run",
            )
        return self.database.write(beginning.begin, wanted)

    claim_child = writes(claims.claim_child)

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
        left: Left = Left(),  # noqa: B008 - it is a constant
    ) -> Ended:
        """Store how an execution has left its job, and claim the next run with it."""
        if isinstance(outcome, Completed) and self.filing.refers(outcome.output):
            ended = self.filing.write(
                settle.settle_and_claim,
                [outcome.output],
                lambda stored: (
                    *(run_pk, fence, Completed(stored[0]), now_us, progress),
                    *(keep_steps, claim_next, left),
                ),
                lambda ended, _: [run_pk if ended.is_effective else None],
                part="run",
            )
            return self._dropped(ended, if_any=not keep_steps)
        leaving = run_pk, fence, outcome, now_us, progress
        if isinstance(outcome, Failed | TriedAgain) and outcome.is_inside:
            return self.database.beat(settle.settle_and_claim, *leaving, left=left)
        is_one = not isinstance(outcome, TriedAgain) and (
            keep_steps or not isinstance(outcome, Completed)
        )
        if claim_next is None and is_one and not left.calls:
            return Ended(self.database.write(settle.settle, *leaving, left), None)
        ended = self.database.write(settle.settle_and_claim, *leaving, keep_steps, claim_next, left)
        return self._dropped(ended, if_any=not keep_steps)

    def requeue(self, reason: RequeueReason, now_us: int) -> list[RunRow]:
        """Make running runs that nothing executes pending again; return those that are."""
        if isinstance(reason, NotExecuted):
            return self.database.beat(requeueing.requeue, reason, now_us)
        begun: Sequence[Begun] = ()
        if isinstance(reason, OwnerDead | OwnerHung):
            token = self.database.read(owner_rows.token_of, reason.owner)
            begun = [] if token is None else owner_lock.begun_by(self.path, token)
        return self.database.write(requeueing.requeue, reason, now_us, begun)

    wake_due = writes(requeueing.wake_due)
    next_due_us = reads(requeueing.next_due_us)
    set_progress = writes(runs.set_progress)

    # -- what a user asks for ----------------------------------------------------------------

    cancel = writes(runs.cancel_all)
    retry = writes(runs.retry_all)
    adopt = writes(runs.adopt)

    def delete(self, run_id: str) -> RunRow:
        """Delete a terminal run with its steps, logs and labels, and the files that only it had."""
        return self._dropped(self.database.write(runs.delete, run_id))

    def purge(self, before_us: int, limit: int, *, keep_failed: bool = False) -> list[RunRow]:
        """Delete up to *limit* terminal runs that ended before *before_us*, oldest first."""
        return self._dropped(
            self.database.write(runs.purge, before_us, limit, keep_failed=keep_failed)
        )

    find_wait = reads(waits.find_wait)
    questions = reads(waits.questions)

    # -- reading -----------------------------------------------------------------------------

    find_run = reads(queries.find)
    find_by_key = reads(beginning.find_by_key)
    get_run = reads(queries.get)
    find_runs = reads(queries.find_many)
    count_runs = reads(queries.count)
    count_by_status = reads(queries.count_by_status)
    brief = reads(queries.brief)
    brief_or_ended = reads(queries.brief_or_ended)
    briefs = reads(queries.briefs)
    begun = reads(queries.begun)
    begun_of_many = reads(queries.begun_of_many)
    steps_of = reads(steps.of_run)
    items_of = reads(items.of_map)
    count_items_by_time = reads(items.count_by_time)
    attempts_of = reads(attempts.of_run)
    codes_of = reads(codes.of_run)
    newest_code_of = reads(codes.newest)
    log_lines_of = reads(logs.of_run)
    newest_log_line = reads(logs.newest)
    purgeable = reads(face_queries.purgeable)
    runs_named = reads(face_queries.named)
    running = reads(face_queries.running)
    executor_of = reads(face_queries.executor_of)
    open_maps = reads(face_queries.open_maps)
    failures_of = reads(face_queries.failures)
    newest_time_us = reads(runs.newest_time)
    newest_trigger_us = reads(runs.newest_trigger)
    has_ended_before = reads(runs.has_ended_before)

    # -- log lines and owners ------------------------------------------------------------------

    append_log_lines = writes(logs.append)

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

    set_owner_started = writes(owner_rows.set_started)

    def beat(self, owner: int, now_us: Callable[[], int]) -> Beat:
        """Mark the owner and all its running runs as alive. Waits for no long write."""
        return self.database.beat(owner_rows.beat, owner, now_us)

    owners = reads(owner_rows.list_all)
    owns_running = reads(queries.has_running)
    is_registered = reads(queries.is_registered)
    remove_owner = writes(owner_rows.remove)

    def lock_owner(self, token: str) -> OwnerLock:
        """Take the lock that proves that the owner with that token is alive."""
        return OwnerLock.acquire(self.path, token, self.database.file_system)

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

    def check_wal(self) -> None:
        """Check that the log and its index are still those that are open."""
        self.database.check_wal()

    def wal_checkpoint(self, *, above_bytes: int) -> None:
        """Copy the write-ahead log into the file if it has grown beyond *above_bytes*."""
        self.database.wal_checkpoint(above_bytes=above_bytes)

    def shrink(self, most_pages: int) -> Shrunk:
        """Return up to *most_pages* free pages to the file system."""
        return self.database.shrink(most_pages)

    def _dropped(self, result: T, *, if_any: bool = True) -> T:
        """Remove the files to which nothing refers any more; return *result*."""
        if if_any:
            self.remove_dropped_files()
        return result

    def sweep_files(self) -> None:
        """Remove the files that nothing refers to, and that were left by a process for an hour."""
        if self.filing.has_folder:
            self.filing.remove_dropped()
            self.filing.sweep()

    @property
    def files(self) -> Files:
        """Return the files beside the database, for the codec."""
        return self.filing

    def usage(self) -> list[JobUsage]:
        """Return what the runs of each job take."""
        from durably.store.sqlite.sql import conditions  # noqa: PLC0415 - where first needed

        return self.database.read(conditions.usage)

    def sizes(self) -> Sizes:
        """Return how large the file is."""
        from durably.store.sqlite.condition import sizes_of  # noqa: PLC0415 - where first needed

        return sizes_of(self.database)

    def condition(self, *, most_failures: int) -> Condition:
        """Return what may be unusual about the file and those that use it."""
        from durably.store.sqlite.condition import condition_of  # noqa: PLC0415 - where first needed

        return condition_of(self.database, self.filing.folder, most_failures)

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool, now_us: int) -> None:
        """Store a copy at *path* in which nothing is executed, while others write."""
        from durably.store.sqlite.backup import back_up  # noqa: PLC0415 - where first needed

        back_up(self.database, self.filing.folder, path, overwrite=overwrite, now_us=now_us)

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


def _runs_with(payloads: Sequence[str], rows: Sequence[RunRow]) -> list[RunKey | None]:
    """Return for each payload the run that has it; ``None`` where another run was found."""
    return [
        row.run if row.payload == payload else None
        for payload, row in zip(payloads, rows, strict=True)
    ]
