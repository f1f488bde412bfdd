"""Group commit: one write connection that many threads share, one fsync for all that wait.

A thread takes the lock, if it is free, and becomes the leader: it executes its operation and all
that are queued in one transaction, which it commits once. A thread that finds the lock taken queues
its operation and waits at a latch of its own until the operation is done, or it is its turn to try
for the lock. A thread whose operation is done needs no lock to return, so all threads of a batch
continue at once, and queue their next operations while another thread commits. For a single thread
this costs next to nothing; sixteen threads share an fsync.

Invariants:

1. An operation's caller returns only after the commit that contains it, or with the error
   for which nothing of it was stored.
2. An operation is executed to its commit at most once, also if a Ctrl-C arrives anywhere
   in the thread that commits for others.
3. No operation calls user code, so no thread waits inside the lock for anything but SQLite.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import apsw

from durably._platform.clock import Clock
from durably._platform.fork_hooks import ForkParticipant, watch_forks
from durably._platform.lock_timeouts import Hurry
from durably._platform.signals import deliver_overdue
from durably.errors import ForkedError
from durably.store.sqlite.connection.batch_executor import BatchExecutor, FaultPoint
from durably.store.sqlite.connection.write_request import Operation, WriteRequest
from durably.store.sqlite.locks.mutex import WriterMutex

Ps = ParamSpec("Ps")
T = TypeVar("T")

# How many operations are committed together: a thread waits for that many others at the most.
MOST_AT_ONCE: Final = 64
# How long a thread waits at its latch before it checks by itself. A thread that releases the lock
# releases the next one, unless two Ctrl-C in a row have ended it in between.
_LATCH_S: Final = 0.05


def _release(done: list[WriteRequest]) -> None:
    for request in done:
        request.release()


class GroupCommitWriter(ForkParticipant):
    """Execute operations of any number of threads on one write connection.

    Args:
        db: a connection in WAL mode that nobody else uses, its busy timeout a slice.
        path: the database file, for messages.
        mutex: taken around every transaction; excludes other processes.
        fault_point: called with the name of each point of the write path that is
            reached; tests kill the process there.
        hurry: when all waits for locks end at the latest.
    """

    def __init__(
        self,
        db: apsw.Connection,
        *,
        path: str,
        mutex: WriterMutex,
        clock: Clock,
        fault_point: FaultPoint | None = None,
        hurry: Hurry | None = None,
    ) -> None:
        self._db = db
        self._mutex = mutex
        self._batches = BatchExecutor(
            db, path=path, mutex=mutex, clock=clock, fault_point=fault_point, hurry=hurry
        )
        self._pid = os.getpid()
        self._queue: deque[WriteRequest] = deque()
        # Guards the connection and its executor: held for the whole of a transaction.
        self._lock = threading.Lock()
        watch_forks(self)

    def run(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* with the connection and the arguments; return its result.

        When this returns the operation is committed. It blocks for up to ``BUSY_TIMEOUT_S``
        while another program has the database locked.

        Raises:
            DatabaseError: SQLite reported an error; nothing of the operation is stored.
        """
        self._refuse_child()
        if self._lock.locked():
            request = WriteRequest(operation, args, kwargs, *self._batches.waits())
            self._wait_for_turn(request)
        else:
            try:
                with self._lock:
                    if (
                        not self._queue
                        and not self._batches.batch
                        and getattr(operation, "is_single_statement", False)
                    ):
                        result = self._batches.execute_directly(operation, args, kwargs)
                        if self._queue:
                            _release(self._lead(None))
                        return result  # type: ignore[no-any-return]  # as below
                    request = WriteRequest(operation, args, kwargs, *self._batches.waits())
                    done = self._lead_once_more(self._lead(request))
            finally:
                if self._queue:
                    self._call_next()
            _release(done)
        if request.error is not None:
            raise request.error
        return request.result  # type: ignore[no-any-return]  # the queue is mixed

    def _lead_once_more(self, done: list[WriteRequest]) -> list[WriteRequest]:
        """Release *done*; execute what was queued meanwhile, if anything, and return it.

        Waking another thread to lead would take as long as a small commit.
        """
        if not self._queue:
            return done
        _release(done)
        return self._lead(None)

    def _wait_for_turn(self, request: WriteRequest) -> None:
        """Queue an operation, and wait until it is done, or execute it with all that are queued."""
        self._queue.append(request)
        try:
            while not request.is_done:
                if self._lock.locked():
                    request.latch.acquire(timeout=_LATCH_S)
                    deliver_overdue()
                    self._give_up_if_over(request)
                    continue
                done: list[WriteRequest] = []
                with self._lock:
                    if not request.is_done:
                        done = self._lead_once_more(self._lead(request))
                # First: the next leader waits for the disk while the others continue.
                self._call_next()
                _release(done)
        except BaseException:
            # A Ctrl-C while waiting: no other thread may execute the abandoned operation.
            self._withdraw(request)
            self._call_next()
            raise

    def _call_next(self) -> None:
        """Make the thread that waits longest try for the lock. Called without the lock."""
        if self._queue:
            try:
                self._queue[0].release()
            except IndexError:
                return  # another leader has taken it meanwhile, and will call the next one

    def _give_up_if_over(self, request: WriteRequest) -> None:
        """Fail an operation that no thread has begun, if its caller no longer waits for locks.

        The leader fails the operations that it has taken.
        """
        if not request.is_done and self._batches.is_over(request) and self._withdraw(request):
            self._batches.refuse(request)

    def _withdraw(self, request: WriteRequest) -> bool:
        try:
            self._queue.remove(request)
        except ValueError:
            return False
        return True

    def _lead(self, own: WriteRequest | None) -> list[WriteRequest]:
        """Execute what is queued, and *own* even if it is not; return what is done."""
        if self._batches.batch:
            self._batches.settle_interrupted()
            if own is not None and own.is_done:
                return []
        batch = self._take(own)
        self._batches.execute(batch, own)
        return batch

    def _take(self, own: WriteRequest | None) -> list[WriteRequest]:
        batch: list[WriteRequest] = []
        while self._queue and len(batch) < MOST_AT_ONCE:
            batch.append(self._queue.popleft())
        if own is not None and own not in batch and own not in self._queue:
            # It was never queued; or a Ctrl-C ended the thread that took it before it began.
            if len(batch) == MOST_AT_ONCE:
                self._queue.appendleft(batch.pop())
            batch.append(own)
        return batch

    def maintain(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* outside of a transaction.

        It is for WAL checkpoints and pragmas, which SQLite rejects inside a transaction.
        """
        self._refuse_child()
        try:
            with self._lock:
                return self._batches.maintain(operation, *args, **kwargs)
        finally:
            self._call_next()

    @contextmanager
    def paused(self) -> Iterator[apsw.Connection]:
        """Lend the connection within the block, and let no thread write.

        Wait before that until the transaction in progress has ended.
        """
        try:
            with self._lock:
                yield self._db
        finally:
            self._call_next()

    def close(self) -> None:
        """Close the connection once the transaction in progress has ended."""
        with self.paused() as db:
            db.close()
        self._mutex.close()

    def _refuse_child(self) -> None:
        # There the lock stays taken.
        if os.getpid() != self._pid:
            raise ForkedError("this engine belongs to the parent process; open a new one here")

    def before_fork(self) -> None:
        """Wait until a transaction in progress has ended, so that no child inherits half of one."""
        if os.getpid() == self._pid:  # in a child the lock stays as the fork has left it
            self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Allow transactions again."""
        if os.getpid() == self._pid:
            self._lock.release()
            self._call_next()

    def after_fork_in_child(self) -> None:
        """Keep the inherited connection from ever being used, even by its destructor.

        Closing it would act on the parent's database without its locks, which a child does not
        inherit.
        """
        leak(self._db)


def leak(connection: apsw.Connection) -> None:
    """Keep *connection* from ever being closed in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
