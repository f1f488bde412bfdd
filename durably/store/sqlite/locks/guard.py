"""Protect SQLite's locks from other code in this process.

SQLite's POSIX locks belong to the process, and the kernel drops all of them on a file when *any*
descriptor of that file is closed: by ``sqlite3.connect(path).close()`` or ``pandas.read_sql`` in
the next notebook cell, by ``shutil.copy``, by hashing the file. After that another connection
seems to be the last one, and SQLite deletes the WAL under this engine: its commits still succeed,
and no later opening finds them. Two locks that no such ``close`` can drop prevent this:

- :class:`FileGuard`: open-file-description read locks on the bytes by which SQLite knows that a
  database is open. To every other connection it looks like one more reader.
- ``WriterMutex`` in ``mutex.py``: a ``flock`` on a file of its own around write transactions and
  WAL checkpoints, since the lock that SQLite takes for these can be dropped in the middle of them.

Both are needed: with an open and close by other code every 3 ms, each alone still lost commits. A
second SQLite library that *writes* in this process remains unprotected: it does not use the mutex.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar

from durably._platform.fork_hooks import ForkParticipant, no_fork, watch_forks
from durably._platform.latch import Latch
from durably.errors import DatabaseError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})

# Where SQLite's unix VFS puts its locks: the shared range of the database file, held by every
# open WAL connection, and the "dead man's switch" byte of the shared-memory file, held by every
# process that has mapped it.
_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510
_DMS_BYTE: Final = 128
# Before it, one byte for each snapshot that readers may use. A process copies the WAL into the file
# with an exclusive lock on the first one, and restarts the WAL with one on the others.
_FIRST_SNAPSHOT: Final = 123
_SNAPSHOTS: Final = 4

_HOLD_ATTEMPTS: Final = 200
_HOLD_PAUSE_S: Final = 0.01
_READ_ATTEMPTS: Final = 50
_READ_PAUSE_S: Final = 0.001

CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)


def _set_ofd_lock(fd: int, start: int, length: int, *, locked: bool) -> None:
    if sys.platform == "linux":
        kind = fcntl.F_RDLCK if locked else fcntl.F_UNLCK
        # struct flock: type, whence, start, length, and a pid that must be 0 for these locks;
        # "0q" pads to the alignment of off_t.
        request = struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)


def _lock_soon(fd: int, start: int, length: int) -> None:
    pause = Latch()
    for _ in range(_READ_ATTEMPTS):
        try:
            _set_ofd_lock(fd, start, length, locked=True)
        except BlockingIOError:
            pause.wait(_READ_PAUSE_S)
        except OSError:
            return
        else:
            return


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def close_quietly(fd: int) -> None:
    """Close *fd*, which may be closed already."""
    # Other code may have closed all descriptors of the process (a daemonising child does).
    with contextlib.suppress(OSError):
        os.close(fd)


class _GuardedFile:
    """The descriptors on one database file, shared by its guards in this process."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | CLOEXEC)
        self.identity = _identity(os.fstat(self.fd))
        # SQLite makes a new shared-memory file whenever it opens the database after the last close,
        # so there may be older ones here; the last one is current. The older ones are kept, because
        # SQLite may still have them open.
        self.shm: list[tuple[tuple[int, int], int]] = []
        self.users = 0
        self.holders = 0
        # Descriptors that must stay open as long as these, because each close would drop the locks.
        self.spare: list[int] = []
        self._reading = threading.Lock()  # guards the two below
        # By thread: a read whose end a Ctrl-C prevented counts as over when its thread reads again.
        self._readers: set[int] = set()
        self._read_fd = -1

    def lock(self) -> None:
        _set_ofd_lock(self.fd, _SHARED_FIRST, _SHARED_SIZE, locked=True)

    def lock_memory(self, path: str) -> None:
        shm_path = f"{path}-shm"
        if not self.shm or self.shm[-1][0] != _identity(os.stat(shm_path)):
            fd = os.open(shm_path, os.O_RDWR | CLOEXEC)
            self.shm.append((_identity(os.fstat(fd)), fd))
        _set_ofd_lock(self.shm[-1][1], _DMS_BYTE, 1, locked=True)

    def begin_read(self) -> None:
        with self._reading:
            if not self._readers:
                self._read_fd = self.shm[-1][1]
                # Others take them during a check, and the first one during a WAL checkpoint: a
                # read that begins then has its snapshot in one of the others.
                for first, count in ((_FIRST_SNAPSHOT + 1, _SNAPSHOTS), (_FIRST_SNAPSHOT, 1)):
                    _lock_soon(self._read_fd, first, count)
            self._readers.add(threading.get_ident())

    def end_read(self) -> None:
        with self._reading:
            self._readers.discard(threading.get_ident())
            if not self._readers:
                with contextlib.suppress(OSError):
                    size = 1 + _SNAPSHOTS
                    _set_ofd_lock(self._read_fd, _FIRST_SNAPSHOT, size, locked=False)

    def unlock(self) -> None:
        with contextlib.suppress(OSError):
            _set_ofd_lock(self.fd, _SHARED_FIRST, _SHARED_SIZE, locked=False)
            for _, fd in self.shm:
                _set_ofd_lock(fd, _DMS_BYTE, 1, locked=False)

    def close(self) -> None:
        for fd in (self.fd, *self.spare, *(fd for _, fd in self.shm)):
            close_quietly(fd)


class _GuardedFiles(ForkParticipant):
    """The guarded files of this process. Every method is called inside ``no_fork``."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], _GuardedFile] = {}
        self.openings = 0
        # Rises in a forked child, so that guards from before the fork do nothing there.
        self.generation = 0

    def file(self, path: str) -> _GuardedFile:
        # Found without opening the file: a superfluous descriptor could not be closed again.
        known = self.files.get(_identity(os.stat(path)))
        if known is not None:
            return known
        opened = _GuardedFile(path)
        known = self.files.setdefault(opened.identity, opened)
        if known is not opened:  # the path got another file between the two checks
            known.spare.append(opened.fd)
        return known

    def close_unused(self) -> None:
        # While a thread is between SQLite's open and its lock, its file is not known: closing
        # descriptors of that file would drop the locks that SQLite has just taken.
        if self.openings:
            return
        for identity, file in list(self.files.items()):
            if not file.users:
                del self.files[identity]
                file.close()

    def after_fork_in_child(self) -> None:
        # The locks belong to the open file description that the parent still has; closing the
        # copies drops nothing of the parent's. POSIX locks are not inherited at all.
        for file in self.files.values():
            file.close()
        self.files.clear()
        self.openings = 0
        self.generation += 1


_guarded: Final = _GuardedFiles()
watch_forks(_guarded)


def _patiently(attempt: Callable[[], T], path: str) -> T:
    pause = Latch()
    for _ in range(_HOLD_ATTEMPTS):
        try:
            return attempt()
        except BlockingIOError:
            # A second SQLite library in this process is just closing the file: this process's POSIX
            # locks do not exclude it, and its exclusive one excludes this lock, for a moment.
            pause.wait(_HOLD_PAUSE_S)
        except OSError as exc:
            raise DatabaseError(
                f"cannot guard {path} against other code that opens it: {exc}. Make sure "
                f"that it and {path}-shm exist, that you may write to them, and that this "
                f"process has file descriptors left (ulimit -n)."
            ) from exc
    raise DatabaseError(
        f"{path} is locked exclusively by another program; close that program and try again.",
        is_transient=True,
    )


class FileGuard:
    """Keep every other connection from becoming the last one of a database.

    There is one for each set of connections that is opened and closed together::

        with FileGuard.opening():
            guard = FileGuard.acquire(path)  # a file that is in WAL mode
            connection = apsw.Connection(path)  # ... until it has read
            guard.acquire_memory()
        ...
        guard.release()
        connection.close()
        guard.close()

    The descriptors behind it are shared by all guards of a file in this process (by device and
    inode, so a symbolic link is the same file) and closed with the last one, since closing any of
    them earlier would drop the locks of the SQLite connections that remain. In a forked child
    that opens the database again, a guard is the only protection: SQLite finds the parent's
    connection in its copied memory, assumes that this process already has the shared locks, and
    takes none. All methods may be called from any thread.

    Attributes:
        is_effective: whether the locks are held. False after :meth:`release`, in a forked child,
            and always where the platform (all but Linux) or the file system has no
            open-file-description locks.
    """

    def __init__(self, file: _GuardedFile | None, path: str, *, holds: bool) -> None:
        self._file = file
        self._path = path
        self._generation = _guarded.generation
        self._holds = holds

    @staticmethod
    @contextmanager
    def opening() -> Iterator[None]:
        """Keep all guards from closing descriptors within the block.

        Use it around SQLite's open and :meth:`acquire`. Another thread may be closing its guard of
        the same file meanwhile. If that were the last one, closing its descriptors would drop the
        locks that SQLite has just taken in this thread. If opening fails, close SQLite's
        connections inside the block.
        """
        with no_fork():
            _guarded.openings += 1
            generation = _guarded.generation
        try:
            yield
        finally:
            with no_fork():
                if generation == _guarded.generation:
                    _guarded.openings -= 1
                    _guarded.close_unused()

    @classmethod
    def acquire(cls, path: str) -> FileGuard:
        """Take the lock on the file, or share the one that this process has.

        Call it before SQLite opens the file: otherwise another connection could become the last one
        in between, and SQLite would delete the WAL that this process has just opened. The file must
        be in WAL mode already, because the switch to it needs the file exclusively.

        Raises:
            DatabaseError: the file cannot be opened, or another process has it locked exclusively.
        """
        # SQLite puts its files beside the target of a symbolic link, not beside the link.
        path = os.path.realpath(path)
        if sys.platform != "linux":
            return cls(None, path, holds=False)
        # This counts as opening even if the caller forgot it: a failed attempt leaves descriptors,
        # and closing them would drop the locks of the caller's own SQLite.
        with cls.opening():
            return _patiently(lambda: cls._acquire_once(path), path)

    @classmethod
    def _acquire_once(cls, path: str) -> FileGuard:
        with no_fork():
            try:
                file = _guarded.file(path)
                try:
                    file.lock()
                except BaseException:
                    if not file.holders:
                        file.unlock()
                    raise
            except OSError as exc:
                if exc.errno not in _UNSUPPORTED:
                    raise
                # The descriptors are open nevertheless, and closing them would drop the locks.
                file.users += 1
                return cls(file, path, holds=False)
            file.users += 1
            file.holders += 1
            return cls(file, path, holds=True)

    def acquire_memory(self) -> Self:
        """Take the lock on the shared memory as well; return this guard.

        Call it when SQLite has opened the database and read from it, so that the memory exists.

        Raises:
            DatabaseError: it cannot be opened, or another process has it locked exclusively.
        """
        _patiently(self._acquire_memory_once, self._path)
        return self

    def _acquire_memory_once(self) -> None:
        with no_fork():
            if self.is_effective and self._file is not None:
                self._file.lock_memory(self._path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the snapshot of a read within the block, which begins before the snapshot.

        A close by other code drops the lock on the snapshot, too: another process could then
        restart the WAL during the read, which would see a mixture of two states.
        """
        file = self._file
        if not self.is_effective or file is None or not file.shm:
            yield
            return
        file.begin_read()
        try:
            yield
        finally:
            file.end_read()

    def index(self, size: int) -> bytes:
        """Return the first bytes of the shared memory; none if no lock on it is held.

        It reads through the guard's descriptor, because opening and closing another one would drop
        SQLite's locks.
        """
        file = self._file
        if not self.is_effective or file is None or not file.shm:
            return b""
        if sys.platform == "win32":
            return b""
        try:
            found = os.pread(file.shm[-1][1], size, 0)
        except OSError as exc:
            if exc.errno != errno.EBADF:  # other code has closed all descriptors of the process
                raise
            return b""
        return found if len(found) == size else b""

    @property
    def is_effective(self) -> bool:
        """Return whether the locks are held now."""
        return self._holds and self._generation == _guarded.generation

    def release(self) -> None:
        """Drop the locks if no other guard of this process holds them.

        Call it before SQLite's last close, so that SQLite finds that it is the last one and removes
        ``-wal`` and ``-shm``. Calling it again does nothing.
        """
        with no_fork():
            if not self.is_effective or self._file is None:
                return
            self._holds = False
            self._file.holders -= 1
            if not self._file.holders:
                self._file.unlock()

    def close(self) -> None:
        """Close the descriptors if this was the last guard of the file in this process.

        Call it after SQLite's last close. Calling it again does nothing.
        """
        with no_fork():
            self.release()
            file, self._file = self._file, None
            if file is None or self._generation != _guarded.generation:
                return
            file.users -= 1
            _guarded.close_unused()
