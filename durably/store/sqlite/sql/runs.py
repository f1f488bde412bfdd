"""Runs: what users ask for (cancel, retry, adopt, delete, purge), and progress."""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from durably.codec.json_text import dump
from durably.errors import ConflictError
from durably.store.rows import RunRow
from durably.store.sqlite.sql import queries, waits

CANCEL: Final = f"""
    UPDATE durably_runs
    SET status = 'cancelled', {queries.AWAKE}, keeps_attempt = 0, completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE id = :id AND status IN ('pending', 'running', 'waiting')
    RETURNING run"""

# Also those of children that have ended.
CANCEL_DESCENDANTS: Final = f"""
    WITH RECURSIVE descendants (run) AS (
        SELECT run FROM durably_runs WHERE parent = :run
        UNION ALL
        SELECT c.run FROM descendants d JOIN durably_runs c ON c.parent = d.run)
    UPDATE durably_runs
    SET status = 'cancelled', {queries.AWAKE}, keeps_attempt = 0, completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run IN (SELECT run FROM descendants) AND status IN ('pending', 'running', 'waiting')
    RETURNING run"""

RETRY: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', output = NULL, error = NULL, failures = 0, deaths = 0,
        completed_at_us = NULL, updated_at_us = :now_us, {queries.ORIGIN_IF_BEGUN}
    WHERE id = :id
      AND (status IN ('failed', 'cancelled')
           OR (:is_opened AND status = 'completed' AND kind = 'session'))
    RETURNING {queries.COLUMNS}"""

# What has failed below a run, or was cancelled with it. What a child that has completed has
# triggered is no longer needed.
LOST_DESCENDANTS: Final = """
    WITH RECURSIVE lost (run, id) AS (
        SELECT run, id FROM durably_runs
        WHERE parent = :run AND status IN ('failed', 'cancelled')
        UNION ALL
        SELECT c.run, c.id FROM lost l JOIN durably_runs c ON c.parent = l.run
        WHERE c.status IN ('failed', 'cancelled'))
    SELECT id FROM lost ORDER BY run"""

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

# All failed items are tried again.
RELEASE_ITEMS: Final = """
    UPDATE durably_items SET is_held = 0
    WHERE item IN (
        SELECT i.item FROM durably_maps m JOIN durably_items i
          ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30) AND i.is_held = 1
        WHERE m.run = :run)"""

DELETE: Final = "DELETE FROM durably_runs WHERE run = :run"

# A parent that goes on, also after a retry, needs the outputs of its children.
SPARED_BY_PARENT: Final = """EXISTS (
            SELECT 1 FROM durably_runs p
            WHERE p.run = r.parent
              AND (p.completed_at_us IS NULL OR p.completed_at_us >= :before_us
                   OR p.status = 'failed' AND :keep_failed))"""

OLDEST_ENDED: Final = f"""
    SELECT {queries.COLUMNS} FROM durably_runs r
    WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
      AND (status <> 'failed' OR NOT :keep_failed) AND NOT {SPARED_BY_PARENT}
    ORDER BY completed_at_us LIMIT :limit"""

PURGE: Final = "DELETE FROM durably_runs WHERE run IN (SELECT value FROM json_each(:runs))"

HAS_ENDED_BEFORE: Final = f"""
    SELECT 1 FROM durably_runs r
    WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
      AND NOT {SPARED_BY_PARENT}
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


def cancel(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """Cancel a run that has not ended; it keeps its owner until its job has stopped."""
    run: Any = db.execute(CANCEL, {"id": run_id, "now_us": now_us}).get
    if run is None:
        raise _refused(db, run_id, "cancelled", "only a pending or running run can be cancelled")
    return queries.by_number(db, run)


def cancel_all(db: apsw.Connection, run_id: str, now_us: int) -> list[RunRow]:
    """Cancel a run, and those of its children, and of theirs, that have not ended."""
    cancelled = cancel(db, run_id, now_us)
    bindings = {"run": cancelled.run, "now_us": now_us}
    rows: list[Any] = db.execute(CANCEL_DESCENDANTS, bindings).fetchall()
    return [cancelled, *(queries.by_number(db, run_pk) for (run_pk,) in rows)]


def retried(db: apsw.Connection, run_id: str, now_us: int, *, is_opened: bool = False) -> RunRow:
    """Retry a run, without counting its checkpoints. What has timed out is waited for anew.

    So are its children that have failed or were cancelled, which it would only find as they are.

    Args:
        is_opened: whether that is to open a session, which may have completed.
    """
    bindings = {"id": run_id, "now_us": now_us, "is_opened": is_opened}
    try:
        rows = queries.all_rows(db, RETRY, bindings)
    except UnicodeDecodeError:
        return queries.get(db, run_id)  # raises the error that names it
    if not rows:
        raise _refused(db, run_id, "retried", "only a failed or cancelled run can be retried")
    db.execute(waits.FORGET_CLOSED, {"run": rows[0].run})
    db.execute(RELEASE_ITEMS, {"run": rows[0].run})
    lost: list[Any] = db.execute(LOST_DESCENDANTS, {"run": rows[0].run}).fetchall()
    for (child_id,) in lost:
        child: list[Any] = db.execute(RETRY, bindings | {"id": child_id}).fetchall()
        db.execute(waits.FORGET_CLOSED, {"run": child[0][0]})
        db.execute(RELEASE_ITEMS, {"run": child[0][0]})
    return rows[0]


def retry(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """Put a failed or cancelled run back to pending, its checkpoints kept."""
    retried(db, run_id, now_us)
    return queries.get(db, run_id)


def retry_all(db: apsw.Connection, run_id: str, now_us: int) -> list[RunRow]:
    """Retry a run; return it, and those of its children, and of theirs, that are retried."""
    run_pk = queries.legible(db, run_id).run
    lost: list[Any] = db.execute(LOST_DESCENDANTS, {"run": run_pk}).fetchall()
    return [retry(db, run_id, now_us), *(queries.get(db, each) for (each,) in lost)]


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
            f"run {run_id} has ended but its job is still inside a step; "
            "delete it when that has ended"
        )
    db.execute(DELETE, {"run": row.run})
    return row


def _refused(db: apsw.Connection, run_id: str, verb: str, advice: str) -> Exception:
    row = queries.legible(db, run_id)
    return ConflictError(f"run {run_id} is {row.status} and cannot be {verb}: {advice}")


def purge(
    db: apsw.Connection, before_us: int, limit: int, *, keep_failed: bool = False
) -> list[RunRow]:
    """Delete up to *limit* terminal runs that ended before *before_us*, oldest first.

    A child stays as long as its parent has not ended by then.
    """
    bindings = {"before_us": before_us, "limit": limit, "keep_failed": keep_failed}
    rows = queries.legible_rows(db, OLDEST_ENDED, bindings)
    if rows:
        db.execute(PURGE, {"runs": dump([row.run for row in rows])})
    return rows


def has_ended_before(db: apsw.Connection, before_us: int) -> bool:
    """Return whether ``purge`` would find a run."""
    return (
        db.execute(HAS_ENDED_BEFORE, {"before_us": before_us, "keep_failed": False}).get is not None
    )


def newest_trigger(db: apsw.Connection) -> int:
    """Return when the newest run was triggered; 0 if there is none."""
    return int(db.execute(NEWEST_TRIGGER).get or 0)


def newest_time(db: apsw.Connection) -> int | None:
    """Return the newest time at which anything happened to a run; ``None`` if there is none."""
    times: Any
    (times,) = db.execute(NEWEST_TIMES).fetchall()
    return max((us for us in times if us is not None), default=None)


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
