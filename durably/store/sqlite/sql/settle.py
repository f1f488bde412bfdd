"""Settling: how an execution leaves its job, with the fence of its claim."""

from typing import Any, Final

import apsw

from durably.codec.json_text import dump
from durably.models import ErrorInfo, stored_error
from durably.store.calls import Left
from durably.store.outcome import (
    Completed,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    Suspended,
    TriedAgain,
)
from durably.store.rows import Claim, Ended, RunKey
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import attempts, blobs, calls, claims, queries

# What the execution did, as far as its own process knows.
_COUNTS: Final = "steps_completed = :completed, steps_reused = :reused"

COMPLETE: Final = f"""
    UPDATE durably_runs
    SET status = 'completed', owner = NULL, output = :output, unused_steps = :unused_steps,
        progress = coalesce(:progress, progress), {_COUNTS}, completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# A job that is still inside a step at its deadline keeps its owner.
_OWNER: Final = "CASE WHEN :is_inside THEN owner END"

FAIL: Final = f"""
    UPDATE durably_runs
    SET status = 'failed', owner = {_OWNER}, error = :error, failures = failures + 1,
        progress = coalesce(:progress, progress), {_COUNTS}, completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# What is no failure is the same attempt.
TRY_AGAIN: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', owner = {_OWNER}, failures = failures + :is_failure,
        keeps_attempt = NOT :is_failure, run_at_us = :run_at_us,
        progress = coalesce(:progress, progress), {_COUNTS}, updated_at_us = :now_us,
        {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# A run that has not failed goes on with its attempt.
INTERRUPT: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', owner = NULL, progress = coalesce(:progress, progress), {_COUNTS},
        keeps_attempt = 1, updated_at_us = :now_us, {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# A run that is waited for may have been deleted meanwhile: nobody would end it.
_IS_THERE: Final = """
    (:awaited_pk IS NULL OR EXISTS (SELECT 1 FROM durably_runs WHERE run = :awaited_pk))"""

SUSPEND: Final = f"""
    UPDATE durably_runs
    SET status = iif({_IS_THERE}, 'waiting', 'pending'), owner = NULL,
        progress = coalesce(:progress, progress), {_COUNTS}, keeps_attempt = 1,
        waits_for = iif({_IS_THERE}, :waits_for, NULL), wait_name = iif({_IS_THERE}, :name, NULL),
        run_at_us = iif({_IS_THERE}, :until_us, NULL),
        waits_for_run = iif({_IS_THERE}, :awaited_pk, NULL), updated_at_us = :now_us,
        {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# A job that was cancelled, or whose time was over, has left its last step: the key it held is free.
# The run may have been retried meanwhile, and is then pending with its old owner.
RELEASE: Final = f"""
    UPDATE durably_runs SET owner = NULL, updated_at_us = :now_us, {_COUNTS}
    WHERE run = :run AND owner IS NOT NULL AND fence = :fence
      AND status IN ('cancelled', 'failed', 'pending')"""

DELETE_STEPS: Final = """
    DELETE FROM durably_steps WHERE step >= (:run << 24) AND step < ((:run + 1) << 24)"""


# Their items with them.
DELETE_MAPS: Final = "DELETE FROM durably_maps WHERE run = :run"


@single_statement
def settle(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    outcome: Outcome,
    now_us: int,
    progress: str | None = None,
    left: Left = Left(),  # noqa: B008 - it is a constant
) -> bool:
    """Store how an execution has left its job; return whether that took effect.

    ``settle_and_claim`` also stores the calls that are left, and the end of an execution whose run
    is tried again.
    """
    statement, more = _settling(outcome)
    bindings = {
        "run": run_pk,
        "fence": fence,
        "now_us": now_us,
        "progress": progress,
        "completed": left.steps_completed,
        "reused": left.steps_reused,
    }
    db.execute(statement, bindings | more)
    return db.changes() > 0


def _settling(outcome: Outcome) -> tuple[str, dict[str, Any]]:
    match outcome:
        case Completed(output, _, unused):
            return COMPLETE, {"output": output, "unused_steps": dump(unused) if unused else None}
        case Failed(error, step, is_inside):
            return FAIL, {"error": _stored(error, step), "is_inside": is_inside}
        case TriedAgain():
            return TRY_AGAIN, {
                "run_at_us": outcome.run_at_us,
                "is_failure": outcome.is_failure,
                "is_inside": outcome.is_inside,
            }
        case Interrupted():
            return INTERRUPT, {}
        case Suspended(waits_for, name, until_us, awaited_pk):
            return SUSPEND, {
                "waits_for": waits_for,
                "name": name,
                "until_us": until_us,
                "awaited_pk": awaited_pk,
            }
        case Lost():
            return RELEASE, {}


def _stored(error: ErrorInfo, step: str | None) -> str:
    # With the step, for the run:fail that other engines build from the database.
    return dump(stored_error(error) | {"failed_step": step})


def settle_and_claim(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    outcome: Outcome,
    now_us: int,
    progress: str | None = None,
    keep_steps: bool = True,  # noqa: FBT001, FBT002 - operations take arguments by position
    claim_next: Claim | None = None,
    left: Left = Left(),  # noqa: B008 - it is a constant
) -> Ended:
    """Settle a run, and claim the next one in the same transaction."""
    is_effective = settle(db, run_pk, fence, outcome, now_us, progress, left)
    if is_effective and isinstance(outcome, TriedAgain):
        error = _stored(outcome.error, outcome.step) if outcome.is_failure else None
        attempts.set_end(db, run_pk, fence, "suspended" if error is None else "failed", error)
    if is_effective:
        for each in left.calls:
            calls.add(db, run_pk, fence, each.name, each.calls, each.notes)
    if is_effective and isinstance(outcome, Completed) and not keep_steps:
        db.execute(DELETE_STEPS, {"run": run_pk})
        db.execute(DELETE_MAPS, {"run": run_pk})
        db.execute(calls.DELETE, {"run": run_pk})
        db.execute(blobs.OF_STEPS, {"run": run_pk})
    claimed = claims.claim(db, claim_next) if claim_next is not None else []
    return Ended(is_effective, claimed[0] if claimed else None)
