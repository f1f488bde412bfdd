"""What must hold in a database file, whatever process left it behind: DESIGN.md section 9 as SQL.

``check(path)`` opens the file with apsw, in a transaction of its own, so it may be called while
engines use the file. ``check_history`` compares it with what the steps of a test left outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw

from durably.store import schema

# Every query returns one row per finding; its columns say where.
QUERIES: Final[dict[str, str]] = {
    "a running run has no owner": """
        SELECT id FROM durably_runs WHERE status = 'running' AND owner IS NULL""",
    "a running run has no heartbeat or was never claimed": """
        SELECT id FROM durably_runs
        WHERE status = 'running' AND (attempt < 1 OR heartbeat_at_us IS NULL)""",
    "a completed or failed run has an owner": """
        SELECT id, owner FROM durably_runs
        WHERE status IN ('completed', 'failed') AND owner IS NOT NULL""",
    "a run's status is unknown": """
        SELECT id, status FROM durably_runs
        WHERE status NOT IN ('pending', 'running', 'completed', 'failed', 'cancelled')""",
    "a run that has not ended has an end, or the other way round": """
        SELECT id, status FROM durably_runs
        WHERE (status IN ('completed', 'failed', 'cancelled')) <> (completed_at_us IS NOT NULL)""",
    "an output without completion, or the other way round": """
        SELECT id, status FROM durably_runs WHERE (status = 'completed') <> (output IS NOT NULL)""",
    "an error without failure, or the other way round": """
        SELECT id, status FROM durably_runs WHERE (status = 'failed') <> (error IS NOT NULL)""",
    "a start without an attempt, or the other way round": """
        SELECT id, attempt FROM durably_runs
        WHERE attempt < 0 OR (attempt = 0) <> (started_at_us IS NULL)
           OR (attempt = 0) <> (heartbeat_at_us IS NULL) OR (attempt = 0 AND owner IS NOT NULL)""",
    "an owner of runs is not registered": """
        SELECT id, owner FROM durably_runs
        WHERE owner IS NOT NULL AND owner NOT IN (SELECT owner FROM durably_owners)""",
    "two owners share a lock": """
        SELECT token FROM durably_owners GROUP BY token HAVING count(*) > 1""",
    "a key is held by more than one run": """
        SELECT concurrency_key, count(*) FROM durably_runs
        WHERE owner IS NOT NULL AND concurrency_key IS NOT NULL
        GROUP BY concurrency_key HAVING count(*) > 1""",
    "an idempotency key leads to more than one run": """
        SELECT job_name, idempotency_key FROM durably_runs WHERE idempotency_key IS NOT NULL
        GROUP BY job_name, idempotency_key HAVING count(*) > 1""",
    "two runs share an id": """
        SELECT id FROM durably_runs GROUP BY id HAVING count(*) > 1""",
    # A run without a key is always claimable; one that is not pending waits in no queue.
    "a run without a key has a place in a queue": """
        SELECT id, queue_place FROM durably_runs
        WHERE concurrency_key IS NULL AND queue_place <> 0""",
    "a queue has no first run, or more than one": """
        SELECT concurrency_key, job_name, sum(queue_place <> 1) FROM durably_runs
        WHERE status = 'pending' AND concurrency_key IS NOT NULL
        GROUP BY concurrency_key, job_name HAVING sum(queue_place <> 1) <> 1""",
    "the first run of a queue is not the one that was triggered first": """
        SELECT r.id FROM durably_runs r
        WHERE r.status = 'pending' AND r.concurrency_key IS NOT NULL AND r.queue_place <> 1
          AND EXISTS (SELECT 1 FROM durably_runs e
                      WHERE e.status = 'pending' AND e.concurrency_key = r.concurrency_key
                        AND e.job_name = r.job_name AND e.run < r.run)""",
    "the first run of a queue does not know whether its key is held": """
        SELECT r.id, r.queue_place FROM durably_runs r
        WHERE r.status = 'pending' AND r.concurrency_key IS NOT NULL AND r.queue_place <> 1
          AND (r.queue_place = 2) <> EXISTS (
              SELECT 1 FROM durably_runs h
              WHERE h.concurrency_key = r.concurrency_key AND h.owner IS NOT NULL)""",
    "a step has no run": """
        SELECT run, name FROM durably_steps WHERE run NOT IN (SELECT run FROM durably_runs)""",
    "two steps of a run share a name": """
        SELECT run, name FROM durably_steps GROUP BY run, name HAVING count(*) > 1""",
    "a step lies at another run's place": """
        SELECT run, name, step FROM durably_steps WHERE step >> 24 <> run""",
    "a step's result, error and status do not fit": """
        SELECT run, name, status FROM durably_steps
        WHERE status NOT IN ('completed', 'failed', 'cancelled')
           OR (status = 'completed') <> (output IS NOT NULL)
           OR (status = 'failed') <> (error IS NOT NULL)""",
    "a step was stored by an attempt that its run never had": """
        SELECT s.run, s.name, s.attempt, r.attempt FROM durably_steps s
        JOIN durably_runs r USING (run) WHERE s.attempt < 1 OR s.attempt > r.attempt""",
    "labels and label rows do not agree": """
        SELECT r.id FROM durably_runs r
        WHERE (SELECT count(*) FROM json_each(r.labels))
              <> (SELECT count(*) FROM durably_labels l WHERE l.run = r.run)
           OR EXISTS (SELECT 1 FROM json_each(r.labels) e WHERE NOT EXISTS (
                  SELECT 1 FROM durably_labels l
                  WHERE l.run = r.run AND l.key = e.key AND l.value = e.value))""",
    "a log line has no run": """
        SELECT log FROM durably_logs WHERE run NOT IN (SELECT run FROM durably_runs)""",
}

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
    if not Path(path).is_file():
        return [f"{path} is not there"]
    db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(30_000)
        # Read as it was left: nothing is copied from the log by looking.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        try:
            return _findings(db, path, is_sequential, is_idle, is_finished)
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as exc:
            return [f"unreadable: {type(exc).__name__}: {exc}"]
    finally:
        db.close()


def _findings(
    db: apsw.Connection,
    path: str | os.PathLike[str],
    is_sequential: bool,
    is_idle: bool,
    is_finished: bool,
) -> list[str]:
    found: list[str] = []
    db.execute("BEGIN")  # one snapshot for all
    try:
        found += _about_the_file(db)
        found += _rows(db, QUERIES)
        if is_sequential:
            found += _rows(db, SEQUENTIAL)
        if is_idle:
            found += _rows(
                db,
                {
                    "an owner is registered": "SELECT owner, pid FROM durably_owners",
                    "a run has an owner": "SELECT id FROM durably_runs WHERE owner IS NOT NULL",
                },
            )
        if is_finished:
            unfinished = "SELECT id, status FROM durably_runs WHERE completed_at_us IS NULL"
            found += _rows(db, {"a run has not ended": unfinished})
    finally:
        db.execute("ROLLBACK")
    if is_idle:
        name = Path(os.path.realpath(path)).name
        folder = Path(os.path.realpath(path)).parent
        found += [f"a lock file is left: {left}" for left in folder.glob(f"{name}.owner-*")]
    return found


def _about_the_file(db: apsw.Connection) -> list[str]:
    found = [
        f"integrity: {text}"
        for (text,) in db.execute("PRAGMA integrity_check").fetchall()
        if text != "ok"
    ]
    found += [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check").fetchall()]
    if db.pragma("application_id") != schema.APPLICATION_ID:
        found.append(f"application_id is {db.pragma('application_id')}")
    newest = len(schema.migrations())
    if db.pragma("user_version") != newest:
        found.append(f"user_version is {db.pragma('user_version')}, not {newest}")
    found += _about_the_schema(db)
    return found


def _about_the_schema(db: apsw.Connection) -> list[str]:
    """The tables, indexes, triggers and views must be those of the migrations, word for word."""
    fresh = apsw.Connection(":memory:")
    for script in schema.migrations():
        fresh.execute(script)
    query = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"
    expected = {(kind, name): sql for kind, name, sql in fresh.execute(query).fetchall()}
    present = {(kind, name): sql for kind, name, sql in db.execute(query).fetchall()}
    fresh.close()
    found = [f"schema: {kind} {name} is missing" for kind, name in expected.keys() - present.keys()]
    found += [
        f"schema: {kind} {name} is foreign" for kind, name in present.keys() - expected.keys()
    ]
    found += [
        f"schema: {kind} {name} was changed"
        for kind, name in expected.keys() & present.keys()
        if expected[kind, name] != present[kind, name]
    ]
    return sorted(found)


def _rows(db: apsw.Connection, queries: dict[str, str]) -> list[str]:
    return [
        f"{what}: {', '.join(map(str, row))}"
        for what, query in queries.items()
        for row in db.execute(query).fetchall()
    ]


def completed_steps(path: str | os.PathLike[str]) -> dict[tuple[str, str], str]:
    """The stored results, as JSON text, by run id and step name."""
    db = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(30_000)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        rows = db.execute(
            """SELECT r.id, s.name, s.output FROM durably_steps s JOIN durably_runs r USING (run)
               WHERE s.status = 'completed'"""
        ).fetchall()
    finally:
        db.close()
    return {(run_id, name): output for run_id, name, output in rows}


def check_history(lines: Iterable[str]) -> list[str]:
    """What is wrong in the order of effects that steps and jobs left in a file.

    Each line is ``effect RUN STEP VALUE`` (a step is executed and will return VALUE) or
    ``returned RUN STEP VALUE`` (``step.run`` gave VALUE to the job, so the checkpoint exists). A
    line that a killed process has half written has no end and is not looked at.
    """
    found: list[str] = []
    last_effect: dict[tuple[str, str], str] = {}
    returned: dict[tuple[str, str], str] = {}
    for line in lines:
        if not line.endswith("\n"):
            continue
        kind, run, step, value = line.split()
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
