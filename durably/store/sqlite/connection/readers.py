"""The connections for reading: lend them, block new reads, wait for those in progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import apsw

from durably._platform import lock_timeouts
from durably._platform.clock import Clock
from durably._platform.latch import Wakeups
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S
from durably.errors import EngineClosedError, NotFoundError

# Idle connections kept for the next reader.
_SPARE: Final = 4
# How often a thread that waits for reads to end, or to begin one, checks by itself.
_POLL_S: Final = 0.05


class Readers:
    """Lend a connection to each thread that reads. Usable from any thread.

    A read begins at once, unless new reads are blocked until those in progress have ended.

    Args:
        connect: makes a connection.
        discard: closes one, whatever is still open on it.
        closed: returns the error for calls after ``close``.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        connect: Callable[[], apsw.Connection],
        discard: Callable[[apsw.Connection], None],
        closed: Callable[[], EngineClosedError],
    ) -> None:
        self._clock = clock
        self._connect = connect
        self._discard = discard
        self._closed = closed
        self._lock = threading.Lock()  # guards all below
        self._changed = Wakeups()  # woken when reads may begin, or none is in progress
        self._spare: list[apsw.Connection] = []
        # By thread: a read whose end a Ctrl-C prevented counts as over when its thread reads again.
        self._reads: set[int] = set()
        self._blocks = 0
        self.is_closed = False

    @contextmanager
    def connection(self) -> Iterator[apsw.Connection]:
        """Lend a connection for one read, which ends with the block.

        Raises:
            EngineClosedError: ``close`` was called.
        """
        thread = threading.get_ident()
        try:
            db = self._begin(thread)
            if db is None:
                db = self._connect()
            try:
                yield db
            except NotFoundError:
                # The query ran to completion, so the connection is clean.
                self._give_back(db)
                raise
            except BaseException:
                # Its statement may still be open, and so its snapshot: the next read on this
                # connection would see nothing newer.
                self._discard(db)
                raise
            self._give_back(db)
        finally:
            with self._lock:
                self._reads.discard(thread)
                is_last = not self._reads
            if is_last:
                self._changed.wake_all()

    def _begin(self, thread: int) -> apsw.Connection | None:
        while True:
            with self._lock:
                if self.is_closed:
                    raise self._closed()
                if not self._blocks:
                    self._reads.add(thread)
                    return self._spare.pop() if self._spare else None
            self._changed.wait_until(lambda: not self._blocks, _POLL_S)

    def _give_back(self, db: apsw.Connection) -> None:
        with self._lock:
            is_spare = not self.is_closed and len(self._spare) < _SPARE
            if is_spare:
                self._spare.append(db)
        if not is_spare:
            self._discard(db)

    @contextmanager
    def block_new_reads(self, timeout_s: float) -> Iterator[bool]:
        """Block new reads within the block; yield whether those in progress have ended in time."""
        with self._lock:
            self._blocks += 1
        try:
            yield self.wait_until_idle(timeout_s)
        finally:
            with self._lock:
                self._unblock()

    def close(self) -> list[apsw.Connection]:
        """Lend no more connections, and return the idle ones."""
        with self._lock:
            self.is_closed = True
            spare, self._spare = self._spare, []
        return spare

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait for the reads in progress; return whether they have ended in time."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            with self._lock:
                # The read of this thread itself has ended, by a Ctrl-C or a signal handler.
                self._reads.discard(threading.get_ident())
                if not self._reads:
                    return True
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return False
            self._changed.wait_until(lambda: not self._reads, min(left_s, _POLL_S))

    def _unblock(self) -> None:
        self._blocks -= 1
        if not self._blocks:
            self._changed.wake_all()

    # -- forks ---------------------------------------------------------------------------

    def before_fork(self, timeout_s: float) -> None:
        """Wait for the reads in progress, and block new ones.

        The child inherits the locks inside of SQLite as they are: a lock that a thread of the
        parent had taken for its read would be taken there for ever.
        """
        with self._lock:
            self._blocks += 1
        try:
            self.wait_until_idle(timeout_s)
            self._lock.acquire()
        except BaseException:
            # After a Ctrl-C the fork happens nevertheless, and nothing unblocks the reads after it.
            with self._lock:
                self._unblock()
            raise

    def after_fork_in_parent(self) -> None:
        """Allow reads again."""
        self._unblock()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Replace the locks that threads of the parent may have held."""
        self._lock = threading.Lock()
        self._changed = Wakeups()
        self._reads.clear()
        self._blocks = 0


@contextmanager
def limited_wait(db: apsw.Connection, clock: Clock) -> Iterator[None]:
    """Limit a read's wait for locks to the time that its caller waits."""
    now_s = clock.monotonic()
    left_s = lock_timeouts.deadline(now_s, BUSY_TIMEOUT_S) - now_s
    db.set_busy_timeout(max(1, int(left_s * 1000)))
    try:
        yield
    finally:
        # After a signal has ended the block, this may run only when the frame is collected.
        with suppress(apsw.ConnectionClosedError):
            db.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))
