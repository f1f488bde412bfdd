"""Wait and wake in a way that an exception may interrupt anywhere.

A signal handler that raises does so in the main thread between any two instructions. In the middle
of ``threading.Condition`` that leaves a lock taken for ever, or replaces the exception by a
``RuntimeError``; ``Event`` contains a ``Condition``. The classes here hold no lock while Python
code runs: each thread waits at a lock of its own, which one call into C takes or does not, and
single calls change all shared state. So a signal handler may also wake what it has interrupted.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from durably._platform.realtime import monotonic
from durably._platform.signals import SIGNAL_POLL_S, deliver, is_main_thread

# How long a wait for the end of a thread goes on before signals are checked for.
_JOIN_POLL_S: Final = 0.1


class Wakeups:
    """Threads that wait for something, and are woken together. Usable from any thread."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: deque[threading.Lock] = deque()

    def wake_all(self) -> None:
        """End all waits in progress. If it was interrupted, it may be called again."""
        if not self._locks:
            return
        for lock in tuple(self._locks):
            with contextlib.suppress(RuntimeError):  # another thread has just released it
                lock.release()
            # Its thread removes it, unless an exception has ended that wait before.
            self._discard(lock)

    def wait_until(
        self,
        is_so: Callable[[], bool],
        timeout_s: float | None,
        poll: Callable[[], None] = deliver,
    ) -> bool:
        """Block until a wake, until *timeout_s* has passed, or until *is_so* returns true.

        Return what *is_so* returns. A thread that makes it true must do that before it wakes.

        Args:
            poll: called now and then while the main thread waits: what signals do there.
        """
        lock = threading.Lock()
        lock.acquire()
        self._locks.append(lock)
        try:
            if not is_so():
                _wait_at(lock, timeout_s, poll)
            return is_so()
        finally:
            self._discard(lock)

    def _discard(self, lock: threading.Lock) -> None:
        with contextlib.suppress(ValueError):  # it is already removed
            self._locks.remove(lock)


def _wait_at(lock: threading.Lock, timeout_s: float | None, poll: Callable[[], None]) -> None:
    """Block until *lock* is released or *timeout_s* has passed."""
    if not is_main_thread():
        lock.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))
        return
    deadline = math.inf if timeout_s is None else monotonic() + timeout_s
    left_s = math.inf if timeout_s is None else max(0.0, timeout_s)
    while not lock.acquire(timeout=min(left_s, SIGNAL_POLL_S)) and left_s > 0:
        poll()
        left_s = max(0.0, deadline - monotonic())
    poll()


def join(*threads: threading.Thread) -> None:
    """Block until all have ended. What a signal raises in the main thread ends the wait."""
    for thread in threads:
        while thread.is_alive():
            thread.join(_JOIN_POLL_S)
            deliver()


class Latch:
    """An event like ``threading.Event``, without a lock that an exception could leave taken.

    Args:
        poll: what signals do in the main thread while it waits.
    """

    __slots__ = ("_is_set", "_poll", "_waiting")

    def __init__(self, poll: Callable[[], None] = deliver) -> None:
        self._is_set = False
        self._poll = poll
        self._waiting = Wakeups()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """End every wait, until it is cleared, even if an earlier call was interrupted."""
        self._is_set = True
        self._waiting.wake_all()

    def clear(self) -> None:
        """Make calls wait from now on."""
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until it is set or *timeout_s* has passed; return whether it is set."""
        return self._is_set or self._waiting.wait_until(self.is_set, timeout_s, self._poll)
