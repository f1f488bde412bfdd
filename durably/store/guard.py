"""What keeps other code in this process from dropping SQLite's locks.

SQLite's POSIX locks belong to the process, and the kernel drops all of them on a file when *any*
descriptor of that file is closed: by ``sqlite3.connect(path).close()`` or ``pandas.read_sql`` in
the next notebook cell, by ``shutil.copy``, by hashing the file. After that another connection
believes itself the last one and deletes the write-ahead log under us; commits go on to succeed
and nobody ever sees them. Two locks that no foreign ``close`` can drop stand against it:

- :class:`FileGuard`: open-file-description read locks on the bytes that tell SQLite that somebody
  has the database open. To every other connection it looks like one more reader.
- :class:`WriterMutex`: a ``flock`` on a file of its own around write transactions and checkpoints,
  since the lock that SQLite takes for these can be dropped in the middle of them.

Both are needed: under a foreign open and close every 3 ms each alone still lost commits. What
remains is a second SQLite library *writing* in this process; it knows nothing of the mutex.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import struct
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durably.errors import DatabaseError
from durably.forking import no_fork, watch_forks

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durably.clock import Clock

_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})

# Where SQLite's unix VFS puts its locks: the shared range of the database file, held by every
# open WAL connection, and the "dead man's switch" byte of the shared-memory file, held by every
# process that has mapped it.
_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510
_DMS_BYTE: Final = 128

_HOLD_ATTEMPTS: Final = 200
_HOLD_PAUSE_S: Final = 0.01

_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)


def _set_ofd_lock(fd: int, start: int, length: int, *, locked: bool) -> None:
    if sys.platform == "linux":
        kind = fcntl.F_RDLCK if locked else fcntl.F_UNLCK
        # struct flock: type, whence, start, length, and a pid that must be 0 for these locks;
        # "0q" pads to the alignment of off_t.
        request = struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close_quietly(fd: int) -> None:
    # Somebody may have closed all descriptors of the process (a daemonising child does).
    with contextlib.suppress(OSError):
        os.close(fd)


class _GuardedFile:
    """The descriptors on one database file, shared by its guards in this process."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | _CLOEXEC)
        self.identity = _identity(os.fstat(self.fd))
        # The shared-memory file is made anew whenever SQLite opens the database after its last
        # close, so there may be older ones here; the last one is current. An older one is kept
        # as well: whether SQLite still has it open cannot be known here.
        self.shm: list[tuple[tuple[int, int], int]] = []
        self.users = 0
        self.holders = 0
        # Descriptors that must live as long as these do, as each close would drop the locks.
        self.spare: list[int] = []

    def lock(self, path: str) -> None:
        shm_path = f"{path}-shm"
        if not self.shm or self.shm[-1][0] != _identity(Path(shm_path).stat()):
            fd = os.open(shm_path, os.O_RDWR | _CLOEXEC)
            self.shm.append((_identity(os.fstat(fd)), fd))
        _set_ofd_lock(self.fd, _SHARED_FIRST, _SHARED_SIZE, locked=True)
        _set_ofd_lock(self.shm[-1][1], _DMS_BYTE, 1, locked=True)

    def unlock(self) -> None:
        with contextlib.suppress(OSError):
            _set_ofd_lock(self.fd, _SHARED_FIRST, _SHARED_SIZE, locked=False)
            for _, fd in self.shm:
                _set_ofd_lock(fd, _DMS_BYTE, 1, locked=False)

    def close(self) -> None:
        for fd in (self.fd, *self.spare, *(fd for _, fd in self.shm)):
            _close_quietly(fd)


class _Registry:
    """The guarded files of this process. Every method is called inside ``no_fork``."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], _GuardedFile] = {}
        self.openings = 0
        # Goes up in a forked child, so that what was made before the fork does nothing there.
        self.generation = 0

    def file(self, path: str) -> _GuardedFile:
        # Looked up without opening: a descriptor that turns out to be superfluous could not be
        # closed again.
        known = self.files.get(_identity(Path(path).stat()))
        if known is not None:
            return known
        opened = _GuardedFile(path)
        known = self.files.setdefault(opened.identity, opened)
        if known is not opened:  # the path was given another file between the two looks
            known.spare.append(opened.fd)
        return known

    def close_unused(self) -> None:
        # While a thread is between SQLite's open and its hold, nothing tells which file it has:
        # closing descriptors of that one would drop the locks that SQLite has just taken.
        if self.openings:
            return
        for identity, file in list(self.files.items()):
            if not file.users:
                del self.files[identity]
                file.close()

    def before_fork(self) -> None:
        pass

    def after_fork_in_parent(self) -> None:
        pass

    def after_fork_in_child(self) -> None:
        # The locks belong to the open file description that the parent still has; closing the
        # copies drops nothing of the parent's. POSIX locks are not inherited at all.
        for file in self.files.values():
            file.close()
        self.files.clear()
        self.openings = 0
        self.generation += 1


_registry: Final = _Registry()
watch_forks(_registry)


class FileGuard:
    """Keeps every other connection from believing that it is the last one of a database.

    One for each set of connections that is opened and closed together::

        with FileGuard.opening():
            connection = apsw.Connection(path)  # ... until the file is in WAL mode
            guard = FileGuard.hold(path)
        ...
        guard.release()
        connection.close()
        guard.close()

    The descriptors behind it are shared by all guards of a file in this process (by device and
    inode, so a symbolic link is the same file) and closed with the last one, since closing any of
    them earlier would drop the locks of the SQLite connections that remain. In a forked child
    that opens the database anew, a guard is all the protection there is: SQLite finds the
    parent's connection in its copied memory, believes that this process has the shared locks
    already, and takes none. All methods may be called from any thread.

    Attributes:
        is_effective: whether something is held. False after :meth:`release`, in a forked child,
            and always where the platform has no open-file-description locks (all but Linux) or
            the file system refuses them.
    """

    def __init__(self, file: _GuardedFile | None, *, holds: bool) -> None:
        self._file = file
        self._generation = _registry.generation
        self._holds = holds

    @staticmethod
    @contextmanager
    def opening() -> Iterator[None]:
        """Surround SQLite's open and :meth:`hold`.

        Another thread may be closing its guard of the same file meanwhile. If it were the last
        one, closing its descriptors would drop the locks that SQLite took in this thread a moment
        ago; so no descriptor of a guard is closed while any thread is in this block. Where opening
        fails, close SQLite's connections inside the block.
        """
        with no_fork():
            _registry.openings += 1
            generation = _registry.generation
        try:
            yield
        finally:
            with no_fork():
                if generation == _registry.generation:
                    _registry.openings -= 1
                    _registry.close_unused()

    @classmethod
    def hold(cls, path: str) -> FileGuard:
        """Take the locks, or join those that this process has on the file.

        Call it when SQLite has opened the database in WAL mode and read from it, so that the
        shared-memory file exists.

        Raises:
            DatabaseError: the files cannot be opened, or somebody has them locked exclusively.
        """
        if sys.platform != "linux":
            return cls(None, holds=False)
        # SQLite puts its files beside the one that a symbolic link means, not beside the link.
        path = os.path.realpath(path)
        pause = threading.Event()
        # Counts as opening also where the caller forgot it: an attempt that failed leaves
        # descriptors, and closing them would drop the locks of the caller's own SQLite.
        with cls.opening():
            for _ in range(_HOLD_ATTEMPTS):
                try:
                    return cls._hold_once(path)
                except BlockingIOError:
                    # A second SQLite library in this process is just closing the file: our POSIX
                    # locks do not stop it, and its exclusive one stops us. It is over in a moment.
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

    @classmethod
    def _hold_once(cls, path: str) -> FileGuard:
        with no_fork():
            try:
                file = _registry.file(path)
                try:
                    file.lock(path)
                except BaseException:
                    if not file.holders:
                        file.unlock()
                    raise
            except OSError as exc:
                if exc.errno not in _UNSUPPORTED:
                    raise
                # The descriptors are open all the same, and closing them would do the very harm.
                file.users += 1
                return cls(file, holds=False)
            file.users += 1
            file.holders += 1
            return cls(file, holds=True)

    @property
    def is_effective(self) -> bool:
        """Whether the locks are held now."""
        return self._holds and self._generation == _registry.generation

    def release(self) -> None:
        """Drop the locks if no other guard of this process holds them.

        Call it before SQLite's last close, so that SQLite can recognise itself as the last one
        and tidy up ``-wal`` and ``-shm``. Calling it again does nothing.
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
            if file is None or self._generation != _registry.generation:
                return
            file.users -= 1
            _registry.close_unused()


# The longest pause between two looks at a mutex that is taken, and the shortest.
_LONGEST_PAUSE_S: Final = 0.002
_SHORTEST_PAUSE_S: Final = 0.00005
# How often somebody who takes the mutex without waiting looks whether others wait for it.
_TURN_S: Final = 0.01
# A note of a waiter is renewed at each of its looks; an older one was left by somebody who gave
# up, was stopped, or died.
_NOTE_LIFETIME_S: Final = 3 * _LONGEST_PAUSE_S
_NOTE: Final = struct.Struct("=q")


def _flock_without_gil() -> Callable[[int, int], int]:
    """``flock`` of the C library, called without giving up the GIL; returns 0 or -1.

    A call that gives it up for a microsecond waits a whole switch interval (5 ms) to get it back
    when another thread is burning Python: locking and unlocking then took 2.7 ms on average,
    against 4 us. With LOCK_NB or LOCK_UN it cannot block.
    """
    try:
        function = ctypes.PyDLL(None).flock
    except (OSError, AttributeError, TypeError):
        return lambda _fd, _operation: -1
    # Without argtypes: plain ints need no conversion, and declaring them costs a third more.
    function.restype = ctypes.c_int
    return function


def _pread_without_gil() -> Callable[[int, ctypes.Array[ctypes.c_char], int, int], int]:
    """``pread`` in the same way, for a few bytes that are in the page cache."""
    try:
        function = ctypes.PyDLL(None).pread
    except (OSError, AttributeError, TypeError):
        return lambda _fd, _buffer, _size, _offset: -1
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
    function.restype = ctypes.c_ssize_t
    return function


_flock: Final = _flock_without_gil()
_pread: Final = _pread_without_gil()
if sys.platform != "win32":
    _TRY: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
    _UNLOCK: Final = fcntl.LOCK_UN
else:
    _TRY = _UNLOCK = 0


def _flock_once(fd: int, operation: int) -> None:
    """The same with the GIL given up and the reason of a failure told."""
    if sys.platform != "win32":
        fcntl.flock(fd, operation)


class WriterMutex:
    """One writer at a time among all write connections of a database, in whatever process.

    A ``flock`` on ``<database>.writer``. Each mutex has an open file description of its own, so
    that connections of one process exclude each other too. It is an addition to SQLite's own
    locks, not a replacement: :meth:`acquire` may say no, and then the caller goes on under
    SQLite's locks alone. Nobody can therefore hang for ever on a process that was stopped
    (``SIGSTOP``, a debugger) while it held the mutex: one timeout is waited, and after that no
    more until the mutex was free once.

    ``flock`` has no queue: whoever releases and takes it again at once beats every waiter. So a
    waiter leaves a note in the file, and who takes the mutex looks for one every now and then
    and steps back for a moment if there is one.

    A mutex is used by one thread at a time: by whoever has the write connection. In a forked
    child it is closed. Without ``flock`` (Windows, some network file systems) it holds nothing,
    and says so. If the file is deleted while in use, those who have it open and those who come
    later exclude each other by SQLite's locks only.

    Attributes:
        path: the file that is locked.
        is_effective: whether acquiring can exclude anybody.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        """Open the file beside the database *path*, making it if need be.

        Raises:
            DatabaseError: the file cannot be made or opened.
        """
        # All names of a database must lead to one mutex.
        self.path: Final = f"{os.path.realpath(path)}.writer"
        self._clock = clock
        self._never = threading.Event()
        self._is_patient = True
        self._looked_at_s = -_TURN_S
        self._note = ctypes.create_string_buffer(_NOTE.size)
        self._fd = -1
        if sys.platform == "win32":
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | _CLOEXEC
        with no_fork():
            try:
                self._fd = os.open(self.path, flags, 0o600)
            except OSError as exc:
                raise DatabaseError(
                    f"cannot open {self.path}, which keeps writers of the database apart: {exc}. "
                    f"Make sure that the folder and the file are writable by you; the file may be "
                    f"deleted when no program has the database open."
                ) from exc
            watch_forks(self)
        try:
            _flock_once(self._fd, _TRY)
            _flock_once(self._fd, _UNLOCK)
        except BlockingIOError:
            pass
        except OSError:
            # No flock on this file system: found out now, not by waiting for it in vain.
            self.close()

    @property
    def is_effective(self) -> bool:
        """Whether acquiring can exclude anybody."""
        return self._fd >= 0

    def acquire(self, timeout_s: float) -> bool:
        """Take the mutex, waiting up to *timeout_s* seconds; say whether it was obtained.

        Once a wait was in vain, further calls only try, until one obtains it. A mutex that is
        not effective is never obtained and never waited for.
        """
        if self._fd < 0:
            return False
        now_s = self._clock.monotonic()
        if now_s - self._looked_at_s >= _TURN_S:
            self._looked_at_s = now_s
            if self._is_patient and timeout_s > 0 and self._somebody_waits(now_s):
                self._clock.wait(self._never, min(timeout_s, 1.5 * _LONGEST_PAUSE_S))
        if _flock(self._fd, _TRY) == 0 or self._try_slowly():
            self._is_patient = True
            return True
        if not self._is_patient or timeout_s <= 0:
            return False
        return self._acquire_contended(now_s + timeout_s)

    def release(self) -> None:
        """Let the next one in. Releasing what is not held does nothing."""
        if self._fd >= 0 and _flock(self._fd, _UNLOCK) != 0:
            _flock_once(self._fd, _UNLOCK)

    def close(self) -> None:
        """Release the mutex and close its descriptor. Calling it again does nothing.

        The file stays: deleting it would part those who have it open from those who come later.
        """
        with no_fork():
            fd, self._fd = self._fd, -1
            if fd >= 0:
                _close_quietly(fd)

    def before_fork(self) -> None:
        """Do nothing: the writer keeps forks out of its transactions."""

    def after_fork_in_parent(self) -> None:
        """Do nothing."""

    def after_fork_in_child(self) -> None:
        """Close the copy: with it open the mutex would stay taken after the parent's death."""
        self.close()

    def _try_slowly(self) -> bool:
        # The fast call does not tell an interrupted or impossible one from a taken lock: errno
        # through ctypes would cost every successful call a third of its time.
        try:
            _flock_once(self._fd, _TRY)
        except OSError:
            return False
        return True

    def _acquire_contended(self, deadline_s: float) -> bool:
        pause_s = _SHORTEST_PAUSE_S
        while True:
            now_s = self._clock.monotonic()
            left_s = deadline_s - now_s
            if left_s <= 0:
                self._is_patient = False
                return False
            self._leave_note(now_s)
            # Jittered, so that two who wait for a third do not keep meeting.
            jittered_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311
            self._clock.wait(self._never, min(left_s, jittered_s))
            if self._try_slowly():
                self._looked_at_s = self._clock.monotonic()
                return True
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def _leave_note(self, now_s: float) -> None:
        # The monotonic clock is the machine's, so it means the same to all processes. Where it
        # does not (a container with its own time namespace) the note is never fresh, and only
        # fairness is lost; so it is on a full disk.
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, _NOTE.pack(int(now_s * 1e6)), 0)

    def _somebody_waits(self, now_s: float) -> bool:
        if _pread(self._fd, self._note, _NOTE.size, 0) != _NOTE.size:
            return False  # nobody has ever waited
        (noted_us,) = _NOTE.unpack(self._note)
        age_s: float = now_s - noted_us / 1e6
        return 0 <= age_s < _NOTE_LIFETIME_S
