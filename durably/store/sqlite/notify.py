"""Notice commits of other processes by reading SQLite's ``data_version`` on a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import apsw

from durably.store.sqlite.connection.sqlite_errors import database_error


class VersionReader:
    """Read the version of the file, on a connection that never writes. Usable from any thread.

    Args:
        db: the connection, which no other object uses.
        is_usable: returns whether it may be used, when the lock is held.
        on_error: called after a failure, without the lock; may raise an error that explains it.

    Attributes:
        lock: guards the connection, and the content of the file that was read through it.
    """

    def __init__(
        self,
        db: apsw.Connection,
        path: str,
        *,
        is_usable: Callable[[], bool],
        on_error: Callable[[], None],
    ) -> None:
        self.db = db
        self.lock = threading.Lock()
        self.is_usable = is_usable
        self._path = path
        self._on_error = on_error
        self._seen = 0

    def version(self) -> int:
        """Return a number that differs after each commit of another connection, -1 once closed."""
        with self.lock:
            if not self.is_usable():
                return -1
            try:
                # While the file is locked exclusively nothing can have been committed.
                with suppress(apsw.BusyError):
                    self._seen = self.db.pragma("data_version")
            except apsw.Error as exc:
                cause, error = exc, database_error(exc, self._path, self.db)
            else:
                return self._seen
        # Without the lock, which a check of the file takes.
        self._on_error()
        raise error from cause

    def schema_version(self) -> int:
        """Return the number of the schema; for a thread that has the lock."""
        return int(self.db.pragma("schema_version"))

    def read_raw(self, which: int, size: int) -> bytes:
        """Return the first bytes of the file (0) or of its WAL (1), without SQLite's cache.

        For a thread that has the lock.
        """
        is_whole, found = self.db.read("main", which, 0, size)
        return found if is_whole else b""
