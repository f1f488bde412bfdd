"""The context (``contextvars``) in which each execution runs."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import TypeVar

from durably.execution.step_log import current_step

T = TypeVar("T")


def call_in_copy(execute: Callable[[], T]) -> T:
    """Call *execute* in a copy of the calling thread's context, outside of any step."""
    context = contextvars.copy_context()
    context.run(current_step.set, None)
    return context.run(_call_with_own_decimal, execute)


def _call_with_own_decimal(execute: Callable[[], T]) -> T:
    # The copy shares the context of decimal, which programs change in place.
    decimal = sys.modules.get("decimal")
    if decimal is None:
        return execute()
    with decimal.localcontext():
        return execute()


class ExecutionContexts:
    """Call each execution in a copy of the context in which this was made. Usable from any thread.

    A thread of the pool executes run after run, and what one sets in its context must not be seen
    by the next. A copy of a context shares the values, and programs change the context of
    ``decimal`` in place, so each execution gets a copy of that too.
    """

    def __init__(self) -> None:
        self._made_in = contextvars.copy_context()
        # An engine may be made inside a step of another one: its runs are not in that step.
        self._made_in.run(current_step.set, None)
        # Not imported here: a program that has not imported decimal has set no context of it.
        decimal = sys.modules.get("decimal")
        self._decimal = None if decimal is None else decimal.getcontext().copy()

    def call(self, execute: Callable[[], T]) -> T:
        """Call *execute* in a context of its own."""
        return self._made_in.copy().run(self._call, execute)

    def _call(self, execute: Callable[[], T]) -> T:
        decimal = sys.modules.get("decimal")
        if decimal is None:
            return execute()
        with decimal.localcontext(self._decimal or decimal.DefaultContext):
            return execute()
