"""Redo: forget results of a run that nothing executes, so that it executes their steps again."""

from typing import Any, Final

import apsw

from durably.store.bounds import MOST_STEPS
from durably.store.rows import RunRow
from durably.store.sqlite.sql import blobs, by_hand, items, queries, runs, steps, waits
from durably.store.sqlite.sql.by_hand import Item

# The row keeps the index of the step.
_FORGET: Final = """
    UPDATE durably_steps
    SET status = 'forgotten', output = NULL, error = NULL, is_manual = 0, attempts = 0,
        fence = NULL, layer = NULL, inputs = NULL
    WHERE {which} AND status <> 'forgotten'"""

FORGET_FROM: Final = _FORGET.format(which="step >= :first AND step < :end")
FORGET_ONE: Final = _FORGET.format(which="run = :run AND name = :name")

_KEEP_PLACES: Final = """
    INSERT INTO durably_steps
        (step, run, name, status, attempt, started_at_us, completed_at_us, attempts)
    SELECT step, run, name, 'forgotten', attempt, started_at_us,
           coalesce(completed_at_us, started_at_us), 0
    FROM durably_maps WHERE {which}"""

# The items go with their map.
_FORGET_MAPS: Final = "DELETE FROM durably_maps WHERE {which}"

_OF_RUN: Final = "run = :run AND step >= :first"
_OF_NAME: Final = "run = :run AND name = :name"

KEEP_PLACES_FROM: Final = _KEEP_PLACES.format(which=_OF_RUN)
FORGET_MAPS_FROM: Final = _FORGET_MAPS.format(which=_OF_RUN)
KEEP_PLACE: Final = _KEEP_PLACES.format(which=_OF_NAME)
FORGET_MAP: Final = _FORGET_MAPS.format(which=_OF_NAME)

FORGET_ITEM: Final = "DELETE FROM durably_items WHERE item = :item RETURNING output IS NOT NULL"

# It has not ended any more.
OPEN_MAP: Final = """
    UPDATE durably_maps
    SET status = NULL, error = NULL, completed_at_us = NULL,
        done = max(0, done - :done), failed = max(0, failed - (1 - :done)),
        reused = min(reused, max(0, done - :done))
    WHERE map = :map"""

# What belongs to a step with a result stays, and an answer that came before its question.
FORGET_WAITS: Final = """
    DELETE FROM durably_waits
    WHERE run = :run AND asked_at_us IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM durably_steps s
                      WHERE s.run = durably_waits.run AND s.name = durably_waits.name
                        AND s.status = 'completed')"""

FORGET_WAIT: Final = """
    DELETE FROM durably_waits WHERE run = :run AND name = :name AND asked_at_us IS NOT NULL"""

# What was noted of the calls of their functions.
FORGET_CALLS: Final = """
    DELETE FROM durably_calls
    WHERE run = :run AND name IN (
        SELECT name FROM durably_steps
        WHERE step >= (:run << 24) AND step < ((:run + 1) << 24) AND status = 'forgotten')"""

# The children of steps that are forgotten: these trigger others. A run with a key of its own is
# found by it again.
_CHILDREN: Final = """
    SELECT run, completed_at_us IS NULL FROM durably_runs c
    WHERE parent = :run AND idempotency_key IS NULL AND {condition}"""

CHILDREN_OF_NO_STEP: Final = _CHILDREN.format(
    condition="""'"' || id || '"' NOT IN (
        SELECT output FROM durably_steps
        WHERE step >= (:run << 24) AND step < ((:run + 1) << 24) AND status = 'completed'
          AND octet_length(output) <= 66)"""
)
CHILDREN_OF_STEP: Final = _CHILDREN.format(
    condition="""'"' || id || '"' = (
        SELECT output FROM durably_steps
        WHERE run = :run AND name = :name AND status = 'completed'
          AND octet_length(output) <= 66)"""
)

# It may go on with its own children, and is found by no step of this run.
RELEASE_CHILD: Final = "UPDATE durably_runs SET parent = NULL WHERE run = :child"

ID_OF: Final = "SELECT id FROM durably_runs WHERE run = :child"

# A run that was never executed keeps the time at which it is due.
REDO: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', redos = redos + 1, output = NULL, error = NULL, progress = NULL,
        failures = 0, deaths = 0, died_after = 0, completed_at_us = NULL, keeps_attempt = 0,
        waits_for = NULL, wait_name = NULL, waits_for_run = NULL,
        run_at_us = CASE WHEN attempt = 0 AND NOT :left THEN run_at_us END,
        updated_at_us = :now_us, {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run"""


def redo(
    db: apsw.Connection, run_id: str, from_step: str | None, only: str | None, now_us: int
) -> tuple[RunRow, list[RunRow]]:
    """Forget results of a run and make it pending; return it, and the children that are cancelled.

    Raises:
        NotFoundError: there is no such run, step or item.
        ConflictError: the run is being executed.
    """
    row = by_hand.idle(db, run_id, "redone")
    item = None
    # The step of exactly that name comes first: it may look like an item.
    if only is not None and by_hand.find_step(db, row, only) is None:
        item = by_hand.item(db, row, only)
        if item is None:
            by_hand.step(db, row, only)  # raises the error that says so
    place = None if from_step is None else by_hand.step(db, row, from_step)
    if item is not None:
        _forget_item(db, item)
        children: list[RunRow] = []
    elif only is not None:
        children = _forget_one(db, row, only, now_us)
    else:
        children = _forget_from(db, row, 0 if place is None else place.at, now_us)
    bindings = {"run": row.run, "id": row.id, "now_us": now_us}
    # The triggers move it out of the queue of its key, and into that of its new origin.
    db.execute(runs.LEAVE_TO_ADOPT, bindings)
    db.execute(REDO, bindings | {"left": db.changes()})
    db.execute(waits.FORGET_CLOSED, bindings)
    db.execute(runs.RELEASE_ITEMS, bindings)
    db.execute(FORGET_CALLS, bindings)
    blobs.drop_unused(db, row.run)
    return queries.by_number(db, row.run), children


def _forget_from(db: apsw.Connection, row: RunRow, index: int, now_us: int) -> list[RunRow]:
    start = row.run << steps.INDEX_BITS
    bindings = {"run": row.run, "first": start + index, "end": start + MOST_STEPS}
    db.execute(FORGET_FROM, bindings)
    db.execute(KEEP_PLACES_FROM, bindings)
    db.execute(FORGET_MAPS_FROM, bindings)
    db.execute(FORGET_WAITS, bindings)
    return _release(db, CHILDREN_OF_NO_STEP, bindings, now_us)


def _forget_one(db: apsw.Connection, row: RunRow, name: str, now_us: int) -> list[RunRow]:
    bindings = {"run": row.run, "name": name}
    cancelled = _release(db, CHILDREN_OF_STEP, bindings, now_us)
    db.execute(FORGET_ONE, bindings)
    db.execute(KEEP_PLACE, bindings)
    db.execute(FORGET_MAP, bindings)
    db.execute(FORGET_WAIT, bindings)
    return cancelled


def _forget_item(db: apsw.Connection, item: Item) -> None:
    done: Any = db.execute(FORGET_ITEM, {"item": (item.map_pk << items.INDEX_BITS) + item.at}).get
    db.execute(OPEN_MAP, {"map": item.map_pk, "done": done})


def _release(
    db: apsw.Connection, statement: str, bindings: dict[str, Any], now_us: int
) -> list[RunRow]:
    """Cancel the children whose steps are forgotten, and let go of all of them."""
    cancelled: list[RunRow] = []
    children: list[Any] = db.execute(statement, bindings).fetchall()
    for child, is_active in children:
        if is_active:
            child_id: Any = db.execute(ID_OF, {"child": child}).get
            cancelled += runs.cancel_all(db, child_id, now_us)
        db.execute(RELEASE_CHILD, {"child": child})
    return cancelled
