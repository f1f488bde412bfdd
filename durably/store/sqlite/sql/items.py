"""Maps and their items: results of the items of a loop, stored by the claim that is current."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.errors import DatabaseError
from durably.store import defects
from durably.store.bounds import MOST_ITEMS
from durably.store.rows import RunKey
from durably.store.sqlite.sql import blobs

if TYPE_CHECKING:
    from durably.store.item_rows import (
        ItemOfMap,
        ItemRow,
        ItemWindow,
        Key,
        MapRow,
        MapState,
        NewItem,
    )
    from durably.store.read_rows import StepRow

INDEX_BITS: Final = 30

# How many items a resume reads at once and keeps in memory.
WINDOW_ITEMS: Final = 2000
WINDOW_CHARS: Final = 8 * 1024 * 1024

_NOT_TEXT: Final = "it contains bytes that are not valid UTF-8"

# A batch is stored by statements for so many items each, largest first: few texts to compile.
SIZES: Final = (256, 64, 16, 4, 1)

# The fence is in the same statement as the write: a row changes only if this claim is the current
# one.
IS_CURRENT: Final = """
    EXISTS (SELECT 1 FROM durably_runs r
            WHERE r.run = :run AND r.fence = :fence AND r.status = 'running')"""

# An execution of the run that stores something of a map is an attempt of it. Once items are stored
# that have a layer, those without one keep that of the map.
_COUNTED: Final = """attempts = coalesce(attempts, 1) + (fence IS NOT :fence), fence = :fence,
        old_layer = CASE WHEN :layer IS NULL THEN old_layer ELSE coalesce(
            old_layer, max(coalesce(layer, 0), coalesce(fence, 0) << 24)) END,
        layer = CASE WHEN :layer IS NULL THEN layer ELSE max(:layer, coalesce(layer, 0)) END"""

SAVE_COUNTS: Final = f"""
    UPDATE durably_maps
    SET is_keyed = :is_keyed, done = :done, failed = :failed, reused = :reused, total = :total,
        {_COUNTED}
    WHERE run = :run AND name = :name AND {IS_CURRENT}
    RETURNING map"""

_END: Final = f"""
    UPDATE durably_maps
    SET is_keyed = :is_keyed, done = :done, failed = :failed, reused = :reused, total = :total,
        status = :status, error = :error, started_at_us = :started_at_us,
        completed_at_us = :completed_at_us, items = :items,
        attempt = (SELECT r.attempt FROM durably_runs r WHERE r.run = :run), {_COUNTED}
    WHERE run = :run AND name = :name AND {{is_current}}
    RETURNING map"""

_ADD: Final = """
    INSERT INTO durably_maps (run, step, name, is_keyed, status, error, attempt, started_at_us,
                              completed_at_us, done, failed, reused, total, attempts, fence, code,
                              outer, layer, items)
    SELECT run, (run << 24) + :step_index, :name, :is_keyed, :status, :error, attempt,
           :started_at_us, :completed_at_us, :done, :failed, :reused, :total, 1, fence, :code,
           :outer, :layer, :items
    FROM durably_runs WHERE run = :run AND fence = :fence {is_running}
    RETURNING map"""

END: Final = _END.format(is_current=IS_CURRENT)
ADD: Final = _ADD.format(is_running="AND status = 'running'")
# A map whose run was cancelled meanwhile, if there was no later claim.
END_CANCELLED: Final = _END.format(is_current=IS_CURRENT.replace("AND r.status = 'running'", ""))
ADD_CANCELLED: Final = _ADD.format(is_running="")

# A failed item is executed again. A completed one is final: the schema rejects the statement, but
# for a result of a higher layer under ``on_change="redo"``.
_COLUMNS_OF_NEW: Final = (
    "key", "output", "error", "attempts", "hash", "started_at_us", "completed_at_us", "code",
)  # fmt: skip
_COLUMNS_OF_LAYERED: Final = (*_COLUMNS_OF_NEW, "layer", "inputs")

MAP: Final = """
    SELECT map, step & 0xFFFFFF, is_keyed, status,
           (SELECT max(item) & 0x3FFFFFFF FROM durably_items
            WHERE item >= (map << 30) AND item < ((map + 1) << 30)), code,
           EXISTS (SELECT 1 FROM durably_items
                   WHERE item >= (map << 30) AND item < ((map + 1) << 30) AND code IS NOT NULL),
           EXISTS (SELECT 1 FROM durably_items
                   WHERE item >= (map << 30) AND item < ((map + 1) << 30) AND is_held = 1),
           max(coalesce(layer, 0), coalesce(fence, 0) << 24),
           coalesce(old_layer, layer, coalesce(fence, 0) << 24), items
    FROM durably_maps WHERE run = :run AND name = :name"""

# The failed items that the next execution of their map does not try again.
HELD: Final = """
    SELECT item & 0x3FFFFFFF, error FROM durably_items
    WHERE item >= :first AND item < :end AND is_held = 1"""

# As many as there are results, which is read when a map was interrupted.
HAS_FILES: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_blobs WHERE run = :run AND part = 'step')"""

COUNT: Final = """
    SELECT count(i.output), count(i.error)
    FROM durably_maps LEFT JOIN durably_items i
    ON item >= (map << 30) AND item < ((map + 1) << 30)
    WHERE run = :run AND name = :name GROUP BY map"""

_COLUMNS: Final = """
    item & 0x3FFFFFFF, key, output, error, attempts, hash, started_at_us, completed_at_us"""

# With what says whether a result is out of date.
_LAYERED: Final = f"{_COLUMNS}, code, layer, inputs, is_manual"

_WINDOW: Final = """
    SELECT {columns} FROM durably_items
    WHERE item >= :first AND item < :end ORDER BY item LIMIT :limit"""

WINDOW: Final = _WINDOW.format(columns=_COLUMNS)
WINDOW_LAYERED: Final = _WINDOW.format(columns=_LAYERED)

# Those are few or none: they have an index.
CODES: Final = """
    SELECT item & 0x3FFFFFFF, code FROM durably_items
    WHERE item >= :first AND item <= :last AND code IS NOT NULL"""

AT: Final = f"SELECT {_COLUMNS} FROM durably_items WHERE item = :item"

_BY_KEY: Final = """
    SELECT {columns} FROM durably_items
    WHERE item >> 30 = :map AND key = :key AND key IS NOT NULL"""

BY_KEY: Final = _BY_KEY.format(columns=_COLUMNS)
BY_KEY_LAYERED: Final = _BY_KEY.format(columns=_LAYERED)

MAP_OF: Final = """
    SELECT m.map FROM durably_maps m JOIN durably_runs r USING (run)
    WHERE r.id = :id AND m.name = :name"""

_OF_MAP: Final = f"""
    SELECT {_COLUMNS}, is_manual FROM durably_items
    WHERE item >= :first AND item < :end {{condition}} ORDER BY item LIMIT :limit OFFSET :offset"""

OF_MAP: Final = _OF_MAP.format(condition="")
COMPLETED_OF_MAP: Final = _OF_MAP.format(condition="AND error IS NULL")
FAILED_OF_MAP: Final = _OF_MAP.format(condition="AND error IS NOT NULL")

# How many items have ended when, for a picture. Whatever times are stored, the rows are few.
COUNT_BY_TIME: Final = """
    SELECT completed_at_us / :width_us, count(output), count(error) FROM durably_items
    WHERE item >= :first AND item < :end GROUP BY 1 ORDER BY 1 LIMIT 2000"""

# A map is a step whose results are in its items.
INDEXES: Final = "SELECT name, step & 0xFFFFFF FROM durably_maps WHERE run = :run"

MAPS_OF_RUN: Final = """
    SELECT m.step & 0xFFFFFF, CAST(m.name AS BLOB), m.status,
           CASE m.status WHEN 'completed' THEN 'null' END, CAST(m.error AS BLOB), m.started_at_us,
           m.completed_at_us, m.attempt, m.done, m.failed, m.reused, m.total,
           coalesce(m.attempts, 1)
    FROM durably_runs r JOIN durably_maps m USING (run)
    WHERE r.id = :id AND m.status IS NOT NULL"""

ID_OF: Final = "SELECT id FROM durably_runs WHERE run = :run"

NAME_OF: Final = """
    SELECT r.id, m.name FROM durably_maps m JOIN durably_runs r USING (run) WHERE m.map = :map"""


@functools.cache
def save_several(several: int, *, layered: bool = False) -> str:
    """Return the statement that stores that many items at once."""
    names = _COLUMNS_OF_LAYERED if layered else _COLUMNS_OF_NEW
    given = ", ".join(f"new.column{number}" for number in range(2, len(names) + 2))
    row = f"(?{', ?' * len(names)})"
    changed = ", ".join(f"{name} = excluded.{name}" for name in names)
    return f"""
    INSERT INTO durably_items (item, {", ".join(names)})
    SELECT (?1 << 30) + new.column1, {given}
    FROM (VALUES {", ".join([row] * several)}) AS new WHERE true
    ON CONFLICT (item) DO UPDATE SET {changed}"""


def save(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    state: MapState,
    items: Sequence[NewItem],
) -> bool:
    """Store items and the state of their map; return ``False`` if this claim is not current."""
    bindings = {"run": run_pk, "fence": fence, **state._asdict()}
    if state.status == "cancelled":
        change, add = END_CANCELLED, ADD_CANCELLED
    else:
        change, add = SAVE_COUNTS if state.status is None else END, ADD
    map_pk: Any = db.execute(change, bindings).get
    if map_pk is None:
        map_pk = db.execute(add, bindings).get  # nothing of the map is stored yet
    if map_pk is None:
        return False
    left = items
    for size in SIZES:
        while len(left) >= size:
            values = itertools.chain.from_iterable(left[:size])
            statement = save_several(size, layered=state.layer is not None)
            db.execute(statement, (map_pk, *values))
            left = left[size:]
    if state.layer is not None and state.status is not None:
        has_files = db.execute(HAS_FILES, {"run": run_pk}).get
        if has_files:
            blobs.drop_unused(db, run_pk)  # of the results that others have replaced
    return True


def find_map(db: apsw.Connection, run_pk: RunKey, name: str) -> MapRow | None:
    """Return the map of that name, ``None`` if nothing of it is stored."""
    rows: list[Any] = db.execute(MAP, {"run": run_pk, "name": name}).fetchall()
    if not rows:
        return None
    from durably.store.item_rows import MapRow  # noqa: PLC0415 - where first needed

    map_pk, index, is_keyed, status, highest, code, has_codes, has_held, *layers = rows[0]
    highest = -1 if highest is None else highest
    has = bool(has_codes), bool(has_held)
    return MapRow(map_pk, index, bool(is_keyed), status, highest, code, *has, *layers)


def held(db: apsw.Connection, map_pk: int) -> dict[int, str]:
    """Return the errors of the items of a map that are not tried again now, by index."""
    first = map_pk << INDEX_BITS
    rows: list[Any] = db.execute(HELD, {"first": first, "end": first + MOST_ITEMS}).fetchall()
    return dict(rows)


def indexes_of(db: apsw.Connection, run_pk: RunKey) -> dict[str, int]:
    """Return the index of each map of the run, by name."""
    try:
        rows: list[Any] = db.execute(INDEXES, {"run": run_pk}).fetchall()
    except UnicodeDecodeError as exc:
        run_id = db.execute(ID_OF, {"run": run_pk}).get
        raise defects.unreadable(f"a map of run {run_id!a:.80}", _NOT_TEXT) from exc
    return dict(rows)


def maps_of_run(db: apsw.Connection, run_id: str) -> list[StepRow]:
    """Return the records of the run's maps that have ended; those that cannot be read are left out.

    They are steps, whose results are in their items.
    """
    from durably.store.read_rows import StepRow  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(MAPS_OF_RUN, {"id": run_id}).fetchall()
    return defects.legible(
        (StepRow._make((*row[:8], row[8:12], 0, row[12], None)) for row in rows),
        lambda row: f"step {row.name!a:.80} of run {run_id!a:.80}",
    )


def count(db: apsw.Connection, run_pk: RunKey, name: str) -> tuple[int, int] | None:
    """Return how many items of a map have a result, and how many have failed.

    Return ``None`` if nothing of it is stored.
    """
    rows: list[Any] = db.execute(COUNT, {"run": run_pk, "name": name}).fetchall()
    return rows[0] if rows else None


def window(db: apsw.Connection, map_pk: int, first_index: int) -> ItemWindow:
    """Return the items of a map from *first_index* on, as many as fit into one window."""
    return _window(db, WINDOW, map_pk, first_index)


def window_layered(db: apsw.Connection, map_pk: int, first_index: int) -> ItemWindow:
    """Return what ``window`` does, and what says which results are out of date."""
    return _window(db, WINDOW_LAYERED, map_pk, first_index)


def _window(db: apsw.Connection, statement: str, map_pk: int, first_index: int) -> ItemWindow:
    from durably.store.item_rows import ItemWindow  # noqa: PLC0415 - where first needed

    first = map_pk << INDEX_BITS
    bindings = {"first": first + first_index, "end": first + MOST_ITEMS, "limit": WINDOW_ITEMS}
    cursor: Any = db.execute(statement, bindings)
    items: list[ItemRow] = []
    chars = 0
    try:
        for row in cursor:
            items.append(row)
            chars += len(row[2] or row[3])
            if chars >= WINDOW_CHARS:
                cursor.close(force=True)
                break
    except UnicodeDecodeError as exc:
        raise _unreadable(db, map_pk) from exc
    is_last = chars < WINDOW_CHARS and len(items) < WINDOW_ITEMS
    return ItemWindow(items, None if is_last else items[-1][0] + 1)


def codes(db: apsw.Connection, map_pk: int, first_index: int, last_index: int) -> dict[int, int]:
    """Return the fingerprints of the items that have one of their own, by index."""
    first = map_pk << INDEX_BITS
    bindings = {"first": first + first_index, "last": first + last_index}
    rows: list[Any] = db.execute(CODES, bindings).fetchall()
    return dict(rows)


def find(db: apsw.Connection, map_pk: int, key: Key) -> ItemRow | None:
    """Return the stored item with that key, ``None`` if there is none."""
    return _one(db, map_pk, BY_KEY, {"map": map_pk, "key": key})


def find_layered(db: apsw.Connection, map_pk: int, key: Key) -> ItemRow | None:
    """Return what ``find`` does, and what says whether the result is out of date."""
    return _one(db, map_pk, BY_KEY_LAYERED, {"map": map_pk, "key": key})


def at(db: apsw.Connection, map_pk: int, index: int) -> ItemRow | None:
    """Return the stored item at that index, ``None`` if there is none."""
    return _one(db, map_pk, AT, {"item": (map_pk << INDEX_BITS) + index})


def _one(
    db: apsw.Connection, map_pk: int, statement: str, bindings: dict[str, Any]
) -> ItemRow | None:
    try:
        rows: list[Any] = db.execute(statement, bindings).fetchall()
    except UnicodeDecodeError as exc:
        raise _unreadable(db, map_pk) from exc
    return rows[0] if rows else None


def of_map(
    db: apsw.Connection,
    run_id: str,
    name: str,
    status: str | None,
    limit: int | None,
    offset: int,
) -> list[ItemOfMap] | None:
    """Return items of a map in the order of their index; ``None`` if there is no such map."""
    map_pk: Any = db.execute(MAP_OF, {"id": run_id, "name": name}).get
    if map_pk is None:
        return None
    statement = {None: OF_MAP, "completed": COMPLETED_OF_MAP, "failed": FAILED_OF_MAP}[status]
    first = map_pk << INDEX_BITS
    bindings = {
        "first": first,
        "end": first + MOST_ITEMS,
        "limit": -1 if limit is None else limit,
        "offset": offset,
    }
    try:
        rows: list[Any] = db.execute(statement, bindings).fetchall()
    except UnicodeDecodeError as exc:
        raise _unreadable(db, map_pk) from exc
    from durably.store.item_rows import ItemOfMap  # noqa: PLC0415 - where first needed

    return [ItemOfMap._make(row) for row in rows]


def count_by_time(
    db: apsw.Connection, run_id: str, name: str, width_us: int
) -> list[tuple[int, int, int]]:
    """Return for each stretch of *width_us* when it began, and how many items completed or failed.

    Stretches in which none has ended are left out.
    """
    map_pk: Any = db.execute(MAP_OF, {"id": run_id, "name": name}).get
    if map_pk is None:
        return []
    first = map_pk << INDEX_BITS
    bindings = {"first": first, "end": first + MOST_ITEMS, "width_us": width_us}
    rows: list[Any] = db.execute(COUNT_BY_TIME, bindings).fetchall()
    return [(stretch * width_us, completed, failed) for stretch, completed, failed in rows]


def _unreadable(db: apsw.Connection, map_pk: int) -> DatabaseError:
    run_id, name = db.execute(NAME_OF, {"map": map_pk}).get or ("", "")
    return defects.unreadable(f"an item of map {name!a:.80} of run {run_id!a:.80}", _NOT_TEXT)
