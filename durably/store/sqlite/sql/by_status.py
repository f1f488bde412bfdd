"""Find the runs with a status by the partial indexes, where they are few among all runs."""

from collections.abc import Sequence
from typing import Final

import apsw

# The keys of the runs with a status, each by indexes that have few other runs; one may come twice.
# A completed run is in none of these.
_RUNS: Final = {
    "pending": """
        SELECT run FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
          AND origin IS NULL
        UNION ALL SELECT run FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
          AND origin IS NOT NULL
        UNION ALL SELECT run FROM durably_runs
        WHERE status = 'pending' AND run_at_us IS NULL AND concurrency_key IS NOT NULL
        UNION ALL SELECT run FROM durably_runs INDEXED BY durably_runs_due
        WHERE run_at_us IS NOT NULL AND status = 'pending'
        UNION ALL SELECT run FROM durably_runs INDEXED BY durably_runs_owner
        WHERE owner IS NOT NULL AND status = 'pending'
        UNION ALL SELECT run FROM durably_runs INDEXED BY durably_runs_pending_sessions
        WHERE kind = 'session' AND status = 'pending'""",
    "running": """
        SELECT run FROM durably_runs INDEXED BY durably_runs_owner
        WHERE owner IS NOT NULL AND status = 'running'""",
} | {
    status: f"""
        SELECT run FROM durably_runs INDEXED BY durably_runs_unusual
        WHERE status = '{status}'"""
    for status in ("failed", "cancelled", "waiting")
}

# So many are found by an index and sorted at once. More are found sooner among all runs, from the
# newest on.
_FEW: Final = 100_000


def few(db: apsw.Connection, statuses: Sequence[str]) -> str | None:
    """Return a query for the keys of the runs with these statuses, ``None`` if they may be many."""
    if not statuses or not all(status in _RUNS for status in statuses):
        return None
    runs = " UNION ALL ".join(_RUNS[status] for status in statuses)
    counted: object = db.execute(
        f"SELECT count(*) FROM (SELECT run FROM ({runs}) LIMIT {_FEW + 1})"
    ).get
    return runs if counted != _FEW + 1 else None
