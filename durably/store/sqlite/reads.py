"""The reads of a file: what the file of an engine and one that is only read have in common."""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import apsw

from durably._platform import lock_timeouts
from durably._platform.clock import Clock
from durably._platform.fork_hooks import ForkParticipant
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, Hurry
from durably.errors import ForkedError
from durably.store.change_feed import ChangeFeed
from durably.store.closing import Closing
from durably.store.sqlite.connection.connections import Connections, require_sound_sqlite
from durably.store.sqlite.connection.files import Identity, resolved
from durably.store.sqlite.connection.readers import Readers, limited_wait
from durably.store.sqlite.connection.sqlite_errors import database_error
from durably.store.sqlite.connection.write_request import Operation
from durably.store.sqlite.connection.writer import leak
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.notify import VersionReader

Ps = ParamSpec("Ps")
T = TypeVar("T")


class ReadFile(ForkParticipant, abc.ABC):
    """A file whose connections for reading are made when they are needed.

    Usable from any thread of the process that opened it.
    """

    # Set by the classes below, when they open the file.
    changes: ChangeFeed
    file_system: str | None  # its type, if the system reports it
    _connections: Connections
    _versions: VersionReader

    def __init__(self, path: str | os.PathLike[str], clock: Clock | None) -> None:
        require_sound_sqlite()
        self._clock = clock or Clock()
        self._pid = os.getpid()
        self.path = resolved(path)
        self.closing = Closing(self.path)
        self._lock = threading.Lock()  # guards the flag below
        self._is_closed = False
        self._guard: FileGuard | None = None
        self._hurry = Hurry()
        self._readers = Readers(
            clock=self._clock,
            connect=self._new_reader,
            discard=self._discard,
            closed=self.closing.error,
        )

    def read(self, query: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *query*, which only reads, and return its result."""
        if os.getpid() != self._pid:
            raise ForkedError("this engine belongs to the parent process; open a new one here")
        with self._readers.connection() as db, self._translated(db), self._limit(db):
            if self._guard is None:
                return query(db, *args, **kwargs)
            with self._guard.reading():
                return query(db, *args, **kwargs)

    def _limit(self, db: apsw.Connection) -> AbstractContextManager[None]:
        return limited_wait(db, self._clock) if lock_timeouts.is_limited() else nullcontext()

    def hurried(self, ends_s: float) -> AbstractContextManager[None]:
        """End waits for locks of others at *ends_s*, in all threads, during the block."""
        return self._hurry.until(ends_s)

    def _new_reader(self) -> apsw.Connection:
        with self._translated():
            # If the file was moved away, opening a connection would make SQLite delete its WAL.
            self.check_in_place()
            db = self._connections.new_reader()
        try:
            self.check_in_place()
        except BaseException:
            self._connections.discard(db)
            raise
        return db

    def _discard(self, db: apsw.Connection) -> None:
        self._connections.discard(db)

    @contextmanager
    def _translated(
        self, db: apsw.Connection | None = None, *, since_s: float | None = None
    ) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, UnicodeDecodeError) as exc:
            waited_s = None if since_s is None else self._clock.monotonic() - since_s
            error = database_error(exc, self.path, db, waited_s=waited_s)
            self._blame_loss()
            raise error from exc

    @abc.abstractmethod
    def _blame_loss(self) -> None:
        """Raise ``DatabaseLostError`` if the file is gone, whatever error SQLite has reported."""

    @abc.abstractmethod
    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the path does not lead to the file that is open."""

    @property
    @abc.abstractmethod
    def file(self) -> Identity | None:
        """Return what identifies the file that is open."""

    @property
    def is_closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._is_closed

    def before_fork(self) -> None:
        """Wait for the reads in progress, and block new ones."""
        self._versions.lock.acquire()
        try:
            self._readers.before_fork(BUSY_TIMEOUT_S)
        except BaseException:
            self._versions.lock.release()
            raise

    def after_fork_in_parent(self) -> None:
        """Allow reads and writes again."""
        self._readers.after_fork_in_parent()
        self._versions.lock.release()

    def after_fork_in_child(self) -> None:
        """Keep the inherited connections from ever being used."""
        # The locks that were taken before the fork.
        self._lock, self._versions.lock = threading.Lock(), threading.Lock()
        self._readers.after_fork_in_child()
        for connection in self._connections.open:
            leak(connection)
