"""Check, as SQL, what must hold in a database file, whatever happened to its processes.

Each rule is a query that must find no row; its columns say where. The schema forbids nearly all of
this as well: a finding means damage, a bug, or another program that wrote to the file.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apsw

from durably._platform.lock_timeouts import BUSY_TIMEOUT_S
from durably.errors import DatabaseError, SchemaError
from durably.store.sqlite.blobs.belonging import SUFFIX
from durably.store.sqlite.blobs.check import problems
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.connection.connections import unchanging
from durably.store.sqlite.connection.files import resolved
from durably.store.sqlite.connection.place import require_place
from durably.store.sqlite.connection.sidefiles import is_unchanging
from durably.store.sqlite.connection.sqlite_errors import database_error, disk_error
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.sql import schema
from durably.store.sqlite.sql.check_rules import RULES

# How many findings of one rule are returned: a damaged file may have millions.
MOST_PER_RULE: Final = 100
_LONGEST_SHOWN: Final = 80
# The limit of time for a check, for each megabyte: ten times what it takes.
_LIMIT_S: Final = 60.0
_LIMIT_S_PER_MB: Final = 1.0
# After how many of SQLite's instructions the time is checked, and a Ctrl-C noticed.
_INSTRUCTIONS: Final = 20_000

_EMPTY: Final = "the database is empty"
_NOT_OURS: Final = "the schema is not durably's"

_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table'"
_TABLE: Final = re.compile(r"\b(durably_\w+|json_each)\b")
# What SQLite's own check reads if the file contains more than durably's tables.
_OWN: Final = (
    "durably_owners",
    "durably_runs",
    "durably_steps",
    "durably_labels",
    "durably_logs",
    "durably_maps",
    "durably_items",
    "durably_attempts",
    "durably_calls",
    "durably_waits",
    "durably_blobs",
    "durably_dropped_blobs",
    "durably_codes",
    "sqlite_sequence",
    "sqlite_schema",
)
_KNOWN: Final = {*_OWN, "sqlite_stat1", "sqlite_stat4"}
# The tables whose rows refer to rows of other tables.
_REFERRING: Final = {
    "durably_runs": "durably_owners",
    "durably_steps": "durably_runs",
    "durably_labels": "durably_runs",
    "durably_logs": "durably_runs",
    "durably_maps": "durably_runs",
    "durably_attempts": "durably_runs",
    "durably_calls": "durably_runs",
    "durably_waits": "durably_runs",
    "durably_blobs": "durably_runs",
}


class Found(NamedTuple):
    """The problem, and the place."""

    problem: str
    where: str


def findings(
    path: str | os.PathLike[str], blobs: str | os.PathLike[str] | None = None
) -> list[Found]:
    """Return everything that is wrong with the database file, which is only read.

    Args:
        blobs: the folder of its large results, if that is not the one beside it.

    Raises:
        ValidationError: the path can never be a database file.
        SchemaError: the file is not a durably database, or not of this durably's version.
        DatabaseError: it is missing, or cannot be read now, or takes too long.
    """
    real = resolved(path)
    # Of a file that is mounted alone, a read here would use neither the WAL nor the locks of the
    # processes that write to it.
    require_place(real, create=False, reads_only=True)
    # Meanwhile no engine of this process may close its descriptors of the file: that would drop the
    # locks of this connection.
    folder = BlobFolder(f"{real}{SUFFIX}" if blobs is None else os.path.abspath(blobs), real)
    with FileGuard.opening(), _translated(real), folder.kept(), _opened(real) as db:
        limit_s = _LIMIT_S + _LIMIT_S_PER_MB * os.path.getsize(real) / 1e6
        deadline = time.monotonic() + limit_s
        db.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
        try:
            db.execute("BEGIN")  # one snapshot for all rules
            return _all_findings(db, real, folder)
        except apsw.InterruptError as exc:
            raise DatabaseError(
                f"checking {real!r} has taken more than {limit_s:.0f} s, far longer than its size "
                "accounts for, and was ended; copy the file to a faster disk and check the copy"
            ) from exc
        except apsw.CorruptError as exc:
            if disk_error(db):
                raise database_error(exc, real, db) from exc
            return [Found("the file is damaged", str(exc))]
        except apsw.IOError as exc:
            raise database_error(exc, real, db) from exc
        finally:
            db.set_progress_handler(None)
            if db.in_transaction:
                db.execute("ROLLBACK")


def _all_findings(db: apsw.Connection, path: str, folder: BlobFolder) -> list[Found]:
    found = _findings(db, path)
    if any(each.problem in (_EMPTY, _NOT_OURS) for each in found):
        return found
    return [*found, *(Found(*each) for each in problems(db, folder))]


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except apsw.NotADBError as exc:
        raise schema.not_a_database(path) from exc
    except (apsw.Error, UnicodeDecodeError) as exc:
        raise database_error(exc, path) from exc


@contextmanager
def _opened(path: str) -> Iterator[apsw.Connection]:
    name, flags = path, apsw.SQLITE_OPEN_READWRITE
    if is_unchanging(path):
        name, flags = unchanging(path)
    elif os.path.exists(f"{path}-journal"):
        # A rollback journal, which durably never makes: only this mode keeps SQLite from applying
        # it. Without a journal, a connection that may write leaves no files behind if it was the
        # only one.
        flags = apsw.SQLITE_OPEN_READONLY
    has_wal = os.path.exists(f"{path}-wal")
    db = apsw.Connection(name, flags=flags)
    try:
        db.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))
        if has_wal:
            # Keep the WAL as it is: the last connection would copy it into the file.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        db.pragma("query_only", True)
        db.pragma("mmap_size", 0)
        db.create_scalar_function("undecodable", _undecodable, deterministic=True)
        yield db
    finally:
        db.close()


def _undecodable(*columns: Any) -> str | None:
    """Return the first of the named columns, given as name, bytes, ..., that is not text."""
    for name, content in zip(columns[::2], columns[1::2], strict=True):
        if isinstance(content, bytes):
            try:
                content.decode()
            except UnicodeDecodeError:
                return str(name)
    return None


def _findings(db: apsw.Connection, path: str) -> list[Found]:
    scripts = schema.migrations()
    application_id = db.pragma("application_id")
    version = db.pragma("user_version")
    if application_id in (0, schema.APPLICATION_ID) and schema.is_empty(db):
        return [Found(_EMPTY, "it is new, or was emptied")]
    if application_id != schema.APPLICATION_ID:
        raise schema.not_ours(path)
    if version > len(scripts):
        raise schema.too_new(path, version, len(scripts))
    if version < len(scripts):
        raise SchemaError(
            f"{path!r} was written by an older durably (schema {version}; this one checks "
            f"{len(scripts)}); open it once with this one, which brings it up to date"
        )
    differences = schema.differences(db, scripts, version)
    found = [Found(_NOT_OURS, str(difference)) for difference in differences]
    # A table of another program may be anything, even a view that never ends.
    foreign = {each.name.lower() for each in differences if each.kind in ("table", "view")}
    found += _integrity(db, foreign, {each.name for each in differences if each.kind == "index"})
    for table, referred in _REFERRING.items():
        if foreign.isdisjoint((table, referred)):
            found += _references(db, table)
    for problem, query in RULES.items():
        if foreign.isdisjoint(_TABLE.findall(query)):
            found += _rows(db, problem, query)
    return found


def damage(db: apsw.Connection) -> str | None:
    """Return what is damaged in a file with durably's schema, as SQLite itself finds it."""
    try:
        found = _integrity(db, set(), set())
    except apsw.CorruptError as exc:
        return str(exc)
    return found[0].where if found else None


def _integrity(db: apsw.Connection, foreign: set[str], indexes: set[str]) -> list[Found]:
    """Run SQLite's own check, but not of tables with a constraint or an index of another program.

    It evaluates their expressions, which may take for ever.
    """
    tables = {name for (name,) in db.execute(_TABLES).fetchall()}
    if tables <= _KNOWN and not foreign and not indexes:
        rows = db.execute("PRAGMA integrity_check").fetchall()
    else:
        rows = []
        for table in _OWN:
            present = {row[1] for row in db.execute(f"PRAGMA index_list({table})").fetchall()}
            if table not in foreign and present.isdisjoint(indexes):
                rows += db.execute(f"PRAGMA integrity_check({table})").fetchall()
    found = [Found("the file is damaged", str(text)) for (text,) in rows if text != "ok"]
    if found and disk_error(db):
        raise apsw.CorruptError(found[0].where)
    return found


def _references(db: apsw.Connection, table: str) -> list[Found]:
    rows = db.execute(f"PRAGMA foreign_key_check({table})").fetchall()
    return [
        Found("a row refers to one that is not there", f"table {child}, row {row}, to {parent}")
        for child, row, parent, _ in rows[:MOST_PER_RULE]
    ]


def _rows(db: apsw.Connection, problem: str, query: str) -> list[Found]:
    found: list[Found] = []
    try:
        cursor = db.execute(query)
        for row in cursor:
            if len(found) == MOST_PER_RULE:
                found.append(Found(problem, "and more"))
                cursor.close(force=True)
                break
            columns = [name for name, *_ in cursor.get_description()]
            where = zip(columns, row, strict=True)
            found.append(Found(problem, ", ".join(f"{name}={_shown(at)}" for name, at in where)))
    except apsw.CorruptError as exc:
        if disk_error(db):
            raise
        found.append(Found("the file is damaged", f"{exc}, while checking whether {problem}"))
    except UnicodeDecodeError:
        found.append(Found(problem, "in a row whose text cannot be read"))
    return found


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
