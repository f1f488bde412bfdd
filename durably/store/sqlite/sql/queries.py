"""Queries for runs; no statement here changes one.

A row whose text is not UTF-8 cannot be read like others: SQLite does not check it, and APSW raises
``UnicodeDecodeError``. Only then is its text read as bytes, to report which row it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.codec.json_text import dump, load
from durably.errors import NotFoundError
from durably.models import TERMINAL
from durably.store import bounds, defects
from durably.store.rows import Begun, Brief, RunKey, RunRow
from durably.store.sqlite.sql import by_status

if TYPE_CHECKING:
    from durably.store.read_rows import Filters, StatusCount

COLUMNS: Final = """
    run, id, job_name, status, payload, output, error, progress, labels, idempotency_key,
    concurrency_key, owner, attempt, created_at_us, started_at_us, completed_at_us,
    updated_at_us, heartbeat_at_us, fence, origin, kind, retry, timeout_us, deaths,
    failures"""

# The same columns as bytes, for a row that cannot be read otherwise.
_AS_BYTES: Final = """
    run, CAST(id AS BLOB), CAST(job_name AS BLOB), CAST(status AS BLOB), CAST(payload AS BLOB),
    CAST(output AS BLOB), CAST(error AS BLOB), CAST(progress AS BLOB), CAST(labels AS BLOB),
    CAST(idempotency_key AS BLOB), CAST(concurrency_key AS BLOB), owner, attempt, created_at_us,
    started_at_us, completed_at_us, updated_at_us, heartbeat_at_us, fence,
    CAST(origin AS BLOB), CAST(kind AS BLOB), CAST(retry AS BLOB), timeout_us, deaths,
    failures"""

# A run that goes back without checkpoints begins again in the engine that claims it.
ORIGIN_IF_BEGUN: Final = """
        origin = CASE WHEN EXISTS (
            SELECT 1 FROM durably_steps s
            WHERE s.step >= (durably_runs.run << 24) AND s.step < ((durably_runs.run + 1) << 24)
              AND s.status = 'completed')
          OR EXISTS (SELECT 1 FROM durably_maps m WHERE m.run = durably_runs.run) THEN origin END"""

# It waits for nothing, and is due.
AWAKE: Final = "run_at_us = NULL, waits_for = NULL, wait_name = NULL, waits_for_run = NULL"

# An engine executes it: the next fence, and the next attempt unless it only goes on with one.
CLAIMED: Final = """
        status = 'running', owner = :owner, attempt = attempt + 1 - keeps_attempt,
        keeps_attempt = 0, fence = max(fence, attempt) + 1,
        steps_completed = NULL, steps_reused = NULL,
        started_at_us = coalesce(started_at_us, :now_us), heartbeat_at_us = :now_us,
        claimed_at_us = :now_us, host = :host, pid = :pid, updated_at_us = :now_us"""

# The first step with a result of a run that has failed: from there on it may be executed again.
# In hexadecimal digits, since a damaged name must not make the run unreadable.
_FIRST_STEP: Final = """
    CASE r.status WHEN 'failed' THEN (
        SELECT hex(name) FROM (
            SELECT name, min(step) FROM (
                SELECT * FROM (SELECT name, step FROM durably_steps s
                               WHERE s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24)
                                 AND s.status = 'completed' ORDER BY s.step LIMIT 1)
                UNION ALL
                SELECT name, min(step) FROM durably_maps m
                WHERE m.run = r.run AND m.status = 'completed'))
        WHERE name IS NOT NULL) END"""

# A claim and a trigger do not need these.
_WAITS: Final = f"""
    r.run_at_us, r.waits_for, r.wait_name,
    (SELECT a.id FROM durably_runs a WHERE a.run = r.waits_for_run),
    (SELECT p.id FROM durably_runs p WHERE p.run = r.parent),
    (SELECT a.error FROM durably_attempts a
     WHERE a.run = r.run AND a.fence = r.fence AND r.status = 'pending' AND r.failures > 0),
    r.forked_from, {_FIRST_STEP}, r.code_changed"""
_WAITS_AS_BYTES: Final = f"""
    r.run_at_us, CAST(r.waits_for AS BLOB), CAST(r.wait_name AS BLOB),
    (SELECT CAST(a.id AS BLOB) FROM durably_runs a WHERE a.run = r.waits_for_run),
    (SELECT CAST(p.id AS BLOB) FROM durably_runs p WHERE p.run = r.parent),
    (SELECT CAST(a.error AS BLOB) FROM durably_attempts a
     WHERE a.run = r.run AND a.fence = r.fence AND r.status = 'pending' AND r.failures > 0),
    CAST(r.forked_from AS BLOB), {_FIRST_STEP}, r.code_changed"""

# Only completed steps count; a claim and a trigger do not need the number.
COUNTED: Final = f"""{COLUMNS},
    (SELECT count(*) FROM durably_steps s
     WHERE s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24) AND s.status = 'completed')
    + (SELECT count(*) FROM durably_maps m WHERE m.run = r.run AND m.status = 'completed'),
    {_WAITS}"""

BY_ID: Final = f"SELECT {COUNTED} FROM durably_runs r WHERE id = :id"

BY_NUMBER: Final = f"SELECT {COUNTED} FROM durably_runs r WHERE run = :run"

# The first run of a job that is claimable and matches a condition.
_FIRST: Final = """
            SELECT run FROM durably_runs
            WHERE job_name = {job} AND status = 'pending' AND run_at_us IS NULL
              AND owner IS NULL AND queue_place = 0 AND {condition}
              AND NOT EXISTS (SELECT 1 FROM json_each(:inside) WHERE value = run)
            ORDER BY coalesce(place, run) LIMIT 1"""

# A few index look-ups for each known job, whatever else waits in the file; and one more for each
# run that another owner has put back while a thread of the claiming engine is still inside its job.
# Of the first runs of all jobs, the one whose turn is first: SQLite's rule for a column beside
# min().
FIRST_CLAIMABLE: Final = f"""
    SELECT run FROM (
        SELECT r.run AS run, min(coalesce(r.place, r.run))
        FROM (
            SELECT ({_FIRST.format(job="jobs.value", condition="origin IS NULL")}) AS first
            FROM json_each(:jobs) AS jobs
            UNION ALL
            SELECT CASE origins.type
                WHEN 'text'
                THEN ({_FIRST.format(job="origins.key", condition="origin = origins.value")})
                ELSE ({_FIRST.format(job="origins.key", condition="origin IS NOT NULL")}) END
            FROM json_each(:origins) AS origins
        ) JOIN durably_runs AS r ON r.run = first)"""

# The origin of a job's function, for a run whose *job* is the job's name.
ORIGIN_OF: Final = """
    (SELECT value FROM json_each(:origins) WHERE key = {job} AND type = 'text' LIMIT 1)"""

# The fingerprint of the job's function, likewise.
CODE_OF: Final = "(SELECT value FROM json_each(:codes) WHERE key = {job} LIMIT 1)"


_BEGUN: Final = """
        status = 'pending' AND run_at_us IS NULL AND owner IS NULL AND queue_place = 0
                         AND origin IS NOT NULL"""

# One run of each job and origin that has pending runs with checkpoints. It goes from one origin to
# the next, without reading the thousands of runs that an origin may have.
BEGUN: Final = f"""
    WITH RECURSIVE begun (job, origin) AS (
        SELECT value, (SELECT min(origin) FROM durably_runs
                       WHERE job_name = value AND {_BEGUN})
        FROM json_each(:jobs)
        UNION ALL
        SELECT job, (SELECT min(origin) FROM durably_runs
                     WHERE job_name = job AND origin > begun.origin AND {_BEGUN})
        FROM begun WHERE origin IS NOT NULL)
    SELECT job, CAST(origin AS BLOB), (
        SELECT CAST(id AS BLOB) FROM durably_runs
        WHERE job_name = job AND durably_runs.origin = begun.origin AND {_BEGUN}
        ORDER BY coalesce(place, run) LIMIT 1)
    FROM begun WHERE origin IS NOT NULL"""

BEGUN_OF_MANY: Final = """
    SELECT job_name, CAST(origin AS BLOB), id FROM durably_runs
    WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'pending'
      AND origin IS NOT NULL AND kind = 'job'"""

IS_REGISTERED: Final = "SELECT EXISTS (SELECT 1 FROM durably_owners WHERE owner = :owner)"

HAS_RUNNING: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_runs WHERE owner = :owner AND status = 'running')"""

BRIEF: Final = "SELECT id, status, owner, progress, kind FROM durably_runs WHERE id = :id"

BRIEF_OF_MANY: Final = """
    SELECT id, status, owner, progress, kind FROM durably_runs
    WHERE id IN (SELECT value FROM json_each(:ids))"""

# Without columns that may be unreadable: an unreadable progress counts as none.
SAFE_BRIEFS: Final = """
    SELECT id, status, owner, NULL, kind FROM durably_runs
    WHERE id IN (SELECT value FROM json_each(:ids))"""

_FILTER: Final = """
    WHERE (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
      AND (:kind IS NULL OR kind = :kind)
      AND (:since_us IS NULL OR updated_at_us >= :since_us)
      AND (:parent IS NULL OR r.parent = (SELECT p.run FROM durably_runs p WHERE p.id = :parent))
      AND (:jobs IS NULL OR job_name IN (SELECT value FROM json_each(:jobs)))
      AND (:labels IS NULL OR NOT EXISTS (
            SELECT 1 FROM json_each(:labels) AS wanted
            WHERE NOT EXISTS (
                SELECT 1 FROM durably_labels l
                WHERE l.run = r.run AND l.key = wanted.key AND l.value = wanted.value)))"""

FIND: Final = f"""
    SELECT {COUNTED} FROM durably_runs r {_FILTER}
    ORDER BY run DESC LIMIT :limit OFFSET :offset"""

COUNT: Final = f"SELECT count(*) FROM durably_runs r {_FILTER}"

# Of the newest runs: a file may have millions of them. The name is a blob, since it may be damaged.
COUNT_BY_STATUS: Final = f"""
    SELECT CAST(job_name AS BLOB), status, count(*)
    FROM (SELECT job_name, status FROM durably_runs r {_FILTER} ORDER BY run DESC LIMIT :most)
    GROUP BY job_name, status ORDER BY job_name, status"""

STATE_OF: Final = "SELECT status, fence FROM durably_runs WHERE run = :run"


def all_rows(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> list[RunRow]:
    """Return the runs of a statement that selects ``COLUMNS`` or ``COUNTED``."""
    rows: list[Any] = db.execute(sql, bindings).fetchall()
    return [RunRow(*row) for row in rows]


def first_row(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> RunRow | None:
    """Return the first run that a query finds.

    Raises:
        DatabaseError: it cannot be read.
    """
    try:
        rows = all_rows(db, sql, bindings)
    except UnicodeDecodeError as exc:
        row, defect = _as_bytes(db, sql, bindings)[0]
        if defect is None:
            raise
        raise defects.unreadable(f"run {row.id!a:.80}", defect) from exc
    return rows[0] if rows else None


def legible_rows(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> list[RunRow]:
    """Return all runs that a query finds, with escapes for text that cannot be read."""
    try:
        return all_rows(db, sql, bindings)
    except UnicodeDecodeError:
        return [row for row, _ in _as_bytes(db, sql, bindings)]


def _as_bytes(
    db: apsw.Connection, sql: str, bindings: dict[str, Any]
) -> list[tuple[RunRow, str | None]]:
    """Return the runs that a query finds, with escapes for unreadable text, and its defects."""
    rows: list[Any] = db.execute(
        sql.replace(COLUMNS, _AS_BYTES, 1).replace(_WAITS, _WAITS_AS_BYTES, 1), bindings
    ).fetchall()
    found = [defects.decoded(RunRow(*row)._asdict()) for row in rows]
    return [(RunRow(**values), defect) for values, defect in found]


def by_number(db: apsw.Connection, run_pk: RunKey) -> RunRow:
    """Return an existing run, whatever its columns contain."""
    return legible_rows(db, BY_NUMBER, {"run": run_pk})[0]


def defect_of(db: apsw.Connection, run_pk: RunKey) -> str | None:
    """Return why an existing run can be neither read nor executed, or ``None``."""
    ((row, defect),) = _as_bytes(db, BY_NUMBER, {"run": run_pk})
    return defect or defects.of_claimed(row._asdict(), bounds.RUN)


def find(db: apsw.Connection, run_id: str) -> RunRow | None:
    """Return the run with that id.

    Raises:
        DatabaseError: it cannot be read.
    """
    return first_row(db, BY_ID, {"id": run_id})


def get(db: apsw.Connection, run_id: str) -> RunRow:
    """Return the run with that id.

    Raises:
        NotFoundError: there is none.
        DatabaseError: it cannot be read.
    """
    row = find(db, run_id)
    if row is None:
        raise not_found(run_id)
    return row


def legible(db: apsw.Connection, run_id: str) -> RunRow:
    """Return the run with that id, with escapes for what cannot be read.

    Raises:
        NotFoundError: there is none.
    """
    rows = legible_rows(db, BY_ID, {"id": run_id})
    if not rows:
        raise not_found(run_id)
    return rows[0]


def not_found(run_id: str) -> NotFoundError:
    """Return the error for an id that no run has."""
    return NotFoundError(f"there is no run {run_id!r:.80} in this database")


def brief(db: apsw.Connection, run_id: str) -> Brief | None:
    """Return the state of the run."""
    try:
        rows = db.execute(BRIEF, {"id": run_id}).fetchall()
    except UnicodeDecodeError:
        return briefs(db, [run_id]).get(run_id)
    return Brief._make(rows[0]) if rows else None


def brief_or_ended(db: apsw.Connection, run_id: str) -> Brief | RunRow | None:
    """Return the state of the run, and all of it if it has ended."""
    found = brief(db, run_id)
    return get(db, run_id) if found is not None and found.status in TERMINAL else found


def briefs(db: apsw.Connection, run_ids: Sequence[str]) -> dict[str, Brief]:
    """Return the state of each of the runs that exists."""
    bindings = {"ids": dump(list(run_ids))}
    try:
        rows = db.execute(BRIEF_OF_MANY, bindings).fetchall()
    except UnicodeDecodeError:
        rows = db.execute(SAFE_BRIEFS, bindings).fetchall()
    found = (Brief._make(row) for row in rows)
    return {brief.id: brief for brief in found}


def state_of(db: apsw.Connection, run_pk: RunKey) -> tuple[str, int] | None:
    """Return the status and the fence of a run, ``None`` if it was deleted."""
    rows: list[Any] = db.execute(STATE_OF, {"run": run_pk}).fetchall()
    return (rows[0][0], rows[0][1]) if rows else None


def find_many(
    db: apsw.Connection, filters: Filters, limit: int | None, offset: int
) -> list[RunRow]:
    """Return the runs that match, newest first; those that cannot be read are left out."""
    bindings = filters._asdict() | {"limit": -1 if limit is None else limit, "offset": offset}
    sql = _by_status(db, FIND, filters)
    try:
        return all_rows(db, sql, bindings)
    except UnicodeDecodeError:
        found = []
        for row, defect in _as_bytes(db, sql, bindings):
            if defect is None:
                found.append(row)
            else:
                defects.note(str(defects.unreadable(f"run {row.id!a:.80}", defect)))
        return found


def count(db: apsw.Connection, filters: Filters) -> int:
    """Return how many runs match."""
    return int(db.execute(_by_status(db, COUNT, filters), filters._asdict()).get)


def _by_status(db: apsw.Connection, sql: str, filters: Filters) -> str:
    """Return the query, which reads only the runs of the filter's statuses if those are few."""
    runs = None if filters.statuses is None else by_status.few(db, load(filters.statuses))
    return sql if runs is None else sql.replace(_FILTER, f"{_FILTER} AND r.run IN ({runs})")


def count_by_status(db: apsw.Connection, filters: Filters, most: int) -> list[StatusCount]:
    """Return how many of the newest runs that match have which name and status."""
    from durably.store.read_rows import StatusCount  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(COUNT_BY_STATUS, filters._asdict() | {"most": most}).fetchall()
    return [StatusCount(name.decode(errors="replace"), *rest) for name, *rest in rows]


def has_claimable(db: apsw.Connection, jobs: str, inside: str = "[]", origins: str = "{}") -> bool:
    """Return whether a claim for these jobs would find a run.

    Args:
        jobs: a JSON array of names.
        inside: a JSON array of the keys of runs that must not be claimed.
        origins: the origins whose checkpoints are continued; see ``Claim``.
    """
    bindings = {"jobs": jobs, "inside": inside, "origins": origins}
    return db.execute(FIRST_CLAIMABLE, bindings).get is not None


def begun(db: apsw.Connection, jobs: str) -> list[Begun]:
    """Return a pending run with checkpoints for each of these jobs and origin of such runs."""
    return _all_begun(db, BEGUN, {"jobs": jobs})


def begun_of_many(db: apsw.Connection, run_ids: Sequence[str]) -> list[Begun]:
    """Return those of the runs that are pending and have checkpoints."""
    return _all_begun(db, BEGUN_OF_MANY, {"ids": dump(list(run_ids))})


def _all_begun(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> list[Begun]:
    rows: list[Any] = db.execute(sql, bindings).fetchall()
    return [Begun(**defects.decoded(Begun._make(row)._asdict())[0]) for row in rows]


def is_registered(db: apsw.Connection, owner: int) -> bool:
    """Return whether the owner may claim: its row exists, so no other engine found it dead."""
    return bool(db.execute(IS_REGISTERED, {"owner": owner}).get)


def has_running(db: apsw.Connection, owner: int) -> bool:
    """Return whether the owner has a running run."""
    return bool(db.execute(HAS_RUNNING, {"owner": owner}).get)
