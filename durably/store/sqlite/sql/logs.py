"""Persisted log lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.codec.json_text import dump
from durably.store import defects
from durably.store.rows import LogLine

if TYPE_CHECKING:
    from durably.store.read_rows import LogRow

APPEND: Final = """
    INSERT INTO durably_logs (run, owner, level, message, data, step_name, created_at_us)
    SELECT run, :owner, :level, :message, :data, :step_name, :created_at_us
    FROM durably_runs WHERE id = :run_id"""

_COLUMNS: Final = "l.log, l.level, l.message, l.data, l.step_name, l.created_at_us"
_AS_BYTES: Final = """
    l.log, CAST(l.level AS BLOB), CAST(l.message AS BLOB), CAST(l.data AS BLOB),
    CAST(l.step_name AS BLOB), l.created_at_us"""

OF_RUN: Final = f"""
    SELECT {_COLUMNS}
    FROM durably_logs l JOIN durably_runs r ON r.run = l.run
    WHERE r.id = :id AND l.log > :after
      AND l.owner NOT IN (SELECT value FROM json_each(:except_owners))
    ORDER BY l.log"""

NEWEST: Final = "SELECT coalesce(max(log), 0) FROM durably_logs"


def append(db: apsw.Connection, lines: Sequence[LogLine]) -> None:
    """Store *lines* in order; those of runs deleted meanwhile are dropped."""
    db.executemany(APPEND, [line._asdict() for line in lines])


def of_run(
    db: apsw.Connection, run_id: str, *, after: int = 0, except_owners: Sequence[int] = ()
) -> list[LogRow]:
    """Return the lines of a run, oldest first: newer than *after*, not of *except_owners*.

    Lines that cannot be read are left out.
    """
    from durably.store.read_rows import LogRow  # noqa: PLC0415 - where first needed

    excepted = dump(list(except_owners))
    bindings = {"id": run_id, "after": after, "except_owners": excepted}
    try:
        return [LogRow._make(row) for row in db.execute(OF_RUN, bindings).fetchall()]
    except UnicodeDecodeError:
        return _readable(db, run_id, bindings)


def _readable(db: apsw.Connection, run_id: str, bindings: dict[str, Any]) -> list[LogRow]:
    from durably.store.read_rows import LogRow  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(OF_RUN.replace(_COLUMNS, _AS_BYTES), bindings).fetchall()
    return defects.legible(
        map(LogRow._make, rows), lambda row: f"log line {row.log} of run {run_id!a:.80}"
    )


def newest(db: apsw.Connection) -> int:
    """Return the number of the newest line in the file, 0 if there is none."""
    return int(db.execute(NEWEST).get)
