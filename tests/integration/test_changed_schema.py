"""A file whose schema somebody has changed: rejected where durably's promises hang on it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from damage import HARMLESS, SCHEMA_DAMAGES, change
from databases import open_database

import durably
from durably.store.sqlite.sql import schema
from durably.testing import check


@durably.job
def work(step: durably.StepContext, payload: str) -> str:
    return step.run("one", str.upper, payload)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a completed run and a pending one that has labels, which nobody has open."""
    database = tmp_path / "runs.db"
    app = durably.Durably(database, jobs=[work])
    try:
        app.jobs["work"].trigger("first")
        app.run_until_idle()
        app.jobs["work"].trigger("second", labels={"a": "b"})
    finally:
        app.close()
    return database


@pytest.mark.parametrize("difference", SCHEMA_DAMAGES)
def test_what_somebody_did_to_durablys_schema_is_rejected(path: Path, difference: str) -> None:
    """A planted trigger or table, a changed or missing guard: a SchemaError that names it, and the
    file stays as it was.
    """
    change(path, SCHEMA_DAMAGES[difference])
    before = path.read_bytes()
    with pytest.raises(durably.SchemaError) as caught:
        durably.Durably(path, jobs=[work])
    assert difference in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert not path.with_name("runs.db-wal").exists()


def test_a_file_that_is_rejected_keeps_the_log_that_a_crash_has_left(path: Path) -> None:
    """What is in it is not copied into the file."""
    left = path.with_name("left.db")
    db = open_database(path)
    db.execute("CREATE TRIGGER innocent AFTER UPDATE ON durably_runs BEGIN SELECT 1; END")
    for suffix in ("", "-wal", ".writer"):
        shutil.copy(f"{path}{suffix}", f"{left}{suffix}")
    db.close()
    before = [Path(f"{left}{suffix}").read_bytes() for suffix in ("", "-wal")]
    with pytest.raises(durably.SchemaError, match="innocent"):
        durably.Durably(left, jobs=[work])
    assert [Path(f"{left}{suffix}").read_bytes() for suffix in ("", "-wal")] == before


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_users_add_under_names_of_their_own_is_accepted(path: Path, sql: str) -> None:
    """Tables, indexes and views of somebody else in the file are no reason to reject it."""
    change(path, sql)
    with durably.Durably(path, jobs=[work]) as app:
        (run,) = app.get_runs(labels={"a": "b"})
        assert app.wait(run).output == "SECOND"
    assert check(path) == []


# What a planted trigger could have done with each of our writes.
ACTIONS = {
    "change the result": "UPDATE durably_runs SET output = '\"forged\"' WHERE run = NEW.run",
    "undo the write": "SELECT RAISE(IGNORE)",
    "refuse the write": "SELECT RAISE(ABORT, 'no')",
    "lose what was done": "DELETE FROM durably_steps",
}


@pytest.mark.parametrize(
    "event", ["AFTER UPDATE ON durably_runs", "BEFORE INSERT ON Durably_Steps"]
)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_planted_trigger_never_runs(path: Path, event: str, action: str) -> None:
    """An engine does not open a file in which a trigger would run with its writes, whatever case
    the trigger names the table in.
    """
    change(path, f"CREATE TRIGGER innocent {event} BEGIN {ACTIONS[action]}; END")
    with pytest.raises(durably.SchemaError, match="trigger 'innocent' is not durably's"):
        durably.Durably(path, jobs=[work])
    change(path, "DROP TRIGGER innocent")
    with durably.Durably(path, jobs=[work]) as app:
        outputs = [app.wait(run).output for run in app.get_runs()]
    assert outputs == ["SECOND", "FIRST"]


def test_names_in_the_file_are_shown_harmlessly(path: Path) -> None:
    """The error shows a planted name without its control characters, and not all of a long one."""
    name = "x\x1b[2J\n\u202e" + "y" * 5000
    for number in range(9):
        change(path, f'CREATE VIEW "durably_{number}{name}" AS SELECT 1')
    with pytest.raises(durably.SchemaError) as caught:
        durably.Durably(path)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 1500
    assert "and 4 more" in text


def test_a_trigger_in_an_older_file_is_rejected_before_it_is_migrated(tmp_path: Path) -> None:
    """What is planted in a file of an older version does not run with its migration."""
    db = open_database(tmp_path / "old.db")
    scripts = schema.migrations()

    def begin() -> None:
        db.execute("BEGIN IMMEDIATE")

    schema.migrate(db, "old.db", begin, scripts)
    newer = [*scripts, "UPDATE durably_runs SET updated_at_us = 1"]
    db.execute("CREATE TRIGGER planted AFTER UPDATE ON durably_runs BEGIN SELECT 1; END")
    with pytest.raises(durably.SchemaError, match="planted"):
        schema.migrate(db, "old.db", begin, newer)
    assert db.pragma("user_version") == len(scripts)
    db.execute("DROP TRIGGER planted")
    schema.migrate(db, "old.db", begin, newer)
    assert db.pragma("user_version") == len(newer)
    db.close()


def test_a_file_that_is_being_migrated_is_not_taken_for_a_changed_one(tmp_path: Path) -> None:
    """Engines that open a new file while others make its tables see all of them or none."""
    failed: list[BaseException] = []
    for number in range(20):
        barrier = threading.Barrier(4)

        def open_at_once(path: Path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(20)
            try:
                durably.Durably(path).close()
            except BaseException as exc:
                failed.append(exc)

        path = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=open_at_once, args=(path,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
