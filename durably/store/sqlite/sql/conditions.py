"""Queries for the condition of a file: what takes its space, and what is unusual in it.

Each reads whole tables, but not the long texts in them: SQLite knows their lengths without. None is
executed by an engine. Text is read as bytes, since it need not be UTF-8.
"""

from collections import defaultdict
from typing import Any, Final

import apsw

from durably.store import defects
from durably.store.conditions import Failures, JobState, JobUsage

RUNS_OF_JOBS: Final = """
    SELECT CAST(job_name AS BLOB), count(*), sum(status = 'failed'), min(created_at_us),
           sum(octet_length(payload) + coalesce(octet_length(output), 0)
               + coalesce(octet_length(error), 0) + octet_length(labels))
    FROM durably_runs GROUP BY job_name"""

ATTEMPTS_OF_JOBS: Final = """
    SELECT CAST(r.job_name AS BLOB), sum(coalesce(octet_length(a.error), 0))
    FROM durably_attempts a JOIN durably_runs r ON r.run = a.run GROUP BY r.job_name"""

STEPS_OF_JOBS: Final = """
    SELECT CAST(r.job_name AS BLOB), sum(s.steps), sum(s.bytes) FROM (
        SELECT run, sum(status <> 'forgotten') AS steps,
               sum(octet_length(name) + coalesce(octet_length(output), 0)
                   + coalesce(octet_length(error), 0)) AS bytes
        FROM durably_steps GROUP BY step >> 24) s JOIN durably_runs r ON r.run = s.run
    GROUP BY r.job_name"""

ITEMS_OF_JOBS: Final = """
    SELECT CAST(r.job_name AS BLOB), sum(i.items), sum(i.bytes) FROM (
        SELECT item >> 30 AS map, count(*) AS items,
               sum(coalesce(octet_length(key), 0) + coalesce(octet_length(output), 0)
                   + coalesce(octet_length(error), 0)) AS bytes
        FROM durably_items GROUP BY item >> 30) i
    JOIN durably_maps m ON m.map = i.map JOIN durably_runs r ON r.run = m.run
    GROUP BY r.job_name"""

LOGS_OF_JOBS: Final = """
    SELECT CAST(r.job_name AS BLOB), sum(octet_length(l.message) + octet_length(l.data))
    FROM durably_logs l JOIN durably_runs r ON r.run = l.run GROUP BY r.job_name"""

# A session is claimed by the program that opens it, and a run that is not due, or is behind another
# one of its key, by nobody yet.
STATE_OF_JOBS: Final = """
    SELECT CAST(job_name AS BLOB), sum(is_claimable),
           min(CASE WHEN is_claimable THEN created_at_us END), max(claimed_at_us)
    FROM (SELECT job_name, created_at_us, claimed_at_us,
                 status = 'pending' AND run_at_us IS NULL AND owner IS NULL
                 AND queue_place = 0 AS is_claimable
          FROM durably_runs WHERE kind = 'job')
    GROUP BY job_name HAVING sum(is_claimable) > 0"""

# Beside max() a column is that of the row with the maximum: SQLite's rule.
FAILURES: Final = """
    SELECT CAST(job_name AS BLOB), CAST(type AS BLOB),
           CAST(substr(CASE WHEN json_valid(error) THEN json_extract(error, '$.message') END,
                       1, 1000) AS BLOB),
           count(*), max(completed_at_us)
    FROM (SELECT job_name, error, completed_at_us,
                 CASE WHEN json_valid(error) THEN json_extract(error, '$.type') END AS type
          FROM durably_runs WHERE status = 'failed')
    GROUP BY job_name, type ORDER BY count(*) DESC, max(completed_at_us) DESC LIMIT :limit"""

OWNERS: Final = """
    SELECT CAST(token AS BLOB), pid, is_started, beat_at_us, heartbeat_interval_us,
           (SELECT count(*) FROM durably_runs r WHERE r.owner = o.owner AND status = 'running')
    FROM durably_owners o ORDER BY owner"""


def usage(db: apsw.Connection) -> list[JobUsage]:
    """Return what each job's runs take, the job that takes most first."""
    db.execute("BEGIN")  # one snapshot for all of it
    try:
        runs: list[Any] = db.execute(RUNS_OF_JOBS).fetchall()
        attempts = _by_job(db, ATTEMPTS_OF_JOBS)
        steps = _by_job(db, STEPS_OF_JOBS)
        items = _by_job(db, ITEMS_OF_JOBS)
        logs = _by_job(db, LOGS_OF_JOBS)
    finally:
        db.execute("ROLLBACK")
    found = [
        JobUsage(
            job_name=_text(name),
            runs=count,
            failed=failed,
            steps=steps[name][0],
            items=items[name][0],
            run_bytes=size + attempts[name][0],
            step_bytes=steps[name][1],
            item_bytes=items[name][1],
            log_bytes=logs[name][0],
            oldest_us=oldest_us,
        )
        for name, count, failed, oldest_us, size in runs
    ]
    return sorted(found, key=lambda each: (-each.text_bytes, each.job_name))


def _by_job(db: apsw.Connection, sql: str) -> defaultdict[bytes, tuple[int, ...]]:
    rows: list[Any] = db.execute(sql).fetchall()
    return defaultdict(lambda: (0, 0), {name: tuple(values) for name, *values in rows})


def _text(content: bytes | None) -> str:
    values, _ = defects.decoded({"text": content})
    return values["text"] or ""


def state_of_jobs(db: apsw.Connection) -> list[JobState]:
    """Return the jobs that have runs which any process could claim."""
    rows: list[Any] = db.execute(STATE_OF_JOBS).fetchall()
    return [JobState(_text(name), *values) for name, *values in rows]


def failures(db: apsw.Connection, limit: int) -> list[Failures]:
    """Return the kinds of failed runs, the most frequent ones first."""
    rows: list[Any] = db.execute(FAILURES, {"limit": limit}).fetchall()
    return [
        Failures(_text(job), _text(kind), _text(message), count, newest_us)
        for job, kind, message, count, newest_us in rows
    ]


def owners(db: apsw.Connection) -> list[tuple[str, int, int, int, int, int]]:
    """Return each owner's token, pid, whether it is started, beat, interval and running runs."""
    rows: list[Any] = db.execute(OWNERS).fetchall()
    return [(_text(token), *values) for token, *values in rows]


def pages(db: apsw.Connection) -> tuple[int, int]:
    """Return the bytes of the file's pages, and of those that are free."""
    size = db.pragma("page_size")
    return db.pragma("page_count") * size, db.pragma("freelist_count") * size
