"""The checks that every crash test ends with find each kind of damage, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
import pytest
from invariants import QUERIES, SEQUENTIAL, check, check_history

import durably
from durably.plugins import LogPersistence


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with runs of every status, a queue behind a held key, steps, labels and logs."""
    path = tmp_path_factory.mktemp("sound") / "runs.db"

    @durably.job
    def work(step: durably.StepContext, payload: str | None = None) -> int:
        for n in range(3):
            step.run(f"step-{n}", int)
        step.log.info("done")
        if payload == "fail":
            raise ValueError
        return 3

    app = durably.Durably(path, jobs=[work])
    try:
        app.use(LogPersistence())
        handle = app.jobs["work"]
        handle.trigger(labels={"a": "b"}, idempotency_key="1")
        handle.trigger("fail", idempotency_key="2")
        app.run_until_idle()
        app.cancel(handle.trigger())
        for _ in range(3):
            handle.trigger(concurrency_key="free")
        for _ in range(3):
            handle.trigger(concurrency_key="held")
        handle.trigger(concurrency_key="other")
        handle.trigger()
    finally:
        app.close()
    # As a process leaves it that dies in the middle of a run.
    damage(
        path,
        """
        INSERT INTO durably_owners
            (token, boot_id, pid, heartbeat_interval_us, beat_at_us, opened_at_us)
        VALUES ('token', '', 1, 1, 1, 1);
        UPDATE durably_runs
        SET status = 'running', owner = last_insert_rowid(), attempt = attempt + 1,
            started_at_us = 1, heartbeat_at_us = 1
        WHERE run = (SELECT min(run) FROM durably_runs WHERE concurrency_key = 'held');
        """,
    )
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage, made by nobody who has it open."""
    copy = tmp_path / "runs.db"
    shutil.copy(sound, copy)
    assert check(copy, is_sequential=True) == []
    return copy


def damage(path: Path, sql: str) -> None:
    """Execute *sql* against everything that the schema does to prevent it."""
    db = apsw.Connection(str(path))
    db.pragma("foreign_keys", False)
    db.pragma("ignore_check_constraints", True)
    db.execute(sql).fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


# Takes away what would refuse the damage; the findings about the schema are expected then.
UNGUARDED = "".join(
    f"DROP TRIGGER durably_{name};"
    for name in (
        "claim_raises_attempt",
        "end_is_final",
        "delete_only_ended",
        "completed_step_is_final",
        "queue_rejoin",
        "queue_leave",
        "queue_key_taken",
        "queue_key_freed",
        "queue_join_new",
        "queue_starts_behind",
    )
) + "".join(
    f"DROP INDEX durably_runs_{name};" for name in ("idempotency", "key_holder", "queue_first")
)
PENDING = "(SELECT run FROM durably_runs WHERE concurrency_key = 'other')"
FIRST = "(SELECT min(run) FROM durably_runs WHERE concurrency_key = 'free')"
PLAIN = "(SELECT max(run) FROM durably_runs WHERE concurrency_key IS NULL)"
DONE = "(SELECT run FROM durably_runs WHERE status = 'completed')"

DAMAGES = {
    "a running run has no owner": "UPDATE durably_runs SET owner = NULL WHERE status = 'running'",
    "a running run has no heartbeat": (
        "UPDATE durably_runs SET heartbeat_at_us = NULL WHERE status = 'running'"
    ),
    "a completed or failed run has an owner": (
        f"UPDATE durably_runs SET owner = 1 WHERE run = {DONE}"
    ),
    "a run's status is unknown": f"UPDATE durably_runs SET status = 'odd' WHERE run = {PLAIN}",
    "a run that has not ended has an end": (
        f"UPDATE durably_runs SET completed_at_us = 1 WHERE run = {PLAIN}"
    ),
    "an output without completion": f"UPDATE durably_runs SET output = '1' WHERE run = {PLAIN}",
    "an error without failure": f"UPDATE durably_runs SET error = '{{}}' WHERE run = {PLAIN}",
    "a start without an attempt": f"UPDATE durably_runs SET attempt = 1 WHERE run = {PLAIN}",
    "an owner of runs is not registered": (
        "UPDATE durably_runs SET owner = 99 WHERE status = 'running'"
    ),
    "a key is held by more than one run": (
        "UPDATE durably_runs SET owner = 1 WHERE concurrency_key = 'held'"
    ),
    "an idempotency key leads to more than one run": "UPDATE durably_runs SET idempotency_key = 1",
    "a run without a key has a place in a queue": (
        f"UPDATE durably_runs SET queue_place = 1 WHERE run = {PLAIN}"
    ),
    "a queue has no first run": f"UPDATE durably_runs SET queue_place = 1 WHERE run = {FIRST}",
    "a queue has no first run, or more than one": (
        "UPDATE durably_runs SET queue_place = 0 WHERE concurrency_key = 'free'"
    ),
    "the first run of a queue is not the one": (
        f"UPDATE durably_runs SET queue_place = run <> {FIRST} + 1 WHERE concurrency_key = 'free'"
    ),
    "the first run of a queue does not know": (
        f"UPDATE durably_runs SET queue_place = 2 WHERE run = {PENDING}"
    ),
    "the first run of a queue does not know whether": (
        "UPDATE durably_runs SET queue_place = 0 WHERE concurrency_key = 'held' AND queue_place = 2"
    ),
    "a step has no run": f"DELETE FROM durably_runs WHERE run = {DONE}",
    "foreign key": f"DELETE FROM durably_runs WHERE run = {DONE}",
    "a step lies at another run's place": (
        f"UPDATE durably_steps SET run = 99 WHERE run = {DONE} AND name = 'step-0'"
    ),
    "a step's result, error and status do not fit": "UPDATE durably_steps SET output = NULL",
    "a step was stored by an attempt": "UPDATE durably_steps SET attempt = 7",
    "labels and label rows do not agree": "DELETE FROM durably_labels",
    "labels and label rows": "UPDATE durably_labels SET value = 'c'",
    "a log line has no run": "UPDATE durably_logs SET run = 99",
    "the steps of a sequential run leave a gap": "DELETE FROM durably_steps WHERE name = 'step-1'",
    "a later step of a sequential run": (
        f"UPDATE durably_runs SET attempt = 2 WHERE run = {DONE};"
        f"UPDATE durably_steps SET attempt = 2 WHERE run = {DONE} AND name = 'step-1'"
    ),
}

SCHEMA_DAMAGES = {
    "schema: trigger durably_end_is_final is missing": "DROP TRIGGER durably_end_is_final",
    "schema: index durably_runs_key_holder is missing": "DROP INDEX durably_runs_key_holder",
    "schema: table planted is foreign": "CREATE TABLE planted (x)",
    "schema: trigger planted is foreign": (
        "CREATE TRIGGER planted AFTER INSERT ON durably_runs BEGIN SELECT 1; END"
    ),
    "schema: view durably_runs_readable was changed": (
        "DROP VIEW durably_runs_readable; CREATE VIEW durably_runs_readable AS SELECT 1"
    ),
    "application_id is 7": "PRAGMA application_id = 7",
    "user_version is 99": "PRAGMA user_version = 99",
}


@pytest.mark.parametrize("finding", DAMAGES)
def test_damage_of_rows_is_found(path: Path, finding: str) -> None:
    """Rows that the schema would refuse are found when it did not."""
    damage(path, UNGUARDED + DAMAGES[finding])
    assert any(each.startswith(finding) for each in check(path, is_sequential=True))


@pytest.mark.parametrize("finding", SCHEMA_DAMAGES)
def test_damage_of_the_schema_is_found(path: Path, finding: str) -> None:
    """A schema that is not the migrations' is found, and nothing else is said."""
    damage(path, SCHEMA_DAMAGES[finding])
    assert [each.startswith(finding) for each in check(path)] == [True]


def test_each_query_has_a_damage() -> None:
    """Every query is proven to find something, but those whose damage is kept from being made by a
    constraint of a table, which cannot be dropped.
    """
    impossible = {
        "two owners share a lock",  # UNIQUE
        "two runs share an id",  # UNIQUE
        "two steps of a run share a name",  # UNIQUE
    }
    proven = {
        query
        for query in QUERIES | SEQUENTIAL
        if any(query.startswith(finding) for finding in DAMAGES)
    }
    assert proven == (QUERIES | SEQUENTIAL).keys() - impossible


def test_what_must_be_tidy(path: Path) -> None:
    """Owners and lock files are found where nobody may be, and runs where none may be left."""
    (path.parent / "runs.db.owner-token").touch()
    found = check(path, is_idle=True, is_finished=True)
    assert sum(each.startswith("an owner is registered") for each in found) == 1
    assert sum(each.startswith("a run has an owner") for each in found) == 1
    assert sum(each.startswith("a lock file is left") for each in found) == 1
    assert sum(each.startswith("a run has not ended") for each in found) == 8


def test_damaged_bytes_are_found(path: Path) -> None:
    """Pages that somebody has overwritten are found, wherever they are."""
    content = bytearray(path.read_bytes())
    size = 4096
    for page in range(1, len(content) // size):
        damaged = content.copy()
        damaged[page * size : (page + 1) * size] = bytes(size)
        path.write_bytes(damaged)
        assert check(path) != [], page
    path.write_bytes(b"no database at all" * 500)
    assert check(path)[0].startswith("unreadable")
    path.unlink()
    assert check(path) == [f"{path} is not there"]
    assert not path.exists()


def test_history() -> None:
    """What was executed again after its checkpoint, or gave another result, is found."""
    good = ["effect r s 1\n", "effect r s 2\n", "returned r s 2\n", "returned r s 2\n", "eff"]
    assert check_history(good) == []
    assert check_history([*good[:3], "effect r s 3\n"]) == [
        "executed again after its checkpoint: r s 3"
    ]
    assert check_history([*good[:3], "returned r s 3\n"]) == [
        "another result: r s 3, was 2",
        "not the last execution's result: r s 3",
    ]
    assert check_history(["effect r s 1\n", "effect r s 2\n", "returned r s 1\n"]) == [
        "not the last execution's result: r s 1"
    ]
