"""Start an engine's threads with the first call that needs them, and end them with the last."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from durably._platform.latch import Wakeups
from durably._platform.signals import deliver_overdue, is_main_thread
from durably.errors import ConflictError
from durably.store.closing import Closing
from durably.worker.state import EngineState, State

T = TypeVar("T")

# How often a thread that waits for the lock checks whether the lock's holder waits for it.
_LOCK_POLL_S: Final = 0.05


class Lifecycle:
    """Count the calls that need the threads: the first one starts them, the last one ends them.

    Usable from any thread. ``lease`` and ``release`` may be called twice for one call.

    Args:
        closing: knows what to raise once it is closed.
        state: of the engine.
        begin: starts the threads that every call needs.
        end: ends what was begun, also what is left of a ``begin`` that failed.
        is_own_thread: returns whether the calling thread is one of those.
    """

    def __init__(
        self,
        closing: Closing,
        state: EngineState,
        *,
        begin: Callable[[], None],
        end: Callable[[], None],
        is_own_thread: Callable[[], bool],
    ) -> None:
        self._closing = closing
        self._pid = os.getpid()
        self._state = state
        self._begin = begin
        self._end = end
        self._is_own_thread = is_own_thread
        # Held while threads are started and ended. Guards all below.
        self._lock = threading.RLock()
        # Woken when a call no longer needs the threads.
        self._changed = Wakeups()
        # The calls that need the threads, and the ident of the thread of each.
        self._leases: dict[object, int] = {}
        # Whether the thread that holds the lock ends threads and waits for them.
        self._is_ending = False
        # Whether there may be threads to end; and whether the main thread does not wait for that.
        self._has_begun = False
        self.is_abandoned = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others from starting or ending threads within the block.

        Raises:
            ConflictError: the calling thread is one of the engine's own, which a job or a listener
                may use, and the thread that has the lock waits for its end.
        """
        while not self._lock.acquire(timeout=_LOCK_POLL_S):
            deliver_overdue()
            if self._is_ending and self._is_own_thread():
                raise ConflictError(
                    "the engine is being stopped, and waits for the job or listener that makes "
                    "this call; make it from another thread"
                )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Mark that the block, in which the lock is held, ends threads and waits for them."""
        try:
            self._is_ending = True
            yield
        finally:
            self._is_ending = False

    def lease(self, who: object) -> None:
        """Keep the threads running until ``release``; when this returns they run.

        Raises:
            EngineClosedError: the engine is closed.
        """
        with self.locked():
            self.raise_if_closed()
            is_first = not self._leases
            self._leases[who] = threading.get_ident()
            if not is_first:
                return
            try:
                self._has_begun = True
                self._begin()
            except BaseException:
                self.release(who)
                raise

    def is_leased_by(self, who: object) -> bool:
        """Return whether *who* has called ``lease``, and not ``release``."""
        return who in self._leases

    def release(self, who: object) -> None:
        """Stop needing the threads. If no other call needs them, they have ended on return.

        A child that was forked inside a call, and comes back to it, has none of the threads.
        """
        if who not in self._leases or os.getpid() != self._pid:
            return
        with self.locked():
            try:
                if len(self._leases) == 1 and not (self.is_abandoned and is_main_thread()):
                    self._end_all()
            finally:
                self._leases.pop(who, None)
                self._changed.wake_all()

    def _end_all(self) -> None:
        with self.ending():
            self._end()
        self._has_begun = False

    def abandon(self) -> None:
        """Make calls do without the threads from now on, and callers not wait for their end."""
        self.is_abandoned = True
        self._state.become(State.CLOSED)

    def with_threads(self, call: Callable[[], T]) -> T:
        """Make a call while the threads run, and return its result.

        A thread of the engine's own only makes the call: its end is waited for before the others
        are ended.
        """
        if self._is_own_thread():
            self.raise_if_closed()
            return call()
        who = object()
        try:
            self.lease(who)
            return call()
        finally:
            self.release(who)

    def close(self) -> None:
        """Raise ``EngineClosedError`` to every call from now on."""
        with self.locked():
            self._state.become(State.CLOSED)

    def raise_if_closed(self) -> None:
        """Raise if the engine is closed.

        Raises:
            EngineClosedError: it is closed.
        """
        if self._state.is_closed:
            raise self._closing.error()

    @contextmanager
    def unneeded(self) -> Iterator[None]:
        """Wait until no other thread needs the threads; within the block no other thread can.

        Calls of this thread do not count: a signal handler may have called this inside one of them,
        and it must not wait for itself.
        """
        while True:
            with self.locked():
                if self._is_unneeded():
                    if self._has_begun:
                        self._end_all()
                    self._leases.clear()
                    yield
                    return
            self._changed.wait_until(self._is_unneeded, _LOCK_POLL_S)

    def _is_unneeded(self) -> bool:
        return all(thread == threading.get_ident() for thread in tuple(self._leases.values()))
