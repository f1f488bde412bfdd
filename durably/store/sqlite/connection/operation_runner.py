"""Executing operations on a connection: one by one, several as one, each in a savepoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from durably.store.sqlite.connection.sqlite_errors import database_error
from durably.store.sqlite.connection.write_request import WriteRequest


class OperationRunner:
    """Executes operations in the transaction of a connection. Used by one thread at a time.

    Args:
        retry_busy: called when another process has the lock: returns if it is to be waited for.
    """

    def __init__(self, db: apsw.Connection, path: str, retry_busy: Callable[[], None]) -> None:
        self._db = db
        self._path = path
        self._retry_busy = retry_busy

    def begin(self) -> None:
        """Begin a transaction that may write."""
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                self._retry_busy()
            else:
                return

    def single(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operation of one statement, which SQLite commits by itself."""
        while True:
            try:
                return operation(self._db, *args, **kwargs)
            except apsw.BusyError:
                self._retry_busy()

    def merged(self, together: Any, requests: list[WriteRequest]) -> bool:
        """Execute several operations in one statement; return ``False`` if one is rejected."""
        try:
            # Built at each try: some callers may no longer wait.
            results = self.single(
                lambda db: together(db, [request.args for request in requests]), (), {}
            )
        except Exception as exc:
            refusals = (apsw.ConstraintError, apsw.TooBigError)
            if isinstance(exc, apsw.Error) and not isinstance(exc, refusals):
                raise
            return False
        for request, result in zip(requests, results, strict=True):
            request.result = result
        return True

    def merge_alike(self, batch: list[WriteRequest]) -> list[WriteRequest]:
        """Execute the mergeable operations of *batch* in one statement; return the rest."""
        together = next(
            (request.together for request in batch if request.together is not None), None
        )
        alike = [request for request in batch if request.together is together]
        if together is None or len(alike) < 2 or not self.merged(together, alike):
            return batch
        return [request for request in batch if request.together is not together]

    def all(self, requests: list[WriteRequest]) -> bool:
        """Execute operations in a transaction.

        If one is rejected, begin the transaction again and return ``False``.
        """
        db = self._db
        try:
            for request in requests:
                request.result = request.operation(db, *request.args, **request.kwargs)
        except Exception as exc:
            # Disk full and I/O errors end the whole transaction, and so the batch.
            if isinstance(exc, apsw.Error) and not db.in_transaction:
                raise
            db.execute("ROLLBACK")
            self.begin()
            return False
        return True

    def in_savepoint(self, request: WriteRequest) -> None:
        """Execute an operation that shares its transaction; undo only that if it is rejected."""
        db = self._db
        if request.is_single:
            # SQLite itself undoes it.
            self.guarded(request, is_shared=True)
            return
        db.execute("SAVEPOINT operation")
        self.guarded(request, is_shared=True)
        if request.error is not None:
            db.execute("ROLLBACK TO operation")
        db.execute("RELEASE operation")

    def guarded(self, request: WriteRequest, *, is_shared: bool = False) -> None:
        """Execute an operation, and keep what it raises for its caller."""
        db = self._db
        try:
            request.result = request.operation(db, *request.args, **request.kwargs)
        except Exception as exc:
            # Continuing after an error that ended the transaction would commit half of the batch.
            if isinstance(exc, apsw.Error) and (not is_shared or not db.in_transaction):
                raise
            request.error = exc
            if isinstance(exc, apsw.Error):
                request.error = database_error(exc, self._path, self._db)
                request.error.__cause__ = exc
