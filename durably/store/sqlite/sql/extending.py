"""Extending: an existing run gets another payload, and continues with its checkpoints."""

from typing import Final

import apsw

from durably.store.rows import RunRow
from durably.store.sqlite.sql import queries, runs, waits

EXTEND: Final = """
    UPDATE durably_runs SET payload = :payload, updated_at_us = :now_us WHERE run = :run"""

# A completed run goes on only if it gets more to do with it.
EXTEND_COMPLETED: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', payload = :payload, output = NULL, failures = 0, deaths = 0,
        completed_at_us = NULL, updated_at_us = :now_us, {queries.ORIGIN_IF_BEGUN}
    WHERE run = :run"""


def extended(db: apsw.Connection, found: RunRow, payload: str, now_us: int) -> RunRow:
    """Store another payload of a run that nothing executes; one that had ended is pending again."""
    statement = EXTEND_COMPLETED if found.status == "completed" else EXTEND
    db.execute(statement, {"run": found.run, "payload": payload, "now_us": now_us})
    if found.status == "completed":
        db.execute(waits.FORGET_CLOSED, {"run": found.run})
    elif found.status in ("failed", "cancelled"):
        runs.retried(db, found.id, now_us)
    return queries.by_number(db, found.run)
