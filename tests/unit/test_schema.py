"""The schema rejects by itself what must never be stored, and a file gets to it in one way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from storekit import fresh, insert, token_of

OWNER = {
    "owner": 1,
    "token": token_of("a"),
    "boot_id": "boot",
    "pid": 1,
    "heartbeat_interval_us": 1,
    "beat_at_us": 1,
    "opened_at_us": 1,
}
# What a datetime can hold, in microseconds since the epoch.
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
PENDING = {"id": "R1", "job_name": "job", "payload": "1", "created_at_us": 1, "updated_at_us": 1}
CLAIMED = {"attempt": 1, "fence": 1, "started_at_us": 2, "heartbeat_at_us": 2}
RUNNING = PENDING | CLAIMED | {"status": "running", "owner": 1}
COMPLETED = PENDING | CLAIMED | {"status": "completed", "output": "1", "completed_at_us": 3}
FAILED = PENDING | CLAIMED | {"status": "failed", "error": "{}", "completed_at_us": 3}
CANCELLED = PENDING | {"status": "cancelled", "completed_at_us": 3}
SUSPENDED = PENDING | CLAIMED | {"run": 7, "status": "waiting", "keeps_attempt": 1}
ASLEEP = SUSPENDED | {"waits_for": "time", "wait_name": "s", "run_at_us": 9}
ASKING = SUSPENDED | {"waits_for": "answer", "wait_name": "s"}
CALLING = SUSPENDED | {"waits_for": "run", "waits_for_run": 3}
SESSION = {"kind": "session", "queue_place": 3}
STEP = {
    "step": (1 << 24) | 0,
    "run": 1,
    "name": "a",
    "status": "completed",
    "output": "1",
    "attempt": 1,
    "started_at_us": 1,
    "completed_at_us": 2,
}
FAILED_STEP = STEP | {"status": "failed", "output": None, "error": "{}"}
LOG = {
    "run": 1,
    "owner": 1,
    "level": "info",
    "message": '"m"',
    "data": "{}",
    "created_at_us": 1,
}
MAP = {
    "run": 1,
    "step": (1 << 24) | 5,
    "name": "m",
    "is_keyed": 0,
    "attempt": 1,
    "started_at_us": 1,
    "done": 2,
    "failed": 1,
    "reused": 1,
}
ENDED_MAP = MAP | {"status": "completed", "completed_at_us": 2}
ITEM = {
    "item": 1 << 30,
    "output": "1",
    "attempts": 1,
    "started_at_us": 1,
    "completed_at_us": 2,
}
ATTEMPT = {
    "run": 1,
    "fence": 1,
    "attempt": 1,
    "outcome": "died",
    "host": "host",
    "pid": 1,
    "started_at_us": 1,
    "ended_at_us": 2,
}
FAILED_ITEM = ITEM | {"output": None, "error": "{}"}
GOOD = {
    "durably_owners": [OWNER],
    "durably_maps": [
        MAP,
        MAP | {"total": 9, "is_keyed": 1, "map": 2**33 - 1},
        ENDED_MAP,
        ENDED_MAP | {"status": "failed", "error": "{}"},
        ENDED_MAP | {"status": "cancelled"},
    ],
    "durably_items": [
        ITEM,
        FAILED_ITEM,
        ITEM | {"item": (2**33 << 30) - 1, "key": "k", "hash": -5},
        ITEM | {"key": -7},
    ],
    "durably_runs": [
        PENDING,
        RUNNING,
        COMPLETED,
        FAILED,
        CANCELLED,
        COMPLETED | {"started_at_us": EARLIEST, "completed_at_us": LATEST, "attempt": 2**31 - 1},
        PENDING | {"run_at_us": 9},
        PENDING | {"retry": "{}", "timeout_us": 1, "deaths": 4, "died_after": 7},
        FAILED | {"owner": 1},
        PENDING | CLAIMED | {"keeps_attempt": 1, "failures": 1},
        PENDING | {"run": 7, "parent": 3},
        ASLEEP,
        ASKING,
        ASKING | {"run_at_us": 9},
        CALLING,
        CALLING | {"wait_name": "s", "run_at_us": 9},
        PENDING | SESSION,
        RUNNING | SESSION,
        COMPLETED | SESSION | {"idempotency_key": "k"},
        ASLEEP | SESSION,
        PENDING | {"run": 2**39 - 2, "place": 2**39 - 1, "id": "x" * 64, "origin": "x" * 4096},
    ],
    "durably_attempts": [
        ATTEMPT,
        ATTEMPT | {"outcome": "failed", "error": "{}", "attempt": 2**31 - 1, "fence": 2**31 - 1},
        ATTEMPT | {"host": None, "pid": None, "started_at_us": None, "fence": 0},
        ATTEMPT | {"host": "h" * 255, "started_at_us": EARLIEST, "ended_at_us": LATEST},
    ],
    "durably_steps": [STEP, FAILED_STEP, STEP | {"status": "cancelled", "output": None}],
    "durably_logs": [LOG],
    "durably_labels": [{"run": 1, "key": "k", "value": "v"}],
}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = fresh(tmp_path / "test.db")
    insert(connection, "durably_owners", **OWNER | {"owner": 1})
    insert(connection, "durably_owners", **OWNER | {"owner": 2, "token": token_of("b")})
    yield connection
    connection.close()


def given_referred(db: apsw.Connection, row: dict[str, object]) -> None:
    """Store run 3 if the row refers to it."""
    if 3 in (row.get("parent"), row.get("waits_for_run")):
        insert(db, "durably_runs", **PENDING | {"run": 3, "id": "R3"})


def given_run(db: apsw.Connection, **values: object) -> int:
    insert(db, "durably_runs", **PENDING | values)
    return db.last_insert_rowid()


@pytest.mark.parametrize(
    ("table", "row"), [(table, row) for table, rows in GOOD.items() for row in rows]
)
def test_rows_that_the_bad_ones_are_made_of_are_good(
    db: apsw.Connection, table: str, row: dict[str, object]
) -> None:
    """What the tests below spoil is accepted before they do."""
    if table == "durably_owners":
        row = row | {"owner": 3, "token": token_of("c")}
    elif table != "durably_runs":
        given_run(db)
    given_referred(db, row)
    insert(db, table, **row)
    assert db.changes() == 1


@pytest.mark.parametrize(
    "bad",
    [
        RUNNING | {"owner": None},
        RUNNING | {"attempt": 0},
        RUNNING | {"attempt": 0, "started_at_us": None, "heartbeat_at_us": None},
        RUNNING | {"started_at_us": None},
        RUNNING | {"heartbeat_at_us": None},
        RUNNING | {"completed_at_us": 3},
        RUNNING | {"output": "1"},
        RUNNING | {"error": "{}"},
        RUNNING | {"owner": 99},
        RUNNING | {"fence": 0},
        RUNNING | {"attempt": 2},
        RUNNING | {"run_at_us": 9},
        RUNNING | {"keeps_attempt": 1},
        RUNNING | {"waits_for": "time", "wait_name": "s", "run_at_us": 9},
        ASLEEP | {"run_at_us": None},
        ASLEEP | {"wait_name": None},
        ASLEEP | {"wait_name": ""},
        ASLEEP | {"waits_for_run": 3},
        ASLEEP | {"owner": 1},
        ASLEEP | {"keeps_attempt": 0},
        ASLEEP | {"completed_at_us": 3},
        ASLEEP | {"attempt": 0, "started_at_us": None, "heartbeat_at_us": None},
        ASKING | {"wait_name": None},
        ASKING | {"waits_for": None},
        ASKING | {"waits_for": "sleep"},
        CALLING | {"waits_for_run": None},
        CALLING | {"waits_for_run": 7},
        CALLING | {"waits_for_run": 99},
        SUSPENDED,
        SUSPENDED | {"run_at_us": 9},
        PENDING | {"waits_for": "answer", "wait_name": "s"},
        PENDING | {"wait_name": "s"},
        PENDING | {"waits_for_run": 3},
        PENDING | {"keeps_attempt": 1},
        PENDING | CLAIMED | {"keeps_attempt": 2},
        PENDING | {"failures": -1},
        PENDING | {"run": 7, "parent": 7},
        PENDING | {"run": 7, "parent": 8},
        PENDING | {"run": 7, "parent": 5},
        *(PENDING | {"run_at_us": bad} for bad in (EARLIEST - 1, LATEST + 1, "x")),
        *(
            ended | {column: value}
            for ended in (COMPLETED, FAILED, CANCELLED | CLAIMED)
            for column, value in (("run_at_us", 9), ("keeps_attempt", 1), ("waits_for", "time"))
        ),
        COMPLETED | {"owner": 1},
        COMPLETED | {"output": None},
        COMPLETED | {"error": "{}"},
        COMPLETED | {"completed_at_us": None},
        COMPLETED | {"attempt": 0, "started_at_us": None, "heartbeat_at_us": None},
        *(PENDING | {"retry": bad} for bad in ("", "no JSON", "[1]", "1")),
        *(PENDING | {"timeout_us": bad} for bad in (-1, 0, 2**63 - 1)),
        *(PENDING | {"deaths": bad} for bad in (-1, 2**31, None)),
        PENDING | {"died_after": -1},
        FAILED | {"error": None},
        FAILED | {"output": "1"},
        FAILED | {"completed_at_us": None},
        FAILED | {"attempt": 0, "started_at_us": None, "heartbeat_at_us": None},
        CANCELLED | {"completed_at_us": None},
        CANCELLED | {"output": "1"},
        CANCELLED | {"error": "{}"},
        PENDING | {"completed_at_us": 3},
        PENDING | {"started_at_us": 2},
        PENDING | {"heartbeat_at_us": 2},
        PENDING | {"owner": 1},
        PENDING | {"attempt": -1},
        PENDING | {"status": "sleeping"},
        PENDING | {"status": None},
        PENDING | {"job_name": ""},
        PENDING | {"job_name": None},
        PENDING | {"id": None},
        PENDING | {"payload": None},
        PENDING | {"labels": None},
        PENDING | {"created_at_us": None},
        PENDING | {"created_at_us": "now"},
        PENDING | {"created_at_us": 1.5},
        PENDING | {"payload": b"\0"},
        PENDING | {"idempotency_key": ""},
        PENDING | {"concurrency_key": "", "queue_place": 1},
        PENDING | {"queue_place": 3},
        PENDING | {"kind": "session"},
        PENDING | {"kind": "nothing", "queue_place": 3},
        PENDING | {"kind": None},
        RUNNING | {"host": "h" * 256},
        RUNNING | {"pid": -1},
        RUNNING | {"claimed_at_us": LATEST + 1},
        *(PENDING | SESSION | {"queue_place": bad} for bad in (0, 1, 2)),
        RUNNING | SESSION | {"concurrency_key": "k"},
        PENDING | {"concurrency_key": "k", "queue_place": 0},
        PENDING | {"concurrency_key": "k", "queue_place": 2},
        PENDING | {"labels": '{"": "v"}'},
        PENDING | {"labels": '{"k": null}'},
        PENDING | {"labels": "no JSON"},
        PENDING | {"labels": "[1]"},
        PENDING | {"labels": '{"k": 1}'},
        PENDING | {"labels": '{"k": {"a": "b"}}'},
        *(PENDING | {"id": bad} for bad in ("", "x" * 65, "a\nb", "é", "a\0b")),
        *(PENDING | {"run": bad} for bad in (-5, 0, 2**39, 2**62, 2**63 - 1)),
        *(PENDING | {"run": 5, "place": bad} for bad in (0, 4, 5, 2**39)),
        *(PENDING | {"origin": bad} for bad in ("", "x" * 4097, "a\0b")),
        *(RUNNING | {"attempt": bad, "fence": bad} for bad in (2**31, 2**63 - 1)),
        *(
            COMPLETED | {column: bad}
            for column in COMPLETED
            if column.endswith("_us")
            for bad in (EARLIEST - 1, LATEST + 1, -(2**63), 2**63 - 1)
        ),
    ],
)
def test_run_in_no_possible_state_is_rejected(db: apsw.Connection, bad: dict[str, object]) -> None:
    """Status, owner, attempt, times, output and error of a run must fit each other."""
    given_referred(db, bad)
    with pytest.raises((apsw.ConstraintError, apsw.SQLError)):
        insert(db, "durably_runs", **bad)
    assert db.execute("SELECT count(*) FROM durably_runs WHERE id <> 'R3'").get == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PENDING, PENDING),
        (PENDING | {"idempotency_key": "k"}, PENDING | {"id": "R2", "idempotency_key": "k"}),
        (
            RUNNING | {"concurrency_key": "k", "queue_place": 1},
            RUNNING | {"id": "R2", "owner": 2, "concurrency_key": "k", "queue_place": 1},
        ),
        (
            RUNNING | {"concurrency_key": "k", "queue_place": 1},
            CANCELLED
            | CLAIMED
            | {"id": "R2", "owner": 2, "concurrency_key": "k", "queue_place": 1, "job_name": "b"},
        ),
    ],
)
def test_second_run_of_what_is_unique_is_rejected(
    db: apsw.Connection, first: dict[str, object], second: dict[str, object]
) -> None:
    """Ids, idempotency keys within a job, and concurrency keys with an owner are unique."""
    insert(db, "durably_runs", **first)
    with pytest.raises(apsw.ConstraintError, match="UNIQUE"):
        insert(db, "durably_runs", **second)
    assert db.execute("SELECT count(*) FROM durably_runs").get == 1


def test_queue_has_one_first_run(db: apsw.Connection) -> None:
    """No two pending runs of one key and job can both be first in their queue."""
    for number in (1, 2):
        given_run(db, id=f"R{number}", concurrency_key="k", queue_place=1)
    places = "SELECT queue_place FROM durably_runs ORDER BY run"
    assert db.execute(places).fetchall() == [(0,), (1,)]
    for queue_place in (0, 2):
        with pytest.raises(apsw.ConstraintError, match="UNIQUE"):
            db.execute("UPDATE durably_runs SET queue_place = ? WHERE id = 'R2'", (queue_place,))


def test_same_keys_of_other_jobs_are_accepted(db: apsw.Connection) -> None:
    """An idempotency key belongs to its job; a concurrency key may wait in several jobs."""
    keys = {"idempotency_key": "k", "concurrency_key": "k", "queue_place": 1}
    given_run(db, **keys)
    given_run(db, **keys | {"id": "R2", "job_name": "other"})
    assert db.execute("SELECT count(*) FROM durably_runs").get == 2


CLAIM = "status = 'running', owner = 1"
NEXT = "attempt = 2, fence = 2"
AWAKE = "waits_for = NULL, wait_name = NULL, waits_for_run = NULL, run_at_us = NULL"
SLEEP = "status = 'waiting', waits_for = 'time', wait_name = 's', run_at_us = 9, keeps_attempt = 1"
ILLEGAL = [
    # A claim takes a pending run without an owner to its next fence, and to its next attempt.
    (PENDING, f"{CLAIM}, started_at_us = 2, heartbeat_at_us = 2, fence = 1"),
    (PENDING, f"{CLAIM}, started_at_us = 2, heartbeat_at_us = 2, fence = 1, attempt = 2"),
    (PENDING, f"{CLAIM}, started_at_us = 2, heartbeat_at_us = 2, fence = 2, attempt = 1"),
    (PENDING | CLAIMED, f"{CLAIM}, attempt = 2, fence = 3"),
    (PENDING | CLAIMED, f"{CLAIM}, fence = 2"),
    (PENDING | CLAIMED, f"{CLAIM}, fence = 2, attempt = 0"),
    (PENDING | CLAIMED | {"attempt": 4}, f"{CLAIM}, fence = 2, attempt = 5"),
    (PENDING | CLAIMED | {"owner": 1}, "status = 'running', attempt = 2, fence = 2"),
    (PENDING | CLAIMED | {"run_at_us": 9}, f"{CLAIM}, {NEXT}, run_at_us = NULL"),
    (PENDING | CLAIMED | {"keeps_attempt": 1}, f"{CLAIM}, {NEXT}, keeps_attempt = 0"),
    (ASLEEP, f"{CLAIM}, {NEXT}, {AWAKE}, keeps_attempt = 0"),
    (ASLEEP, f"{CLAIM}, fence = 2, {AWAKE}, keeps_attempt = 0"),
    (CANCELLED | CLAIMED, f"{CLAIM}, {NEXT}, completed_at_us = NULL"),
    (FAILED, f"{CLAIM}, {NEXT}, completed_at_us = NULL, error = NULL"),
    # Nothing else changes the attempt or the fence.
    (RUNNING, "fence = 2"),
    (RUNNING, "fence = 0"),
    (PENDING | CLAIMED, "fence = 2"),
    (RUNNING, "status = 'pending', owner = NULL, fence = 2"),
    # Only a running run begins to wait, and then it goes on or is cancelled.
    (PENDING | CLAIMED, SLEEP),
    (CANCELLED | CLAIMED, f"{SLEEP}, completed_at_us = NULL"),
    (
        ASLEEP,
        f"status = 'completed', output = '1', completed_at_us = 3, {AWAKE}, keeps_attempt = 0",
    ),
    (ASLEEP, f"status = 'failed', error = '{{}}', completed_at_us = 3, {AWAKE}, keeps_attempt = 0"),
    (RUNNING, "attempt = 2"),
    (RUNNING, "attempt = 0, started_at_us = NULL, heartbeat_at_us = NULL"),
    (PENDING | CLAIMED, "attempt = 2"),
    (RUNNING, "attempt = 2, status = 'pending', owner = NULL"),
    (FAILED, "attempt = 2"),
    # An end changes only by retry, never a completed one.
    (COMPLETED, "status = 'pending', output = NULL, completed_at_us = NULL"),
    (COMPLETED, "status = 'failed', output = NULL, error = '{}'"),
    (COMPLETED, "status = 'cancelled', output = NULL"),
    (FAILED, "status = 'completed', output = '1', error = NULL"),
    (FAILED, "status = 'cancelled', error = NULL"),
    (CANCELLED | CLAIMED, "status = 'completed', output = '1'"),
    (CANCELLED | CLAIMED, "status = 'failed', error = '{}'"),
    # One of a session begins again by retry as well, and only so.
    (COMPLETED | SESSION, f"{CLAIM}, {NEXT}, output = NULL, completed_at_us = NULL"),
    (COMPLETED | SESSION, "status = 'failed', output = NULL, error = '{}'"),
    (COMPLETED | SESSION, "status = 'cancelled', output = NULL"),
    # One of a job only with another payload.
    (COMPLETED, "status = 'pending', output = NULL, completed_at_us = NULL, payload = payload"),
    (COMPLETED, "status = 'failed', output = NULL, error = '{}', payload = '2'"),
    # A run remains of its kind.
    (PENDING, "kind = 'session', queue_place = 3"),
    (PENDING | SESSION, "kind = 'job', queue_place = 0"),
]


@pytest.mark.parametrize(("row", "change"), ILLEGAL)
def test_transition_outside_the_state_machine_is_rejected(
    db: apsw.Connection, row: dict[str, object], change: str
) -> None:
    """The database itself keeps runs from changing in another way than by their verbs."""
    insert(db, "durably_runs", **row)
    before = db.execute("SELECT * FROM durably_runs").fetchall()
    with pytest.raises(
        apsw.ConstraintError,
        match="a claim takes|has ended changes only|begins to wait|of its kind",
    ):
        db.execute(f"UPDATE durably_runs SET {change}")
    assert db.execute("SELECT * FROM durably_runs").fetchall() == before


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (
            PENDING,
            f"{CLAIM}, attempt = 1, fence = 1, started_at_us = 2, heartbeat_at_us = 2",
        ),
        (PENDING | CLAIMED | {"attempt": 4}, f"{CLAIM}, attempt = 5, fence = 5"),
        (PENDING | CLAIMED | {"keeps_attempt": 1}, f"{CLAIM}, keeps_attempt = 0, fence = 2"),
        (RUNNING, f"{SLEEP}, owner = NULL"),
        (ASLEEP, f"status = 'pending', {AWAKE}"),
        (ASLEEP, f"status = 'cancelled', completed_at_us = 3, {AWAKE}, keeps_attempt = 0"),
        (PENDING | {"run_at_us": 9}, "run_at_us = NULL"),
        (RUNNING, "status = 'completed', owner = NULL, output = '1', completed_at_us = 3"),
        (RUNNING, "status = 'failed', owner = NULL, error = '{}', completed_at_us = 3"),
        (RUNNING, "status = 'cancelled', completed_at_us = 3"),
        (RUNNING, "status = 'pending', owner = NULL"),
        (FAILED, "status = 'pending', error = NULL, completed_at_us = NULL"),
        (CANCELLED, "status = 'pending', completed_at_us = NULL"),
        (COMPLETED | SESSION, "status = 'pending', output = NULL, completed_at_us = NULL"),
        (COMPLETED, "status = 'pending', output = NULL, completed_at_us = NULL, payload = '2'"),
        (CANCELLED | CLAIMED | {"owner": 1}, "status = 'pending', completed_at_us = NULL"),
        (PENDING | CLAIMED | {"owner": 1}, "status = 'cancelled', completed_at_us = 3"),
    ],
)
def test_transition_of_the_state_machine_is_accepted(
    db: apsw.Connection, row: dict[str, object], change: str
) -> None:
    """The changes that the verbs make pass the triggers."""
    insert(db, "durably_runs", **row)
    db.execute(f"UPDATE durably_runs SET {change}")
    assert db.changes() == 1


@pytest.mark.parametrize(
    "row", [PENDING, RUNNING, PENDING | CLAIMED | {"owner": 1}, CANCELLED | CLAIMED | {"owner": 1}]
)
def test_run_that_may_be_executing_cannot_be_deleted(
    db: apsw.Connection, row: dict[str, object]
) -> None:
    """Only a run that has ended, and that no job is inside of, can be deleted."""
    insert(db, "durably_runs", **row)
    with pytest.raises(apsw.ConstraintError, match="can be deleted"):
        db.execute("DELETE FROM durably_runs")
    assert db.execute("SELECT count(*) FROM durably_runs").get == 1


def test_deleting_a_run_takes_all_that_is_its_own(db: apsw.Connection) -> None:
    """Steps, maps and their items, logs and labels go with their run, and no other's."""
    for number in (1, 2):
        insert(db, "durably_runs", **FAILED | {"id": f"R{number}", "labels": '{"k": "v"}'})
        insert(db, "durably_steps", **STEP | {"step": number << 24, "run": number})
        insert(db, "durably_logs", **LOG | {"run": number})
        insert(db, "durably_maps", **MAP | {"run": number, "step": number << 24 | 5})
        for index in (0, 2**30 - 1):
            insert(db, "durably_items", **ITEM | {"item": (number << 30) | index})
    db.execute("DELETE FROM durably_runs WHERE run = 1")
    items = db.execute("SELECT item >> 30, item & 0x3FFFFFFF FROM durably_items").fetchall()
    assert items == [(2, 0), (2, 2**30 - 1)]
    for table in ("durably_steps", "durably_maps", "durably_logs", "durably_labels"):
        assert db.execute(f"SELECT run FROM {table}").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("table", "bad"),
    [
        *(
            ("durably_maps", MAP | change)
            for change in (
                {"run": 2},
                {"run": None},
                {"step": (2 << 24) | 5},
                {"name": ""},
                {"name": None},
                {"is_keyed": 2},
                {"status": "completed"},
                {"completed_at_us": 2},
                {"error": "{}"},
                {"attempt": 0},
                {"done": -1},
                {"failed": -1},
                {"failed": 2**30 + 1},
                {"reused": 3},
                {"reused": -1},
                {"total": -1},
                {"total": "x"},
                {"started_at_us": LATEST + 1},
                {"map": 0},
                {"map": 2**33},
            )
        ),
        *(
            ("durably_maps", ENDED_MAP | change)
            for change in (
                {"status": "failed"},
                {"status": "cancelled", "error": "{}"},
                {"status": "running"},
                {"completed_at_us": EARLIEST - 1},
            )
        ),
        *(
            ("durably_items", ITEM | change)
            for change in (
                {"output": None},
                {"error": "{}"},
                {"key": ""},
                {"key": 1.5},
                {"key": b"k"},
                {"attempts": 0},
                {"attempts": 2**31},
                {"hash": "x"},
                {"item": 5},
                {"item": -(1 << 30)},
                {"started_at_us": None},
                {"started_at_us": EARLIEST - 1},
                {"completed_at_us": LATEST + 1},
            )
        ),
    ],
)
def test_map_or_item_in_no_possible_state_is_rejected(
    db: apsw.Connection, table: str, bad: dict[str, object]
) -> None:
    """Status, error, counts and times of a map fit each other; an item has a result or an error."""
    given_run(db)
    with pytest.raises((apsw.ConstraintError, apsw.SQLError)):
        insert(db, table, **bad)
    assert db.execute(f"SELECT count(*) FROM {table}").get == 0


def test_completed_item_is_final(db: apsw.Connection) -> None:
    """The database itself keeps a result as it is; a failed item may be replaced."""
    insert(db, "durably_items", **ITEM)
    insert(db, "durably_items", **FAILED_ITEM | {"item": (1 << 30) + 1})
    for change in ("output = '2'", "output = NULL, error = '{}'", "attempts = 2"):
        with pytest.raises(apsw.ConstraintError, match="is final"):
            db.execute(f"UPDATE durably_items SET {change} WHERE output IS NOT NULL")
    db.execute("UPDATE durably_items SET output = '2', error = NULL WHERE error IS NOT NULL")
    found = db.execute("SELECT output FROM durably_items").fetchall()
    assert found == [("1",), ("2",)]


def test_key_is_unique_in_its_map(db: apsw.Connection) -> None:
    """Text and a number are different keys, and other maps may have the same; none is none."""
    insert(db, "durably_items", **ITEM | {"key": "7"})
    with pytest.raises(apsw.ConstraintError, match="UNIQUE"):
        insert(db, "durably_items", **ITEM | {"key": "7", "item": (1 << 30) + 1})
    insert(db, "durably_items", **ITEM | {"key": 7, "item": (1 << 30) + 1})
    insert(db, "durably_items", **ITEM | {"key": "7", "item": 2 << 30})
    for index in (5, 6):
        insert(db, "durably_items", **ITEM | {"item": (1 << 30) + index})


def test_number_of_a_deleted_run_is_not_used_again(db: apsw.Connection) -> None:
    """The order of triggering holds across deletions."""
    insert(db, "durably_runs", **FAILED)
    db.execute("DELETE FROM durably_runs")
    assert given_run(db) == 2


def test_number_of_a_removed_owner_is_not_used_again(db: apsw.Connection) -> None:
    """What an engine that has left still says can never be taken for another engine's."""
    db.execute("DELETE FROM durably_owners WHERE owner = 2")
    insert(
        db,
        "durably_owners",
        **{k: v for k, v in OWNER.items() if k != "owner"} | {"token": token_of("c")},
    )
    assert db.last_insert_rowid() == 3


def test_owner_of_a_run_cannot_be_removed(db: apsw.Connection) -> None:
    """An owner row stays as long as a run refers to it."""
    insert(db, "durably_runs", **RUNNING)
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        db.execute("DELETE FROM durably_owners WHERE owner = 1")


@pytest.mark.parametrize(
    ("table", "bad"),
    [
        ("durably_owners", OWNER | {"owner": 3}),  # the token is another's
        *(
            ("durably_owners", OWNER | {"owner": 3, "token": token_of("c")} | spoilt)
            for spoilt in (
                {"token": None},
                {"heartbeat_interval_us": 0},
                {"is_started": 2},
                {"beat": -1},
                {"beat_at_us": None},
                {"boot_id": None},
                {"pid": "x"},
                {"pid": -1},
                {"pid": 2**32},
                {"heartbeat_interval_us": 2**63 - 1},
                {"beat": 2**63 - 1},
                {"beat_at_us": LATEST + 1},
                {"opened_at_us": EARLIEST - 1},
                {"boot_id": "x" * 65},
                {"boot_id": "a\x1b[2J"},
                {"boot_id": "a\0b"},
                {"owner": 0},
                {"owner": 2**39},
                *(
                    {"token": token}
                    for token in (
                        "",
                        "../../victim",
                        "0" * 25,
                        "0" * 27,
                        "0" * 25 + "O",
                        "0" * 25 + "a",
                        "0" * 26 + "\0/../x",
                        "/" + "0" * 25,
                    )
                ),
            )
        ),
        *(
            ("durably_steps", STEP | spoilt)
            for spoilt in (
                {"run": 2, "step": 2 << 24},
                {"step": 2 << 24},
                {"step": 0},
                {"name": ""},
                {"name": None},
                {"status": "running"},
                {"output": None},
                {"error": "{}"},
                {"attempt": 0},
                {"attempt": 2**31},
                {"started_at_us": None},
                {"completed_at_us": None},
                {"started_at_us": LATEST + 1},
                {"completed_at_us": EARLIEST - 1},
            )
        ),
        ("durably_steps", FAILED_STEP | {"error": None}),
        ("durably_steps", FAILED_STEP | {"output": "1"}),
        ("durably_steps", STEP | {"status": "cancelled"}),
        *(
            ("durably_attempts", ATTEMPT | spoilt)
            for spoilt in (
                {"run": 2},
                {"fence": -1},
                {"attempt": 0},
                {"outcome": "running"},
                {"outcome": "failed"},
                {"error": "{}"},
                {"host": "h" * 256},
                {"pid": 2**32},
                {"started_at_us": LATEST + 1},
                {"ended_at_us": EARLIEST - 1},
                {"ended_at_us": None},
            )
        ),
        ("durably_labels", {"run": 2, "key": "k", "value": "v"}),
        ("durably_labels", {"run": 1, "key": "", "value": "v"}),
        ("durably_labels", {"run": 1, "key": "k", "value": None}),
        ("durably_logs", LOG | {"run": 2}),
        ("durably_logs", LOG | {"level": "fatal"}),
        ("durably_logs", LOG | {"message": None}),
        ("durably_logs", LOG | {"data": None}),
        *(("durably_logs", LOG | {"log": bad}) for bad in (0, 2**39)),
        *(("durably_logs", LOG | {"owner": bad}) for bad in (-1, 2**39)),
        *(("durably_logs", LOG | {"created_at_us": bad}) for bad in (EARLIEST - 1, LATEST + 1)),
    ],
)
def test_bad_row_of_another_table_is_rejected(
    db: apsw.Connection, table: str, bad: dict[str, object]
) -> None:
    """Owners, steps, labels and logs hold no impossible values and belong to a run."""
    given_run(db)
    before = db.execute(f"SELECT count(*) FROM {table}").get
    with pytest.raises(apsw.ConstraintError):
        insert(db, table, **bad)
    assert db.execute(f"SELECT count(*) FROM {table}").get == before


@pytest.mark.parametrize("second", [{"name": "b"}, {"step": (1 << 24) | 1}])
def test_second_result_of_a_step_is_rejected(
    db: apsw.Connection, second: dict[str, object]
) -> None:
    """Within a run a name is stored once, and an index is given once."""
    given_run(db)
    insert(db, "durably_steps", **STEP)
    with pytest.raises(apsw.ConstraintError, match="UNIQUE"):
        insert(db, "durably_steps", **STEP | second)


@pytest.mark.parametrize(
    "change", ["output = '2'", "status = 'failed', output = NULL, error = '{}'", "attempt = 9"]
)
def test_completed_step_cannot_be_changed(db: apsw.Connection, change: str) -> None:
    """The result of a completed step is final; of a failed one it is not."""
    given_run(db)
    insert(db, "durably_steps", **STEP)
    with pytest.raises(apsw.ConstraintError, match="a completed step is final"):
        db.execute(f"UPDATE durably_steps SET {change}")
    insert(db, "durably_steps", **FAILED_STEP | {"step": (1 << 24) | 1, "name": "b"})
    db.execute(
        "UPDATE durably_steps SET status = 'completed', output = '1', error = NULL WHERE name = 'b'"
    )
    assert db.changes() == 1


# What the current execution, with the fence 3, may store in the place of a result.
REDONE = {"output": "2", "fence": 3, "layer": 3 << 24}


@pytest.mark.parametrize(
    ("old", "change", "run"),
    [
        ({}, {"layer": None}, {}),
        ({}, {"layer": 2 << 24}, {}),
        ({}, {"layer": 4 << 24}, {}),
        ({}, {"fence": 2}, {}),
        ({}, {"fence": None}, {}),
        ({"fence": 3}, {}, {}),
        ({"layer": 3 << 24}, {}, {}),
        ({"is_manual": 1}, {}, {}),
        ({"is_manual": 1}, {"is_manual": 0}, {}),
        ({}, {"status": "failed", "output": None, "error": "{}", "layer": None}, {}),
        ({}, {"name": "b"}, {}),
        ({}, {"step": (1 << 24) | 1}, {}),
        ({}, {}, FAILED | {"owner": 1}),
        ({}, {}, FAILED),
        ({}, {}, {"fence": 4}),
    ],
)
def test_a_result_is_replaced_by_the_current_execution_alone(
    db: apsw.Connection, old: dict[str, Any], change: dict[str, Any], run: dict[str, Any]
) -> None:
    """Another result replaces it, with a layer of its own that is higher."""
    insert(db, "durably_runs", **RUNNING | {"fence": 3} | run)
    insert(db, "durably_steps", **STEP | {"fence": 1} | old)
    before = db.execute("SELECT * FROM durably_steps").fetchall()
    with pytest.raises(apsw.ConstraintError):
        update(db, "durably_steps", REDONE | change)
    assert db.execute("SELECT * FROM durably_steps").fetchall() == before
    if run or old:
        return
    update(db, "durably_steps", REDONE)
    update(db, "durably_steps", REDONE | {"output": "3", "layer": (3 << 24) + 1})
    with pytest.raises(apsw.ConstraintError, match="a completed step is final"):
        update(db, "durably_steps", REDONE | {"output": "4", "layer": (3 << 24) + 1})


@pytest.mark.parametrize(
    ("old", "change", "run", "of_map"),
    [
        ({}, {"layer": None}, {}, {}),
        ({}, {"layer": 2 << 24}, {}, {}),
        ({"layer": 3 << 24}, {}, {}, {}),
        ({"is_manual": 1}, {}, {}, {}),
        ({}, {"output": None, "error": "{}"}, {}, {}),
        ({}, {"key": "k"}, {}, {}),
        ({}, {}, FAILED | {"owner": 1}, {}),
        ({}, {}, {"fence": 4}, {}),
        ({}, {}, {}, {"fence": 2}),
        ({}, {}, {}, {"fence": None}),
    ],
)
def test_a_result_of_an_item_is_replaced_by_the_current_execution_alone(
    db: apsw.Connection,
    old: dict[str, Any],
    change: dict[str, Any],
    run: dict[str, Any],
    of_map: dict[str, Any],
) -> None:
    """The rules are those for a step; its map says which execution is the current one."""
    insert(db, "durably_runs", **RUNNING | {"fence": 3} | run)
    insert(db, "durably_maps", **MAP | {"map": 1, "fence": 3} | of_map)
    insert(db, "durably_items", **ITEM | old)
    redone = {"output": "2", "layer": 3 << 24}
    with pytest.raises(apsw.ConstraintError, match="a completed item is final"):
        update(db, "durably_items", redone | change)
    if not (run or old or of_map):
        update(db, "durably_items", redone)
        assert db.execute("SELECT output FROM durably_items").get == "2"


def update(db: apsw.Connection, table: str, values: dict[str, Any]) -> None:
    """Change all rows of a table."""
    changes = ", ".join(f"{name} = :{name}" for name in values)
    db.execute(f"UPDATE {table} SET {changes}", values)


def test_labels_are_stored_as_rows_with_their_run(db: apsw.Connection) -> None:
    """Each label of a new run can be filtered by, whatever text its value is."""
    given_run(db, labels='{"a/b": "x", "c": "\\"\\u00e9", "d": ""}')
    rows = db.execute("SELECT key, value FROM durably_labels ORDER BY key").fetchall()
    assert rows == [("a/b", "x"), ("c", '"é'), ("d", "")]


def test_readable_views_show_times_and_indexes(db: apsw.Connection) -> None:
    """Somebody with another SQLite tool sees instants as text and the index of a step."""
    insert(db, "durably_runs", **COMPLETED | {"created_at_us": 1_500_000})
    insert(db, "durably_steps", **STEP | {"step": (1 << 24) | 7})
    assert db.execute("SELECT id, created_at FROM durably_runs_readable").fetchall() == [
        ("R1", "1970-01-01T00:00:01.500Z")
    ]
    assert db.execute("SELECT name, step_index FROM durably_steps_readable").fetchall() == [
        ("a", 7)
    ]


def test_views_for_readers_show_what_is_stored(db: apsw.Connection) -> None:
    """Instants are text, a map is a step, and the newest execution is that of the run's row."""
    claimed = {"claimed_at_us": 2_500_000, "host": "here", "pid": 7, "started_at_us": 1_000_000}
    ended = {"completed_at_us": 4_000_000, "created_at_us": 500_000}
    labels = '{"a": "b"}'
    insert(db, "durably_runs", **FAILED | claimed | ended | {"labels": labels, "fence": 2})
    insert(db, "durably_steps", **STEP | {"step": (1 << 24) | 7})
    insert(db, "durably_calls", run=1, name="a", fence=1, place=0, calls=2, notes="[]")
    noted = '[{"n": 1}, {"n": 2}]'
    insert(db, "durably_calls", run=1, name="a", fence=1, place=1, calls=1, notes=noted)
    insert(db, "durably_maps", **ENDED_MAP)
    insert(db, "durably_maps", **MAP | {"name": "open", "step": (1 << 24) | 6})
    insert(db, "durably_items", **ITEM | {"key": "k"})
    insert(db, "durably_items", **FAILED_ITEM | {"item": (1 << 30) + 4})
    insert(db, "durably_attempts", **ATTEMPT)
    start = "1970-01-01T00:00:0"
    runs = db.execute("SELECT * FROM runs").fetchall()
    times = (f"{start}0.500Z", f"{start}1.000Z", f"{start}4.000Z")
    assert runs == [("R1", "job", None, "failed", 1, *times, 3.0, "1", None, "{}", labels)]
    steps = db.execute("SELECT * FROM steps ORDER BY idx").fetchall()
    zero = f"{start}0.000Z"
    assert steps == [
        ("R1", 5, "m", "completed", 1, zero, zero, None, None, 1, "[]"),
        ("R1", 7, "a", "completed", 1, zero, zero, "1", None, 4, '[{"n":1},{"n":2}]'),
    ]
    items = db.execute("SELECT * FROM items ORDER BY idx").fetchall()
    assert items == [
        ("R1", "m", "k", 0, "completed", 1, zero, zero, "1", None),
        ("R1", "m", 4, 4, "failed", 1, zero, zero, None, "{}"),
    ]
    attempts = db.execute("SELECT * FROM attempts ORDER BY started_at").fetchall()
    assert attempts == [
        ("R1", 1, "died", "host", 1, zero, zero, None, None, None),
        ("R1", 1, "failed", "here", 7, f"{start}2.500Z", f"{start}4.000Z", "{}", None, None),
    ]


def test_every_table_is_strict_and_named_as_ours(db: apsw.Connection) -> None:
    """Tables check the types of their columns, and no name collides with another program's."""
    rows = db.execute("PRAGMA table_list").fetchall()
    tables = {row[1]: row[5] for row in rows if not row[1].startswith("sqlite_")}
    of_tables = {row[1] for row in rows if row[2] == "table"} & set(tables)
    assert of_tables >= {"durably_runs", "durably_steps", "durably_owners"}
    promised = {"runs", "steps", "items", "attempts"}
    assert {name for name in tables if not name.startswith("durably_")} == promised
    assert all(tables[name] == 1 for name in of_tables)
