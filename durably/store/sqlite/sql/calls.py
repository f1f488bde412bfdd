"""Calls of steps' functions that their rows do not have: without an end, or with notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.store.calls import OpenCalls
from durably.store.rows import RunKey

if TYPE_CHECKING:
    from durably.store.read_rows import StepRow

# Of the current claim, or of the last one: a run that is put back has it still.
ADD: Final = """
    INSERT INTO durably_calls (run, name, fence, place, calls, notes)
    SELECT run, :name, fence,
           (SELECT coalesce(max(c.place) + 1, 0) FROM durably_calls c
            WHERE c.run = :run AND c.name = :name AND c.fence = :fence), :calls, :notes
    FROM durably_runs WHERE run = :run AND fence = :fence"""

OF_RUN: Final = """
    SELECT CAST(c.name AS BLOB), c.calls, CAST(c.notes AS BLOB)
    FROM durably_runs r JOIN durably_calls c ON c.run = r.run
    WHERE r.id = :id ORDER BY c.name, c.fence, c.place"""

DELETE: Final = "DELETE FROM durably_calls WHERE run = :run"

# A map counts its executions itself, from the first items that it has stored.
IS_COUNTED: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_steps
                   WHERE run = :run AND name = :name AND status = 'completed')
        OR EXISTS (SELECT 1 FROM durably_maps
                   WHERE run = :run AND name = :name AND fence = :fence)"""

IS_OPEN: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_calls
                   WHERE run = :run AND name = :name AND fence = :fence AND calls > 0)"""

COMPLETED_BY: Final = """
    SELECT (SELECT count(*) FROM durably_steps
            WHERE step >= (:run << 24) AND step < ((:run + 1) << 24) AND status = 'completed'
              AND fence = :fence)
         + (SELECT count(*) FROM durably_maps
            WHERE run = :run AND status = 'completed' AND fence = :fence)"""

LEFT: Final = """
    UPDATE durably_attempts
    SET steps_completed = :completed, steps_reused = :reused, last_step = :last
    WHERE run = :run AND fence = :fence"""

LAST_BEGUN: Final = """
    SELECT last_step FROM durably_attempts
    WHERE run = (SELECT run FROM durably_runs WHERE id = :id) AND outcome IN ('died', 'hung')
    ORDER BY fence DESC LIMIT 1"""


def add(db: apsw.Connection, run_pk: RunKey, fence: int, name: str, calls: int, notes: str) -> None:
    """Add calls that have no end, and notes; part of a transaction of that claim."""
    bindings = {"run": run_pk, "fence": fence, "name": name, "calls": calls, "notes": notes}
    db.execute(ADD, bindings)


def are_known(db: apsw.Connection, run_pk: RunKey, fence: int, name: str) -> bool:
    """Return whether calls without an end are stored of a step, in that execution."""
    return bool(db.execute(IS_OPEN, {"run": run_pk, "fence": fence, "name": name}).get)


def note_left(db: apsw.Connection, run_pk: RunKey, fence: int, begun: Sequence[OpenCalls]) -> None:
    """Store what a process has left that died or hung while it executed a run.

    Args:
        begun: the steps that it had begun, the newest last.
    """
    for each in begun:
        where = {"run": run_pk, "fence": fence, "name": each.name}
        if not db.execute(IS_COUNTED, where).get:
            add(db, run_pk, fence, each.name, each.calls, "[]")
    left = {
        "run": run_pk,
        "fence": fence,
        "completed": db.execute(COMPLETED_BY, {"run": run_pk, "fence": fence}).get,
        "reused": begun[-1].reused if begun else None,
        "last": begun[-1].name if begun else None,
    }
    db.execute(LEFT, left)


def last_begun(db: apsw.Connection, run_id: str) -> str | None:
    """Return the last step begun by the last process that died or hung; ``None`` if unknown."""
    name: str | None = db.execute(LAST_BEGUN, {"id": run_id}).get
    return name


def counted(db: apsw.Connection, run_id: str, rows: list[StepRow]) -> list[StepRow]:
    """Return the records of a run's steps with all of their calls and notes."""
    found: list[Any] = db.execute(OF_RUN, {"id": run_id}).fetchall()
    if not found:
        return rows
    calls: dict[str, int] = {}
    notes: dict[str, list[str]] = {}
    for name_bytes, count, text in found:
        # A name that is damaged is that of no record.
        name = name_bytes.decode("utf-8", "replace")
        calls[name] = calls.get(name, 0) + count
        noted = text.decode("utf-8", "replace").strip()[1:-1]
        if noted:
            notes.setdefault(name, []).append(noted)
    return [
        row._replace(
            attempts=row.attempts + calls[row.name],
            notes=f"[{','.join(notes[row.name])}]" if row.name in notes else None,
        )
        if row.name in calls
        else row
        for row in rows
    ]
