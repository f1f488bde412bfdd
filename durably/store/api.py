"""The store's door: what a store promises, whatever keeps the rows.

Each verb is one transaction. When it returns, what it stored is committed; when it raises, nothing
of it is stored. ``durably.store.sqlite`` has the one implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from durably.store.by_hand import ByHand
from durably.store.calls import Left
from durably.store.care import Care
from durably.store.change_feed import ChangeFeed
from durably.store.closing import Closing
from durably.store.code_checkpoints import CodeCheckpoints
from durably.store.item_checkpoints import ItemCheckpoints
from durably.store.maps import Maps
from durably.store.outcome import Outcome, RequeueReason
from durably.store.owners import Owners
from durably.store.rows import (
    Begin,
    Beginning,
    Begun,
    Brief,
    Checkpoint,
    Claim,
    Ended,
    Enqueued,
    Executor,
    LayeredCheckpoint,
    LogLine,
    NewRun,
    RunKey,
    RunRow,
    Window,
)
from durably.store.waits import Answers, Parents, WaitCheckpoints

if TYPE_CHECKING:
    from durably.store.read_rows import AttemptRow, CodeRow, Filters, LogRow, StatusCount, StepRow


class Checkpoints(ItemCheckpoints, WaitCheckpoints, CodeCheckpoints, Protocol):
    """The part of a store that a step needs. Usable from any thread."""

    @property
    def has_files(self) -> bool:
        """Return whether large results become files, so that they slow no commit down."""

    def find(self, run_pk: RunKey, name: str) -> Checkpoint | None:
        """Return what is stored of the step of that name."""

    def window(self, run_pk: RunKey, first_index: int) -> Window:
        """Return the checkpoints from *first_index* on, as many as one window holds."""

    def find_layered(self, run_pk: RunKey, name: str) -> LayeredCheckpoint | None:
        """Return what ``find`` does, and what says whether the result is out of date."""

    def window_layered(self, run_pk: RunKey, first_index: int) -> Window:
        """Return what ``window`` does, and what says which results are out of date."""

    def newest_layer(self, run_pk: RunKey, indexes: list[int]) -> int:
        """Return the highest layer of the steps and maps at these indexes, 0 without one."""

    def save(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        output: str,
        started_at_us: int,
        completed_at_us: int,
        code: int | None,
        outer: int | None,
    ) -> bool:
        """Store a step's result; return ``False`` if this claim is not the current one.

        Args:
            code: the fingerprint of its function.
            outer: the index of the step or map that it is inside of.
        """

    def save_calls(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        output: str,
        started_at_us: int,
        completed_at_us: int,
        count: int,
        notes: str,
    ) -> bool:
        """Store the result of a step whose function was called *count* times, or noted something.

        Args:
            notes: a JSON array with what each call has noted.
        """

    def save_layered(self, *row: Any) -> bool:
        """Store the result of a step in the place of one that is out of date, or of none.

        The result that it replaces is there until the transaction that stores this one.

        Args:
            row: the arguments of ``save``; its layer, which must be of the current execution and
                higher than that of what it replaces; a hash of what the result was made of beside
                the code; and the two last arguments of ``save_calls``.
        """

    def fail(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        error: str,
        started_at_us: int,
        completed_at_us: int,
        count: int = 1,
        notes: str = "[]",
    ) -> bool:
        """Store that a step failed; return ``False`` if this claim is not the current one."""

    def cancel(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        started_at_us: int,
        completed_at_us: int,
        count: int = 1,
        notes: str = "[]",
    ) -> bool:
        """Store that a step ended too late; return ``False`` if there was a later claim."""

    def state(self, run_pk: RunKey) -> tuple[str, int] | None:
        """Return the status and the fence of a run, ``None`` if it was deleted."""


class Store(Care, ByHand, Answers, Parents, Owners, Maps, Protocol):
    """Runs, steps, log lines and owners, on disk. Usable from any thread of its process."""

    path: str
    """What the store is on, for messages."""

    changes: ChangeFeed
    """Wakes threads when something may have changed."""

    closing: Closing
    """What a call after ``close`` raises."""

    checkpoints: Checkpoints

    # -- a run's life: it is enqueued, claimed, settled or requeued --------------------------

    def enqueue(self, new: NewRun, now_us: int) -> Enqueued:
        """Store a run, or find the one that its keys lead to."""

    def enqueue_many(self, new_runs: Sequence[NewRun], now_us: int) -> list[Enqueued]:
        """Store or find several runs, in order; all of them or none."""

    def enqueue_and_claim(
        self, new: NewRun, now_us: int, claim: Claim
    ) -> tuple[Enqueued, RunRow | None]:
        """Store a run as ``enqueue`` does, and claim the first run in line, as ``claim`` does."""

    def has_claimable(self, claim: Claim) -> bool:
        """Return whether ``claim`` would find a run. Writes nothing."""

    def claim(self, claim: Claim) -> list[RunRow]:
        """Make the owner execute up to ``claim.limit`` runs, those triggered first."""

    def begin(self, wanted: Begin) -> Beginning:
        """Find, create or continue a certain run, and make the owner execute it.

        What has failed, was cancelled, is not due yet or waits for something is put back first. The
        run waits for no run that is only pending. It is not claimed while an owner has it, or has
        another run with its concurrency key: it is pending then, and the result says who has it.

        Raises:
            ConflictError: the key is that of a run of another kind.
            NotFoundError: the run was wanted by its number, and was deleted.
            DatabaseError: the row of the run cannot be read or executed; nothing is stored.
        """

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
        """Store how an execution has left its job: the only way out of one.

        Has no effect if the run was cancelled or taken over since the claim with that fence, except
        for ``Lost``, which removes the owner of such a run.

        Args:
            progress: JSON text to store with it.
            keep_steps: whether a completed run keeps its steps.
            claim_next: what to claim in the same transaction.
            left: what the execution has done, and left without an end.
        """

    def requeue(self, reason: RequeueReason, now_us: int) -> list[RunRow]:
        """Make running runs that nothing executes pending again; return those that are.

        For a single run it waits for no long write.
        """

    def wake_due(self, now_us: int) -> bool:
        """Make runs pending that are due; return whether any were, so that more may be."""

    def next_due_us(self) -> int | None:
        """Return when the next run is due, ``None`` if no run waits for a time."""

    def set_progress(self, updates: Sequence[tuple[int, int, str]], now_us: int) -> int:
        """Store progress, given as (run, fence, JSON text); return how many took effect."""

    # -- what a user asks for --------------------------------------------------------------

    def cancel(self, run_id: str, now_us: int) -> list[RunRow]:
        """Cancel a run, and its descendants that have not ended; return them, the run first.

        Raises:
            ConflictError: the run has ended.
            NotFoundError: there is no such run.
        """

    def retry(self, run_id: str, now_us: int) -> list[RunRow]:
        """Put a failed or cancelled run back to pending, its checkpoints kept.

        So are its children, and theirs, that have failed or were cancelled. Return it first, and
        then these.

        Raises:
            ConflictError: the run is in another state.
            NotFoundError: there is no such run.
        """

    def adopt(self, run_id: str, origin: str | None, now_us: int) -> RunRow:
        """Make *origin* the one of a pending run that has checkpoints; ``None`` for any.

        Raises:
            ConflictError: the run is not pending.
            NotFoundError: there is no such run.
        """

    def delete(self, run_id: str) -> RunRow:
        """Delete a terminal run with its steps, log lines and labels.

        Raises:
            ConflictError: the run has not ended, or its job is still inside a step.
            NotFoundError: there is no such run.
        """

    def purge(self, before_us: int, limit: int, *, keep_failed: bool = False) -> list[RunRow]:
        """Delete up to *limit* terminal runs that ended before *before_us*, oldest first.

        A child stays as long as its parent has not ended by then.

        Args:
            keep_failed: whether those that failed are left.
        """

    def purgeable(self, before_us: int, *, keep_failed: bool = False) -> tuple[int, int]:
        """Return how many runs ``purge`` would delete in all, and the bytes that are in them."""

    # -- reading ---------------------------------------------------------------------------

    def find_run(self, run_id: str) -> RunRow | None:
        """Return the run with that id, ``None`` if there is none."""

    def find_by_key(self, job_name: str, key: str) -> RunRow | None:
        """Return the run of that job, or the session of that name, with that key."""

    def get_run(self, run_id: str) -> RunRow:
        """Return the run with that id.

        Raises:
            NotFoundError: there is none.
        """

    def find_runs(self, filters: Filters, limit: int | None, offset: int) -> list[RunRow]:
        """Return the runs that fit, newest first."""

    def count_runs(self, filters: Filters) -> int:
        """Return how many runs fit."""

    def count_by_status(self, filters: Filters, most: int) -> list[StatusCount]:
        """Return how many of the newest *most* runs that fit have which name and status."""

    def brief(self, run_id: str) -> Brief | None:
        """Return the state of a run, ``None`` if there is none."""

    def brief_or_ended(self, run_id: str) -> Brief | RunRow | None:
        """Return the state of a run, all of it if it has ended; ``None`` if there is none."""

    def briefs(self, run_ids: Sequence[str]) -> dict[str, Brief]:
        """Return the state of each of the runs that exists, by id."""

    def begun(self, jobs: str) -> list[Begun]:
        """Return a pending run with checkpoints for each of these jobs and origin of such runs."""

    def begun_of_many(self, run_ids: Sequence[str]) -> list[Begun]:
        """Return those of the runs that are pending and have checkpoints."""

    def steps_of(self, run_id: str) -> list[StepRow]:
        """Return what is stored of the run's steps, in the order of their index."""

    def runs_named(self, name: str, limit: int) -> list[RunRow]:
        """Return the run with that id; else those with that key; else those whose id ends with it.

        Newest first, and *limit* at most.
        """

    def running(self, limit: int) -> list[RunRow]:
        """Return the runs that are executed now, newest first; *limit* at most."""

    def executor_of(self, run_id: str) -> Executor | None:
        """Return the engine that has the run, ``None`` if none has it."""

    def codes_of(self, run_id: str) -> list[CodeRow]:
        """Return which code has made the results of the run's steps, in the order of their index.

        The rows of a map follow one another.
        """

    def newest_code_of(self, run_id: str) -> int | None:
        """Return the fingerprint of the job's function in the newest execution of the run."""

    def attempts_of(self, run_id: str) -> list[AttemptRow]:
        """Return the executions of the run, the first one first; the last one may be running."""

    def log_lines_of(
        self, run_id: str, *, after: int = 0, except_owners: Sequence[int] = ()
    ) -> list[LogRow]:
        """Return the run's log lines, oldest first: newer than *after*, not of these owners."""

    def newest_log_line(self) -> int:
        """Return the number of the newest log line, 0 if there is none."""

    def newest_time_us(self) -> int | None:
        """Return the newest time at which anything happened to a run, ``None`` if there is none."""

    def newest_trigger_us(self) -> int:
        """Return when the newest run was triggered, 0 if there is none."""

    def has_ended_before(self, before_us: int) -> bool:
        """Return whether ``purge`` would find a run."""

    # -- log lines and the file --------------------------------------------------------------

    def append_log_lines(self, lines: Sequence[LogLine]) -> None:
        """Store log lines in order; those of runs that were deleted are dropped."""

    def hurried(self, ends_s: float) -> AbstractContextManager[None]:
        """End waits for locks of others at *ends_s*, in all threads, during the block."""

    @property
    def file(self) -> object:
        """Return what identifies what is open: equal for two stores on it, by whatever names."""

    @property
    def is_closed(self) -> bool:
        """Return whether ``close`` was called."""

    def close(self) -> None:
        """Close every connection, after the transaction in progress. Idempotent."""
