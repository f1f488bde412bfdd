"""Which code has made what is stored of a run."""

from collections.abc import Callable
from typing import Any, Final

import apsw

from durably.codec.json_text import dump
from durably.store import defects
from durably.store.bounds import MOST_STEPS
from durably.store.rows import RunKey
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import steps

NAME: Final = "INSERT OR IGNORE INTO durably_codes (code, name) VALUES (:code, :name)"

NOTE_CHANGED: Final = """
    UPDATE durably_runs SET code_changed = 1 WHERE run = :run AND code_changed = 0"""

# The newest execution before the one that the row of the run has.
LAST: Final = """
    SELECT attempt, code FROM durably_attempts WHERE run = :run ORDER BY fence DESC LIMIT 1"""

STORED_AT: Final = """
    SELECT completed_at_us FROM durably_steps WHERE run = :run AND name = :name
    UNION ALL
    SELECT coalesce(completed_at_us, started_at_us) FROM durably_maps
    WHERE run = :run AND name = :name"""

# Those inside of another step only if that was executed: a stored one does not call them. Which
# items of a map were executed is not known here.
UNUSED: Final = """
    SELECT name FROM (
        SELECT step, CAST(name AS BLOB) AS name, outer FROM durably_steps
        WHERE step >= :first AND step < :end AND status = 'completed'
          AND step & 0xFFFFFF IN (SELECT value FROM json_each(:unused))
        UNION ALL
        SELECT step, CAST(name AS BLOB), outer FROM durably_maps
        WHERE step >= :first AND step < :end
          AND step & 0xFFFFFF IN (SELECT value FROM json_each(:unused)))
    WHERE outer IS NULL OR outer IN (SELECT value FROM json_each(:executed))
    ORDER BY step LIMIT :limit"""


def named(
    db: apsw.Connection, code: int, name: str, operation: Callable[..., bool], *args: Any
) -> bool:
    """Store the name of the function with that fingerprint, and what *operation* stores."""
    db.execute(NAME, {"code": code, "name": name})
    return operation(db, *args)


@single_statement
def note_changed(db: apsw.Connection, run_pk: RunKey) -> bool:
    """Store that an execution of the run has used a result of other code."""
    db.execute(NOTE_CHANGED, {"run": run_pk})
    return db.changes() > 0


def last(db: apsw.Connection, run_pk: RunKey) -> tuple[int, int | None] | None:
    """Return the attempt before the newest execution, and the fingerprint of its job's function."""
    rows: list[Any] = db.execute(LAST, {"run": run_pk}).fetchall()
    return rows[0] if rows else None


def stored_at(db: apsw.Connection, run_pk: RunKey, name: str) -> int | None:
    """Return when a step or a map was stored."""
    rows: list[Any] = db.execute(STORED_AT, {"run": run_pk, "name": name}).fetchall()
    return rows[0][0] if rows else None


def unused(
    db: apsw.Connection, run_pk: RunKey, unused: list[int], executed: list[int], limit: int
) -> list[str]:
    """Return the names of the completed steps and maps at these indexes, *limit* at most.

    Args:
        executed: the indexes of the steps that were executed, which may have called others.
    """
    first = run_pk << steps.INDEX_BITS
    rows: list[Any] = db.execute(
        UNUSED,
        {
            "first": first,
            "end": first + MOST_STEPS,
            "unused": dump(unused),
            "executed": dump(executed),
            "limit": limit,
        },
    ).fetchall()
    return [defects.decoded({"name": name})[0]["name"] for (name,) in rows]
