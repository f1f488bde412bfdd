"""What must hold in a database file, whatever process left it behind: DESIGN.md section 9.

``check(path)`` is ``durably.testing.check``, which users have as well, and what a test knows beyond
it: how its jobs call their steps, and whether anything may be left to do. ``check_history``
compares the file with what the steps of a test left outside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw

import durably
from durably import testing

# Steps that are executed one after the other are stored without a gap, in the order of execution.
SEQUENTIAL: Final = {
    "the steps of a sequential run leave a gap": """
        SELECT run, count(*), max(step & 0xFFFFFF) FROM durably_steps
        GROUP BY run HAVING max(step & 0xFFFFFF) <> count(*) - 1""",
    "a later step of a sequential run was stored by an earlier attempt": """
        SELECT s.run, s.name FROM durably_steps s JOIN durably_steps e
          ON e.run = s.run AND e.step < s.step
        WHERE e.attempt > s.attempt AND e.status = 'completed' AND s.status = 'completed'""",
}
IDLE: Final = {
    "an owner is registered": "SELECT owner, pid FROM durably_owners",
    "a run has an owner": "SELECT id FROM durably_runs WHERE owner IS NOT NULL",
}
FINISHED: Final = {
    "a run has not ended": "SELECT id, status FROM durably_runs WHERE completed_at_us IS NULL",
}


def check(
    path: str | os.PathLike[str],
    *,
    is_sequential: bool = False,
    is_idle: bool = False,
    is_finished: bool = False,
) -> list[str]:
    """Everything that is wrong with the database file *path*; empty if it is sound.

    Args:
        is_sequential: every job calls its steps one after the other, in the same order.
        is_idle: no engine has it open or died with it open: nothing may have an owner, and
            no lock file may be left.
        is_finished: there is nothing left to do: every run must have ended.
    """
    try:
        found = [str(finding) for finding in testing.check(path)]
    except (durably.DatabaseError, durably.SchemaError) as exc:
        return [f"unreadable: {exc}"]
    more = SEQUENTIAL if is_sequential else {}
    more = more | IDLE if is_idle else more
    more = more | FINISHED if is_finished else more
    if not found and more:
        found = _rows(path, more)
    if is_idle:
        name = Path(os.path.realpath(path)).name
        folder = Path(os.path.realpath(path)).parent
        found += [f"a lock file is left: {left}" for left in folder.glob(f"{name}.owner-*")]
    return found


def _rows(path: str | os.PathLike[str], queries: dict[str, str]) -> list[str]:
    db = _opened(path)
    try:
        return [
            f"{what}: {', '.join(map(str, row))}"
            for what, query in queries.items()
            for row in db.execute(query).fetchall()
        ]
    finally:
        db.close()


def _opened(path: str | os.PathLike[str]) -> apsw.Connection:
    db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(30_000)
    # Read as it was left: nothing is copied from the log by looking.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return db


def completed_steps(path: str | os.PathLike[str]) -> dict[tuple[str, str], str]:
    """The stored results, as JSON text, by run id and step name."""
    db = _opened(path)
    try:
        rows = db.execute(
            """SELECT r.id, s.name, s.output FROM durably_steps s JOIN durably_runs r USING (run)
               WHERE s.status = 'completed'"""
        ).fetchall()
    finally:
        db.close()
    return {(run_id, name): output for run_id, name, output in rows}


_WHOLE: Final = re.compile(r"(effect|returned) (\S+) (\S+) (\S+)\n\Z")


def check_history(lines: Iterable[str]) -> list[str]:
    """What is wrong in the order of effects that steps and jobs left in a file.

    Each line is ``effect RUN STEP VALUE`` (a step is executed and will return VALUE) or
    ``returned RUN STEP VALUE`` (``step.run`` gave VALUE to the job, so the checkpoint exists). What
    a killed process has half written has no end, or runs into the next line, and is not looked at.
    """
    found: list[str] = []
    last_effect: dict[tuple[str, str], str] = {}
    returned: dict[tuple[str, str], str] = {}
    for line in lines:
        whole = _WHOLE.search(line)
        if whole is None:
            continue
        kind, run, step, value = whole.groups()
        place = (run, step)
        if kind == "effect":
            if place in returned:
                found.append(f"executed again after its checkpoint: {run} {step} {value}")
            last_effect[place] = value
        else:
            if place in returned and returned[place] != value:
                found.append(f"another result: {run} {step} {value}, was {returned[place]}")
            if last_effect.get(place) != value:
                found.append(f"not the last execution's result: {run} {step} {value}")
            returned[place] = value
    return found
