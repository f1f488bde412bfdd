"""Requeueing: running runs that nothing executes, and waiting runs, are pending again."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import apsw

from durably._platform.clock import to_datetime
from durably.codec.json_text import dump
from durably.store import bounds, defects
from durably.store.outcome import (
    Interrupted,
    NotExecuted,
    OwnerDead,
    OwnerElsewhere,
    OwnerHung,
    OwnerIdle,
    RequeueReason,
)
from durably.store.rows import RunKey, RunRow
from durably.store.sqlite.locks.begun_steps import Begun
from durably.store.sqlite.locks.owner_lock import current_boot_id
from durably.store.sqlite.sql import attempts, calls, items, queries, unsound
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
        keeps_attempt = :keeps_attempt, {queries.AWAKE},
        deaths = CASE WHEN :checkpoints > died_after THEN 0 ELSE deaths END
               + (:counts AND kind = 'job'),
        died_after = coalesce(:checkpoints, died_after), updated_at_us = :now_us,
        {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run"""

# The process of an owner that opened the file before the machine was restarted has not died by
# itself.
IS_OF_THIS_BOOT: Final = "SELECT boot_id = :boot_id FROM durably_owners WHERE owner = :owner"

# How many results are stored of its steps and of the items of its maps. One that was replaced is
# no more than before, and raises the highest layer.
CHECKPOINTS: Final = f"""
    SELECT (SELECT count(*) + (coalesce(max(layer), 0) >> 24) FROM durably_steps
            WHERE step >= (:run << 24) AND step < ((:run + 1) << 24) AND status = 'completed')
         + (SELECT coalesce(max(layer), 0) >> 24 FROM durably_maps WHERE run = :run)
         + (SELECT count(i.output) FROM durably_maps m JOIN durably_items i
              ON i.item >= (m.map << {items.INDEX_BITS})
             AND i.item < ((m.map + 1) << {items.INDEX_BITS})
            WHERE m.run = :run)"""

LAST_STEP: Final = """
    SELECT name FROM durably_steps
    WHERE step >= (:run << 24) AND step < ((:run + 1) << 24) AND status = 'completed'
    ORDER BY completed_at_us DESC, step DESC LIMIT 1"""

EXECUTED_BY: Final = "SELECT host, pid, heartbeat_at_us FROM durably_runs WHERE run = :run"

FAIL_DEAD: Final = """
    UPDATE durably_runs
    SET status = 'failed', error = :error, completed_at_us = :now_us, updated_at_us = :now_us
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


def requeue(
    db: apsw.Connection, reason: RequeueReason, now_us: int, begun: Sequence[Begun] = ()
) -> list[RunRow]:
    """Make running runs pending again; return those that are.

    Args:
        begun: the steps that the owner was inside of, the newest last.
    """
    if isinstance(reason, NotExecuted):
        is_effective = settle(db, reason.run_pk, reason.fence, Interrupted(), now_us)
        return [queries.by_number(db, reason.run_pk)] if is_effective else []
    owner = {"owner": reason.owner, "now_us": now_us}
    beat = reason.beat if isinstance(reason, OwnerHung | OwnerDead) else None
    if beat is not None and db.execute(BEAT_OF, owner).get != beat:
        return []
    most = _max_deaths(db, reason)
    recovered = _recover(db, reason, now_us, counts=most is not None)
    if recovered and isinstance(reason, OwnerHung | OwnerDead):
        outcome: Literal["died", "hung"] = "died" if isinstance(reason, OwnerDead) else "hung"
        attempts.set_outcome(db, [row.run for row in recovered], outcome)
        for row in recovered:
            mine = [each.calls for each in begun if each[:2] == (row.run, row.fence)]
            calls.note_left(db, row.run, row.fence, mine)
    if most is not None:
        recovered = [_failed_if_dead(db, row, most, now_us) for row in recovered]
    if isinstance(reason, OwnerDead | OwnerElsewhere):
        db.execute(RELEASE_ALL, owner)
        db.execute(FORGET_OWNER, owner)
    return recovered


def _max_deaths(db: apsw.Connection, reason: RequeueReason) -> int | None:
    """Return how many deaths fail a run; ``None`` if this is none that counts."""
    if not isinstance(reason, OwnerDead) or reason.max_deaths is None:
        return None
    bindings = {"owner": reason.owner, "boot_id": current_boot_id()}
    return reason.max_deaths if db.execute(IS_OF_THIS_BOOT, bindings).get else None


def _failed_if_dead(db: apsw.Connection, row: RunRow, most: int, now_us: int) -> RunRow:
    """Fail a run that was put back if its process has died *most* times; return it as it is."""
    if row.deaths < most:
        return row
    begun = calls.last_begun(db, row.id)
    step = db.execute(LAST_STEP, {"run": row.run}).get if begun is None else None
    executed: list[Any] = db.execute(EXECUTED_BY, {"run": row.run}).fetchall()
    host, pid, seen_us = executed[0]
    error = {
        "type": "durably.WorkerDiedError",
        "message": said_of_deaths(row.deaths, begun, step, host, pid, seen_us),
        "traceback": "",
        "failed_step": None,
    }
    db.execute(FAIL_DEAD, {"run": row.run, "error": dump(error), "now_us": now_us})
    return queries.by_number(db, row.run)


def said_of_deaths(
    deaths: int,
    begun: str | None,
    step: str | None,
    host: str | None,
    pid: int | None,
    seen_us: int | None,
) -> str:
    """Return the message of a run that is failed because it kills its process.

    Args:
        begun: the last step that was begun, if that is known.
        step: the last one that was completed, if not.
    """
    times = "once" if deaths == 1 else f"{deaths} times"
    where = "" if step is None else f"; the last step completed was {step!r:.80}"
    where = where if begun is None else f"; the last step begun was {begun!r:.80}"
    who = f"host {host}, pid {pid}" if host is not None else "host unknown"
    seen = "" if seen_us is None else f", last seen {to_datetime(seen_us):%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"its process died {times} without completing another step{where}; {who}{seen}. Find out "
        "what kills it (a crash in native code, the system's memory), then retry it"
    )


def _recover(
    db: apsw.Connection,
    reason: OwnerIdle | OwnerHung | OwnerDead | OwnerElsewhere,
    now_us: int,
    *,
    counts: bool,
) -> list[RunRow]:
    # A run that kills its process comes after those that were not tried since.
    goes_last = isinstance(reason, OwnerDead | OwnerElsewhere)
    # It goes on with its attempt if nothing has gone wrong, as far as is known.
    keeps_attempt = isinstance(reason, OwnerIdle | OwnerElsewhere)
    is_dead = isinstance(reason, OwnerDead)
    recovered: list[RunRow] = []
    running: list[Any] = db.execute(RUNNING_OF, {"owner": reason.owner}).fetchall()
    for (run_pk,) in running:
        # None if there is no number left: the run keeps its turn then.
        place = db.execute(NEXT_PLACE, {"most": bounds.MOST_RUNS}).get if goes_last else None
        checkpoints = db.execute(CHECKPOINTS, {"run": run_pk}).get if is_dead else None
        bindings = {
            "run": run_pk,
            "place": place,
            "keeps_attempt": keeps_attempt,
            "counts": counts,
            "checkpoints": checkpoints,
            "now_us": now_us,
        }
        try:
            db.execute(RECOVER, bindings)
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
    """Wake the runs that are due, or as many as one transaction may; return if any were."""
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
