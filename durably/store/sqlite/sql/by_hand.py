"""What the verbs have in common by which a person changes a run that is not being executed."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, NoReturn

import apsw

from durably._platform.clock import moment
from durably.errors import ConflictError, NotFoundError
from durably.store.bounds import MOST_ITEMS, MOST_STEPS
from durably.store.item_rows import Key
from durably.store.rows import RunRow
from durably.store.sqlite.sql import begin, items, queries

# Also those that are forgotten: a step that was redone may be redone again.
STEP_INDEX: Final = """
    SELECT step & 0xFFFFFF FROM durably_steps WHERE run = :run AND name = :name"""

MAP: Final = "SELECT map, step & 0xFFFFFF FROM durably_maps WHERE run = :run AND name = :name"

IS_AWAITED: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_waits
                   WHERE run = :run AND name = :name AND asked_at_us IS NOT NULL)"""

MAPS: Final = """
    SELECT map, CAST(name AS BLOB) FROM durably_maps WHERE run = :run"""

# Names are read as bytes, since they may be damaged.
NAMES: Final = """
    SELECT CAST(name AS BLOB) FROM (
        SELECT name, step FROM durably_steps WHERE run = :run AND status <> 'forgotten'
        UNION ALL SELECT name, step FROM durably_maps WHERE run = :run)
    ORDER BY step LIMIT :limit"""

KEYS: Final = """
    SELECT coalesce(key, item & 0x3FFFFFFF) FROM durably_items
    WHERE item >= (:map << 30) AND item < ((:map + 1) << 30) LIMIT :limit"""

# How many names are compared with an unknown one, and how many a message has.
_MOST_COMPARED: Final = 2000
_MOST_NAMED: Final = 5
_ALIKE: Final = 0.5


class Step(NamedTuple):
    """A step of a run that is stored: its index, and the number of the map that it is."""

    at: int
    map_pk: int | None = None


class Item(NamedTuple):
    """An item of a map that is stored."""

    map_pk: int
    map_name: str
    at: int


def idle(db: apsw.Connection, run_id: str, verb: str) -> RunRow:
    """Return a run that nothing executes.

    Raises:
        NotFoundError: there is no such run.
        ConflictError: it is being executed; the message says by which process.
    """
    row = queries.legible(db, run_id)
    if row.owner is None and row.status != "running":
        return row
    rows: list[Any] = db.execute(begin.EXECUTOR, {"owner": row.owner}).fetchall()
    process = f"process {rows[0][1]}" if rows else "another process"
    if row.status == "running":
        where = f"is running since {moment(row.started_at_us or row.created_at_us)} in {process}"
    else:
        where = f"is {row.status}, and {process} is still inside its last step"
    raise ConflictError(
        f"run {row.id} {where}, and cannot be {verb} meanwhile: wait for its end, or cancel it "
        "and wait until it has stopped"
    )


def find_step(db: apsw.Connection, row: RunRow, name: str) -> Step | None:
    """Return the step or the map of that name, ``None`` if there is none.

    A question or a timer that is not over has no index yet: it comes after all that have.
    """
    bindings = {"run": row.run, "name": name}
    index: Any = db.execute(STEP_INDEX, bindings).get
    if index is not None:
        return Step(index)
    maps: list[Any] = db.execute(MAP, bindings).fetchall()
    if maps:
        return Step(maps[0][1], maps[0][0])
    return Step(MOST_STEPS) if db.execute(IS_AWAITED, bindings).get else None


def step(db: apsw.Connection, row: RunRow, name: str) -> Step:
    """Return the step or the map of that name.

    Raises:
        NotFoundError: there is none; the message lists the nearest names.
    """
    found = find_step(db, row, name)
    return _unknown(db, row, name) if found is None else found


def item(db: apsw.Connection, row: RunRow, name: str) -> Item | None:
    """Return the item that ``map[key]`` names; ``None`` if it names no item of a map.

    Raises:
        NotFoundError: the run has the map, and it has no such item.
    """
    if not name.endswith("]"):
        return None
    # A name and a key may have brackets of their own.
    for map_name, key in _divided(name):
        maps: list[Any] = db.execute(MAP, {"run": row.run, "name": map_name}).fetchall()
        if maps:
            map_pk = maps[0][0]
            return Item(map_pk, map_name, item_index(db, row, map_pk, map_name, key))
    return None


def _divided(name: str) -> Iterator[tuple[str, str]]:
    at = name.find("[")
    while 0 < at < len(name) - 1:
        yield name[:at], name[at + 1 : -1]
        at = name.find("[", at + 1)


def item_index(db: apsw.Connection, row: RunRow, map_pk: int, name: str, key: Key) -> int:
    """Return the index of the item with that key, or at that position of a map without keys.

    A key that is given as text may be that of a number.

    Raises:
        NotFoundError: nothing is stored of it; the message lists the nearest keys.
    """
    keys: list[Key] = [key]
    if isinstance(key, str) and key.removeprefix("-").isdecimal() and key.isascii():
        keys.append(int(key))
    for each in keys:
        found = items.find(db, map_pk, each)
        if found is not None:
            return found[0]
        if isinstance(each, int) and 0 <= each < MOST_ITEMS:
            at = items.at(db, map_pk, each)
            if at is not None and at[1] is None:
                return each
    rows: list[Any] = db.execute(KEYS, {"map": map_pk, "limit": _MOST_COMPARED}).fetchall()
    raise NotFoundError(
        f"nothing is stored of an item {key!r:.80} of step {name!r:.80} of run {row.id}"
        f"{_nearest(str(key), [str(found) for (found,) in rows])}"
    )


def _unknown(db: apsw.Connection, row: RunRow, name: str) -> NoReturn:
    rows: list[Any] = db.execute(NAMES, {"run": row.run, "limit": _MOST_COMPARED}).fetchall()
    names = [found.decode(errors="backslashreplace") for (found,) in rows]
    raise NotFoundError(
        f"run {row.id} has no step {name!r:.80}{_nearest(name, names)}"
        if names
        else f"run {row.id} has no step {name!r:.80}: none of its steps is stored"
    )


def _nearest(name: str, names: list[str]) -> str:
    """Return the names most like one that is not among them, as the end of a sentence."""
    import difflib  # noqa: PLC0415 - where first needed

    near = difflib.get_close_matches(name, names, _MOST_NAMED, _ALIKE)
    shown = ", ".join(f"{each!r:.80}" for each in near or names[:_MOST_NAMED])
    if not shown:
        return ""
    if near:
        return f"; the nearest {'is' if len(near) == 1 else 'are'} {shown}"
    more = ", …" if len(names) > _MOST_NAMED else ""
    return f"; it has {shown}{more}"
