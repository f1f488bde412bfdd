"""Being told by the kernel that somebody writes to the log, instead of looking again and again.

On Linux, by inotify; beside it stands an eventfd, so that other threads of this process can wake
the one that waits. The log is watched by its path: to have a descriptor of it and to close that
one would drop SQLite's locks (see ``guard.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import functools
import os
import sys
from typing import Final

from durably._platform.fork_hooks import ForkParticipant, no_fork, watch_forks
from durably._platform.interrupts import raise_if_signal
from durably.store.sqlite.locks.guard import close_quietly

if sys.platform == "linux":
    import select

_IN_MODIFY: Final = 0x00000002
# The kernel takes the watch away with its first event, so that a burst of writes costs one.
_IN_ONESHOT: Final = 0x80000000
# Enough for the event of a watch and for that of its end, 16 bytes each.
_EVENTS_SIZE: Final = 4096
# poll() takes no more than an int of milliseconds.
_LONGEST_S: Final = 3600.0


class Woken(enum.Enum):
    """What has ended a wait."""

    BY_RING = "ring"
    BY_WRITE = "write"
    BY_TIME = "time"


class LogWatch(ForkParticipant):
    """A bell for one thread, which may also be rung by the next write to a file.

    Used by the thread that waits; ``ring`` may be called from any. The descriptors live as long
    as the object: a thread may be about to ring when another one has no more use for it, and must
    not write to whatever else has got the bell's number by then.

    Raises:
        OSError: there are no descriptors left, or no inotify instances for this user.
        AttributeError: the system's library has no such functions.
    """

    def __init__(self, path: str) -> None:
        self._bell = self._events = self._watch = -1
        self._path = os.fsencode(path)
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        library = _library()
        begin = library.inotify_init1
        self._add = library.inotify_add_watch
        self._remove = library.inotify_rm_watch
        with no_fork():
            watch_forks(self)
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            # Its flags IN_CLOEXEC and IN_NONBLOCK are defined as these.
            self._events = _checked(begin(os.O_CLOEXEC | os.O_NONBLOCK))
        self._rings, self._rings_and_writes = select.poll(), select.poll()
        self._rings.register(self._bell, select.POLLIN)
        self._rings_and_writes.register(self._bell, select.POLLIN)
        self._rings_and_writes.register(self._events, select.POLLIN)

    def ring(self) -> bool:
        """End the present wait, or else the next one; say whether that was possible.

        One system call: it is done or not, wherever a Ctrl-C lands.
        """
        bell = self._bell
        if sys.platform != "linux" or bell < 0:
            return False
        try:
            os.eventfd_write(bell, 1)
        except OSError as exc:
            raise_if_signal(exc)
            return False
        return True

    def forget_rings(self) -> None:
        """Let the next wait be for a ring that is still to come."""
        bell = self._bell
        if sys.platform == "linux" and bell >= 0:
            try:
                os.eventfd_read(bell)
            except OSError as exc:
                raise_if_signal(exc)
                return  # there was none

    def arm(self) -> None:
        """Have the next write to the file end a wait, unless one since the last call is to do so.

        Look at the file only after this.

        Raises:
            OSError: the file cannot be watched.
        """
        if self._watch >= 0:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._events, _EVENTS_SIZE)  # what the last time has left
        self._watch = _checked(self._add(self._events, self._path, _IN_MODIFY | _IN_ONESHOT))

    def disarm(self) -> None:
        """Let writes cost nothing any more, and end no wait."""
        if self._watch >= 0:
            # Fails where an event has taken the watch away already.
            self._remove(self._events, self._watch)
            self._watch = -1

    def wait(self, timeout_s: float, *, for_write: bool) -> Woken:
        """Block until there is a ring, or for a write, or *timeout_s*, at most an hour, is over.

        Raises:
            OSError: somebody has closed the descriptors.
        """
        if sys.platform == "linux":
            poll = self._rings_and_writes if for_write else self._rings
            ready = dict(poll.poll(1000 * min(timeout_s, _LONGEST_S)))
            if any(events != select.POLLIN for events in ready.values()):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if self._bell in ready:
                self.forget_rings()
                return Woken.BY_RING
            if ready:
                self._watch = -1
                return Woken.BY_WRITE
        return Woken.BY_TIME

    def _close(self) -> None:
        with no_fork():
            descriptors = self._bell, self._events
            self._bell = self._events = -1
            for descriptor in descriptors:
                if descriptor >= 0:
                    close_quietly(descriptor)

    __del__ = _close

    def after_fork_in_child(self) -> None:
        """Close the copies: a ring in the child would wake the parent's thread."""
        self._close()


def open_watch(path: str) -> LogWatch | None:
    """A watch of the file *path*; ``None`` where none can be had."""
    if not hasattr(os, "eventfd"):
        return None
    try:
        return LogWatch(path)
    except (OSError, AttributeError) as exc:
        raise_if_signal(exc)
        return None


@functools.cache
def _library() -> ctypes.CDLL:
    """The system's library, with its functions declared."""
    library = ctypes.CDLL(None, use_errno=True)
    library.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    return library


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
