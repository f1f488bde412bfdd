"""Attempts: the executions of a run. The claims and the schema's trigger write them.

The newest one is part of the run's row; those before it are rows of their own, since the run goes
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import apsw

from durably.codec.json_text import dump
from durably.store import defects
from durably.store.rows import RunKey

if TYPE_CHECKING:
    from durably.store.read_rows import AttemptRow

_COLUMNS: Final = """
    fence, attempt, {outcome}, host, pid, {started}, {ended}, error, {completed}, steps_reused,
    {unused}"""
_AS_BYTES: Final = """fence, attempt, CAST({outcome} AS BLOB), CAST(host AS BLOB), pid, {started},
           {ended}, CAST(error AS BLOB), {completed}, steps_reused, CAST({unused} AS BLOB)"""

# The start of an execution that an earlier version has stored is known only of a run's first one.
_OF_RUN: Final = """
    SELECT {of_attempt} FROM durably_attempts WHERE run = (
        SELECT run FROM durably_runs WHERE id = :id)
    UNION ALL
    SELECT {of_run} FROM durably_runs r
    WHERE id = :id AND attempt > 0 AND status NOT IN ('pending', 'waiting')
      AND NOT EXISTS (SELECT 1 FROM durably_attempts a
                      WHERE a.run = r.run AND a.fence = r.fence)
    ORDER BY 1"""
_ATTEMPT: Final = {
    "outcome": "outcome",
    "started": "started_at_us",
    "ended": "ended_at_us",
    "completed": "steps_completed",
    "unused": "unused_steps",
}
_RUN: Final = {
    "outcome": "status",
    "started": "coalesce(claimed_at_us, CASE attempt WHEN 1 THEN started_at_us END)",
    "ended": "completed_at_us",
    # Of one in progress, as many as there are.
    "completed": """CASE WHEN r.status <> 'running' THEN r.steps_completed
         WHEN r.claimed_at_us IS NOT NULL THEN (SELECT count(*) FROM durably_steps s
               WHERE s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24)
                 AND s.status = 'completed' AND s.fence = r.fence)
            + (SELECT count(*) FROM durably_maps m
               WHERE m.run = r.run AND m.status = 'completed' AND m.fence = r.fence) END""",
    # Those of an earlier execution stay in the row until the run completes again.
    "unused": "CASE status WHEN 'completed' THEN unused_steps END",
}


OF_RUN: Final = _OF_RUN.format(
    of_attempt=_COLUMNS.format(**_ATTEMPT), of_run=_COLUMNS.format(**_RUN)
)
# The same as bytes, for rows that cannot be read otherwise.
OF_RUN_AS_BYTES: Final = _OF_RUN.format(
    of_attempt=_AS_BYTES.format(**_ATTEMPT), of_run=_AS_BYTES.format(**_RUN)
)

# The trigger does not know why runs go back that their owner has not put back.
SET_OUTCOME: Final = """
    UPDATE durably_attempts SET outcome = :outcome
    WHERE run IN (SELECT value FROM json_each(:runs))
      AND fence = (SELECT fence FROM durably_runs r WHERE r.run = durably_attempts.run)"""


SET_END: Final = """
    UPDATE durably_attempts SET outcome = :outcome, error = :error
    WHERE run = :run AND fence = :fence"""


def of_run(db: apsw.Connection, run_id: str) -> list[AttemptRow]:
    """Return the executions of a run, the first one first.

    Those that cannot be read are left out.
    """
    from durably.store.read_rows import AttemptRow  # noqa: PLC0415 - where first needed

    try:
        rows: list[Any] = db.execute(OF_RUN, {"id": run_id}).fetchall()
        return [AttemptRow._make(row) for _, *row in rows]
    except UnicodeDecodeError:
        return _readable(db, run_id)


def _readable(db: apsw.Connection, run_id: str) -> list[AttemptRow]:
    from durably.store.read_rows import AttemptRow  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(OF_RUN_AS_BYTES, {"id": run_id}).fetchall()
    return defects.legible(
        (AttemptRow._make(row) for _, *row in rows),
        lambda row: f"attempt {row.attempt} of run {run_id!a:.80}",
    )


def set_outcome(
    db: apsw.Connection, run_pks: Sequence[RunKey], outcome: Literal["died", "hung"]
) -> None:
    """Store why runs were put back just now; part of a transaction."""
    db.execute(SET_OUTCOME, {"runs": dump(list(run_pks)), "outcome": outcome})


def set_end(
    db: apsw.Connection,
    run_pk: RunKey,
    fence: int,
    outcome: Literal["failed", "suspended"],
    error: str | None,
) -> None:
    """Store how an execution has ended whose run is tried again; part of a transaction."""
    db.execute(SET_END, {"run": run_pk, "fence": fence, "outcome": outcome, "error": error})
