"""A database file that is only read: nothing is made, migrated or written.

A process that only reads has no lock file, no guard and no owner. It disturbs nobody that executes
runs, and leaves the files beside the database as they are.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, NoReturn

import apsw

from durably._platform.clock import Clock
from durably._platform.fork_hooks import watch_forks
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, limited
from durably.errors import DatabaseError, DatabaseLostError, SchemaError
from durably.store.change_feed import ChangeFeed
from durably.store.sqlite.connection.connections import Connections
from durably.store.sqlite.connection.files import Identity, identity, is_gone
from durably.store.sqlite.connection.place import require_place
from durably.store.sqlite.connection.sidefiles import is_unchanging
from durably.store.sqlite.notify import VersionReader
from durably.store.sqlite.reads import ReadFile
from durably.store.sqlite.sql import schema


class ReadOnlyFile(ReadFile):
    """The file of a process that only reads it. Usable from any thread of that process.

    It has the reads of a ``Database``, and each of its writes raises.

    Raises:
        ValidationError: the path can never be a database file.
        SchemaError: the file is another program's, of another durably's schema, empty, or changed.
        DatabaseError: it is missing, may not be used, is damaged or locked.
    """

    def __init__(self, path: str, *, clock: Clock | None = None) -> None:
        super().__init__(path, clock)
        self.file_system = require_place(self.path, create=False, reads_only=True)
        self._identity = identity(self.path)
        # A WAL that is there stays as it is, also if this connection is the last one. If there is
        # none, SQLite makes an empty one to read the file, and only a connection that may write
        # removes it again.
        self._has_wal = os.path.exists(f"{self.path}-wal")
        self._connections = Connections(
            self.path,
            self._clock,
            vfs=None,
            is_read_only=self._has_wal,
            is_immutable=is_unchanging(self.path),
        )
        since_s = self._clock.monotonic()
        with self._translated(since_s=since_s), limited(self._clock, BUSY_TIMEOUT_S):
            try:
                reader = self._connections.new_reader()
                try:
                    self._require_current(reader)
                except BaseException:
                    self._close_last(reader)
                    raise
            except apsw.NotADBError as exc:
                raise schema.not_a_database(self.path) from exc
        self._versions = VersionReader(
            reader,
            self.path,
            is_usable=lambda: not self._is_closed and os.getpid() == self._pid,
            on_error=self.check_in_place,
        )
        self.changes = ChangeFeed(self._versions.version, self._clock)
        watch_forks(self)

    def _require_current(self, db: apsw.Connection) -> None:
        """Raise unless the file has the schema that this durably reads."""
        scripts = schema.migrations()
        db.execute("BEGIN")  # one snapshot: another process may migrate it meanwhile
        try:
            version = schema.version_of(db, self.path, scripts)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        if version == 0:
            raise SchemaError(f"{self.path!r} is empty: nothing was stored in it yet")
        if version < len(scripts):
            raise SchemaError(
                f"{self.path!r} was written by an older durably (schema {version}; this one reads "
                f"{len(scripts)}), and reading it changes nothing. Start the program that "
                "executes its runs with this durably, which brings it up to date"
            )

    def _close_last(self, db: apsw.Connection) -> None:
        """Close the last connection, and leave what lies beside the file as it was found."""
        if not self._has_wal:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._connections.discard(db)

    def write(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ``DatabaseError``: nothing is written here."""
        raise DatabaseError(f"the database {self.path!r} was opened to be read only")

    beat = shrink = wal_checkpoint = write

    def _blame_loss(self) -> None:
        if hasattr(self, "changes") and not self._is_closed:
            self.check_in_place()

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the path does not lead to the file that is open."""
        if is_gone(self.path, self._identity):
            raise DatabaseLostError(
                f"the database file {self.path!r} was moved, deleted or replaced while it was "
                "open; open the file where it is now"
            )

    def check_wal(self) -> None:
        """Do nothing: what is committed here does not exist."""

    def close(self) -> None:
        """Close every connection. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        spare = self._readers.close()
        with suppress(DatabaseError):
            self._readers.wait_until_idle(BUSY_TIMEOUT_S)
        for db in spare:
            self._connections.discard(db)
        with self._versions.lock:
            self._close_last(self._versions.db)

    @property
    def file(self) -> Identity | None:
        """Return what identifies the file that is open."""
        return self._identity
