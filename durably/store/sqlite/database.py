"""One SQLite file in WAL mode: its opening, its connections, and where they may be used.

An engine has one connection behind a group-committing writer, one for heartbeats (so that its own
long write cannot stop them), and a few for reading. No code outside of ``store`` uses a connection:
callers pass an operation and get its result.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, ParamSpec, TypeVar

import apsw

from durably._platform import lock_timeouts
from durably._platform.clock import Clock
from durably._platform.fork_hooks import watch_forks
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, limited
from durably.errors import DatabaseError, DatabaseLostError
from durably.settings import Synchronous
from durably.store import defects
from durably.store.change_feed import ChangeFeed
from durably.store.rows import Shrunk
from durably.store.sqlite.connection.batch_executor import FaultPoint
from durably.store.sqlite.connection.connections import (
    PAGES_IN_MEMORY,
    Connections,
    configure,
    set_synchronous,
)
from durably.store.sqlite.connection.content import INDEX_SIZE
from durably.store.sqlite.connection.file_checks import FileChecks
from durably.store.sqlite.connection.files import Identity, present, size_of
from durably.store.sqlite.connection.place import require_place
from durably.store.sqlite.connection.sidefiles import (
    refuse_strangers,
    remove_leftovers,
    writer_path,
)
from durably.store.sqlite.connection.sqlite_errors import database_error
from durably.store.sqlite.connection.wal import WalCare, run_wal_checkpoint
from durably.store.sqlite.connection.write_request import Operation
from durably.store.sqlite.connection.writer import GroupCommitWriter
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex
from durably.store.sqlite.notify import VersionReader
from durably.store.sqlite.reads import ReadFile
from durably.store.sqlite.sql import schema

logger = logging.getLogger("durably")

Ps = ParamSpec("Ps")
T = TypeVar("T")

# How many writes of one engine may come between two checks of the file's content: fewer than fill
# the WAL, so that an overwritten file is nearly always noticed before a WAL checkpoint.
_WRITES_BETWEEN_CHECKS: Final = 16


class Database(ReadFile):
    """The file of one engine. Usable from any thread of the process that opened it.

    Raises:
        ValidationError: the path can never be a database file.
        SchemaError: the file is another program's or a newer durably's, or its schema was
            changed; it is left as it is.
        DatabaseError: it cannot be opened, is locked for too long, or is missing without *create*.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        synchronous: Synchronous = "full",
        clock: Clock | None = None,
        vfs: str | None = None,
        fault_point: FaultPoint | None = None,
    ) -> None:
        super().__init__(path, clock)
        self._connections = Connections(self.path, self._clock, vfs)
        self._mutexes: list[WriterMutex] = []
        self.file_system = require_place(self.path, create=create)
        self._connections.is_on_btrfs = self.file_system == "btrfs"
        self._is_wal_planted = False
        self._writes = 0
        self._checks: FileChecks | None = None  # once it is open
        # One limit for all locks that an opening waits for, one after the other.
        since_s = self._clock.monotonic()
        with (
            FileGuard.opening(),
            self._translated(since_s=since_s),
            limited(self._clock, BUSY_TIMEOUT_S),
        ):
            try:
                if size_of(self.path) and not os.path.exists(writer_path(self.path)):
                    # Nothing may be made beside a file that is not durably's.
                    self._connections.refuse_foreign()
                mutex = self._mutex()
                with (
                    self._closed_to_others(mutex) as is_alone,
                    present(self.path, create=create, is_alone=is_alone),
                ):
                    if is_alone and not size_of(self.path):
                        remove_leftovers(self.path)
                    try:
                        self._open(mutex, synchronous, fault_point)
                    except BaseException:
                        self._close_all([*self._connections.open])
                        raise
            except BaseException:
                for mutex in self._mutexes:
                    mutex.close()
                raise
        watch_forks(self)

    @contextmanager
    def _closed_to_others(self, mutex: WriterMutex) -> Iterator[bool]:
        """Exclude every other opening and closing of the file, in all processes, within the block.

        Before the guard is taken, and after its release, a close by other code in this process
        leaves these connections without any lock. Another process that closed the file then would
        seem to be the last one, and SQLite would delete the WAL under these connections; and their
        own close would copy an old WAL over newer pages.
        """
        now_s = self._clock.monotonic()
        ends_s = min(lock_timeouts.deadline(now_s, BUSY_TIMEOUT_S), self._hurry.ends_s)
        with mutex.locked(ends_s - now_s) as is_alone:
            yield is_alone

    def _open(
        self, mutex: WriterMutex, synchronous: Synchronous, fault_point: FaultPoint | None
    ) -> None:
        has_wal = os.path.exists(f"{self.path}-wal")
        self._connections.prepare()
        # Before the connections that stay open: their WAL must not be deleted under them.
        self._guard = FileGuard.acquire(self.path)
        write = self._connections.connect()
        # Until the schema is known to be durably's, a WAL that is there stays as it is.
        write.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(has_wal))
        deadline = lock_timeouts.deadline(self._clock.monotonic(), BUSY_TIMEOUT_S)
        self._connections.retry_busy(
            lambda: write.execute("SELECT count(*) FROM sqlite_schema").fetchall(), deadline
        )
        self._guard.acquire_memory()
        self._refuse_planted()
        schema.migrate(write, self.path, lambda: self._connections.begin(write, deadline))
        write.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        configure(write, synchronous)
        write.pragma("cache_spill", PAGES_IN_MEMORY)
        beats = self._connections.connect()
        # The next heartbeat would replace a lost one, but its frames come before those of the next
        # commit in the WAL. When a sync fails, the system considers all its pages written: commits
        # acknowledged after it would be lost together with the heartbeat before it.
        # That is set with the first one, which many short programs never come to.
        configure(beats, None)
        beats.pragma("schema_version")  # reads the file, and so opens the WAL
        self._unset_for_beats: Synchronous | None = synchronous
        reader = self._connections.connect()
        configure(reader, None)
        reader.pragma("query_only", True)
        reader.pragma("schema_version")
        self._writer = GroupCommitWriter(
            write,
            path=self.path,
            mutex=mutex,
            clock=self._clock,
            fault_point=fault_point,
            hurry=self._hurry,
        )
        self._beats = GroupCommitWriter(
            beats, path=self.path, mutex=self._mutex(), clock=self._clock, hurry=self._hurry
        )
        self._versions = VersionReader(
            reader,
            self.path,
            is_usable=lambda: not self._is_closed and os.getpid() == self._pid,
            on_error=self._blame_loss,
        )
        self.changes = ChangeFeed(self._versions.version, self._clock)
        self._checks = FileChecks(
            self.path,
            self._versions,
            index=lambda: b"" if self._guard is None else self._guard.index(INDEX_SIZE),
        )
        self._checks.begin(lambda: run_wal_checkpoint(write, apsw.SQLITE_CHECKPOINT_PASSIVE))
        self.care = WalCare(self.path, self._writer, self._readers, self._checks)

    def _refuse_planted(self) -> None:
        """Check the opened file again: another program may have just put it there."""
        try:
            refuse_strangers(self.path, with_locks=False)
        except DatabaseError:
            # A WAL of another program must not be copied into the file.
            self._is_wal_planted = True
            raise

    def _mutex(self) -> WriterMutex:
        mutex = WriterMutex(self.path, self._clock)
        self._mutexes.append(mutex)
        return mutex

    # -- using it ------------------------------------------------------------------------

    def write(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* in a transaction; when this returns it is committed.

        Raises:
            DatabaseError: nothing of the operation is stored.
        """
        if self._checks is None or self._checks.overwritten is not None:
            self._open_file.raise_overwritten()
        try:
            result = self._writer.run(operation, *args, **kwargs)
        except apsw.ConnectionClosedError as exc:
            raise self.closing.error() from exc
        except UnicodeDecodeError as exc:
            raise database_error(exc, self.path) from exc
        except DatabaseError:
            self._blame_loss()
            raise
        if defects.noted:
            defects.log_noted()
        self._writes += 1
        if self._writes % _WRITES_BETWEEN_CHECKS == 1:
            # After the write, because the first one begins a WAL. It is stored, so this raises
            # nothing.
            with suppress(DatabaseLostError):
                self._open_file.check_content()
        return result

    def beat(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* as ``write`` does, on the connection that no long write can delay."""
        self._open_file.raise_overwritten()
        try:
            if self._unset_for_beats is not None and not self._is_closed:
                self._beats.maintain(set_synchronous, self._unset_for_beats)
                self._unset_for_beats = None
            return self._beats.run(operation, *args, **kwargs)
        except apsw.ConnectionClosedError as exc:
            raise self.closing.error() from exc
        except DatabaseError:
            self._blame_loss()
            raise

    def _blame_loss(self) -> None:
        """Raise ``DatabaseLostError`` if the file is gone, whatever error SQLite has reported."""
        if self._checks is not None and not self._is_closed:
            self.check_in_place()
            self.check_wal()

    # -- care ----------------------------------------------------------------------------

    @property
    def _open_file(self) -> FileChecks:
        assert self._checks is not None  # noqa: S101 - set before anything can be called
        return self._checks

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the path does not lead to the file that is open."""
        if self._checks is not None:
            self._checks.check_in_place()

    def check_wal(self) -> None:
        """Raise ``DatabaseLostError`` if SQLite's WAL or its index is not the one that is open."""
        if self._checks is not None:
            self._checks.check_wal()

    def shrink(self, most_pages: int) -> Shrunk:
        """Return up to *most_pages* free pages to the file system."""
        return self.care.shrink(most_pages)

    def wal_checkpoint(self, *, above_bytes: int) -> None:
        """Copy the WAL into the file if it has grown beyond *above_bytes*."""
        self.care.wal_checkpoint(above_bytes=above_bytes)

    def close(self) -> None:
        """Close every connection, the writers' after their transaction. Idempotent."""
        # The last connection copies the WAL into the file.
        with suppress(DatabaseLostError):
            self._open_file.check_content()
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        readers = self._readers.close()
        are_reads_over = False
        try:
            are_reads_over = self._readers.wait_until_idle(BUSY_TIMEOUT_S)
        finally:
            # Also if the user does not want to wait for it.
            self._close(readers, are_reads_over=are_reads_over)

    def _close(self, readers: list[apsw.Connection], *, are_reads_over: bool) -> None:
        with self._writer.paused() as write, self._beats.paused() as beats:
            mutex = self._mutexes[0]
            with self._closed_to_others(mutex), self._versions.lock:
                self._close_all(
                    [*readers, self._versions.db, beats, write],
                    # Closed, it would drop the lock on the snapshot of a read in progress.
                    keeps_guard=not are_reads_over,
                )
            # A thread that has waited for the connection finds it closed, and the mutex too.
            for mutex in self._mutexes:
                mutex.close()

    def _close_all(self, connections: list[apsw.Connection], *, keeps_guard: bool = False) -> None:
        if self._is_wal_planted or (self._checks is not None and self._checks.is_suspect):
            # Other processes may have begun another WAL, and copying this one would undo their
            # commits. In a file that was overwritten it would be mixed with foreign content.
            for connection in connections:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # SQLite removes its files after the last connection only if nothing else has its locks.
        guard = None if keeps_guard else self._guard
        if guard is not None:
            guard.release()
        try:
            for connection in connections:
                connection.close()
                self._connections.forget(connection)
        finally:
            if guard is not None:
                guard.close()

    @property
    def file(self) -> Identity | None:
        """Return what identifies the file that is open."""
        return self._open_file.identity
