"""How a file gets to the newest schema, and which files are left as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from storekit import begin, connect, fresh, token_of

from durably.errors import SchemaError
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import schema

SECOND = """
    CREATE TABLE durably_more (more INTEGER PRIMARY KEY) STRICT;
    INSERT INTO durably_more VALUES (1);
"""


def schema_of(db: apsw.Connection) -> list[tuple[object, ...]]:
    return db.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
    ).fetchall()


def marks_of(db: apsw.Connection) -> tuple[int, int]:
    return (db.pragma("application_id"), db.pragma("user_version"))


def test_new_file_is_marked_and_can_shrink(tmp_path: Path) -> None:
    """A new database says whose it is, which version, and gives pages back; it uses a WAL."""
    Database(tmp_path / "test.db").close()
    db = apsw.Connection(str(tmp_path / "test.db"))
    assert marks_of(db) == (0x44757261, len(schema.migrations()))
    assert db.pragma("auto_vacuum") == 2
    assert db.pragma("journal_mode") == "wal"
    db.close()


def test_zero_byte_file_is_a_new_database(tmp_path: Path) -> None:
    """An empty file gets the tables."""
    (tmp_path / "test.db").touch()
    Database(tmp_path / "test.db").close()
    db = apsw.Connection(str(tmp_path / "test.db"))
    assert marks_of(db) == (schema.APPLICATION_ID, len(schema.migrations()))
    assert db.pragma("auto_vacuum") == 2
    db.close()


@pytest.mark.parametrize("known", range(1, len(schema.migrations()) + 2))
def test_migrating_step_by_step_equals_starting_from_scratch(tmp_path: Path, known: int) -> None:
    """Each older version is brought to the same schema as a new file, and keeps its rows."""
    scripts = [*schema.migrations(), SECOND]
    db = fresh(tmp_path / "old.db", scripts[:known])
    assert db.pragma("user_version") == known
    db.execute("INSERT INTO durably_owners VALUES (7, ?, 'b', 1, 1, 0, 0, 1, 1)", (token_of("t"),))
    schema.migrate(db, "old.db", begin(db), scripts)
    new = fresh(tmp_path / "new.db", scripts)
    assert schema_of(db) == schema_of(new)
    assert marks_of(db) == marks_of(new) == (schema.APPLICATION_ID, len(scripts))
    assert db.execute("SELECT owner FROM durably_owners").get == 7
    assert db.execute("SELECT more FROM durably_more").get == 1
    db.close()
    new.close()


def test_the_scripts_are_executed_once_to_know_what_they_make(tmp_path: Path) -> None:
    """They are not executed for each version that a new file has on its way to the newest."""
    schema.schemas.cache_clear()
    fresh(tmp_path / "new.db", list(schema.migrations())).close()
    assert schema.schemas.cache_info().misses == 1
    assert len(schema.schemas(tuple(schema.migrations()))) == len(schema.migrations()) + 1
    assert schema.schemas.cache_info().misses == 1


def test_no_script_is_executed_for_a_file_of_the_newest_version(tmp_path: Path) -> None:
    """What the scripts make is stored beside them; ``writes_the_schema.py`` writes it."""
    assert schema.newest() == schema.schemas(tuple(schema.migrations()))[-1]
    db = fresh(tmp_path / "test.db", list(schema.migrations()))
    schema.schemas.cache_clear()

    schema.migrate(db, "test.db", begin(db))

    assert schema.schemas.cache_info().misses == 0
    db.close()


def test_a_new_file_has_the_schema_that_the_scripts_make(tmp_path: Path) -> None:
    """It is made with the newest schema at once, and no script is executed for it."""
    by_scripts = fresh(tmp_path / "scripts.db", list(schema.migrations()))
    schema.schemas.cache_clear()
    at_once = connect(tmp_path / "new.db")

    schema.migrate(at_once, "new.db", begin(at_once))

    assert schema.schemas.cache_info().misses == 0
    assert schema_of(at_once) == schema_of(by_scripts)
    assert marks_of(at_once) == marks_of(by_scripts)
    at_once.close()
    by_scripts.close()


def test_what_is_stored_of_the_schema_rejects_no_file(tmp_path: Path, monkeypatch: Any) -> None:
    """What the scripts make decides, because another SQLite may write it otherwise."""
    db = fresh(tmp_path / "test.db", list(schema.migrations()))
    monkeypatch.setattr(schema, "newest", lambda: {("table", "durably_runs"): "otherwise"})

    schema.migrate(db, "test.db", begin(db))

    db.execute("CREATE TRIGGER planted AFTER INSERT ON durably_runs BEGIN SELECT 1; END")
    with pytest.raises(SchemaError, match="planted"):
        schema.migrate(db, "test.db", begin(db))
    db.close()


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    """Opening a database that is up to date writes nothing."""
    db = fresh(tmp_path / "test.db")
    before = (schema_of(db), db.total_changes())
    version = db.pragma("schema_version")
    schema.migrate(db, "test.db", begin(db))
    assert (schema_of(db), db.total_changes()) == before
    assert db.pragma("schema_version") == version
    db.close()


def test_statement_that_returns_rows_does_not_end_a_migration(tmp_path: Path) -> None:
    """All of a script is executed, also what comes after a SELECT."""
    script = "SELECT 1; CREATE TABLE durably_late (x INTEGER) STRICT;"
    db = fresh(tmp_path / "test.db", [*schema.migrations(), script])
    assert db.execute("SELECT count(*) FROM durably_late").get == 0
    db.close()


def test_migration_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    """Each version is reached in one transaction, with its mark, or not at all."""
    broken = SECOND + "CREATE TABLE durably_runs (x INTEGER);"
    db = fresh(tmp_path / "test.db")
    before = schema_of(db)
    with pytest.raises(apsw.SQLError, match="already exists"):
        schema.migrate(db, "test.db", begin(db), [*schema.migrations(), broken])
    assert not db.in_transaction
    assert schema_of(db) == before
    assert db.pragma("user_version") == len(schema.migrations())
    db.close()


def test_two_connections_migrate_at_once(tmp_path: Path) -> None:
    """The one that gets the lock first migrates; the other finds it done."""
    path = tmp_path / "test.db"
    first, second = connect(path), connect(path)
    at_once = threading.Barrier(2, timeout=10)
    errors: list[BaseException] = []

    def migrate(db: apsw.Connection) -> None:
        waits = [at_once.wait]

        def begin_at_once() -> None:
            while waits:
                waits.pop()()
            db.execute("BEGIN IMMEDIATE")

        try:
            schema.migrate(db, str(path), begin_at_once)
        except BaseException as exc:
            errors.append(exc)

    other = threading.Thread(target=migrate, args=(second,))
    other.start()
    migrate(first)
    other.join(10)
    assert errors == []
    reference = fresh(tmp_path / "reference.db")
    assert schema_of(first) == schema_of(reference)
    assert marks_of(second) == (schema.APPLICATION_ID, len(schema.migrations()))
    for db in (first, second, reference):
        db.close()


def test_engines_of_several_threads_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Opening is safe when several do it at the same moment."""
    at_once = threading.Barrier(4, timeout=10)
    failed: list[BaseException] = []

    def open_it() -> None:
        at_once.wait()
        try:
            Database(tmp_path / "test.db").close()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []


class Interrupted:
    """A connection during whose second look at a pragma something happens."""

    def __init__(self, db: apsw.Connection, looks: list[Callable[[], object]]) -> None:
        self._db = db
        self._looks = looks
        self.execute = db.execute

    def pragma(self, name: str) -> object:
        if self._looks:
            self._looks.pop()()
        return self._db.pragma(name)


def test_file_that_is_migrated_while_it_is_checked_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file to which another process gives its tables between two reads of an opening is
    not taken for another program's.
    """
    path = tmp_path / "test.db"
    other = connect(path)
    looks = [lambda: schema.migrate(other, str(path), begin(other)), lambda: None]
    version_of = schema.version_of
    monkeypatch.setattr(
        schema,
        "version_of",
        lambda db, *rest: version_of(db if db is other else Interrupted(db, looks), *rest),
    )
    Database(path).close()
    assert looks == []
    other.close()


def make(path: Path, *statements: str) -> bytes:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement).fetchall()
    db.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE t (x)"], "another program"),
        (["CREATE TABLE durably_runs (x)"], "another program"),
        (["PRAGMA application_id = 7"], "another program"),
        (["PRAGMA user_version = 7"], "another program"),
        (["PRAGMA journal_mode = wal", "CREATE TABLE t (x)"], "another program"),
        ([f"PRAGMA application_id = {schema.APPLICATION_ID}", "PRAGMA user_version = 99"], "newer"),
    ],
)
def test_file_that_is_not_ours_is_left_as_it_is(
    tmp_path: Path, statements: list[str], message: str
) -> None:
    """Another program's database and a newer durably's are rejected without a byte changed."""
    path = tmp_path / "test.db"
    before = make(path, *statements)
    with pytest.raises(SchemaError, match=message):
        Database(path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["test.db"]


def test_log_of_a_foreign_file_is_left_as_it_is(tmp_path: Path) -> None:
    """What another program has not copied from its WAL yet stays in the WAL."""
    path = tmp_path / "test.db"
    make(path, "PRAGMA journal_mode = wal")
    db = apsw.Connection(str(path))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute("CREATE TABLE t (x)")
    db.close()
    before = {name: (tmp_path / name).read_bytes() for name in ("test.db", "test.db-wal")}
    assert before["test.db-wal"]
    with pytest.raises(SchemaError, match="another program"):
        Database(path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    """Text is not overwritten."""
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    with pytest.raises(SchemaError, match="not an SQLite database"):
        Database(path)
    assert path.read_text() == "remember the milk\n" * 100


def test_newer_version_is_seen_under_the_write_lock(tmp_path: Path) -> None:
    """A file that becomes newer while one waits for the lock is rejected as well."""
    db = fresh(tmp_path / "test.db")

    def begin_late() -> None:
        db.pragma("user_version", 99)
        db.execute("BEGIN IMMEDIATE")

    with pytest.raises(SchemaError, match="newer"):
        schema.migrate(db, "test.db", begin_late)
    assert not db.in_transaction
    assert db.pragma("user_version") == 99
    db.close()


def test_version_below_zero_is_rejected(tmp_path: Path) -> None:
    """No version is below zero: nothing is migrated, and the file stays as it is."""
    path = tmp_path / "x.db"
    db = fresh(path, schema.migrations()[:1])
    db.pragma("user_version", -1)
    db.close()
    with pytest.raises(SchemaError, match="schema version -1"):
        Database(path)
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == -1
    db.close()
