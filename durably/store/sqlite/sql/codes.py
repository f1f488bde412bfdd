"""Which code has made what is stored of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.codec.json_text import dump
from durably.store import defects
from durably.store.bounds import MOST_STEPS
from durably.store.rows import RunKey
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import steps

if TYPE_CHECKING:
    from durably.store.read_rows import CodeRow

NAME: Final = "INSERT OR IGNORE INTO durably_codes (code, name) VALUES (:code, :name)"

NOTE_CHANGED: Final = """
    UPDATE durably_runs SET code_changed = 1 WHERE run = :run AND code_changed = 0"""

# The newest execution before the one that the row of the run has.
LAST: Final = """
    SELECT attempt, code FROM durably_attempts WHERE run = :run ORDER BY fence DESC LIMIT 1"""

NEWEST: Final = "SELECT code FROM durably_runs WHERE id = :id"

# Names are read as bytes, since they may be damaged.
NAMES_OF: Final = "SELECT CAST(name AS BLOB) FROM durably_codes WHERE code = :code ORDER BY name"

# What an item has not of its own is that of its map.
OF_RUN: Final = """
    SELECT s.step & 0xFFFFFF AS place, CAST(s.name AS BLOB), s.completed_at_us, s.code
    FROM durably_runs r JOIN durably_steps s
      ON s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24)
    WHERE r.id = :id AND s.status = 'completed'
    UNION ALL
    SELECT m.step & 0xFFFFFF, CAST(m.name AS BLOB), coalesce(m.completed_at_us, m.started_at_us),
           m.code
    FROM durably_runs r JOIN durably_maps m USING (run)
    WHERE r.id = :id
    UNION ALL
    SELECT DISTINCT m.step & 0xFFFFFF, CAST(m.name AS BLOB),
           coalesce(m.completed_at_us, m.started_at_us), i.code
    FROM durably_runs r JOIN durably_maps m USING (run)
    JOIN durably_items i ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30)
    WHERE r.id = :id AND i.code IS NOT NULL
    ORDER BY place"""

STORED_AT: Final = """
    SELECT completed_at_us FROM durably_steps WHERE run = :run AND name = :name
    UNION ALL
    SELECT coalesce(completed_at_us, started_at_us) FROM durably_maps
    WHERE run = :run AND name = :name"""

ORIGIN: Final = """
    SELECT completed_at_us, is_manual FROM durably_steps WHERE run = :run AND name = :name"""

ORIGIN_OF_ITEM: Final = """
    SELECT i.completed_at_us, i.is_manual FROM durably_maps m
    JOIN durably_items i ON i.item = (m.map << 30) + :index
    WHERE m.run = :run AND m.name = :name"""

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


def of_run(db: apsw.Connection, run_id: str) -> list[CodeRow]:
    """Return which code has made the results of the run's steps, in the order of their index."""
    from durably.store.read_rows import CodeRow  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(OF_RUN, {"id": run_id}).fetchall()
    names: dict[int | None, tuple[str, ...]] = {None: ()}
    for code in {row[3] for row in rows} - {None}:
        found: list[Any] = db.execute(NAMES_OF, {"code": code}).fetchall()
        names[code] = tuple(_decoded(name) for (name,) in found)
    return [
        CodeRow(index, _decoded(name), stored_at_us, code, names[code])
        for index, name, stored_at_us, code in rows
    ]


def newest(db: apsw.Connection, run_id: str) -> int | None:
    """Return the fingerprint of the job's function in the newest execution of the run."""
    code: int | None = db.execute(NEWEST, {"id": run_id}).get
    return code


def _decoded(name: bytes) -> str:
    return str(defects.decoded({"name": name})[0]["name"])


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


def origin(
    db: apsw.Connection, run_pk: RunKey, name: str, index: int | None
) -> tuple[int | None, bool] | None:
    """Return when the result of a step, or of an item of a map, was stored, and whether by hand.

    Args:
        index: of the item, ``None`` for the result of the step itself.
    """
    statement = ORIGIN if index is None else ORIGIN_OF_ITEM
    bindings = {"run": run_pk, "name": name, "index": index}
    rows: list[Any] = db.execute(statement, bindings).fetchall()
    return (rows[0][0], bool(rows[0][1])) if rows else None


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
    return [_decoded(name) for (name,) in rows]
