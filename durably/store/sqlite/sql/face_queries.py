"""Queries of the faces: find runs by what a person types, and sum up what a run has done so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.store import defects
from durably.store.bounds import MOST_ITEMS
from durably.store.rows import Executor, RunRow
from durably.store.sqlite.sql import items, queries, runs
from durably.store.sqlite.sql.queries import COUNTED

if TYPE_CHECKING:
    from durably.store.item_rows import FailureKind, MapState

# From one job that has keys to the next, without reading the keys of each.
BY_KEY: Final = f"""
    WITH RECURSIVE jobs (name) AS (
        SELECT min(job_name) FROM durably_runs WHERE idempotency_key IS NOT NULL
        UNION ALL
        SELECT (SELECT min(job_name) FROM durably_runs
                WHERE job_name > jobs.name AND idempotency_key IS NOT NULL)
        FROM jobs WHERE name IS NOT NULL)
    SELECT {COUNTED} FROM jobs CROSS JOIN durably_runs r
    WHERE r.job_name = jobs.name AND r.idempotency_key = :key
    ORDER BY run DESC LIMIT :limit"""

# Reads the ids of all runs, from the newest on, and only the rows that are found.
BY_END: Final = f"""
    SELECT {COUNTED} FROM durably_runs r
    WHERE run IN (SELECT run FROM durably_runs
                  WHERE substr(id, -length(:end)) = :end ORDER BY id DESC LIMIT :limit)
    ORDER BY run DESC"""

# By the index of the runs that have an owner.
RUNNING: Final = f"""
    SELECT {COUNTED} FROM durably_runs r INDEXED BY durably_runs_owner
    WHERE owner IS NOT NULL AND status = 'running' ORDER BY +run DESC LIMIT :limit"""

EXECUTOR_OF: Final = """
    SELECT o.owner, o.pid, o.opened_at_us
    FROM durably_runs r JOIN durably_owners o ON o.owner = r.owner WHERE r.id = :id"""

OPEN_MAPS: Final = """
    SELECT m.step & 0xFFFFFF, CAST(m.name AS BLOB), m.is_keyed, m.done, m.failed, m.reused,
           m.total, m.started_at_us
    FROM durably_runs r JOIN durably_maps m USING (run)
    WHERE r.id = :id AND m.status IS NULL ORDER BY m.step"""

# Of text that is not what durably writes the type is NULL.
FAILURES: Final = """
    SELECT item & 0x3FFFFFFF, CAST(key AS BLOB), typeof(key),
           CAST(CASE WHEN json_valid(error) THEN json_extract(error, '$.type') END AS BLOB),
           CAST(CASE WHEN json_valid(error)
                THEN substr(json_extract(error, '$.message'), 1, 1000) END AS BLOB)
    FROM durably_items INDEXED BY durably_items_failed
    WHERE item >= :first AND item < :end AND error IS NOT NULL ORDER BY item LIMIT :limit"""

# What a purge would delete, and the bytes of its text; what SQLite keeps beside that is as much
# again for small runs.
PURGEABLE: Final = f"""
    SELECT count(*), coalesce(sum(
        octet_length(payload) + coalesce(octet_length(output), 0) + coalesce(octet_length(error), 0)
        + coalesce((
            SELECT sum(octet_length(s.name) + coalesce(octet_length(s.output), 0)
                       + coalesce(octet_length(s.error), 0))
            FROM durably_steps s
            WHERE s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24)), 0)
        + coalesce((
            SELECT sum(coalesce(octet_length(i.key), 0) + coalesce(octet_length(i.output), 0)
                       + coalesce(octet_length(i.error), 0))
            FROM durably_maps m JOIN durably_items i
              ON i.item >= (m.map << 30) AND i.item < ((m.map + 1) << 30)
            WHERE m.run = r.run), 0)
        + coalesce((
            SELECT sum(octet_length(l.message) + octet_length(l.data))
            FROM durably_logs l WHERE l.run = r.run), 0)), 0)
    FROM durably_runs r
    WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
      AND (status <> 'failed' OR NOT :keep_failed) AND NOT {runs.SPARED_BY_PARENT}"""

# How many keys of a kind of failure are named.
_MOST_KEYS: Final = 3


def named(db: apsw.Connection, name: str, limit: int) -> list[RunRow]:
    """Return the run with that id; else those with that key; else those whose id ends with it.

    Newest first, and of each kind only as many as *limit*.
    """
    found = queries.legible_rows(db, queries.BY_ID, {"id": name})
    if not found:
        found = queries.legible_rows(db, BY_KEY, {"key": name, "limit": limit})
    if not found and name.isascii() and name.isalnum():
        found = queries.legible_rows(db, BY_END, {"end": name.upper(), "limit": limit})
    return found


def running(db: apsw.Connection, limit: int) -> list[RunRow]:
    """Return the runs that are executed now, newest first; *limit* at most."""
    return queries.legible_rows(db, RUNNING, {"limit": limit})


def executor_of(db: apsw.Connection, run_id: str) -> Executor | None:
    """Return the engine that has the run, ``None`` if none has it."""
    rows: list[Any] = db.execute(EXECUTOR_OF, {"id": run_id}).fetchall()
    return Executor(*rows[0]) if rows else None


def open_maps(db: apsw.Connection, run_id: str) -> list[MapState]:
    """Return the maps of the run that have not ended: in progress, or interrupted."""
    from durably.store.item_rows import MapState  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(OPEN_MAPS, {"id": run_id}).fetchall()
    found = (defects.decoded(MapState(*row)._asdict()) for row in rows)
    return [MapState(**values) for values, _ in found]


def purgeable(db: apsw.Connection, before_us: int, *, keep_failed: bool = False) -> tuple[int, int]:
    """Return how many runs a purge would delete in all, and the bytes of the text in them."""
    bindings = {"before_us": before_us, "keep_failed": keep_failed}
    rows: list[Any] = db.execute(PURGEABLE, bindings).fetchall()
    return rows[0][0], rows[0][1]


def failures(db: apsw.Connection, run_id: str, name: str, most: int) -> list[FailureKind]:
    """Return the kinds of failures among the first *most* failed items of a map."""
    from durably.store.item_rows import FailureKind  # noqa: PLC0415 - where first needed

    map_pk: Any = db.execute(items.MAP_OF, {"id": run_id, "name": name}).get
    if map_pk is None:
        return []
    first = map_pk << items.INDEX_BITS
    bindings = {"first": first, "end": first + MOST_ITEMS, "limit": most}
    kinds: dict[str, FailureKind] = {}
    rows: list[Any] = db.execute(FAILURES, bindings).fetchall()
    for index, key, kind_of_key, kind, message in rows:
        named = _text(kind) or "an unreadable error"
        known = kinds.get(named)
        if known is None:
            known = FailureKind(named, _text(message), 0, ())
        keys = known.keys
        if len(keys) < _MOST_KEYS:
            keys = (*keys, _key(index, key, kind_of_key))
        kinds[named] = known._replace(times=known.times + 1, keys=keys)
    return sorted(kinds.values(), key=lambda each: -each.times)


def _text(stored: bytes | None) -> str:
    return "" if stored is None else stored.decode(errors="backslashreplace")


def _key(index: int, key: bytes | None, kind: str) -> str | int:
    if key is None:
        return index
    return int(key) if kind == "integer" else _text(key)
