"""Other programs and other libraries that read the file of a running engine harm nothing."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path

import apsw
import pytest
from children import Child
from databases import open_database
from invariants import check

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard needs OFD locks")


def test_another_process_reads_with_another_library(tmp_path: Path) -> None:
    """Another process sees every run at once with Python's sqlite3, opened and closed each time."""
    database = tmp_path / "runs.db"

    @durably.job
    def work(step: durably.StepContext) -> int:
        return step.run("one", int)

    with (
        durably.Durably(database, jobs=[work]) as app,
        Child("counts_with_sqlite3", database) as reader,
    ):
        reader.expect("ready")
        for n in range(1, 20):
            app.jobs["work"].trigger_and_wait(timeout=20)
            reader.say()
            reader.expect(str(n))
    assert check(database, is_idle=True, is_finished=True) == []


@pytest.mark.skipif(
    sqlite3.sqlite_version_info < (3, 38), reason="Python's SQLite does not know strict tables"
)
def test_the_schema_asks_no_more_of_sqlite_than_others_have(tmp_path: Path) -> None:
    """Python's sqlite3, which is older than durably's own, evaluates every constraint there is."""
    database = tmp_path / "runs.db"

    @durably.job
    def work(step: durably.StepContext) -> int:
        return step.run("one", int)

    with durably.Durably(database, jobs=[work]) as app:
        app.jobs["work"].trigger_and_wait(labels={"a": "b"}, timeout=20)
    with Child("rewrites_with_sqlite3", database) as other:
        other.expect("ok")
        other.expect("written")


@pytest.mark.parametrize("how", ["sqlite3", "open", "copy"])
def test_code_in_the_same_process_that_opens_the_file(tmp_path: Path, how: str) -> None:
    """Two processes in which other code opens and closes the database's files between any two
    calls, with another SQLite library or with none, lose nothing that was acknowledged.

    What the other library reads meanwhile is its own affair: see docs/reliability.md.
    """
    database = tmp_path / "runs.db"
    with (
        Child("opens_its_own_file", database, how, 60) as first,
        Child("opens_its_own_file", database, how, 60) as second,
    ):
        for child in (first, second):
            child.expect("ready")
        for child in (first, second):
            child.say()
        acknowledged = first.rest() + second.rest()
    assert len(set(acknowledged)) == 120
    assert check(database, is_sequential=True, is_idle=True, is_finished=True) == []
    app = durably.Durably(database)
    try:
        for run_id in acknowledged:
            run = app.get_run(run_id)
            assert (run.status, run.output, run.completed_steps) == ("completed", 3, 3)
    finally:
        app.close()


@pytest.mark.parametrize("is_log_copied", [False, True])
def test_read_in_progress_keeps_its_snapshot(tmp_path: Path, is_log_copied: bool) -> None:
    """A read in the middle of which other code of its process closes the files, and another
    process writes and checkpoints, sees to its end what it saw at its beginning.
    """
    path = tmp_path / "runs.db"
    app = durably.Durably(path, jobs=[durably.Job("work", lambda step, payload: payload)])
    try:
        app.jobs["work"].batch_trigger(["x" * 3000] * 200)
        if is_log_copied:
            app._store.database.care.wal_checkpoint(above_bytes=0)
        with Child("begins_the_wal_anew", path) as writer:
            writer.expect("ready")

            def read(db: apsw.Connection) -> list[list[tuple[object, ...]]]:
                query = "SELECT run, updated_at_us FROM durably_runs ORDER BY run"
                db.pragma("cache_size", 1)
                db.execute("BEGIN")
                seen = [db.execute(query).fetchall()]
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{path}{suffix}").open("rb").close()
                writer.say()
                writer.expect("written")
                seen.append(db.execute(query).fetchall())
                db.execute("ROLLBACK")
                return seen

            first, again = app._store.database.read(read)
            assert again == first
            assert len(first) == 200
            # Afterwards the log is begun anew.
            writer.say()
            writer.expect("written")
            assert app._store.database.read(read)[0] != first
    finally:
        app.close()
    assert check(path, is_idle=True) == []


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with a completed run, closed."""
    path = tmp_path / "runs.db"

    @durably.job
    def work(step: durably.StepContext) -> None:
        step.run("one", str, "kept" * 6000)

    with durably.Durably(path, jobs=[work]) as app:
        app.jobs["work"].trigger_and_wait(timeout=20)
    return path


def test_damaged_file_is_a_clear_error(database: Path) -> None:
    """A file whose beginning was overwritten, or that was cut off, is a DatabaseError that says so
    and carries the cause; it is left as it is.
    """
    sound = database.read_bytes()
    damages = {
        "beginning": bytes(200) + sound[200:],
        "text": b"this is a letter, not a database\n" * 300,
        "cut off": sound[: len(sound) // 2],
    }
    for name, content in damages.items():
        database.write_bytes(content)
        with pytest.raises(durably.DurablyError) as caught:
            durably.Durably(database).get_runs()
        assert isinstance(caught.value, durably.DatabaseError | durably.SchemaError), name
        assert str(database) in str(caught.value), name
        if isinstance(caught.value, durably.DatabaseError):
            assert isinstance(caught.value.__cause__, apsw.Error), name
        assert database.read_bytes() == content, name


def overwritten(database: Path, pages_before_the_end: int) -> None:
    """Overwrite one of the pages of a large result, the last of which holds text alone."""
    size = 4096
    content = bytearray(database.read_bytes())
    page = content.rindex(b"kept" * 20) // size - pages_before_the_end
    content[page * size + 4 : (page + 1) * size] = b"\xff" * (size - 4)
    if pages_before_the_end:
        content[page * size : page * size + 4] = b"\xff" * 4  # where it goes on
    database.write_bytes(content)


def test_damage_met_later_is_a_clear_error(database: Path) -> None:
    """Damage in the middle of the file is a DatabaseError of the call that meets it; the engine can
    be closed, and what lies elsewhere stays readable.
    """
    overwritten(database, 2)
    app = durably.Durably(database)
    try:
        (run,) = app.get_runs()
        assert run.status == "completed"
        with pytest.raises(durably.DatabaseError, match="damaged") as caught:
            app.get_steps(run)
        assert str(database) in str(caught.value)
        assert isinstance(caught.value.__cause__, apsw.CorruptError)
        assert app.count_runs() == 1
    finally:
        app.close()


def test_damage_of_a_text_costs_its_row_alone(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A step whose result is not text any more is left out of the list, with a warning."""
    overwritten(database, 0)
    app = durably.Durably(database)
    try:
        (run,) = app.get_runs()
        assert "one" not in {step.name for step in app.get_steps(run)}
        assert f"step 'one' of run '{run.id}' cannot be read" in caplog.text
    finally:
        app.close()


FOREIGN = {
    "another program's": "CREATE TABLE mine (x); INSERT INTO mine VALUES (1);",
    "another application id": "PRAGMA application_id = 7; CREATE TABLE mine (x);",
    "a newer schema": "PRAGMA user_version = 9;",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("is_wal", [False, True])
def test_foreign_file_is_rejected_and_left_untouched(
    tmp_path: Path, kind: str, is_wal: bool
) -> None:
    """Another program's database and a newer durably's are rejected with SchemaError, byte by byte
    as they were, with no file left beside them.
    """
    path = tmp_path / "foreign.db"
    if kind == "a newer schema":
        durably.Durably(path).close()
    db = open_database(path)
    db.pragma("journal_mode", "wal" if is_wal else "delete")
    db.execute(FOREIGN[kind])
    db.close()
    for beside in tmp_path.glob("foreign.db.*"):
        beside.unlink()
    before = path.read_bytes()
    with pytest.raises(durably.SchemaError, match=r"foreign\.db"):
        durably.Durably(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["foreign.db"]


def test_foreign_file_with_a_log_is_left_with_it(tmp_path: Path) -> None:
    """Another program's database that it left with a write-ahead log keeps that log."""
    source, path = tmp_path / "source.db", tmp_path / "foreign.db"
    db = open_database(source)
    db.pragma("journal_mode", "wal")
    db.execute("CREATE TABLE mine (x)")
    for suffix in ("", "-wal"):
        shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    db.close()
    before = [Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")]
    with pytest.raises(durably.SchemaError):
        durably.Durably(path)
    assert [Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")] == before
