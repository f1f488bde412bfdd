"""Files that an older durably wrote: each is brought to the newest schema with what it holds."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from children import execute
from databases import open_database
from storekit import begin, fresh, insert, token_of

import durably
from durably.store.read_rows import AttemptRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import attempts, schema
from durably.testing import check

MOST = 2**63 - 1
LEAST = -(2**63)
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
TIMES = ("created_at_us", "started_at_us", "completed_at_us", "updated_at_us", "heartbeat_at_us")

VERSIONS = range(1, len(schema.migrations()))

PENDING = {"job_name": "job", "payload": '{"n":1}', "created_at_us": 10, "updated_at_us": 11}
TRIED = PENDING | {"attempt": 3, "started_at_us": 12, "heartbeat_at_us": 13}
STATES: dict[str, dict[str, Any]] = {
    "pending": PENDING,
    "labelled": PENDING | {"labels": '{"a":"b","c":"é"}', "idempotency_key": "i"},
    "interrupted": TRIED | {"progress": '{"current":1,"total":null,"message":null}'},
    "running": TRIED | {"status": "running", "owner": 1},
    "completed": TRIED | {"status": "completed", "output": "[1]", "completed_at_us": 14},
    "failed": TRIED
    | {
        "status": "failed",
        "error": '{"type":"E","message":"m","traceback":"t"}',
        "completed_at_us": 14,
    },
    "cancelled": PENDING | {"status": "cancelled", "completed_at_us": 14},
    "cancelled inside": TRIED | {"status": "cancelled", "completed_at_us": 14, "owner": 1},
    "retried inside": TRIED | {"owner": 1},
    "holder": TRIED | {"status": "running", "owner": 2, "concurrency_key": "k", "queue_place": 1},
    "waits": PENDING | {"concurrency_key": "k", "queue_place": 1},
    "waits longer": PENDING | {"concurrency_key": "k", "queue_place": 1},
    "first": PENDING | {"concurrency_key": "l", "queue_place": 1},
    "behind": PENDING | {"concurrency_key": "l", "queue_place": 1},
}
ORIGIN = "old:job"
TABLES = {
    "durably_owners": "owner",
    "durably_runs": "run",
    "durably_steps": "step",
    "durably_labels": "run, key",
    "durably_logs": "log",
}


def owner(number: int, token: str, **values: Any) -> dict[str, Any]:
    row = {"owner": number, "token": token, "boot_id": "boot", "pid": 7}
    row |= {"heartbeat_interval_us": 5_000_000, "beat": 4, "beat_at_us": 9, "opened_at_us": 8}
    return row | values


def step(run: int, index: int, **values: Any) -> dict[str, Any]:
    row = {"step": run << 24 | index, "run": run, "name": f"s{index}", "status": "completed"}
    return row | {"output": "1", "attempt": 1, "started_at_us": 1, "completed_at_us": 2} | values


def log_line(run: int, **values: Any) -> dict[str, Any]:
    row = {"run": run, "owner": 1, "level": "info", "message": '"m"', "data": "{}"}
    return row | {"created_at_us": 3} | values


def given_version(path: Path, version: int) -> apsw.Connection:
    """Return a connection to a file of that version that has two owners and a run of each state."""
    db = fresh(path, schema.migrations()[:version])
    assert db.pragma("user_version") == version
    for number in (1, 2):
        insert(db, "durably_owners", **owner(number, token_of(f"t{number}")))
    for name, state in STATES.items():
        row = state
        if version > 2 and state.get("attempt"):
            row = state | {"fence": state["attempt"]}
        insert(db, "durably_runs", id=name.replace(" ", "-"), **row)
        run = db.last_insert_rowid()
        if row.get("attempt"):
            insert(db, "durably_steps", **step(run, 0))
            insert(db, "durably_steps", **step(run, 1, status="cancelled", output=None))
            insert(db, "durably_logs", **log_line(run))
    if version > 1:
        db.execute("UPDATE durably_runs SET place = 400 WHERE id = 'interrupted'")
        db.execute("UPDATE durably_runs SET origin = ? WHERE attempt > 0", (ORIGIN,))
    # One that is executed has left its queue.
    db.execute("UPDATE durably_runs SET queue_place = 1 WHERE id = 'holder'")
    # Numbers that were given and are not to be given again.
    db.execute("UPDATE sqlite_sequence SET seq = 500")
    return db


def rows_of(db: apsw.Connection, columns: dict[str, str]) -> dict[str, list[Any]]:
    return {
        table: db.execute(f"SELECT {columns[table]} FROM {table} ORDER BY {order}").fetchall()
        for table, order in TABLES.items()
    }


def columns_of(db: apsw.Connection) -> dict[str, str]:
    return {
        table: ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall())
        for table in TABLES
    }


def numbers_of(db: apsw.Connection) -> list[Any]:
    return db.execute("SELECT name, seq FROM sqlite_sequence ORDER BY name").fetchall()


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_an_older_file_holds_is_kept(tmp_path: Path, version: int) -> None:
    """Runs of every state, their steps, labels, log lines and owners, and the numbers to come."""
    path = tmp_path / "old.db"
    db = given_version(path, version)
    # Of the user's, and named like what the migration makes for itself.
    users = ("changed_keys", "no_owners", "new_numbers")
    for table in users:
        db.execute(f"CREATE TABLE {table} (x); INSERT INTO {table} VALUES (1)")
    columns = columns_of(db)
    before, numbers = rows_of(db, columns), numbers_of(db)
    schema.migrate(db, str(path), begin(db))
    assert rows_of(db, columns) == before
    assert [db.execute(f"SELECT x FROM {table}").get for table in users] == [1, 1, 1]
    assert numbers_of(db) == numbers
    new = ("place", "origin") if version < 2 else ()
    new += ("run_at_us", "waits_for", "wait_name", "waits_for_run", "parent")
    assert db.execute("SELECT DISTINCT kind FROM durably_runs").fetchall() == [("job",)]
    for column in new:
        found = db.execute(f"SELECT DISTINCT {column} FROM durably_runs").fetchall()
        assert found == [(None,)], column
    # Writes of a process that is inside of it are guarded at once.
    found = db.execute(
        "SELECT DISTINCT owner IS NOT NULL, fence = attempt, failures, keeps_attempt "
        "FROM durably_runs WHERE attempt > 0 ORDER BY 1"
    ).fetchall()
    assert found == [(0, version > 2, 0, 0), (1, 1, 0, 0)]
    # Who has executed a run, and since when for the third time, was not stored.
    tried = {name: attempts.of_run(db, name) for name in ("pending", "running", "completed")}
    assert tried == {
        "pending": [],
        "running": [AttemptRow(3, "running", None, None, None, None, None)],
        "completed": [AttemptRow(3, "completed", None, None, None, 14, None)],
    }
    assert db.execute("PRAGMA foreign_keys").get == 1
    db.close()
    assert check(path) == []


def test_what_is_of_the_user_keeps_its_name(tmp_path: Path) -> None:
    """A table, a view or an index by the name of one of durably's views stays in its place."""
    path = tmp_path / "old.db"
    db = given_version(path, 5)  # the last one without the views
    db.execute("CREATE TABLE runs (x); INSERT INTO runs VALUES (7); CREATE VIEW Items AS SELECT 8")
    db.execute("CREATE INDEX steps ON runs (x)")
    db.close()
    with durably.Durably(path) as app:
        assert app.count_runs() == len(STATES)
    db = open_database(path)
    assert db.execute("SELECT * FROM runs, items").fetchall() == [(7, 8)]
    assert db.execute("SELECT count(*) FROM attempts").get > 0
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_goes_on_with_an_older_file(tmp_path: Path, version: int) -> None:
    """What waits is executed, checkpoints are used, and what its dead engines ran is recovered."""
    path = tmp_path / "old.db"
    given_version(path, version).close()
    for number in (1, 2):
        Path(f"{path}.owner-{token_of(f't{number}')}").touch()  # their locks are free
    executed = []

    @durably.job("job", origin="any")
    def job(step: durably.StepContext, payload: dict[str, int]) -> int:
        executed.append(step.run_id)
        return step.run("s0", lambda: payload["n"])

    app = durably.Durably(path, jobs=[job])
    try:
        app.start()
        app.run_until_idle()
        statuses = {run.id: run.status.value for run in app.get_runs()}
        app.stop()
    finally:
        app.close()
    ended = {"failed": "failed", "cancelled": "cancelled", "cancelled-inside": "cancelled"}
    names = [name.replace(" ", "-") for name in STATES]
    assert statuses == {name: ended.get(name, "completed") for name in names}
    assert sorted(executed) == sorted({*names} - {*ended, "completed"})
    assert check(path) == []


LIKE_TAGGED = [
    {"$": "datetime", "v": "2026-11-28T10:12:00"},
    {"$": "bytes", "b": "eA=="},
    {"a": [{"$": "numpy.ndarray", "file": "0" * 64, "size": 5}]},
    {"$": "file", "file": "0" * 64, "size": 5},
    {"$": 1},
]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_looks_like_a_value_with_a_tag_is_data_in_an_older_file(
    tmp_path: Path, version: int
) -> None:
    """A dictionary with a key "$" that was stored before there were tags comes back as it was, as
    payload, result of a step and output.
    """
    path = tmp_path / "old.db"
    db = given_version(path, version)
    text = json.dumps(LIKE_TAGGED)
    db.execute("UPDATE durably_runs SET payload = ?", (text,))
    db.execute("UPDATE durably_runs SET output = ? WHERE status = 'completed'", (text,))
    # As if they had been stored so: a completed step cannot be changed.
    rows = db.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'durably_steps'"
    ).fetchall()
    for name, _ in rows:
        db.execute(f"DROP TRIGGER {name}")
    db.execute("UPDATE durably_steps SET output = ? WHERE status = 'completed'", (text,))
    for _, sql in rows:
        db.execute(sql)
    db.close()

    @durably.job("job", origin="any")
    def job(step: durably.StepContext, payload: object) -> object:
        return [payload, step.run("s0", lambda: LIKE_TAGGED)]

    with durably.Durably(path, jobs=[job]) as app:
        done = app.get_run("completed")
        assert done.payload == done.output == LIKE_TAGGED
        stored = [each for each in done.steps if each.status == "completed"]
        assert stored
        assert all(each.output == LIKE_TAGGED for each in stored)
        again = app.retrigger(done).wait(timeout=30)
        assert again.payload == LIKE_TAGGED
        assert again.output == [LIKE_TAGGED, LIKE_TAGGED]
    assert check(path) == []


BAD_OWNERS: list[dict[str, Any]] = [
    *(
        {"token": token}
        for token in (
            "../../victim",
            "",
            "0" * 25,
            "0" * 27,
            "0" * 25 + "I",
            "0" * 25 + "a",
            "0" * 26 + "\0/../x",
            "/" + "0" * 25,
        )
    ),
    {"owner": -1},
    {"owner": MOST},
]


@pytest.mark.parametrize("bad", BAD_OWNERS)
def test_an_owner_that_durably_did_not_make_is_forgotten(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    """Its running runs are pending again, and the keys that it held are free."""
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    row = owner(3, token_of("t3")) | bad
    insert(db, "durably_owners", **row)
    db.pragma("foreign_keys", False)
    db.execute("UPDATE durably_runs SET owner = ? WHERE owner = 2", (row["owner"],))
    schema.migrate(db, str(path), begin(db))
    assert db.execute("SELECT owner FROM durably_owners").fetchall() == [(1,), (2,)]
    queue = db.execute(
        "SELECT id, status, owner, queue_place FROM durably_runs WHERE concurrency_key = 'k'"
    ).fetchall()
    assert queue == [
        ("holder", "pending", None, 0),
        ("waits", "pending", None, 1),
        ("waits-longer", "pending", None, 1),
    ]
    db.close()
    assert check(path) == []


CLAMPED = [
    *(
        ("durably_runs", "completed", column, value, kept)
        for column in TIMES
        for value, kept in ((MOST, LATEST), (LEAST, EARLIEST), (LATEST + 1, LATEST))
    ),
    ("durably_runs", "completed", "attempt", MOST, 2**31 - 1),
    ("durably_owners", "1", "pid", MOST, 2**32 - 1),
    ("durably_owners", "1", "pid", -1, 0),
    ("durably_owners", "1", "heartbeat_interval_us", MOST, 3_153_600_000_000_000),
    ("durably_owners", "1", "beat", MOST, 2**53 - 1),
    ("durably_owners", "1", "beat_at_us", LEAST, EARLIEST),
    ("durably_owners", "1", "opened_at_us", MOST, LATEST),
    ("durably_owners", "1", "boot_id", "\x1b[2J", ""),
    ("durably_owners", "1", "boot_id", "b" * 65, ""),
    ("durably_steps", "s0", "started_at_us", MOST, LATEST),
    ("durably_steps", "s0", "completed_at_us", LEAST, EARLIEST),
    ("durably_logs", "1", "owner", -1, 0),
    ("durably_logs", "1", "created_at_us", MOST, LATEST),
]
KEYS = {
    "durably_runs": "id",
    "durably_owners": "owner",
    "durably_steps": "name",
    "durably_logs": "log",
}


@pytest.mark.parametrize(("table", "which", "column", "value", "kept"), CLAMPED)
def test_a_value_beyond_its_bound_is_brought_to_it(
    tmp_path: Path, table: str, which: str, column: str, value: Any, kept: Any
) -> None:
    """A row that version 1 accepted, and that nobody could read, is like any other afterwards."""
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    guards = ("durably_claim_raises_attempt", "durably_completed_step_is_final")
    made = schema.schemas(tuple(schema.migrations()))[1]
    for name in guards:
        db.execute(f"DROP TRIGGER {name}")
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {KEYS[table]} = ?", (value, which))
    assert db.changes() > 0
    for name in guards:
        db.execute(str(made["trigger", name]))
    schema.migrate(db, str(path), begin(db))
    found = db.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {KEYS[table]} = ?", (which,))
    assert found.fetchall() == [(kept,)]
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("number", [-5, 0, 2**39, 2**62, MOST])
def test_a_run_with_a_number_that_durably_never_gives_gets_another(
    tmp_path: Path, number: int
) -> None:
    """It keeps its steps, labels and log lines, waits behind the others of its key, and the
    numbers of the runs to come are sound.
    """
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    keyed = {"concurrency_key": "m", "queue_place": 1}
    odd = TRIED | keyed | {"id": "odd", "run": number, "labels": '{"a":"b"}'}
    plain = PENDING | keyed | {"id": "plain", "run": 300}
    for row in (odd, plain) if number < 300 else (plain, odd):
        insert(db, "durably_runs", **row)
    insert(db, "durably_logs", **log_line(number))
    if number < 2**39:
        insert(db, "durably_steps", **step(number, 5))
    schema.migrate(db, str(path), begin(db))
    places = db.execute(
        "SELECT id, run, queue_place FROM durably_runs WHERE concurrency_key = 'm' ORDER BY run"
    ).fetchall()
    (_, run, _) = places[1]
    assert places == [("plain", 300, 0), ("odd", run, 1)]
    assert 300 < run < 2**39
    assert db.execute("SELECT run FROM durably_logs ORDER BY log DESC LIMIT 1").get == run
    assert db.execute("SELECT value FROM durably_labels WHERE run = ?", (run,)).get == "b"
    assert db.execute("SELECT count(*) FROM durably_steps WHERE run = ?", (run,)).get == (
        number < 2**39
    )
    insert(db, "durably_runs", id="next", **PENDING)
    assert run < db.last_insert_rowid() < 2**39
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("seq", [MOST, 2**40, -1, "x", None, 1.5])
@pytest.mark.parametrize("table", ["durably_runs", "durably_owners", "durably_logs"])
def test_numbers_go_on_after_a_sequence_that_durably_never_writes(
    tmp_path: Path, table: str, seq: Any
) -> None:
    """A sequence at the end of its range, or that is no number, no longer stops all that is new."""
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (seq, table))
    schema.migrate(db, str(path), begin(db))
    insert(db, "durably_owners", **owner(0, token_of("new")) | {"owner": None})
    insert(db, "durably_runs", id="new", **PENDING)
    insert(db, "durably_logs", **log_line(db.last_insert_rowid()))
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("labels", ["[1]", '{"a":1}', '{"a":null}', '{"a":{"b":"c"}}', "7"])
def test_labels_that_are_none_are_dropped(tmp_path: Path, labels: str) -> None:
    """Labels are text by text; what version 1 accepted beside that is no label."""
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    insert(db, "durably_runs", id="odd", **PENDING)
    db.execute("UPDATE durably_runs SET labels = ? WHERE id = 'odd'", (labels,))
    insert(
        db,
        "durably_labels",
        run=db.execute("SELECT max(run) FROM durably_runs").get,
        key="a",
        value="b",
    )
    schema.migrate(db, str(path), begin(db))
    assert db.execute("SELECT labels FROM durably_runs WHERE id = 'odd'").get == "{}"
    assert json.loads(db.execute("SELECT labels FROM durably_runs WHERE id = 'labelled'").get)
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("bad", ["", "x" * 65, "a\x1b[2J", "é", "a\0b"])
def test_an_id_that_durably_never_makes_is_replaced(tmp_path: Path, bad: str) -> None:
    """Ids are shown wherever a run is named, so they are short and printable."""
    path = tmp_path / "old.db"
    db = given_version(path, 1)
    insert(db, "durably_runs", id=bad, **PENDING)
    run = db.last_insert_rowid()
    schema.migrate(db, str(path), begin(db))
    assert db.execute("SELECT id FROM durably_runs WHERE run = ?", (run,)).get == f"{run:026}"
    db.close()
    assert check(path) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_of_several_threads_open_an_older_file_at_once(
    tmp_path: Path, version: int
) -> None:
    """One of them migrates, the others find it done."""
    path = tmp_path / "old.db"
    given_version(path, version).close()
    at_once = threading.Barrier(4, timeout=10)
    failed: list[BaseException] = []

    def open_it() -> None:
        at_once.wait()
        try:
            Database(path).close()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert check(path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("version", "statements"),
    [
        *((1, count) for count in (15, 25, 35, 50, 75)),
        *((2, count) for count in (5, 15, 25, 35)),
        *((3, count) for count in (3, 5, 8)),
    ],
)
def test_a_migration_that_is_killed_leaves_the_version_before(
    tmp_path: Path, version: int, statements: int
) -> None:
    """The next opening finds the file as it was, and migrates it."""
    path = tmp_path / "old.db"
    db = given_version(path, version)
    columns = columns_of(db)
    before = rows_of(db, columns)
    done = execute("killed_in_a_migration", path, statements)
    assert done.returncode == -signal.SIGKILL
    assert db.pragma("user_version") == version
    assert rows_of(db, columns) == before
    db.close()
    Database(path).close()
    assert check(path) == []


@pytest.mark.parametrize("keeps_attempt", [0, 1])
def test_an_engine_of_version_2_claims_nothing_of_a_newer_file(
    tmp_path: Path, keeps_attempt: int
) -> None:
    """It has the file open since before: its claim is an error, and not one that it takes for a
    defect of the run, which it would fail for one.
    """
    db = given_version(tmp_path / "old.db", 2)
    schema.migrate(db, "old.db", begin(db))
    db.execute(
        "UPDATE durably_runs SET keeps_attempt = ? WHERE id = 'interrupted'", (keeps_attempt,)
    )
    before = rows_of(db, columns_of(db))
    for run in ("pending", "interrupted", "first"):
        with pytest.raises(apsw.SQLError, match="malformed JSON"):
            db.execute(
                "UPDATE durably_runs SET status = 'running', owner = 1, attempt = attempt + 1,"
                " started_at_us = 1, heartbeat_at_us = 1 WHERE id = ?",
                (run,),
            )
    assert rows_of(db, columns_of(db)) == before
    db.close()


def test_an_engine_of_version_3_leaves_sessions_alone(tmp_path: Path) -> None:
    """It has the file open since before: it neither claims a session nor puts one back."""
    db = given_version(tmp_path / "old.db", 3)
    schema.migrate(db, "old.db", begin(db))
    session = PENDING | {"kind": "session", "queue_place": 3}
    insert(db, "durably_runs", id="session", **session)
    running = {"fence": 3, "status": "running", "owner": 1}
    insert(db, "durably_runs", id="open", **TRIED | session | running)
    first = """
        SELECT run FROM durably_runs
        WHERE job_name = 'job' AND status = 'pending' AND run_at_us IS NULL AND owner IS NULL
          AND queue_place = 0 AND origin IS NULL ORDER BY coalesce(place, run) DESC LIMIT 1"""
    assert db.execute(first).get == db.execute("SELECT run FROM durably_runs WHERE id='first'").get
    with pytest.raises(apsw.ConstraintError):
        db.execute(
            "UPDATE durably_runs SET status = 'pending', owner = NULL,"
            " queue_place = concurrency_key IS NOT NULL WHERE id = 'open'"
        )
    db.close()
    assert check(tmp_path / "old.db") == []
