"""Group commit: one write connection that many threads share, one fsync for all that wait.

A thread takes the lock, if it is free, and executes its operation and all that are queued in one
transaction, which it commits once. Who finds it taken queues its operation and waits at a gate of
its own until that is done, or it is its turn to try for the lock: a thread whose operation is done
needs no lock to leave, so that all of a batch go on at once and come back with their next
operations while another thread commits. Alone, a thread pays next to nothing for this; sixteen
threads share an fsync.

Each call into SQLite gives up the GIL, and where other threads want it, waits to have it back:
longer than the call itself took. So operations that say how are executed together, in one
statement (``merged_by``), and a lone statement needs no transaction around it.

Invariants:

1. An operation's caller returns only after the commit that contains it, or with the error
   for which nothing of it was stored.
2. An operation is executed to its commit at most once, also when a Ctrl-C lands anywhere
   in the thread that commits for others.
3. No operation calls user code, so nobody waits inside the lock for anything but SQLite.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import apsw

from durably.clock import Clock
from durably.errors import DatabaseError, ForkedError
from durably.forking import watch_forks
from durably.interrupts import is_interruptible
from durably.store.faults import database_error
from durably.store.mutex import WriterMutex

Ps = ParamSpec("Ps")
T = TypeVar("T")
Operation = Callable[Concatenate[apsw.Connection, Ps], T]
FaultPoint = Callable[[str], None]

# How long a lock of somebody else is waited for before the caller gets an error.
BUSY_TIMEOUT_S: Final = 30.0
# SQLite waits in slices of this, since a Ctrl-C is not seen while it waits.
BUSY_SLICE_MS: Final = 250
# How many operations are committed together: a thread waits for so many others at the most.
MOST_AT_ONCE: Final = 64
# How long a thread waits at its gate before it looks by itself. Whoever gives the lock back
# opens the next gate; only one that two Ctrl-C in a row ended in between has not.
_GATE_S: Final = 0.05


def single_statement(operation: Callable[Ps, T]) -> Callable[Ps, T]:
    """Mark an operation that executes exactly one statement.

    SQLite undoes a failed statement by itself and commits a lone one by itself, so it
    needs no savepoint among others and no transaction when alone: one call into
    SQLite instead of three, each of which would give up the GIL.
    """
    operation.is_single_statement = True  # type: ignore[attr-defined]  # a mark on a function
    return operation


def merged_by(
    together: Callable[[apsw.Connection, Sequence[tuple[Any, ...]]], list[Any]],
) -> Callable[[Callable[Ps, T]], Callable[Ps, T]]:
    """Mark an operation of one statement, several of which *together* executes in one.

    It is given the arguments of each and gives the result of each. If one of them is refused it
    stores nothing and raises ``apsw.ConstraintError``: they are executed one by one then.
    """

    def mark(operation: Callable[Ps, T]) -> Callable[Ps, T]:
        operation.together = together  # type: ignore[attr-defined]  # a mark on a function
        return single_statement(operation)

    return mark


class _Phase(Enum):
    EXECUTING = auto()
    COMMITTING = auto()


class _Ticket:
    """One caller's operation and what became of it."""

    __slots__ = (
        "args",
        "error",
        "gate",
        "is_done",
        "is_single",
        "kwargs",
        "operation",
        "result",
        "together",
    )

    def __init__(self, operation: Any, args: Any, kwargs: Any) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.is_single = getattr(operation, "is_single_statement", False)
        self.together = None if kwargs else getattr(operation, "together", None)
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        # Where its thread waits: a lock that is taken until somebody opens it.
        self.gate = threading.Lock()
        self.gate.acquire()

    def open_gate(self) -> None:
        """Have the thread that waits look again; it may do so without, or be told twice."""
        if self.gate.locked():
            try:
                self.gate.release()
            except RuntimeError:
                return  # somebody else was faster


def _let_go(done: list[_Ticket]) -> None:
    for ticket in done:
        ticket.open_gate()


class Writer:
    """Executes operations of any number of threads on one write connection.

    Args:
        db: a connection in WAL mode that nobody else uses, its busy timeout a slice.
        path: the database file, for messages.
        mutex: taken around every transaction; excludes other processes.
        fault_point: called with the name of each point of the write path that is
            reached; tests kill the process there.
    """

    def __init__(
        self,
        db: apsw.Connection,
        *,
        path: str,
        mutex: WriterMutex,
        clock: Clock,
        fault_point: FaultPoint | None = None,
    ) -> None:
        self._db = db
        self._path = path
        self._mutex = mutex
        self._clock = clock
        self._fault_point = fault_point
        self._pid = os.getpid()
        self._queue: deque[_Ticket] = deque()
        # Guards the connection and the two below: held for the whole of a transaction.
        self._lock = threading.Lock()
        self._batch: list[_Ticket] = []
        self._phase = _Phase.EXECUTING
        # Compiled now and kept by APSW: it must not need the memory that has just run out.
        db.execute("BEGIN")
        db.execute("ROLLBACK")
        watch_forks(self)

    def run(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* with the connection and the arguments; return its result.

        When this returns the operation is committed. Blocks for up to ``BUSY_TIMEOUT_S``
        while another program holds the database.

        Raises:
            DatabaseError: SQLite refused; nothing of the operation is stored.
        """
        if os.getpid() != self._pid:
            raise ForkedError("this engine belongs to the parent process; open a new one here")
        if self._lock.locked():
            ticket = _Ticket(operation, args, kwargs)
            self._wait_for_turn(ticket)
        else:
            try:
                with self._lock:
                    if (
                        not self._queue
                        and not self._batch
                        and getattr(operation, "is_single_statement", False)
                    ):
                        result = self._execute_directly(operation, args, kwargs)
                        if self._queue:
                            _let_go(self._lead(None))
                        return result  # type: ignore[no-any-return]  # as below
                    ticket = _Ticket(operation, args, kwargs)
                    done = self._lead_once_more(self._lead(ticket))
            finally:
                self._call_next()
            _let_go(done)
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[no-any-return]  # the queue is mixed

    def _lead_once_more(self, done: list[_Ticket]) -> list[_Ticket]:
        """Let *done* go, and execute what has been queued meanwhile, if anything; give that.

        To wake a thread that leads next takes as long as a small commit.
        """
        if not self._queue:
            return done
        _let_go(done)
        return self._lead(None)

    def _wait_for_turn(self, ticket: _Ticket) -> None:
        """Queue an operation, and wait until it is done or execute it with all that are queued."""
        self._queue.append(ticket)
        try:
            while not ticket.is_done:
                if self._lock.locked():
                    ticket.gate.acquire(timeout=_GATE_S)
                    continue
                done: list[_Ticket] = []
                with self._lock:
                    if not ticket.is_done:
                        done = self._lead_once_more(self._lead(ticket))
                # First: who leads next waits for the disk while the others go on.
                self._call_next()
                _let_go(done)
        except BaseException:
            # A Ctrl-C while waiting: nobody may execute what its caller has given up.
            self._withdraw(ticket)
            self._call_next()
            raise

    def _execute_directly(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operation of one statement for which nobody else waits.

        This is what nearly each checkpoint pays, right after the last one's wait for the disk has
        left the processor's caches cold: hence as few calls as can be.
        """
        try:
            has_mutex = self._mutex.acquire(BUSY_TIMEOUT_S)
            try:
                if self._db.in_transaction:
                    self._end_failed_transaction()
                if self._fault_point is not None:
                    self._fault_point("write")
                try:
                    result = operation(self._db, *args, **kwargs)
                except apsw.BusyError:
                    result = self._execute_single(operation, args, kwargs)
                if self._fault_point is not None:
                    self._fault_point("committed")
                return result
            finally:
                if has_mutex:
                    self._mutex.release()
        except apsw.Error as exc:
            self._undo(exc)
            raise database_error(exc, self._path) from exc

    def _call_next(self) -> None:
        """Have the thread that waits longest try for the lock. Called without it."""
        if self._queue:
            try:
                self._queue[0].open_gate()
            except IndexError:
                return  # another leader has taken it meanwhile, and calls the next in its turn

    def _withdraw(self, ticket: _Ticket) -> None:
        try:
            self._queue.remove(ticket)
        except ValueError:
            return

    def _lead(self, own: _Ticket | None) -> list[_Ticket]:
        """Execute what is queued, *own* too if it is not; give what is done, to be let go."""
        if self._batch:
            self._settle_interrupted()
            if own is not None and own.is_done:
                return []
        # The phase first: a batch must never be found together with the phase of the last one.
        self._phase = _Phase.EXECUTING
        self._batch = batch = self._take(own)
        try:
            try:
                self._transact(batch, own)
            except apsw.Error as exc:
                self._fail(batch, exc)
            except DatabaseError as exc:
                for ticket in batch:
                    ticket.error = exc
                    ticket.is_done = True
        except BaseException:
            # A Ctrl-C, which lands between any two instructions of the main thread. If a
            # second one lands in the settling, the next thread to lead finds the batch.
            self._settle_interrupted()
            raise
        self._batch = []
        return batch

    def _take(self, own: _Ticket | None) -> list[_Ticket]:
        batch: list[_Ticket] = []
        while self._queue and len(batch) < MOST_AT_ONCE:
            batch.append(self._queue.popleft())
        if own is not None and own not in batch and own not in self._queue:
            # Never queued; or taken by a thread that a Ctrl-C ended before it executed anything.
            if len(batch) == MOST_AT_ONCE:
                self._queue.appendleft(batch.pop())
            batch.append(own)
        return batch

    def _settle_interrupted(self) -> None:
        """Bring a batch whose leader was interrupted to a state that is true.

        Committed: its callers get their results. Not: it is rolled back, and each
        caller executes its own operation when it gets the lock.
        """
        db = self._db
        is_committed = self._phase is _Phase.COMMITTING and not db.in_transaction
        if db.in_transaction:
            db.execute("ROLLBACK")
        for ticket in self._batch:
            if is_committed:
                ticket.is_done = True
            elif not ticket.is_done:
                # What the operation refused may have been another one's doing that is undone.
                ticket.error = None
        batch, self._batch = self._batch, []
        for ticket in batch:
            ticket.open_gate()

    def _fail(self, batch: list[_Ticket], exc: apsw.Error) -> None:
        """Nothing of *batch* is stored: roll back and tell every caller."""
        self._undo(exc)
        for ticket in batch:
            # One error object each: they are raised in different threads.
            error = database_error(exc, self._path)
            error.__cause__ = exc
            ticket.error = error
            ticket.is_done = True

    def _undo(self, exc: apsw.Error) -> None:
        """Make sure that nothing is left of a transaction that has failed."""
        if self._db.in_transaction:
            with suppress(apsw.Error):  # whoever comes next tries again before anything else
                self._db.execute("ROLLBACK")
        if getattr(exc, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC:
            self._overwrite_log()

    def _overwrite_log(self) -> None:
        """Commit something harmless over the frames of a commit whose sync has failed.

        They lie whole in the log, beyond its end for all who have the file open. Were everybody
        killed now, the next to open it would take them for committed, and what a caller was told
        had failed would be done.
        """
        db = self._db
        with suppress(apsw.Error):  # another process is writing: it does the same
            try:
                db.execute("BEGIN IMMEDIATE")
                db.pragma("user_version", db.pragma("user_version"))
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _transact(self, batch: list[_Ticket], own: _Ticket | None) -> None:
        # Not obtained in time: its holder is stopped or stuck. Going on under SQLite's
        # own locks alone is then better than hanging with it for ever.
        has_mutex = self._mutex.acquire(BUSY_TIMEOUT_S)
        try:
            self._end_failed_transaction()
            # A lone statement commits by itself: a Ctrl-C after it would find those who wait for
            # it unsettled, and they would execute it again.
            is_safe = batch == [own] or not is_interruptible()
            if not is_safe or not self._execute_as_one(batch):
                self._execute_together(batch)
        finally:
            if has_mutex:
                self._mutex.release()

    def _end_failed_transaction(self) -> None:
        """End one that could not be rolled back: never to be committed."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _execute_as_one(self, batch: list[_Ticket]) -> bool:
        """Execute a batch that is one statement, which SQLite commits by itself, if it is one."""
        first = batch[0]
        if len(batch) == 1 and first.is_single:
            self._reached("write")
            try:
                first.result = self._execute_single(first.operation, first.args, first.kwargs)
            except Exception as exc:
                if isinstance(exc, apsw.Error):
                    raise
                first.error = exc  # of whoever waits for it
        elif first.together is not None and all(
            ticket.together is first.together for ticket in batch
        ):
            self._reached("write")
            if not self._execute_merged(first.together, batch):
                return False
        else:
            return False
        for ticket in batch:
            ticket.is_done = True
        self._reached("committed")
        return True

    def _execute_merged(self, together: Any, tickets: list[_Ticket]) -> bool:
        """Execute several operations in one statement; ``False`` if one of them is refused."""
        try:
            results = self._execute_single(together, ([ticket.args for ticket in tickets],), {})
        except Exception as exc:
            refusals = (apsw.ConstraintError, apsw.TooBigError)
            if isinstance(exc, apsw.Error) and not isinstance(exc, refusals):
                raise
            return False
        for ticket, result in zip(tickets, results, strict=True):
            ticket.result = result
        return True

    def _execute_single(self, operation: Any, args: Any, kwargs: Any) -> Any:
        deadline: float | None = None
        while True:
            try:
                return operation(self._db, *args, **kwargs)
            except apsw.BusyError:
                now_s = self._clock.monotonic()
                deadline = now_s + BUSY_TIMEOUT_S if deadline is None else deadline
                if now_s >= deadline:
                    raise

    def _execute_together(self, batch: list[_Ticket]) -> None:
        db = self._db
        self._begin()
        self._reached("write")
        left = self._left_of_merging(batch)
        # Nearly always all of them go through: the savepoints are for when one does not.
        if len(batch) == 1:
            self._execute_guarded(batch[0])
        elif not self._execute_all(left):
            for ticket in self._left_of_merging(batch):
                self._execute_in_savepoint(ticket)
        self._reached("before commit")
        if len(batch) == 1 and batch[0].error is not None:
            db.execute("ROLLBACK")
        else:
            self._phase = _Phase.COMMITTING
            try:
                db.execute("COMMIT")
            except apsw.Error:
                # SQLite may have ended the transaction all the same: that is no commit.
                self._phase = _Phase.EXECUTING
                raise
        for ticket in batch:
            ticket.is_done = True
        self._reached("committed")

    def _execute_all(self, tickets: list[_Ticket]) -> bool:
        """Execute operations in a transaction; if one is refused begin it anew and say so."""
        db = self._db
        try:
            for ticket in tickets:
                ticket.result = ticket.operation(db, *ticket.args, **ticket.kwargs)
        except Exception as exc:
            # Disk full and I/O errors end the whole transaction: so does the batch.
            if isinstance(exc, apsw.Error) and not db.in_transaction:
                raise
            db.execute("ROLLBACK")
            self._begin()
            return False
        return True

    def _execute_in_savepoint(self, ticket: _Ticket) -> None:
        """Execute an operation that shares its transaction, and undo it alone if it is refused."""
        db = self._db
        if ticket.is_single:
            # Undone by SQLite itself.
            self._execute_guarded(ticket, is_shared=True)
            return
        db.execute("SAVEPOINT operation")
        self._execute_guarded(ticket, is_shared=True)
        if ticket.error is not None:
            db.execute("ROLLBACK TO operation")
        db.execute("RELEASE operation")

    def _execute_guarded(self, ticket: _Ticket, *, is_shared: bool = False) -> None:
        db = self._db
        try:
            ticket.result = ticket.operation(db, *ticket.args, **ticket.kwargs)
        except Exception as exc:
            # Going on after what has ended the whole transaction would commit half of the batch.
            if isinstance(exc, apsw.Error) and (not is_shared or not db.in_transaction):
                raise
            ticket.error = exc
            if isinstance(exc, apsw.Error):
                ticket.error = database_error(exc, self._path)
                ticket.error.__cause__ = exc

    def _left_of_merging(self, batch: list[_Ticket]) -> list[_Ticket]:
        """Execute those of *batch* that can be executed in one statement; give the others."""
        together = next((ticket.together for ticket in batch if ticket.together is not None), None)
        alike = [ticket for ticket in batch if ticket.together is together]
        if together is None or len(alike) < 2 or not self._execute_merged(together, alike):
            return batch
        return [ticket for ticket in batch if ticket.together is not together]

    def _begin(self) -> None:
        deadline = self._clock.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                if self._clock.monotonic() >= deadline:
                    raise
                continue
            return

    def _reached(self, point: str) -> None:
        if self._fault_point is not None:
            self._fault_point(point)

    def maintain(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* outside of a transaction, at most trying for the locks.

        For WAL checkpoints and pragmas, which SQLite refuses inside a transaction.
        """
        try:
            with self._lock:
                has_mutex = self._mutex.acquire(BUSY_TIMEOUT_S)
                try:
                    return operation(self._db, *args, **kwargs)
                except apsw.Error as exc:
                    raise database_error(exc, self._path) from exc
                finally:
                    if has_mutex:
                        self._mutex.release()
        finally:
            self._call_next()

    @contextmanager
    def at_rest(self) -> Iterator[apsw.Connection]:
        """Once the transaction in progress has ended, have the connection and let nobody write."""
        try:
            with self._lock:
                yield self._db
        finally:
            self._call_next()

    def close(self) -> None:
        """Close the connection once the transaction in progress has ended."""
        with self.at_rest() as db:
            db.close()
        self._mutex.close()

    def before_fork(self) -> None:
        """Let a transaction in progress end, so that a child never inherits half of one."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()
        self._call_next()

    def after_fork_in_child(self) -> None:
        """Make sure the inherited connection is never touched, not even by its destructor.

        Closing it would act on the parent's database with the child's (absent) locks.
        """
        leak(self._db)


def leak(connection: apsw.Connection) -> None:
    """Keep *connection* from ever being closed in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
