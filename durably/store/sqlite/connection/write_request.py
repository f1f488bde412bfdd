"""The operations that callers pass to the writer: their marks, their results, and the wait."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

Ps = ParamSpec("Ps")
T = TypeVar("T")
Operation = Callable[Concatenate[apsw.Connection, Ps], T]


def single_statement(operation: Callable[Ps, T]) -> Callable[Ps, T]:
    """Mark an operation that executes exactly one statement.

    SQLite undoes a failed statement by itself and commits a single one by itself, so it
    needs no savepoint among others and no transaction when alone: one call into
    SQLite instead of three, each of which would give up the GIL.
    """
    operation.is_single_statement = True  # type: ignore[attr-defined]  # a mark on a function
    return operation


def merged_by(
    together: Callable[[apsw.Connection, Sequence[tuple[Any, ...]]], list[Any]],
) -> Callable[[Callable[Ps, T]], Callable[Ps, T]]:
    """Mark an operation of one statement that *together* can execute several times in one.

    *together* takes the arguments of each and returns the result of each. If one of them is
    rejected, it stores nothing and raises ``apsw.ConstraintError``; they are executed one by one
    then.
    """

    def mark(operation: Callable[Ps, T]) -> Callable[Ps, T]:
        operation.together = together  # type: ignore[attr-defined]  # a mark on a function
        return single_statement(operation)

    return mark


class WriteRequest:
    """One caller's operation and its result.

    Args:
        since_s: when its caller began to wait, by the monotonic clock.
        deadline_s: when its caller stops waiting for locks.
    """

    __slots__ = (
        "args",
        "deadline_s",
        "error",
        "is_done",
        "is_single",
        "kwargs",
        "latch",
        "operation",
        "result",
        "since_s",
        "together",
    )

    def __init__(
        self,
        operation: Any,
        args: Any,
        kwargs: Any,
        since_s: float = 0.0,
        deadline_s: float = math.inf,
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.since_s = since_s
        self.deadline_s = deadline_s
        self.is_single = getattr(operation, "is_single_statement", False)
        self.together = None if kwargs else getattr(operation, "together", None)
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        # Where its thread waits: a lock that stays taken until another thread releases it.
        self.latch = threading.Lock()
        self.latch.acquire()

    def release(self) -> None:
        """Make the waiting thread check again. Calling it twice does no harm."""
        if self.latch.locked():
            with suppress(RuntimeError):  # another thread has just released it
                self.latch.release()
