"""Who may start and end the threads of an engine, and how many calls need them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from durably.errors import ConflictError, EngineClosedError

# How often a thread that waits for the lock looks whether it is being waited for.
_LOCK_LOOK_S: Final = 0.05


class _Inside(threading.local):
    """How many blocks of ``held`` the present thread is inside of."""

    depth = 0


class Lifecycle:
    """Counts those who need the threads: the first has them begun, the last has them ended.

    Usable from any thread.

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
        # Held while threads are started and ended. Guards all below; notified when a hold ends.
        self._lock = threading.Condition(threading.RLock())
        self._holds = 0
        self._inside = _Inside()
        self._is_closed = False
        # Whether threads are being ended, and waited for, by who has the lock.
        self._is_ending = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else start or end threads within the block.

        A job, or a listener that one of durably's own threads calls, may ask for it while who
        has the lock waits for the end of that very thread. It is refused then.

        Raises:
            ConflictError: so it is.
        """
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
        self._is_ending = True
        try:
            yield
        finally:
            self._is_ending = False

    def hold(self) -> None:
        """Need the threads, until ``let_go``; when this returns they are there.

        Raises:
            EngineClosedError: there will be none any more.
        """
        with self.locked():
            self.refuse_closed()
            self._holds += 1
            if self._holds > 1:
                return
            try:
                self._begin()
            except BaseException:
                self.let_go()
                raise

    def let_go(self) -> None:
        """Need them no more. Those whom nobody needs have ended when this returns."""
        with self.locked():
            try:
                if self._holds == 1:
                    with self.ending():
                        self._end()
            finally:
                self._holds -= 1
                self._lock.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Need them within the block.

        One of them need not say so: it is waited for before what it needs is ended.
        """
        if self._is_own_thread():
            self.refuse_closed()
            yield
            return
        self.hold()
        self._inside.depth += 1
        try:
            yield
        finally:
            self._inside.depth -= 1
            self.let_go()

    def wait(self, timeout_s: float) -> None:
        """Let go of the lock until somebody needs the threads no more, or the time is over."""
        self._lock.wait(timeout_s)

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
        """Wait until no other thread is inside ``held``; nobody can be within the block.

        This thread may be, if a signal handler of it asks: it must not wait for itself.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._holds <= self._inside.depth)
            yield
