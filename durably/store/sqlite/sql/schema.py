"""The versions of the schema, and the migration of a file to the newest one.

Each version is one numbered file of ``migrations/``; it is applied, and recorded in
``user_version``, in one transaction, under SQLite's write lock. Several processes may open
a new file at once: one migrates, the others find it done.

The file is input: a program that can write it can plant a trigger that runs with durably's writes,
or remove one that keeps a promise. So durably's part of the file must be what the scripts make,
word for word, or the file is rejected.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, cast

import apsw

from durably.errors import SchemaError
from durably.store import bounds

# The scripts, oldest first. The module's loader reads them, so that the package may be in a zip
# file: importlib.resources does the same and takes an eighth of the import of all of durably.
_MIGRATIONS: Final = (
    "0001_initial.sql",
    "0002_bounds_and_turns.sql",
    "0003_fences_and_waits.sql",
    "0004_sessions.sql",
    "0005_items.sql",
    "0006_attempts_and_views.sql",
    "0007_waits.sql",
    "0008_keys_of_waiting_runs.sql",
    "0009_blobs.sql",
    "0010_unusual_runs.sql",
    "0011_tries.sql",
    "0012_ends_of_ids.sql",
    "0013_by_hand.sql",
    "0014_calls.sql",
    "0015_code.sql",
    "0016_held_items.sql",
    "0017_layers.sql",
    "0018_cheaper_rules.sql",
)

# What the scripts make, so that opening a file need not execute them in memory, and a new file not
# one after the other, which takes most of the time. ``tests/programs/writes_the_schema.py`` writes
# it.
_NEWEST: Final = "newest.json"

# "Dura" in ASCII: marks a durably database among other SQLite files.
APPLICATION_ID: Final = 0x44757261

_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)"
_OBJECTS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"

# The tables whose numbers are never used again: the column with the number, and the highest one.
_NUMBERED: Final = {
    "durably_runs": ("run", bounds.MOST_RUNS),
    "durably_owners": ("owner", bounds.MOST_RUNS),
    "durably_logs": ("log", bounds.MOST_RUNS),
    "durably_maps": ("map", bounds.MOST_MAPS),
}
_IS_UNSOUND_SEQUENCE: Final = """
    SELECT EXISTS (SELECT 1 FROM sqlite_sequence
                   WHERE name = :table AND (typeof(seq) <> 'integer' OR seq < 0 OR seq >= :most))"""

_PREFIX: Final = "durably_"
# SQLite makes what begins so itself.
_BY_SQLITE: Final = "sqlite_"
# The views for those who read the file. No statement of durably's uses them, so a file in which the
# user has something else by such a name, or nothing, is as good.
_PUBLIC: Final = frozenset({"runs", "steps", "items", "attempts"})
# A table of that name would hide the function that durably's statements use.
_HIDING: Final = frozenset({"json_each"})
# How many differences an error names.
_MOST_NAMED: Final = 5


class _Scripts(Sequence[str]):
    """The scripts of the package. Each is read when it is needed: a new file needs none of them."""

    def __len__(self) -> int:
        return len(_MIGRATIONS)

    def __getitem__(self, place: Any) -> Any:
        found = _MIGRATIONS[place]
        return _read(found) if isinstance(found, str) else [*map(_read, found)]


_scripts: Final = _Scripts()


def migrations() -> Sequence[str]:
    """Return the scripts, oldest first; the n-th leads to version n."""
    return _scripts


class _Loader(Protocol):
    """The loader of a module, from a folder, a zip file or an executable."""

    def get_data(self, path: str) -> bytes: ...


def _read(name: str) -> str:
    loader = cast("_Loader", __spec__.loader)
    path = os.path.join(os.path.dirname(__file__), "migrations", name)
    return loader.get_data(path).decode()


class Difference(NamedTuple):
    """A part of a file's schema that is not as durably makes it."""

    kind: str
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!a:.80} {self.problem}"


@functools.cache
def schemas(scripts: tuple[str, ...]) -> tuple[dict[tuple[str, str], str | None], ...]:
    """Return the schema of each version from 0 on: the SQL text by type and name."""
    fresh = apsw.Connection(":memory:")
    try:
        made = [_schema_in(fresh)]
        for script in scripts:
            fresh.execute(script, can_cache=False).fetchall()
            made.append(_schema_in(fresh))
        return tuple(made)
    finally:
        fresh.close()


def _schema_in(db: apsw.Connection) -> dict[tuple[str, str], str | None]:
    rows: list[Any] = db.execute(_OBJECTS).fetchall()
    return {(kind, name): sql for kind, name, _, sql in rows}


@functools.cache
def newest() -> dict[tuple[str, str], str | None]:
    """Return the schema of the newest version, as ``schemas`` does, as it is stored beside them."""
    return {(kind, name): sql for kind, name, sql in json.loads(_read(_NEWEST))}


def differences(db: apsw.Connection, scripts: Sequence[str], version: int) -> list[Difference]:
    """Return how durably's part of the file's schema differs from that of a version.

    Tables and views that were added under names of their own are left alone, except for what takes
    part in durably's writes: a trigger, the expressions of an index, and a foreign key, which
    blocks a deletion or runs triggers of its own after one. Reads only.
    """
    is_newest = scripts is _scripts and version == len(scripts)
    if is_newest and not _differences(db, newest()):
        return []
    # This SQLite may write a text otherwise than the one that has written the newest schema.
    return _differences(db, schemas(tuple(scripts))[version])


def _differences(
    db: apsw.Connection, expected: dict[tuple[str, str], str | None]
) -> list[Difference]:
    found = []
    present = set()
    rows: list[Any] = db.execute(_OBJECTS).fetchall()
    for kind, name, table, sql in rows:
        present.add((kind, name))
        if (kind, name) in expected:
            if expected[kind, name] != sql and name not in _PUBLIC:
                found.append(Difference(kind, name, "was changed"))
        elif (
            _is_ours(name)
            or name.lower() in _HIDING
            or (kind in ("trigger", "index") and _is_ours(table))
        ):
            found.append(Difference(kind, name, "is not durably's"))
        elif kind == "table" and sql is not None and _PREFIX in sql.lower():
            found += _foreign_keys(db, name, sql)
    missing = (each for each in expected.keys() - present if each[1] not in _PUBLIC)
    return sorted([*found, *(Difference(kind, name, "is missing") for kind, name in missing)])


def _is_ours(name: str) -> bool:
    return name.lower().startswith(_PREFIX)


def _foreign_keys(db: apsw.Connection, name: str, sql: str) -> list[Difference]:
    """Return the foreign keys of another program's table to durably's tables.

    SQLite itself rejects a file in which a name differs from that in the text.
    """
    if sql.lower().startswith("create virtual"):
        return []  # it has no foreign keys, and reading them would load its module
    quoted = name.replace('"', '""')
    rows: list[Any] = db.execute(f'PRAGMA foreign_key_list("{quoted}")').fetchall()
    parents = sorted({row[2] for row in rows if _is_ours(row[2])})
    named = ", ".join(f"{parent!a:.80}" for parent in parents)
    return [Difference("table", name, f"has a foreign key to {named}")] if parents else []


def version_of(db: apsw.Connection, path: str, scripts: Sequence[str]) -> int:
    """Return the schema version of the file, 0 if it is new.

    Reads only. Must be called inside a transaction.

    Raises:
        SchemaError: the file is another program's, or a newer durably's, or its schema is not
            the one that *scripts* make.
    """
    application_id = db.pragma("application_id")
    version = db.pragma("user_version")
    if application_id == 0 and version == 0 and is_empty(db):
        _require_utf8(db, path)
        return 0
    if application_id != APPLICATION_ID:
        raise not_ours(path)
    if version < 0:
        raise SchemaError(
            f"{path!r} has the schema version {version}, which durably never writes; it was left "
            "as it is. Restore a copy"
        )
    if version > len(scripts):
        raise too_new(path, version, len(scripts))
    _require_utf8(db, path)
    found = differences(db, scripts, version)
    if found:
        named = "; ".join(map(str, found[:_MOST_NAMED]))
        more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise SchemaError(
            f"the schema of {path!r} was changed: {named}{more}. It was left as it is. "
            "Undo that with an SQLite tool (DROP INDEX, DROP TRIGGER; make a table again without "
            "its foreign key), or restore a copy"
        )
    return int(version)


def _require_utf8(db: apsw.Connection, path: str) -> None:
    encoding = db.pragma("encoding")
    if encoding != "UTF-8":
        raise SchemaError(
            f"{path!r} holds its text as {encoding}, which durably never does; it was left as it "
            "is. Give durably a file of its own, or restore a copy"
        )


def is_marked(db: apsw.Connection) -> bool:
    """Return whether durably has made the file, or another program that writes its mark."""
    return bool(db.pragma("application_id") == APPLICATION_ID)


def is_empty(db: apsw.Connection) -> bool:
    """Return whether the file has no tables."""
    return bool(db.execute(_IS_EMPTY).get)


def not_ours(path: str) -> SchemaError:
    """Return the error for a database of another program."""
    return SchemaError(
        f"{path!r} is a database of another program, not durably's; it was left as it "
        "is. Give durably a file of its own."
    )


def too_new(path: str, version: int, newest: int) -> SchemaError:
    """Return the error for a database of a version that this durably does not know."""
    return SchemaError(
        f"{path!r} was written by a newer durably (schema {version}; this one knows "
        f"{newest}); it was left as it is. Update durably to use it."
    )


def not_a_database(path: str) -> SchemaError:
    """Return the error for a file that is not a database, such as text."""
    return SchemaError(
        f"{path!r} is not an SQLite database, or is encrypted; it was left as it is. Give durably "
        "a file of its own."
    )


def migrate(
    db: apsw.Connection, path: str, begin: Callable[[], None], scripts: Sequence[str] | None = None
) -> None:
    """Migrate the file to the newest version, in one transaction for each version.

    A new file is made with the newest schema at once. Foreign keys are not enforced meanwhile, and
    the connection may change the schema's text.

    Args:
        begin: starts a write transaction, waiting for the lock.
        scripts: the migrations; the package's own by default.
    """
    steps = migrations() if scripts is None else scripts
    with _free_to_migrate(db):
        _migrate(db, path, begin, steps, at_once=scripts is None)


@contextmanager
def _free_to_migrate(db: apsw.Connection) -> Iterator[None]:
    """Turn off, within the block, settings of the connection that a script must not have."""
    has_foreign_keys = db.pragma("foreign_keys")
    is_defensive = db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1)
    db.pragma("foreign_keys", False)
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    try:
        yield
    finally:
        db.pragma("writable_schema", False)
        db.pragma("ignore_check_constraints", False)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, is_defensive)
        db.pragma("foreign_keys", has_foreign_keys)


def _repair_numbers(db: apsw.Connection) -> None:
    """Set each sequence to the newest number if another program has written an impossible one.

    Otherwise nothing new could be stored in the file.
    """
    for table, (key, most) in _NUMBERED.items():
        bindings = {"table": table, "most": most}
        if db.execute(_IS_UNSOUND_SEQUENCE, bindings).get:
            db.execute(
                f"UPDATE sqlite_sequence SET seq = (SELECT coalesce(max({key}), 0) FROM {table} "
                f"WHERE {key} <= :most) WHERE name = :table",
                bindings,
            )


def _migrate(
    db: apsw.Connection,
    path: str,
    begin: Callable[[], None],
    steps: Sequence[str],
    *,
    at_once: bool,
) -> None:
    while True:
        begin()
        try:
            # Read under the write lock: the process that had it before may have migrated.
            version = version_of(db, path, steps)
            if version == len(steps):
                _repair_numbers(db)
            elif version == 0 and at_once:
                _make_newest(db)
                _mark(db, len(steps))
            else:
                # Fetched to the end: APSW stops at the first statement that returns a row.
                # Not cached: no script is executed again, and its statements are 100 kB.
                db.execute(steps[version], can_cache=False).fetchall()
                _mark(db, version + 1)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if version >= len(steps):
            return


def _make_newest(db: apsw.Connection) -> None:
    """Make the newest schema in an empty file: tables first, which all else refers to."""
    objects = [(kind != "table", name, sql) for (kind, name), sql in newest().items() if sql]
    for _, name, sql in sorted(objects):
        if not name.startswith(_BY_SQLITE):
            db.execute(sql, can_cache=False)


def _mark(db: apsw.Connection, version: int) -> None:
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", version)
