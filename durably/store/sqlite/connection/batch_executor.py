"""Execute operations on one connection and commit them, one or many at once.

Each call into SQLite gives up the GIL, and if other threads want it, waits to get it back for
longer than the call itself takes. So operations that can be merged are executed in one statement
(``merged_by``), and a single statement needs no transaction around it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Final, ParamSpec, TypeVar

import apsw

from durably._platform.clock import Clock
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S, LEAST_S, Hurry, deadline
from durably._platform.signals import deliver_overdue, is_main_thread
from durably.errors import DatabaseError
from durably.store.sqlite.connection.operation_runner import OperationRunner
from durably.store.sqlite.connection.sqlite_errors import database_error, locked_error
from durably.store.sqlite.connection.write_request import Operation, WriteRequest
from durably.store.sqlite.locks.mutex import WriterMutex

Ps = ParamSpec("Ps")
T = TypeVar("T")
FaultPoint = Callable[[str], None]

_LOCKED: Final = "database is locked"
# SQLite waits in slices of this length, because a Ctrl-C is not noticed while it waits.
BUSY_SLICE_MS: Final = 250


# A wait has pieces of this length, and between them it is checked which callers no longer wait.
_PIECE_S: Final = LEAST_S


class _TurnIsOver(apsw.BusyError):
    """Another process has a lock, and the leader's caller no longer waits for it."""


class _Phase(Enum):
    EXECUTING = auto()
    COMMITTING = auto()


class BatchExecutor:
    """Execute operations on a connection, each to its commit or to an error.

    Used by one thread at a time. After a Ctrl-C, ``settle_interrupted`` brings the batch to an end;
    if that is interrupted too, the next thread calls it.

    Args:
        db: a connection in WAL mode that nobody else uses, its busy timeout a slice.
        path: the database file, for messages.
        mutex: taken around every transaction; excludes other processes.
        fault_point: called with the name of each point of the write path that is
            reached; tests kill the process there.
        hurry: when all waits for locks end at the latest.

    Attributes:
        batch: the operations that are being executed, or were when a Ctrl-C arrived.
    """

    def __init__(
        self,
        db: apsw.Connection,
        *,
        path: str,
        mutex: WriterMutex,
        clock: Clock,
        fault_point: FaultPoint | None,
        hurry: Hurry | None = None,
    ) -> None:
        self.batch: list[WriteRequest] = []
        # The leader's own operation; without one, the time until which it leads.
        self._own: WriteRequest | None = None
        self._leads_until_s = 0.0
        self._hurry = Hurry() if hurry is None else hurry
        self._db = db
        self._path = path
        self._mutex = mutex
        self._clock = clock
        self._fault_point = fault_point
        self._phase = _Phase.EXECUTING
        self._operations = OperationRunner(db, path, self._part_from_those_over)
        # Compiled now and kept by APSW: it must not need the memory that has just run out.
        db.execute("BEGIN")
        db.execute("ROLLBACK")

    def execute_directly(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operation of one statement while no other thread waits.

        Nearly each checkpoint pays for this, right after the wait for the disk of the one before,
        which left the processor's caches cold. So it makes as few calls as possible.
        """
        since_s: float | None = None  # of the wait for a lock, if there was one
        try:
            # Inside of the block that releases it: a Ctrl-C may arrive right after the mutex was
            # taken.
            try:
                # The first piece of a wait is less than any call may wait.
                if not self._mutex.acquire(_PIECE_S, BUSY_TIMEOUT_S):
                    since_s = self._clock.monotonic() - _PIECE_S
                    self._take_turn(deadline(since_s, BUSY_TIMEOUT_S))
                if self._db.in_transaction:
                    self._end_failed_transaction()
                if self._fault_point is not None:
                    self._fault_point("write")
                try:
                    result = operation(self._db, *args, **kwargs)
                except apsw.BusyError:
                    if since_s is None:
                        since_s = self._clock.monotonic() - _PIECE_S
                    ends_s = deadline(since_s, BUSY_TIMEOUT_S)
                    result = self._execute_until(ends_s, operation, args, kwargs)
                if self._fault_point is not None:
                    self._fault_point("committed")
                return result
            finally:
                self._mutex.release()
        except apsw.Error as exc:
            waited_s = None if since_s is None else self._clock.monotonic() - since_s
            error = database_error(exc, self._path, self._db, waited_s=waited_s)
            self._undo(exc)
            raise error from exc
        except BaseException:
            self._mutex.release()  # a signal may have arrived just before the other release
            raise

    def _take_turn(self, deadline_s: float) -> None:
        """Take the mutex, or return without it if all waits for it together were long enough.

        Then its holder is stopped or stuck, and continuing under SQLite's own locks alone is
        better than waiting for ever.
        """
        while self._mutex.is_patient:
            now_s = self._clock.monotonic()
            if now_s >= deadline_s or now_s >= self._hurry.ends_s:
                raise _TurnIsOver(_LOCKED)
            if self._mutex.acquire(min(deadline_s - now_s, _PIECE_S), BUSY_TIMEOUT_S):
                return

    def _execute_until(self, deadline_s: float, operation: Any, args: Any, kwargs: Any) -> Any:
        while True:
            now_s = self._clock.monotonic()
            try:
                return operation(self._db, *args, **kwargs)
            except apsw.BusyError:
                if now_s >= deadline_s or now_s >= self._hurry.ends_s:
                    raise
                deliver_overdue()

    def waits(self) -> tuple[float, float]:
        """Return the time now, and when a call that begins now stops waiting for locks."""
        now_s = self._clock.monotonic()
        return now_s, deadline(now_s, BUSY_TIMEOUT_S)

    def is_over(self, request: WriteRequest) -> bool:
        """Return whether the caller of *request* no longer waits for locks."""
        now_s = self._clock.monotonic()
        return now_s >= request.deadline_s or now_s >= self._hurry.ends_s

    def refuse(self, request: WriteRequest) -> None:
        """Fail *request* with the error of a lock that its caller has waited for too long."""
        error = locked_error(self._path, self._clock.monotonic() - request.since_s, _LOCKED)
        error.__cause__ = apsw.BusyError(_LOCKED)
        request.error = error
        request.is_done = True

    def _part_from_those_over(self) -> None:
        """Fail the operations of the batch whose callers no longer wait. They are not executed.

        Raises:
            _TurnIsOver: the leader's caller is one of them, or has waited for others long enough.
        """
        for request in [each for each in self.batch if self.is_over(each)]:
            self.refuse(request)
            self.batch.remove(request)
            request.release()
        own = self._own
        is_over = self._clock.monotonic() >= self._leads_until_s if own is None else own.is_done
        if is_over or not self.batch:
            raise _TurnIsOver(_LOCKED)

    def maintain(self, operation: Operation[Ps, T], *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Execute *operation* outside of a transaction."""
        try:
            with self._mutex.locked(self._left_s()):
                return operation(self._db, *args, **kwargs)
        except apsw.Error as exc:
            raise database_error(exc, self._path, self._db) from exc

    def _left_s(self) -> float:
        now_s = self._clock.monotonic()
        return max(0.0, min(deadline(now_s, BUSY_TIMEOUT_S), self._hurry.ends_s) - now_s)

    def execute(self, batch: list[WriteRequest], own: WriteRequest | None) -> None:
        """Execute operations in one transaction; then each is done, with its result or error.

        If another process keeps a lock until the leader's caller no longer waits, the operations
        whose callers still wait are not done, and their threads lead themselves.

        Args:
            own: the caller's operation, if it is one of them.
        """
        # The phase first: a batch must never be combined with the phase of the last one.
        self._phase = _Phase.EXECUTING
        self._own = own
        self.batch = batch
        try:
            try:
                self._transact(batch, own)
            except _TurnIsOver:
                self._end_failed_transaction()
            except apsw.Error as exc:
                self._fail(batch, exc)
            except DatabaseError as exc:
                for request in batch:
                    request.error = exc
                    request.is_done = True
        except BaseException:
            # Of a signal that was deferred for long, or that is deferred no longer and may arrive
            # anywhere. If another one arrives meanwhile, the next thread to lead finds the batch.
            self._mutex.release()
            self.settle_interrupted()
            raise
        self.batch = []

    def settle_interrupted(self) -> None:
        """Complete or undo a batch whose leader was interrupted.

        If it was committed, its callers get their results. If not, it is rolled back, and each
        caller executes its own operation when it gets the lock.
        """
        db = self._db
        is_committed = self._phase is _Phase.COMMITTING and not db.in_transaction
        if db.in_transaction:
            db.execute("ROLLBACK")
        for request in self.batch:
            if is_committed:
                request.is_done = True
            elif not request.is_done:
                # Another operation, which is undone now, may have caused the error.
                request.error = None
        batch, self.batch = self.batch, []
        for request in batch:
            request.release()

    def _fail(self, batch: list[WriteRequest], exc: apsw.Error) -> None:
        """Roll back, and fail every operation of *batch*: nothing of it is stored."""
        # One error object each: they are raised in different threads.
        errors = [database_error(exc, self._path, self._db) for _ in batch]
        self._undo(exc)
        for request, error in zip(batch, errors, strict=True):
            error.__cause__ = exc
            request.error = error
            request.is_done = True

    def _undo(self, exc: apsw.Error) -> None:
        """Undo a transaction that has failed."""
        if self._db.in_transaction:
            with suppress(apsw.Error):  # the next transaction tries again before anything else
                self._db.execute("ROLLBACK")
        if getattr(exc, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC:
            self._overwrite_log()

    def _overwrite_log(self) -> None:
        """Commit a harmless change over the frames of a commit whose sync has failed.

        The frames are complete in the WAL, beyond its end for the processes that have the file
        open. If all of them were killed now, the next opening would consider the frames committed,
        and an operation that was reported as failed would be in the file.
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

    def _transact(self, batch: list[WriteRequest], own: WriteRequest | None) -> None:
        try:
            self._take_turn_together()
            self._end_failed_transaction()
            # A single statement commits by itself: after a Ctrl-C right behind it, the operations
            # would not be marked as done, and their threads would execute them again.
            is_safe = batch == [own] or not is_main_thread()
            if not is_safe or not self._execute_as_one(batch):
                self._execute_together(batch)
        finally:
            self._mutex.release()

    def _take_turn_together(self) -> None:
        """Take the mutex for the batch, as ``_take_turn`` does for one."""
        now_s = self._clock.monotonic()
        self._leads_until_s = now_s + _PIECE_S
        while True:
            wait_s = min(min(request.deadline_s for request in self.batch) - now_s, _PIECE_S)
            if self._mutex.acquire(wait_s, BUSY_TIMEOUT_S):
                return
            if not self._mutex.is_patient:
                return
            self._part_from_those_over()
            now_s = self._clock.monotonic()

    def _end_failed_transaction(self) -> None:
        """Roll back a transaction whose rollback failed before. It must not be committed."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _execute_as_one(self, batch: list[WriteRequest]) -> bool:
        """Execute a batch that is one statement, which SQLite commits by itself.

        Return ``False`` if it is not one statement, or could not be executed as one.
        """
        first = batch[0]
        if len(batch) == 1 and first.is_single:
            self._reached("write")
            try:
                first.result = self._operations.single(first.operation, first.args, first.kwargs)
            except Exception as exc:
                if isinstance(exc, apsw.Error):
                    raise
                first.error = exc  # raised to its caller
        elif first.together is not None and all(
            request.together is first.together for request in batch
        ):
            self._reached("write")
            if not self._operations.merged(first.together, batch):
                return False
        else:
            return False
        for request in batch:
            request.is_done = True
        self._reached("committed")
        return True

    def _execute_together(self, batch: list[WriteRequest]) -> None:
        db = self._db
        self._operations.begin()
        self._reached("write")
        left = self._operations.merge_alike(batch)
        # Nearly always all of them succeed; the savepoints are for the other case.
        if len(batch) == 1:
            self._operations.guarded(batch[0])
        elif not self._operations.all(left):
            for request in self._operations.merge_alike(batch):
                self._operations.in_savepoint(request)
        self._reached("before commit")
        if len(batch) == 1 and batch[0].error is not None:
            db.execute("ROLLBACK")
        else:
            self._phase = _Phase.COMMITTING
            try:
                db.execute("COMMIT")
            except apsw.Error:
                # SQLite may have ended the transaction nevertheless; it is not committed.
                self._phase = _Phase.EXECUTING
                raise
        for request in batch:
            request.is_done = True
        self._reached("committed")

    def _reached(self, point: str) -> None:
        if self._fault_point is not None:
            self._fault_point(point)
