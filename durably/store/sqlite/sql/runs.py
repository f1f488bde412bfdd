"""Runs: one function per change of state, each a single transaction.

The verbs are the state machine's: claim, complete, fail, cancel, interrupt, release, recover,
retry, delete. Each returns whether it took effect. New runs are stored in ``enqueue``.
"""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from durably.codec.json_text import dump
from durably.errors import ConflictError
from durably.store import bounds, defects
from durably.store.rows import Claim, Ended, Ending, RunRow
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import queries, unsound

# A run that goes back without checkpoints begins again in the engine that claims it.
_ORIGIN_IF_BEGUN: Final = """
        origin = CASE WHEN EXISTS (
            SELECT 1 FROM durably_steps s
            WHERE s.step >= (durably_runs.run << 24) AND s.step < ((durably_runs.run + 1) << 24)
              AND s.status = 'completed') THEN origin END"""

CLAIM: Final = f"""
    UPDATE durably_runs
    SET status = 'running', owner = :owner, attempt = attempt + 1 - keeps_attempt,
        keeps_attempt = 0, fence = max(fence, attempt) + 1,
        origin = coalesce({queries.ORIGIN_OF.format(job="job_name")}, origin),
        started_at_us = coalesce(started_at_us, :now_us), heartbeat_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = ({queries.FIRST_CLAIMABLE})
    RETURNING {queries.COLUMNS}"""

COMPLETE: Final = """
    UPDATE durably_runs
    SET status = 'completed', owner = NULL, output = :output,
        progress = coalesce(:progress, progress), completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND fence = :fence"""

FAIL: Final = """
    UPDATE durably_runs
    SET status = 'failed', owner = NULL, error = :error, failures = failures + 1,
        progress = coalesce(:progress, progress), completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND fence = :fence"""

INTERRUPT: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', owner = NULL, progress = coalesce(:progress, progress),
        updated_at_us = :now_us, {_ORIGIN_IF_BEGUN}
    WHERE run = :run AND status = 'running' AND fence = :fence"""

# A job that was cancelled has left its last step: the key it held is free. The run may
# have been retried meanwhile, and is then pending with its old owner.
RELEASE: Final = """
    UPDATE durably_runs SET owner = NULL, updated_at_us = :now_us
    WHERE run = :run AND owner = :owner AND fence = :fence
      AND status IN ('cancelled', 'pending')"""

CANCEL: Final = """
    UPDATE durably_runs
    SET status = 'cancelled', run_at_us = NULL, waits_for = NULL, wait_name = NULL,
        waits_for_run = NULL, keeps_attempt = 0, completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE id = :id AND status IN ('pending', 'running', 'waiting')
    RETURNING run"""

RETRY: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', error = NULL, failures = 0, completed_at_us = NULL,
        updated_at_us = :now_us,
        {_ORIGIN_IF_BEGUN}
    WHERE id = :id AND status IN ('failed', 'cancelled')
    RETURNING {queries.COLUMNS}"""

# The turn of a run whose process died: after all runs that were triggered or recovered before.
NEXT_PLACE: Final = """
    UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'durably_runs' AND seq < :most
    RETURNING seq"""

RUNNING_OF: Final = """
    SELECT run FROM durably_runs WHERE owner = :owner AND status = 'running'
    ORDER BY coalesce(place, run)"""

# Columns that a running run does not have are cleared, and so is its place in a queue, because
# another program may have turned the constraints off.
RECOVER: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', owner = NULL, place = coalesce(:place, place), output = NULL,
        error = NULL, completed_at_us = NULL, queue_place = concurrency_key IS NOT NULL,
        updated_at_us = :now_us, {_ORIGIN_IF_BEGUN}
    WHERE run = :run"""

# A row that breaks a constraint stays, and so does its owner.
RELEASE_ALL: Final = """
    UPDATE OR IGNORE durably_runs SET owner = NULL, updated_at_us = :now_us WHERE owner = :owner"""

BEAT_OF: Final = "SELECT beat FROM durably_owners WHERE owner = :owner"

FORGET_OWNER: Final = """
    DELETE FROM durably_owners
    WHERE owner = :owner AND NOT EXISTS (SELECT 1 FROM durably_runs WHERE owner = :owner)"""

# The triggers move the run out of the queue of its key, and into that of its new origin.
LEAVE_TO_ADOPT: Final = """
    UPDATE durably_runs SET run_at_us = :now_us
    WHERE id = :id AND status = 'pending' AND run_at_us IS NULL"""

ADOPT: Final = f"""
    UPDATE durably_runs
    SET run_at_us = CASE WHEN :is_due THEN NULL ELSE run_at_us END, updated_at_us = :now_us,
        origin = CASE WHEN origin IS NOT NULL THEN :origin END
    WHERE id = :id AND status IN ('pending', 'waiting')
    RETURNING {queries.COLUMNS}"""

DELETE: Final = "DELETE FROM durably_runs WHERE run = :run"

DELETE_STEPS: Final = """
    DELETE FROM durably_steps WHERE step >= (:run << 24) AND step < ((:run + 1) << 24)"""

OLDEST_ENDED: Final = f"""
    SELECT {queries.COLUMNS} FROM durably_runs
    WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
    ORDER BY completed_at_us LIMIT :limit"""

PURGE: Final = "DELETE FROM durably_runs WHERE run IN (SELECT value FROM json_each(:runs))"

HAS_ENDED_BEFORE: Final = """
    SELECT 1 FROM durably_runs
    WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
    LIMIT 1"""

NEWEST_TRIGGER: Final = "SELECT created_at_us FROM durably_runs ORDER BY run DESC LIMIT 1"

# The times of the newest run, of the last end, and of the running runs: each is found by an index
# without reading the others.
NEWEST_TIMES: Final = """
    SELECT (SELECT max(created_at_us, updated_at_us, coalesce(heartbeat_at_us, 0))
            FROM durably_runs ORDER BY run DESC LIMIT 1),
           (SELECT completed_at_us FROM durably_runs WHERE completed_at_us IS NOT NULL
            ORDER BY completed_at_us DESC LIMIT 1),
           (SELECT max(heartbeat_at_us) FROM durably_runs WHERE owner IS NOT NULL)"""

SET_PROGRESS: Final = """
    UPDATE durably_runs SET progress = :progress, updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND fence = :fence"""


def claim(db: apsw.Connection, wanted: Claim) -> list[RunRow]:
    """Claim up to ``limit`` runs for an owner, if they are still wanted, those triggered first."""
    claimed: list[RunRow] = []
    bindings = {
        "owner": wanted.owner,
        "jobs": wanted.jobs,
        "inside": wanted.inside(),
        "origins": wanted.origins,
        "now_us": wanted.now_us(),
    }
    while len(claimed) < wanted.limit and wanted.is_wanted():
        try:
            rows = queries.all_rows(db, CLAIM, bindings)
        except (UnicodeDecodeError, apsw.ConstraintError) as exc:
            unsound.fail_unclaimed(db, exc, bindings)
            continue
        if not rows:
            break
        defect = defects.of_claimed(rows[0]._asdict())
        if defect is None:
            claimed += rows
        else:
            unsound.fail(db, rows[0].run, defect, bindings)
    return claimed


@single_statement
def end(db: apsw.Connection, ending: Ending) -> bool:
    """Complete, fail or interrupt a run and keep its steps; return whether it took effect."""
    bindings: dict[str, Any] = {
        "run": ending.run,
        "fence": ending.fence,
        "progress": ending.progress,
        "now_us": ending.now_us,
    }
    if ending.output is not None:
        db.execute(COMPLETE, bindings | {"output": ending.output})
    elif ending.error is not None:
        db.execute(FAIL, bindings | {"error": ending.error})
    else:
        db.execute(INTERRUPT, bindings)
    return db.changes() > 0


def finish(db: apsw.Connection, ending: Ending, claim_next: Claim | None) -> Ended:
    """End a run as ``end`` does, and claim the next one in the same transaction."""
    is_effective = end(db, ending)
    if is_effective and ending.output is not None and not ending.keep_steps:
        db.execute(DELETE_STEPS, {"run": ending.run})
    claimed = claim(db, claim_next) if claim_next is not None else []
    return Ended(is_effective, claimed[0] if claimed else None)


@single_statement
def release(db: apsw.Connection, run: int, fence: int, owner: int, now_us: int) -> bool:
    """Store that the job of a run that was cancelled has left its thread."""
    db.execute(RELEASE, {"run": run, "fence": fence, "owner": owner, "now_us": now_us})
    return db.changes() > 0


def cancel(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """Cancel a pending or running run; it keeps its owner until its job has stopped."""
    run: Any = db.execute(CANCEL, {"id": run_id, "now_us": now_us}).get
    if run is None:
        raise _refused(db, run_id, "cancelled", "only a pending or running run can be cancelled")
    return queries.by_number(db, run)


def retried(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """Retry a run, without counting its checkpoints."""
    try:
        rows = queries.all_rows(db, RETRY, {"id": run_id, "now_us": now_us})
    except UnicodeDecodeError:
        return queries.get(db, run_id)  # raises the error that names it
    if not rows:
        raise _refused(db, run_id, "retried", "only a failed or cancelled run can be retried")
    return rows[0]


def retry(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """Put a failed or cancelled run back to pending, its checkpoints kept."""
    retried(db, run_id, now_us)
    return queries.get(db, run_id)


def adopt(db: apsw.Connection, run_id: str, origin: str | None, now_us: int) -> RunRow:
    """Set the origin of a pending run, if it has checkpoints; ``None`` for any."""
    bindings = {"id": run_id, "now_us": now_us}
    db.execute(LEAVE_TO_ADOPT, bindings)
    bindings |= {"origin": origin, "is_due": db.changes()}
    if queries.first_row(db, ADOPT, bindings) is None:
        raise _refused(db, run_id, "adopted", "only a pending run can be adopted")
    return queries.get(db, run_id)


def delete(db: apsw.Connection, run_id: str) -> RunRow:
    """Delete a terminal run with its steps, logs and labels."""
    row = queries.legible(db, run_id)
    if row.completed_at_us is None:
        raise _refused(db, run_id, "deleted", "cancel it first, or wait for its end")
    if row.owner is not None:
        raise ConflictError(
            f"run {run_id} was cancelled but its job is still inside a step; "
            "delete it when that has ended"
        )
    db.execute(DELETE, {"run": row.run})
    return row


def _refused(db: apsw.Connection, run_id: str, verb: str, advice: str) -> Exception:
    row = queries.legible(db, run_id)
    return ConflictError(f"run {run_id} is {row.status} and cannot be {verb}: {advice}")


def purge(db: apsw.Connection, before_us: int, limit: int) -> list[RunRow]:
    """Delete up to *limit* terminal runs that ended before *before_us*, oldest first."""
    rows = queries.legible_rows(db, OLDEST_ENDED, {"before_us": before_us, "limit": limit})
    if rows:
        db.execute(PURGE, {"runs": dump([row.run for row in rows])})
    return rows


def has_ended_before(db: apsw.Connection, before_us: int) -> bool:
    """Return whether ``purge`` would find a run."""
    return db.execute(HAS_ENDED_BEFORE, {"before_us": before_us}).get is not None


def newest_trigger(db: apsw.Connection) -> int:
    """Return when the newest run was triggered; 0 if there is none."""
    return int(db.execute(NEWEST_TRIGGER).get or 0)


def newest_time(db: apsw.Connection) -> int | None:
    """Return the newest time at which anything happened to a run; ``None`` if there is none."""
    times: Any
    (times,) = db.execute(NEWEST_TIMES).fetchall()
    return max((us for us in times if us is not None), default=None)


def recover_dead(
    db: apsw.Connection, owner: int, now_us: int, *, beat: int | None = None
) -> list[RunRow]:
    """Put back the running runs of an owner that is dead, free its keys, delete its row.

    Each gets the last turn, in the order in which they were claimable: a run that kills its
    process comes after those that were not tried since.

    With *beat*, do so only if that is still its heartbeat.
    """
    if beat is not None and db.execute(BEAT_OF, {"owner": owner}).get != beat:
        return []
    recovered = _recover(db, owner, now_us, goes_last=True)
    db.execute(RELEASE_ALL, {"owner": owner, "now_us": now_us})
    db.execute(FORGET_OWNER, {"owner": owner})
    return recovered


def put_back(db: apsw.Connection, owner: int, now_us: int) -> list[RunRow]:
    """Put back the running runs of an owner that executes none of them."""
    return _recover(db, owner, now_us)


def recover_hung(db: apsw.Connection, owner: int, beat: int, now_us: int) -> list[RunRow]:
    """Put back the running runs of an owner whose heartbeat is still *beat*."""
    if db.execute(BEAT_OF, {"owner": owner}).get != beat:
        return []
    return _recover(db, owner, now_us)


def _recover(
    db: apsw.Connection, owner: int, now_us: int, *, goes_last: bool = False
) -> list[RunRow]:
    recovered: list[RunRow] = []
    running: list[Any] = db.execute(RUNNING_OF, {"owner": owner}).fetchall()
    for (run,) in running:
        # None if there is no number left: the run keeps its turn then.
        place = db.execute(NEXT_PLACE, {"most": bounds.MOST_RUNS}).get if goes_last else None
        try:
            db.execute(RECOVER, {"run": run, "place": place, "now_us": now_us})
        except apsw.ConstraintError as exc:
            # Another program has turned the constraints off. Continue with the other runs.
            row = queries.by_number(db, run)
            defects.note(
                f"run {row.id!a:.80} of job {row.job_name!a:.80} cannot be put back ({exc}); "
                "durably.testing.check says what is wrong with it"
            )
        else:
            recovered.append(queries.by_number(db, run))
    return recovered


def set_progress(db: apsw.Connection, updates: Sequence[tuple[int, int, str]], now_us: int) -> int:
    """Store progress, given as (run, fence, JSON text); return how many took effect.

    Stale claims change nothing.
    """
    changed = 0
    for run, fence, progress in updates:
        db.execute(
            SET_PROGRESS, {"run": run, "fence": fence, "progress": progress, "now_us": now_us}
        )
        changed += db.changes()
    return changed
