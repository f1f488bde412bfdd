"""A sound database with something of everything in it, and how to damage it behind the schema's
back.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import apsw
from databases import open_database

import durably
from durably.plugins import LogPersistence

# Of the owner that has died.
TOKEN = "0123456789ABCDEFGHJKMNPQRS"

# Takes hours: each % tries every place.
ENDLESS = "replace(hex(zeroblob(20000)), '0', 'a') LIKE '%a%a%a%a%a%a%a%b'"

# What somebody may do to durably's own part of the schema, by what is then said of it.
SCHEMA_DAMAGES = {
    "trigger 'durably_end_is_final' is missing": "DROP TRIGGER durably_end_is_final",
    "index 'durably_runs_key_holder' is missing": "DROP INDEX durably_runs_key_holder",
    "index 'durably_more' is not durably's": "CREATE INDEX durably_more ON durably_runs (id)",
    "table 'Durably_planted' is not durably's": "CREATE TABLE Durably_planted (x)",
    "table 'json_each' is not durably's": "CREATE TABLE json_each (key, value)",
    "trigger 'planted' is not durably's": (
        "CREATE TRIGGER planted AFTER INSERT ON durably_runs BEGIN SELECT 1; END"
    ),
    "view 'durably_runs_readable' was changed": (
        "DROP VIEW durably_runs_readable; CREATE VIEW durably_runs_readable AS SELECT 1"
    ),
    "index 'mine' is not durably's": "CREATE INDEX mine ON durably_runs (created_at_us)",
    "index 'for ever' is not durably's": (
        "CREATE INDEX \"for ever\" ON Durably_Steps (step) WHERE name LIKE '%x%'"
    ),
    "trigger 'instead' is not durably's": (
        "CREATE TRIGGER instead INSTEAD OF INSERT ON durably_runs_readable BEGIN SELECT 1; END"
    ),
    "table 'notes' has a foreign key to 'durably_runs'": (
        "CREATE TABLE notes (run REFERENCES durably_runs (run)); INSERT INTO notes VALUES (99)"
    ),
    "table 'a \"b' has a foreign key to 'DURABLY_Owners', 'durably_logs'": (
        'CREATE TABLE "a ""b" (x, y, FOREIGN KEY (y) REFERENCES"durably_logs"(log),'
        " FOREIGN KEY (x)/**/REFERENCES/**/[DURABLY_Owners] ON DELETE CASCADE)"
    ),
    "table 'durably_logs' was changed": "ALTER TABLE durably_logs ADD COLUMN more TEXT",
}

# And what is everybody's own business.
HARMLESS = [
    "CREATE TABLE notes (durably_run INTEGER REFERENCES more (x)); CREATE TABLE more (x)",
    "CREATE TABLE notes (run INTEGER); CREATE INDEX mine ON notes (run)",
    "CREATE TABLE changed_keys (x); INSERT INTO changed_keys VALUES (1)",
    "CREATE TABLE x (y); CREATE TRIGGER z AFTER INSERT ON x BEGIN DELETE FROM durably_logs; END",
    # No check of the file evaluates the constraints of other tables.
    (
        f"CREATE TABLE slow (x CHECK (({ENDLESS}) IS NOT x)); "
        "PRAGMA ignore_check_constraints = 1; INSERT INTO slow VALUES (1)"
    ),
    "CREATE VIEW failed AS SELECT * FROM durably_runs WHERE status = 'failed'",
    "ANALYZE",
    # What is promised to those who read the file may be missing, or be the user's.
    "DROP VIEW runs; CREATE TABLE runs (x); DROP VIEW items; CREATE VIEW items AS SELECT 1",
]


def make_sound(path: Path) -> None:
    """A database with runs of every status, a queue behind a held key, steps, labels and logs, as a
    process leaves it that dies in the middle of a run.
    """

    @durably.job
    def work(step: durably.StepContext, payload: str | None = None) -> int:
        for n in range(3):
            step.run(f"step-{n}", int)
        step.log.info("done")
        if payload == "fail":
            step.run("bad", int, "no number")
        return 3

    app = durably.Durably(path, jobs=[work])
    try:
        app.use(LogPersistence())
        handle = app.jobs["work"]
        handle.trigger(labels={"a": "b"}, idempotency_key="1")
        handle.trigger("fail", idempotency_key="2")
        app.run_until_idle(raise_failed=False)
        app.cancel(handle.trigger())
        for _ in range(3):
            handle.trigger(concurrency_key="free")
        for _ in range(3):
            handle.trigger(concurrency_key="held")
        handle.trigger(concurrency_key="other")
        handle.trigger()
    finally:
        app.close()
    change(
        path,
        f"""
        INSERT INTO durably_owners
            (token, boot_id, pid, heartbeat_interval_us, beat_at_us, opened_at_us)
        VALUES ('{TOKEN}', '', 1, 1, 1, 1);
        UPDATE durably_runs
        SET status = 'running', owner = last_insert_rowid(), attempt = 1, fence = 1,
            started_at_us = 1, heartbeat_at_us = 1
        WHERE run = (SELECT min(run) FROM durably_runs WHERE concurrency_key = 'held');
        INSERT INTO durably_runs
            (id, job_name, payload, status, attempt, fence, keeps_attempt, waits_for, wait_name,
             run_at_us, created_at_us, updated_at_us, started_at_us, heartbeat_at_us)
        VALUES ('asleep', 'work', 'null', 'waiting', 1, 1, 1, 'time', 'nap', 9, 1, 1, 1, 1);
        INSERT INTO durably_runs
            (id, job_name, payload, kind, queue_place, created_at_us, updated_at_us)
        VALUES ('session', 'work', 'null', 'session', 3, 1, 1);
        INSERT INTO durably_maps
            (map, run, step, name, is_keyed, status, error, attempt, started_at_us,
             completed_at_us, done, failed, reused, total)
        SELECT n, run, (run << 24) + 9 + n, 'map-' || n, n = 2, iif(n = 2, 'failed', 'completed'),
               iif(n = 2, '{{"type": "E", "message": "", "traceback": ""}}', NULL), 1, 1, 2,
               1, 1, 0, 2
        FROM durably_runs, (SELECT 1 AS n UNION ALL SELECT 2) WHERE status = 'completed';
        INSERT INTO durably_items
            (item, key, output, error, attempts, hash, started_at_us, completed_at_us)
        VALUES (1 << 30, NULL, '1', NULL, 1, 7, 1, 2), ((1 << 30) + 1, NULL, '2', NULL, 1, 8, 1, 2),
               (2 << 30, 'a', '1', NULL, 1, NULL, 1, 2),
               ((2 << 30) + 1, 'b', NULL, '{{"type": "E", "message": "", "traceback": ""}}', 3,
                NULL, 1, 2);
        INSERT INTO durably_attempts
            (run, fence, attempt, outcome, host, pid, started_at_us, ended_at_us, error)
        SELECT run, 0, 1, 'failed', 'host', 1, 1, 2, error FROM durably_runs
        WHERE status = 'failed';
        """,
    )


def change(path: Path, sql: str) -> None:
    """Execute *sql* as another program would."""
    db = open_database(path)
    db.execute(sql).fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


def damage(path: Path, sql: str, *, reindex: bool = True) -> None:
    """Execute *sql* while nothing of the schema prevents it; the schema is as it was afterwards.

    So are the indexes, where they can be, or else they know nothing of what was done.
    """
    db = open_database(path)
    db.pragma("foreign_keys", False)
    db.pragma("ignore_check_constraints", True)
    db.pragma("writable_schema", True)
    schema = db.execute("SELECT rowid, * FROM sqlite_schema").fetchall()
    db.execute("DELETE FROM sqlite_schema WHERE type IN ('index', 'trigger')")
    for rowid, kind, _, _, _, text in schema:
        if kind == "table":
            bare = re.sub(r"(NOT NULL) UNIQUE", r"\1", text)
            bare = bare.replace("    UNIQUE (run, name),\n", "")
            db.execute("UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", (bare, rowid))
    db.execute("PRAGMA writable_schema = RESET")
    db.execute(sql).fetchall()
    db.pragma("writable_schema", True)
    db.execute("DELETE FROM sqlite_schema")
    db.executemany(
        "INSERT INTO sqlite_schema (rowid, type, name, tbl_name, rootpage, sql)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        schema,
    )
    db.execute("PRAGMA writable_schema = RESET")
    for _, kind, name, *_ in schema:
        if kind == "index" and reindex:
            # One of what must be unique stays without what is not.
            with suppress(apsw.ConstraintError):
                db.execute(f"REINDEX {name}")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()
