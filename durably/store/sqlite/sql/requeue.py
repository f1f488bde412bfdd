"""Requeueing: running runs that nothing executes, and waiting runs, are pending again."""

from typing import Any, Final, Literal

import apsw

from durably.store import bounds, defects
from durably.store.outcome import Interrupted, NotExecuted, OwnerDead, OwnerIdle, RequeueReason
from durably.store.rows import RunKey, RunRow
from durably.store.sqlite.sql import attempts, queries, unsound
from durably.store.sqlite.sql.settle import settle

# So many runs are woken in one transaction.
WAKE_BATCH: Final = 500

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
        error = NULL, completed_at_us = NULL,
        queue_place = CASE kind WHEN 'job' THEN concurrency_key IS NOT NULL ELSE 3 END,
        keeps_attempt = 0, {queries.AWAKE}, updated_at_us = :now_us,
        {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run"""

# A row that breaks a constraint stays, and so does its owner.
RELEASE_ALL: Final = """
    UPDATE OR IGNORE durably_runs SET owner = NULL, updated_at_us = :now_us WHERE owner = :owner"""

BEAT_OF: Final = "SELECT beat FROM durably_owners WHERE owner = :owner"

FORGET_OWNER: Final = """
    DELETE FROM durably_owners
    WHERE owner = :owner AND NOT EXISTS (SELECT 1 FROM durably_runs WHERE owner = :owner)"""

DUE: Final = """
    SELECT run FROM durably_runs
    WHERE run_at_us <= :now_us AND status IN ('pending', 'waiting')
    ORDER BY run_at_us LIMIT :limit"""

NEXT_DUE: Final = """
    SELECT run_at_us FROM durably_runs
    WHERE run_at_us IS NOT NULL AND status IN ('pending', 'waiting')
    ORDER BY run_at_us LIMIT 1"""

WAKE: Final = f"""
    UPDATE durably_runs SET status = 'pending', {queries.AWAKE}, updated_at_us = :now_us
    WHERE run = :run AND (status = 'waiting' OR (status = 'pending' AND run_at_us IS NOT NULL))"""


def requeue(db: apsw.Connection, reason: RequeueReason, now_us: int) -> list[RunRow]:
    """Make running runs pending again; return those that are."""
    if isinstance(reason, NotExecuted):
        is_effective = settle(db, reason.run_pk, reason.fence, Interrupted(), now_us)
        return [queries.by_number(db, reason.run_pk)] if is_effective else []
    owner = {"owner": reason.owner, "now_us": now_us}
    beat = None if isinstance(reason, OwnerIdle) else reason.beat
    if beat is not None and db.execute(BEAT_OF, owner).get != beat:
        return []
    # A run that kills its process comes after those that were not tried since.
    recovered = _recover(db, reason.owner, now_us, goes_last=isinstance(reason, OwnerDead))
    if recovered and not isinstance(reason, OwnerIdle):
        outcome: Literal["died", "hung"] = "died" if isinstance(reason, OwnerDead) else "hung"
        attempts.set_outcome(db, [row.run for row in recovered], outcome)
    if isinstance(reason, OwnerDead):
        db.execute(RELEASE_ALL, owner)
        db.execute(FORGET_OWNER, owner)
    return recovered


def _recover(db: apsw.Connection, owner: int, now_us: int, *, goes_last: bool) -> list[RunRow]:
    recovered: list[RunRow] = []
    running: list[Any] = db.execute(RUNNING_OF, {"owner": owner}).fetchall()
    for (run_pk,) in running:
        # None if there is no number left: the run keeps its turn then.
        place = db.execute(NEXT_PLACE, {"most": bounds.MOST_RUNS}).get if goes_last else None
        try:
            db.execute(RECOVER, {"run": run_pk, "place": place, "now_us": now_us})
        except apsw.ConstraintError as exc:
            # Another program has turned the constraints off. Continue with the other runs.
            row = queries.by_number(db, run_pk)
            defects.note(
                f"run {row.id!a:.80} of job {row.job_name!a:.80} cannot be put back ({exc}); "
                "durably.testing.check says what is wrong with it"
            )
        else:
            recovered.append(queries.by_number(db, run_pk))
    return recovered


def wake(db: apsw.Connection, run_pk: RunKey, now_us: int) -> bool:
    """Make a waiting run, or one that is not due yet, claimable; return whether it was one."""
    db.execute(WAKE, {"run": run_pk, "now_us": now_us})
    return db.changes() > 0


def wake_due(db: apsw.Connection, now_us: int) -> bool:
    """``wake`` the runs that are due, or as many as one transaction may; return if any were."""
    due: list[Any] = db.execute(DUE, {"now_us": now_us, "limit": WAKE_BATCH}).fetchall()
    for (run_pk,) in due:
        try:
            wake(db, run_pk, now_us)
        except apsw.ConstraintError as exc:
            if unsound.is_outside(now_us):
                raise
            # Another program has turned the constraints off. Continue with the other runs.
            defect = unsound.defect_of(db, run_pk, exc)
            unsound.fail(db, run_pk, defect, {"owner": None, "now_us": now_us})
    return bool(due)


def next_due_us(db: apsw.Connection) -> int | None:
    """Return when the next run is due, ``None`` if no run waits for a time."""
    due_us: int | None = db.execute(NEXT_DUE).get
    return due_us
