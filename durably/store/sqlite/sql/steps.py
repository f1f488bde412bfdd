"""Store and read the checkpoints of runs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.codec.json_text import dump
from durably.errors import DatabaseError
from durably.store import defects
from durably.store.bounds import MOST_STEPS
from durably.store.rows import Checkpoint, LayeredCheckpoint, RunKey, Window
from durably.store.sqlite.connection.write_request import merged_by
from durably.store.sqlite.sql import blobs, calls, items

if TYPE_CHECKING:
    from durably.store.read_rows import StepRow

INDEX_BITS: Final = 24

# How much of a run's checkpoints is read at once and kept in memory by a resume.
WINDOW_STEPS: Final = 2000
WINDOW_CHARS: Final = 8 * 1024 * 1024

# The fence is in the same statement as the write: a row changes only if this claim is still the
# current one.
# Plus and not "or": an index that is too large then breaks the schema's CHECK, and is not stored
# over an earlier step.
_INSERT: Final = """
    INSERT INTO durably_steps
        (step, run, name, status, output, error, attempt, started_at_us, completed_at_us,
         attempts, fence, code, outer)
    {source}"""
_REPLACE: Final = """
    ON CONFLICT DO UPDATE SET
        status = excluded.status, output = excluded.output, error = excluded.error,
        attempt = excluded.attempt, started_at_us = excluded.started_at_us,
        completed_at_us = excluded.completed_at_us, fence = excluded.fence,
        attempts = coalesce(durably_steps.attempts, 1) + excluded.attempts,
        code = excluded.code, outer = excluded.outer
    WHERE durably_steps.status <> 'completed' AND durably_steps.name = excluded.name"""
_ONE: Final = """
    SELECT (run << 24) + ?3, run, ?4, {end}, attempt, ?6, ?7, {calls}, fence, ?8, ?9
    FROM durably_runs WHERE run = ?1 AND fence = ?2{condition}"""
# All or nothing: a step that is not new, or could not be stored alone (its claim is not the current
# one, its index is another step's), breaks a constraint of the schema here.
_SEVERAL: Final = """
    SELECT (r.run << 24) + new.column3, r.run, new.column4, 'completed', new.column5, NULL,
           r.attempt, new.column6, new.column7, 1, r.fence, new.column8, new.column9
    FROM (VALUES {rows}) AS new LEFT JOIN durably_runs r
      ON r.run = new.column1 AND r.fence = new.column2 AND r.status = 'running'"""


def _insert_one(end: str, calls: str, condition: str = " AND status = 'running'") -> str:
    return _INSERT.format(source=_ONE.format(end=end, calls=calls, condition=condition))


@functools.cache
def store_several(several: int) -> str:
    """Return the statement that stores the results of that many new steps at once."""
    rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * several)
    return _INSERT.format(source=_SEVERAL.format(rows=rows))


# Nearly all steps are new, and the other clause would take a tenth of the time of the statement.
STORE_NEW: Final = _insert_one("'completed', ?5, NULL", "1")
STORE: Final = STORE_NEW + _REPLACE
# A step whose function was called several times, or has noted something.
STORE_CALLS: Final = _insert_one("'completed', ?5, NULL", "?10") + _REPLACE
STORE_FAILED: Final = _insert_one("'failed', NULL, ?5", "?10") + _REPLACE
STORE_CANCELLED: Final = _insert_one("'cancelled', NULL, NULL", "?10", "") + _REPLACE

# Under ``on_change="redo"`` a result may take the place of another one: the schema allows that to
# the current execution, with a layer that is higher.
STORE_LAYERED: Final = """
    INSERT INTO durably_steps
        (step, run, name, status, output, attempt, started_at_us, completed_at_us, attempts, fence,
         code, outer, layer, inputs)
    SELECT (run << 24) + ?3, run, ?4, 'completed', ?5, attempt, ?6, ?7, ?12, fence, ?8, ?9, ?10, ?11
    FROM durably_runs WHERE run = ?1 AND fence = ?2 AND status = 'running'
    ON CONFLICT DO UPDATE SET
        status = excluded.status, output = excluded.output, error = NULL,
        attempt = excluded.attempt, started_at_us = excluded.started_at_us,
        completed_at_us = excluded.completed_at_us, fence = excluded.fence,
        attempts = coalesce(durably_steps.attempts, 1) + excluded.attempts,
        code = excluded.code, outer = excluded.outer, layer = excluded.layer,
        inputs = excluded.inputs
    WHERE durably_steps.name = excluded.name"""

_CHECKPOINT: Final = "step & 0xFFFFFF, output, name, code"
# With what says whether it is out of date: when it was stored, what of, and whether by hand.
_LAYERED: Final = f"{_CHECKPOINT}, coalesce(layer, fence << 24, 0), inputs, is_manual"

_FIND: Final = """
    SELECT {columns} FROM durably_steps WHERE run = :run AND name = :name"""

_WINDOW: Final = """
    SELECT {columns} FROM durably_steps
    WHERE step >= :first AND step < :end ORDER BY step LIMIT :limit"""

FIND: Final = _FIND.format(columns=_CHECKPOINT)
FIND_LAYERED: Final = _FIND.format(columns=_LAYERED)
WINDOW: Final = _WINDOW.format(columns=_CHECKPOINT)
WINDOW_LAYERED: Final = _WINDOW.format(columns=_LAYERED)

# The highest layer of these steps and maps.
NEWEST_LAYER: Final = """
    SELECT max(layer) FROM (
        SELECT coalesce(layer, fence << 24) AS layer FROM durably_steps
        WHERE step >= :first AND step < :end
          AND step & 0xFFFFFF IN (SELECT value FROM json_each(:indexes))
        UNION ALL
        SELECT max(coalesce(layer, 0), coalesce(fence, 0) << 24) FROM durably_maps
        WHERE step >= :first AND step < :end
          AND step & 0xFFFFFF IN (SELECT value FROM json_each(:indexes)))"""

# Whether a step has a result, of a run whose results refer to files.
IS_REPLACED: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_steps
                   WHERE run = :run AND name = :name AND status = 'completed')
       AND EXISTS (SELECT 1 FROM durably_blobs WHERE run = :run AND part = 'step')"""

HIGHEST: Final = """
    SELECT max(step) & 0xFFFFFF FROM durably_steps WHERE step >= :first AND step < :end"""

ID_OF: Final = "SELECT id FROM durably_runs WHERE run = :run"

_COLUMNS: Final = """s.step & 0xFFFFFF, s.name, s.status, s.output, s.error,
           s.started_at_us, s.completed_at_us, s.attempt, NULL, s.is_manual,
           coalesce(s.attempts, 1)"""
_AS_BYTES: Final = """s.step & 0xFFFFFF, CAST(s.name AS BLOB), CAST(s.status AS BLOB),
           CAST(s.output AS BLOB), CAST(s.error AS BLOB), s.started_at_us, s.completed_at_us,
           s.attempt, NULL, s.is_manual,
           coalesce(s.attempts, 1)"""

OF_RUN: Final = f"""
    SELECT {_COLUMNS}
    FROM durably_runs r JOIN durably_steps s
      ON s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24)
    WHERE r.id = :id AND s.status <> 'forgotten' ORDER BY s.step"""


def _complete_several(db: apsw.Connection, new: Sequence[tuple[Any, ...]]) -> list[bool]:
    """Store the results of several different steps: all, or none and an error."""
    db.execute(store_several(len(new)), tuple(itertools.chain.from_iterable(new)))
    return [True] * len(new)


@merged_by(_complete_several)
def complete(db: apsw.Connection, *row: Any) -> bool:
    """Store a step's result; return ``False`` if this claim is no longer the current one.

    Args:
        row: of the step, as the arguments of ``Checkpoints.save`` are.
    """
    try:
        db.execute(STORE_NEW, row)
    except apsw.ConstraintError:  # the step has failed before, or may not be stored
        db.execute(STORE, row)
    return db.changes() > 0


def complete_calls(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    index: int,
    name: str,
    output: str,
    started_at_us: int,
    completed_at_us: int,
    code: int | None,
    outer: int | None,
    count: int,
    notes: str,
) -> bool:
    """Complete a step whose function was called *count* times, or with *notes*."""
    end = (output, started_at_us, completed_at_us, code, outer)
    return _store_calls(db, STORE_CALLS, (run_pk, fence, index, name, *end), count, notes)


def complete_layered(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    index: int,
    name: str,
    output: str,
    started_at_us: int,
    completed_at_us: int,
    code: int | None,
    outer: int | None,
    layer: int,
    inputs: int | None,
    count: int,
    notes: str,
) -> bool:
    """Complete a step; replace a result of it that is out of date."""
    replaced = db.execute(IS_REPLACED, {"run": run_pk, "name": name}).get
    end = (output, started_at_us, completed_at_us, code, outer, layer, inputs)
    is_stored = _store_calls(db, STORE_LAYERED, (run_pk, fence, index, name, *end), count, notes)
    if is_stored and replaced:
        blobs.drop_unused(db, run_pk)
    return is_stored


def fail(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    index: int,
    name: str,
    error: str,
    started_at_us: int,
    completed_at_us: int,
    count: int = 1,
    notes: str = "[]",
) -> bool:
    """Store that a step failed; return ``False`` if this claim is no longer the current one."""
    end = (error, started_at_us, completed_at_us, None, None)
    return _store_calls(db, STORE_FAILED, (run_pk, fence, index, name, *end), count, notes)


def cancel(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    index: int,
    name: str,
    started_at_us: int,
    completed_at_us: int,
    count: int = 1,
    notes: str = "[]",
) -> bool:
    """Store that a step ended too late; return ``False`` if there was a later claim."""
    end = (None, started_at_us, completed_at_us, None, None)
    if calls.are_known(db, run_pk, fence, name):
        count = 0  # the engine that found this process dead has counted them
    return _store_calls(db, STORE_CANCELLED, (run_pk, fence, index, name, *end), count, notes)


def _store_calls(
    db: apsw.Connection, statement: str, row: tuple[Any, ...], count: int, notes: str
) -> bool:
    db.execute(statement, (*row, count))
    is_stored = db.changes() > 0
    if is_stored and notes != "[]":
        run_pk, fence, _, name, *_ = row
        calls.add(db, run_pk, fence, name, 0, notes)
    return is_stored


def find(db: apsw.Connection, run_pk: RunKey, name: str) -> Checkpoint | None:
    """Return the stored step of that name, ``None`` if there is none."""
    found: Checkpoint | None = _found(db, FIND, run_pk, name)
    return found


def find_layered(db: apsw.Connection, run_pk: RunKey, name: str) -> LayeredCheckpoint | None:
    """Return what ``find`` does, and what says whether the result is out of date."""
    found: LayeredCheckpoint | None = _found(db, FIND_LAYERED, run_pk, name)
    return found


def _found(db: apsw.Connection, statement: str, run_pk: RunKey, name: str) -> Any:
    try:
        rows: list[Any] = db.execute(statement, {"run": run_pk, "name": name}).fetchall()
    except UnicodeDecodeError as exc:
        raise _unreadable(db, run_pk) from exc
    return rows[0] if rows else None


def newest_layer(db: apsw.Connection, run_pk: RunKey, indexes: list[int]) -> int:
    """Return the highest layer of the steps and maps at these indexes, 0 without one."""
    first = run_pk << INDEX_BITS
    bindings = {"first": first, "end": first + MOST_STEPS, "indexes": dump(indexes)}
    return db.execute(NEWEST_LAYER, bindings).get or 0


def highest_index(db: apsw.Connection, run_pk: RunKey) -> int:
    """Return the highest index stored for the run, -1 if there is none."""
    first = run_pk << INDEX_BITS
    highest = db.execute(HIGHEST, {"first": first, "end": first + MOST_STEPS}).get
    return -1 if highest is None else int(highest)


def window(db: apsw.Connection, run_pk: RunKey, first_index: int) -> Window:
    """Return the checkpoints from *first_index* on, as many as fit into one window."""
    return _window(db, WINDOW, run_pk, first_index)


def window_layered(db: apsw.Connection, run_pk: RunKey, first_index: int) -> Window:
    """Return what ``window`` does, and what says which results are out of date."""
    return _window(db, WINDOW_LAYERED, run_pk, first_index)


def _window(db: apsw.Connection, statement: str, run_pk: RunKey, first_index: int) -> Window:
    first = run_pk << INDEX_BITS
    cursor: Any = db.execute(
        statement,
        {"first": first + first_index, "end": first + MOST_STEPS, "limit": WINDOW_STEPS},
    )
    checkpoints: dict[str, Any] = {}
    chars = 0
    checkpoint = (first_index,)
    try:
        for checkpoint in cursor:  # a resume pays for this with each step
            output = checkpoint[1]
            checkpoints[checkpoint[2]] = checkpoint
            if output is not None:
                chars += len(output)
                if chars >= WINDOW_CHARS:
                    cursor.close(force=True)
                    break
    except UnicodeDecodeError as exc:
        raise _unreadable(db, run_pk) from exc
    is_last = chars < WINDOW_CHARS and len(checkpoints) < WINDOW_STEPS
    next_index = None if is_last else checkpoint[0] + 1
    if first_index:
        return Window(checkpoints, next_index)
    maps = items.indexes_of(db, run_pk)
    highest = max(highest_index(db, run_pk), *maps.values(), -1)
    return Window(checkpoints, next_index, highest, maps)


def of_run(db: apsw.Connection, run_id: str) -> list[StepRow]:
    """Return the records of the run's steps and maps, in the order of their index.

    Records that cannot be read are left out.
    """
    rows = _steps_of_run(db, run_id)
    maps = items.maps_of_run(db, run_id)
    found = sorted([*rows, *maps], key=lambda row: row.step_index) if maps else rows
    return calls.counted(db, run_id, found)


def _steps_of_run(db: apsw.Connection, run_id: str) -> list[StepRow]:
    from durably.store.read_rows import StepRow  # noqa: PLC0415 - where first needed

    try:
        rows: list[Any] = db.execute(OF_RUN, {"id": run_id}).fetchall()
        return [StepRow(*row) for row in rows]
    except UnicodeDecodeError:
        found = []
        for row, defect in _as_bytes(db, run_id):
            if defect is None:
                found.append(row)
            else:
                defects.note(str(_unreadable_step(row, run_id, defect)))
        return found


def _as_bytes(db: apsw.Connection, run_id: str) -> Iterator[tuple[StepRow, str | None]]:
    from durably.store.read_rows import StepRow  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(OF_RUN.replace(_COLUMNS, _AS_BYTES), {"id": run_id}).fetchall()
    for row in rows:
        values, defect = defects.decoded(StepRow(*row)._asdict())
        yield StepRow(**values), defect


def _unreadable_step(row: StepRow, run_id: str, defect: str) -> DatabaseError:
    return defects.unreadable(f"step {row.name!a:.80} of run {run_id!a:.80}", defect)


def _unreadable(db: apsw.Connection, run_pk: RunKey) -> DatabaseError:
    """Return the error for a run with a checkpoint that is not text."""
    run_id = db.execute(ID_OF, {"run": run_pk}).get
    found = ((row, defect) for row, defect in _as_bytes(db, run_id) if defect is not None)
    row, defect = next(found)
    return _unreadable_step(row, run_id, defect)
