"""Make connections to one file, each with its settings."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

import apsw

from durably._platform import lock_timeouts
from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S
from durably.errors import DatabaseError
from durably.settings import Synchronous
from durably.store.sqlite.connection.batch_executor import BUSY_SLICE_MS
from durably.store.sqlite.sql import schema

T = TypeVar("T")

# The first SQLite without the WAL-reset bug, which loses commits when two connections
# checkpoint and write at once.
OLDEST_SQLITE: Final = (3, 51, 3)

_INCREMENTAL: Final = 2

# The header of a database file: the versions of its format, and whether it is vacuumed bit by bit.
_HEADER_SIZE: Final = 100
_FORMATS: Final = slice(18, 20)
_OF_WAL: Final = b"\2\2"
_VACUUMS_INCREMENTALLY: Final = slice(64, 68)

# The WAL is cut back to this size at its next reset.
JOURNAL_SIZE_LIMIT: Final = 16 * 1024 * 1024

# A transaction of up to this many pages stays in memory and is written to the WAL once. SQLite
# writes pages of a larger one early; when it changes one of them again, it reads what it wrote and
# has to write the checksums again. In pages of 4 KiB this is enough for any result without a
# warning; the commit frees the memory.
PAGES_IN_MEMORY: Final = 4500


def unchanging(path: str) -> tuple[str, int]:
    """Return the name and the flags to open a file that nobody writes to, without others."""
    from urllib.parse import quote  # noqa: PLC0415 - where first needed

    # Quoted, so that nothing in the path is a parameter.
    return f"file:{quote(path)}?immutable=1", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


class Connections:
    """Make the connections to the file *path*. Usable from any thread.

    Attributes:
        open: the connections that were made and not discarded.
        is_on_btrfs: whether the index of the WAL is made here, and not by SQLite.

    Args:
        is_read_only: whether even SQLite's own care for the file is to write nothing.
        is_immutable: whether no process can write to the file; then nothing is made beside it.
    """

    def __init__(
        self,
        path: str,
        clock: Clock,
        vfs: str | None,
        *,
        is_read_only: bool = False,
        is_immutable: bool = False,
    ) -> None:
        # Weak: a connection that an exception takes from its thread before it is stored anywhere is
        # closed by its destructor.
        self.open: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()
        self.is_on_btrfs = False
        self._is_in_wal_mode = False
        self._path = path
        self._clock = clock
        self._vfs = vfs
        # Without SQLITE_OPEN_URI: a path is a path, never parameters.
        # Without CREATE: beside an empty new file in the place of one that was moved away, SQLite
        # would delete that one's WAL.
        self._flags = apsw.SQLITE_OPEN_READONLY if is_read_only else apsw.SQLITE_OPEN_READWRITE
        self._name = path
        if is_immutable:
            self._name, self._flags = unchanging(path)

    def connect(self) -> apsw.Connection:
        """Return a new connection, which waits for locks in slices."""
        if self.is_on_btrfs and self._is_in_wal_mode:
            from durably.store.sqlite.connection.nocow import make_index  # noqa: PLC0415 - where first needed

            make_index(self._path)
        db = apsw.Connection(self._name, flags=self._flags, vfs=self._vfs)
        self.open.add(db)
        db.set_busy_timeout(BUSY_SLICE_MS)
        return db

    def new_reader(self) -> apsw.Connection:
        """Return a new connection that rejects writes."""
        db = self.connect()
        try:
            configure(db, "normal")
            db.pragma("query_only", True)
            db.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))
            # A connection that is in use while the engine closes ends after the guard.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        except BaseException:
            # Otherwise each poll of a failing disk would leave a connection open.
            self.discard(db)
            raise
        return db

    def discard(self, db: apsw.Connection) -> None:
        """Close a connection that is no longer needed, whatever is still open on it."""
        self.forget(db)
        db.close(force=True)

    def forget(self, db: apsw.Connection) -> None:
        """Remove a connection that is closed."""
        self.open.discard(db)

    def refuse_foreign(self) -> None:
        """Check the file before writing: nothing may be written to a file that is not durably's."""
        self._read_once(self._check_version)

    def _read_once(self, read: Callable[[apsw.Connection], T]) -> T:
        """Return what *read* finds in one snapshot, and leave the file as it is."""
        has_wal = os.path.exists(f"{self._path}-wal")
        # SQLite makes the index beside a WAL, and leaves it there.
        self._is_in_wal_mode = has_wal
        db = self.connect()
        if has_wal:
            # The last connection to close would copy another program's WAL into its file. If there
            # was none, it removes the empty one that is made by reading a file in WAL mode.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        deadline = lock_timeouts.deadline(self._clock.monotonic(), BUSY_TIMEOUT_S)
        try:
            # In one snapshot: another process may make the tables between two reads.
            return self.retry_busy(lambda: _in_snapshot(db, read), deadline)
        except apsw.NotADBError as exc:
            raise schema.not_a_database(self._path) from exc
        finally:
            self.discard(db)

    def _check_version(self, db: apsw.Connection) -> None:
        schema.version_of(db, self._path, schema.migrations())

    def prepare(self) -> None:
        """Check the file, and set the modes that a new file keeps.

        Of a file that has them only the mark is checked: a connection that reads more parses the
        whole schema first, and the migration compares that before it writes anything.
        """
        is_prepared = self._read_once(_is_prepared)
        if not is_prepared:
            self.refuse_foreign()
        self._is_in_wal_mode = True  # from here on
        if is_prepared:
            return
        db = self.connect()
        # The connections that stay open make the WAL.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        try:
            # Takes effect only in a file that is still empty; a purge can shrink it later.
            deadline = lock_timeouts.deadline(self._clock.monotonic(), BUSY_TIMEOUT_S)
            self.retry_busy(lambda: _vacuum_incrementally(db), deadline)
            self._switch_to_wal(db)
        finally:
            self.discard(db)

    def _switch_to_wal(self, db: apsw.Connection) -> None:
        deadline = lock_timeouts.deadline(self._clock.monotonic(), BUSY_TIMEOUT_S)
        # The switch does not always consult the busy timeout.
        mode = self.retry_busy(lambda: db.pragma("journal_mode", "wal"), deadline)
        if mode != "wal":
            raise DatabaseError(
                f"the file system of {self._path!r} does not support SQLite's write-ahead log "
                f"(it stayed in mode {mode!r}); put the database on a local disk"
            )

    def begin(self, db: apsw.Connection, deadline: float) -> None:
        """Begin a write transaction as soon as no other one is in progress."""
        self.retry_busy(lambda: db.execute("BEGIN IMMEDIATE"), deadline)

    def retry_busy(self, attempt: Callable[[], T], deadline: float) -> T:
        """Try until no other lock prevents it, or the deadline has passed."""
        pause = Latch()
        while True:
            try:
                return attempt()
            except apsw.BusyError:
                if self._clock.monotonic() >= deadline:
                    raise
                self._clock.wait(pause, 0.005)


def _in_snapshot(db: apsw.Connection, read: Callable[[apsw.Connection], T]) -> T:
    db.execute("BEGIN")
    try:
        return read(db)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _is_prepared(db: apsw.Connection) -> bool:
    """Return whether the file is durably's, and has the modes that a new file is given."""
    if not schema.is_marked(db):
        return False
    is_whole, header = db.read("main", 0, 0, _HEADER_SIZE)
    return is_whole and header[_FORMATS] == _OF_WAL and any(header[_VACUUMS_INCREMENTALLY])


def _vacuum_incrementally(db: apsw.Connection) -> None:
    # Setting it again would write it again.
    if db.pragma("auto_vacuum") != _INCREMENTAL:
        db.pragma("auto_vacuum", _INCREMENTAL)


def require_sound_sqlite() -> None:
    """Raise if this SQLite version can lose commits."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < OLDEST_SQLITE:
        raise DatabaseError(
            f"apsw was built with SQLite {apsw.sqlite_lib_version()}, which can lose commits in "
            f"WAL mode; install an apsw with SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer"
        )


def configure(db: apsw.Connection, synchronous: Synchronous | None) -> None:
    """Set what every connection of durably has; per connection, never for the process.

    Args:
        synchronous: ``None`` on a connection that reads no table, or not yet: to set it, SQLite
            reads the whole schema, which takes longer than all else here.
    """
    if synchronous is not None:
        set_synchronous(db, synchronous)
    db.pragma("foreign_keys", True)
    db.pragma("recursive_triggers", True)
    db.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT)
    db.pragma("temp_store", "memory")
    # Truncating a mapped file ends the process with SIGBUS.
    db.pragma("mmap_size", 0)
    db.pragma("cell_size_check", True)
    # The file is input: functions in a planted view or trigger must not be executed.
    db.pragma("trusted_schema", False)
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    db.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)


def set_synchronous(db: apsw.Connection, synchronous: Synchronous) -> None:
    """Set when the connection's commits are on the disk; outside of a transaction."""
    db.pragma("synchronous", synchronous)
