"""Results that a person sets, in place of what a step or an item has returned or raised."""

from typing import Final

import apsw

from durably.errors import ConflictError, NotFoundError
from durably.store.item_rows import Key
from durably.store.rows import RunRow
from durably.store.sqlite.sql import blobs, by_hand, items, queries, requeue
from durably.store.sqlite.sql.by_hand import Item

# It is newer than all that is stored: under ``on_change="redo"`` what comes after it is executed
# again.
_NEXT_LAYER: Final = """
    (SELECT (max(r.fence, r.attempt) + 1) << 24 FROM durably_runs r WHERE r.run = :run)"""

SET_STEP: Final = f"""
    UPDATE durably_steps
    SET status = 'completed', output = :output, error = NULL, is_manual = 1, code = NULL,
        layer = {_NEXT_LAYER}, inputs = NULL, started_at_us = :now_us, completed_at_us = :now_us
    WHERE run = :run AND name = :name"""

HAS_FAILED: Final = "SELECT error IS NOT NULL FROM durably_items WHERE item = :item"

SET_ITEM: Final = """
    UPDATE durably_items
    SET output = :output, error = NULL, is_manual = 1, is_held = 0, code = 0, layer = NULL,
        inputs = NULL, started_at_us = :now_us, completed_at_us = :now_us
    WHERE item = :item"""

COUNT_AS_DONE: Final = """
    UPDATE durably_maps SET done = done + 1, failed = max(0, failed - 1) WHERE map = :map"""

# Items without a layer of their own keep theirs.
MARK_MAP: Final = f"""
    UPDATE durably_maps
    SET old_layer = coalesce(old_layer, max(coalesce(layer, 0), coalesce(fence, 0) << 24)),
        layer = {_NEXT_LAYER}
    WHERE map = :map"""

CHANGED: Final = "UPDATE durably_runs SET updated_at_us = :now_us WHERE run = :run"


def set_step(db: apsw.Connection, run_id: str, name: str, output: str, now_us: int) -> RunRow:
    """Set the result of a step of which something was stored, or of ``map[key]``; return its run.

    Raises:
        NotFoundError: there is no such run, or nothing was stored of such a step.
        ConflictError: the run is being executed, or that is a map.
    """
    row = by_hand.idle(db, run_id, "changed")
    found = by_hand.find_step(db, row, name)
    item = by_hand.item(db, row, name) if found is None else None
    if item is not None:
        return _set_item(db, row, item, output, now_us)
    if found is None:
        found = by_hand.step(db, row, name)  # raises the error that says so
    if found.map_pk is not None:
        raise ConflictError(
            f"step {name!r:.80} of run {row.id} is a map, whose results are those of its items; "
            "set those of single items"
        )
    bindings = {"run": row.run, "name": name, "output": output, "now_us": now_us}
    db.execute(SET_STEP, bindings)
    if not db.changes():
        raise NotFoundError(
            f"step {name!r:.80} of run {row.id} waits and has no result yet; answer it, or redo it"
        )
    return _changed(db, row, name, now_us)


def set_item(
    db: apsw.Connection, run_id: str, name: str, key: Key, output: str, now_us: int
) -> RunRow:
    """Set the result of an item that has ended before; return its run.

    Raises:
        NotFoundError: there is no such run or map, or nothing was stored of such an item.
        ConflictError: the run is being executed, or the step is no map.
    """
    row = by_hand.idle(db, run_id, "changed")
    map_pk = by_hand.step(db, row, name).map_pk
    if map_pk is None:
        raise ConflictError(
            f"step {name!r:.80} of run {row.id} is no map, and has no items; set its own result"
        )
    index = by_hand.item_index(db, row, map_pk, name, key)
    return _set_item(db, row, Item(map_pk, name, index), output, now_us)


def _set_item(db: apsw.Connection, row: RunRow, item: Item, output: str, now_us: int) -> RunRow:
    bindings = {"item": (item.map_pk << items.INDEX_BITS) + item.at, "map": item.map_pk}
    has_failed = db.execute(HAS_FAILED, bindings).get
    db.execute(SET_ITEM, bindings | {"output": output, "now_us": now_us})
    if has_failed:
        db.execute(COUNT_AS_DONE, bindings)
    db.execute(MARK_MAP, {"map": item.map_pk, "run": row.run})
    return _changed(db, row, item.map_name, now_us)


def _changed(db: apsw.Connection, row: RunRow, name: str, now_us: int) -> RunRow:
    blobs.drop_unused(db, row.run)
    db.execute(CHANGED, {"run": row.run, "now_us": now_us})
    if row.wait_name == name:
        requeue.wake(db, row.run, now_us)  # what it waits for is there
    return queries.by_number(db, row.run)
