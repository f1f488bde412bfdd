"""Who may start and end the threads of an engine, and how many calls need them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

from durably._platform.interrupts import is_interruptible
from durably._platform.latch import Wakeups
from durably.errors import ConflictError, EngineClosedError

T = TypeVar("T")

# How often a thread that waits for the lock looks whether it is being waited for.
_LOCK_LOOK_S: Final = 0.05


class Lifecycle:
    """Knows who needs the threads: the first has them begun, the last has them ended.

    Usable from any thread. Each call that needs them has a name of its own, so that to need them,
    and to need them no more, is one step each, which may be done twice.

    Args:
        path: of the database, for the message of a refusal.
        begin: starts what everyone needs.
        end: ends what was begun, also what is left of a ``begin`` that failed.
        is_own_thread: whether the calling thread is one of those.
    """

    def __init__(
        self,
        path: str,
        *,
        begin: Callable[[], None],
        end: Callable[[], None],
        is_own_thread: Callable[[], bool],
    ) -> None:
        self._path = path
        self._begin = begin
        self._end = end
        self._is_own_thread = is_own_thread
        # Held while threads are started and ended. Guards all below.
        self._lock = threading.RLock()
        # When somebody needs the threads no more.
        self._changed = Wakeups()
        # Who needs them, and the thread that it is in.
        self._holds: dict[object, int] = {}
        self._is_closed = False
        # Whether threads are being ended, and waited for, by who has the lock.
        self._is_ending = False
        # Whether there may be threads to end; and whether their end is not to be waited for in a
        # thread that a signal may interrupt.
        self._has_begun = False
        self.is_abandoned = False

    def locked(self) -> AbstractContextManager[object]:
        """Let nobody else start or end threads within the block.

        A job, or a listener that one of durably's own threads calls, may ask for it while who
        has the lock waits for the end of that very thread. It is refused then.

        Raises:
            ConflictError: so it is.
        """
        # The lock by itself, in a thread that a signal may interrupt: any code of Python's around
        # it could be left with the lock taken. That thread is none of durably's own.
        return self._lock if is_interruptible() else self._locked_patiently()

    @contextmanager
    def _locked_patiently(self) -> Iterator[None]:
        while not self._lock.acquire(timeout=_LOCK_LOOK_S):
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

    def hold(self, who: object) -> None:
        """Need the threads, until ``let_go``; when this returns they are there.

        Raises:
            EngineClosedError: there will be none any more.
        """
        with self.locked():
            self.refuse_closed()
            is_first = not self._holds
            self._holds[who] = threading.get_ident()
            if not is_first:
                return
            try:
                self._has_begun = True
                self._begin()
            except BaseException:
                self.let_go(who)
                raise

    def let_go(self, who: object) -> None:
        """Need them no more. Those whom nobody needs have ended when this returns."""
        if who not in self._holds:
            return
        with self.locked():
            try:
                if len(self._holds) == 1 and not (self.is_abandoned and is_interruptible()):
                    self._end_all()
            finally:
                self._holds.pop(who, None)
                self._changed.wake_all()

    def _end_all(self) -> None:
        with self.ending():
            self._end()
        self._has_begun = False

    def abandon(self) -> None:
        """Make no call need the threads from now on, and no caller wait for their end."""
        self.is_abandoned = self._is_closed = True

    def holding(self, call: Callable[[], T]) -> T:
        """Need them during a call; return its result.

        One of them need not say so: it is waited for before what it needs is ended.
        """
        if self._is_own_thread():
            self.refuse_closed()
            return call()
        who = object()
        try:
            self.hold(who)
            return call()
        finally:
            try:
                self.let_go(who)
            finally:
                self.let_go(who)  # a signal may have interrupted the other one

    def wait_for_change(self, timeout_s: float) -> None:
        """Block until somebody needs the threads no more, or the time is over; without the lock."""
        self._changed.wait_until(lambda: False, timeout_s)

    def close(self) -> None:
        """Refuse whoever comes from now on."""
        with self.locked():
            self._is_closed = True

    def refuse_closed(self) -> None:
        """Raise if it is closed.

        Raises:
            EngineClosedError: it is.
        """
        if self._is_closed:
            raise EngineClosedError(f"this engine on {self._path!r} is closed; open a new one")

    @contextmanager
    def unneeded(self) -> Iterator[None]:
        """Wait until no other thread needs them; nobody can within the block.

        This thread may, if a signal handler of it asks: it must not wait for itself.
        """
        while True:
            with self.locked():
                if self._is_unneeded():
                    if self._has_begun:
                        self._end_all()
                    self._holds.clear()
                    yield
                    return
            self._changed.wait_until(self._is_unneeded, _LOCK_LOOK_S)

    def _is_unneeded(self) -> bool:
        return all(thread == threading.get_ident() for thread in tuple(self._holds.values()))
