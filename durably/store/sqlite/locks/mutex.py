"""The writer mutex: one writer at a time among all write connections, in all processes.

SQLite has a lock for the same purpose, but closing any descriptor of the database in this process
drops it, even in the middle of a transaction; see ``guard.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock, jittered
from durably._platform.fork_hooks import ForkParticipant, no_fork, watch_forks
from durably._platform.latch import Latch
from durably._platform.signals import deliver_overdue
from durably.errors import DatabaseError
from durably.store.sqlite.connection.advice import advice_on
from durably.store.sqlite.connection.sidefiles import give_to_owner, writer_path
from durably.store.sqlite.locks.guard import CLOEXEC, close_quietly

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The longest and the shortest pause between two tries to take a mutex that is taken. A process
# releases it for a moment between its commits, so a thread that tries often soon finds it free. But
# each change of processes costs as much as some commits, because the pages that one has written are
# not in the other's memory.
_LONGEST_PAUSE_S: Final = 0.002
_SHORTEST_PAUSE_S: Final = 0.0004
# How often a process that takes the mutex without waiting checks whether others wait for it, and
# how long it then steps back: for longer than their longest pause, so that one of them gets it.
_TURN_S: Final = 0.02
_STEP_BACK_S: Final = 0.003
_NEARLY: Final = 0.95
# A waiter renews its note at each try; an older one was left by a process that gave up, was
# stopped, or died. The time is longer than the processor may take to wake a waiter.
_NOTE_LIFETIME_S: Final = 0.012
# When a waiter last tried, in microseconds.
_NOTE: Final = struct.Struct("=q")


def _flock_without_gil() -> Callable[[int, int], int]:
    """Call ``flock`` of the C library without giving up the GIL; return 0 or -1.

    A call that gives the GIL up for a microsecond waits a whole switch interval (5 ms) to get it
    back while another thread executes Python: locking and unlocking then took 2.7 ms on average,
    and 4 us without giving it up. With LOCK_NB or LOCK_UN the call cannot block.
    """
    try:
        function = ctypes.PyDLL(None).flock
    except (OSError, AttributeError, TypeError):
        return lambda _fd, _operation: -1
    # Without argtypes: plain ints need no conversion, and declaring them costs a third more.
    function.restype = ctypes.c_int
    return function


def _pread_without_gil() -> Callable[[int, ctypes.Array[ctypes.c_char], int, int], int]:
    """Call ``pread`` in the same way, for a few bytes that are in the page cache."""
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
    """Call ``flock`` through the standard library, which raises the reason of a failure."""
    if sys.platform != "win32":
        fcntl.flock(fd, operation)


def _open_or_make(mutex_path: str, path: str) -> int:
    """Return a descriptor of the mutex of the database *path*."""
    flags = os.O_RDWR | CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(mutex_path, flags)
        with contextlib.suppress(FileExistsError):  # another process has just made it
            fd = os.open(mutex_path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            give_to_owner(fd, path)
            return fd


class WriterMutex(ForkParticipant):
    """Allow one writer at a time among all write connections of a database, in all processes.

    It is a ``flock`` on ``<database>.writer``. Each mutex has an open file description of its own,
    so that connections of one process exclude each other too. It is an addition to SQLite's own
    locks, not a replacement: if :meth:`acquire` returns ``False``, the caller continues under
    SQLite's locks alone. So no thread can wait for ever for a process that was stopped
    (``SIGSTOP``, a debugger) with the mutex: it waits one timeout, and after that no more until
    the mutex was free once.

    ``flock`` has no queue: a thread that releases it and takes it again at once comes before every
    waiter. So a waiter leaves a note in the file, and a thread that takes the mutex reads it now
    and then. If the note is fresh, the thread waits longer than the waiter's longest pause.

    A mutex is used by one thread at a time, the one that has the write connection. In a forked
    child it is closed. Without ``flock`` (Windows, some network file systems) it locks nothing, and
    ``is_effective`` is false. If the file is deleted while in use, the processes that have it open
    and later ones exclude each other only by SQLite's locks.

    Attributes:
        path: the file that is locked.
        is_effective: whether acquiring can exclude other writers.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        """Open the file beside the database *path*, and make it if it is missing.

        Raises:
            DatabaseError: the file cannot be made or opened.
        """
        self.path: Final = writer_path(path)
        self._clock = clock
        # A signal does not end a wait in the middle of a commit, unless that lasts.
        self._never = Latch(poll=deliver_overdue)
        self._is_patient = True
        self._waited_s = 0.0
        self._looked_at_s = -_TURN_S
        self._note = ctypes.create_string_buffer(_NOTE.size)
        self._fd = -1
        if sys.platform == "win32":
            return
        with no_fork():
            try:
                self._fd = _open_or_make(self.path, path)
            except OSError as exc:
                raise DatabaseError(
                    f"cannot open {self.path!r}, which keeps writers of the database apart: "
                    f"{exc.strerror}; {advice_on(exc)}"
                ) from exc
            watch_forks(self)
        try:
            _flock_once(self._fd, _TRY)
            _flock_once(self._fd, _UNLOCK)
        except BlockingIOError:
            pass
        except OSError:
            # This file system has no flock: found now, and not by waiting without effect.
            self.close()

    @property
    def is_effective(self) -> bool:
        """Return whether acquiring can exclude other writers."""
        return self._fd >= 0

    @property
    def is_patient(self) -> bool:
        """Return whether ``acquire`` waits. If not, the caller continues under SQLite's locks."""
        return self._is_patient and self._fd >= 0

    def acquire(self, timeout_s: float, patience_s: float | None = None) -> bool:
        """Take the mutex, waiting up to *timeout_s* seconds; return whether it was obtained.

        Once calls have waited *patience_s* in all without effect, by default one call its timeout,
        further ones only try, until one obtains it. A mutex that is not effective is never
        obtained and never waited for.
        """
        if self._fd < 0:
            return False
        now_s = self._clock.monotonic()
        if now_s - self._looked_at_s >= _TURN_S:
            self._looked_at_s = now_s
            if self._is_patient and timeout_s > 0:
                self._step_back(now_s, timeout_s)
        if _flock(self._fd, _TRY) == 0 or self._try_slowly():
            self._is_patient = True
            self._waited_s = 0.0
            return True
        if not self._is_patient or timeout_s <= 0:
            return False
        if self._acquire_contended(now_s + timeout_s):
            self._waited_s = 0.0
            return True
        self._waited_s += self._clock.monotonic() - now_s
        # The pieces of a wait add up to a little less than all of it.
        if self._waited_s >= _NEARLY * (timeout_s if patience_s is None else patience_s):
            self._is_patient = False
            self._waited_s = 0.0
        return False

    def release(self) -> None:
        """Release the mutex. Does nothing if it is not held."""
        if self._fd >= 0 and _flock(self._fd, _UNLOCK) != 0:
            _flock_once(self._fd, _UNLOCK)

    @contextmanager
    def locked(self, timeout_s: float) -> Iterator[bool]:
        """Hold the mutex in the block if it can be obtained in time; yield whether it is held."""
        try:
            yield self.acquire(timeout_s)
        finally:
            self.release()

    def close(self) -> None:
        """Release the mutex and close its descriptor. Calling it again does nothing.

        The file stays: if it were deleted, the processes that have it open and later ones would
        not exclude each other.
        """
        with no_fork():
            fd, self._fd = self._fd, -1
            if fd >= 0:
                close_quietly(fd)

    def after_fork_in_child(self) -> None:
        """Close the copy, which would keep the mutex taken after the parent's death."""
        self.close()

    def _try_slowly(self) -> bool:
        # The fast call returns the same for an interrupted or impossible call as for a taken lock:
        # errno through ctypes would cost every successful call a third of its time.
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
                return False
            self._leave_note(now_s)
            # Jittered, so that two waiters do not always try at the same time.
            self._clock.wait(self._never, min(left_s, jittered(pause_s)))
            if self._try_slowly():
                self._looked_at_s = self._clock.monotonic()
                return True
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _step_back(self, now_s: float, timeout_s: float) -> None:
        """Wait so that another process can take the mutex first, if one waits."""
        if self._is_awaited(now_s):
            self._clock.wait(self._never, min(timeout_s, _STEP_BACK_S))

    def _leave_note(self, now_s: float) -> None:
        # The monotonic clock is the machine's, so it is the same for all processes. Where it is not
        # (a container with its own time namespace), and on a full disk, the note is never fresh,
        # and only fairness is lost.
        note = _NOTE.pack(int(now_s * 1e6))
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, note, 0)

    def _is_awaited(self, now_s: float) -> bool:
        """Return whether another process or thread waits for the mutex."""
        if _pread(self._fd, self._note, _NOTE.size, 0) != _NOTE.size:
            return False  # there has never been a waiter
        noted_us: int
        (noted_us,) = _NOTE.unpack(self._note)
        return 0 <= now_s - noted_us / 1e6 < _NOTE_LIFETIME_S
