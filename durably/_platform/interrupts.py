"""Ctrl-C, held back where a thread is between two states that it must not be left between.

Python raises ``KeyboardInterrupt`` in the main thread between any two instructions: after a lock
was taken and before the ``try`` that would release it (also in ``threading.Condition.wait``, which
then ends with a ``RuntimeError``), after a thread was started and before it is known to anybody.
What starts, stops and waits therefore surrounds itself with ``held_back``, and names the points at
which it may be interrupted.

Other handlers that raise (a time limit by ``SIGALRM``, ``SIGTERM`` turned into ``sys.exit``) are
not held back. What they raise passes through every call like an exception of the caller's: whatever
catches errors of a system call, of a database or of a user's code asks ``raise_if_signal`` first.

Only the main thread is ever interrupted, and only it can change what a signal does; in other
threads all of this does nothing.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, TypeVar

from durably._platform.realtime import monotonic

try:
    # Those of ``signal`` make enum members of what they give, which takes microseconds a call.
    from _signal import NSIG, SIGINT, getsignal, signal  # type: ignore[import-not-found]
except ImportError:  # not CPython
    from signal import NSIG, SIGINT, getsignal, signal

# Of a code object: it has an argument like ``*args``; as in ``inspect``, which is slow to import.
CO_VARARGS: Final = 0x04

T = TypeVar("T")
Handler = Callable[[int, FrameType | None], Any]

# How long a wait of the main thread goes on before it looks whether there was a Ctrl-C.
INTERRUPT_LOOK_S: Final = 0.05

# A Ctrl-C that comes this long after one that is still held back is let through: whatever this
# waits for then (a locked database, a listener that blocks), the user has had enough of it.
_PATIENCE_S: Final = 1.0


class held_back:  # noqa: N801 - reads as a verb in a with statement
    """Hold back Ctrl-C in a ``with`` block; it comes at the end of the outermost one.

    What the block binds is the outermost block's object, whichever that is::

        with held_back() as interrupts:
            ...  # all of this or nothing
            interrupts.check()  # here it may be interrupted
    """

    def __init__(self) -> None:
        # What the signal did before; None where this object holds nothing back.
        self._previous: Handler | None = None
        self._noted_s: float | None = None
        # The call that the block is part of. When it has ended, so has the block, also where the
        # exception of another signal was raised in the middle of __enter__ or __exit__.
        self._call: FrameType | None = None

    def __enter__(self) -> held_back:  # noqa: PYI034 - the outer one, where there is one
        self._previous = None
        if not is_interruptible():
            return self
        call = sys._getframe(1)  # noqa: SLF001
        handler = getsignal(SIGINT)
        outer = getattr(handler, "__self__", None)
        if isinstance(outer, held_back):
            if outer.is_around(call):
                return outer
            handler, self._noted_s = outer.end()
        if callable(handler):  # neither ignored nor left to the system
            self._previous, self._call = handler, call
            self._install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            self._restore()
            self._call = None
            self.check()

    @property
    def held(self) -> Handler | None:
        """What the signal does outside of the block; ``None`` where nothing is held back."""
        return self._previous

    def is_around(self, frame: FrameType | None) -> bool:
        """Return whether *frame* is executed inside the block."""
        while frame is not None and frame is not self._call:
            frame = frame.f_back
        return frame is not None

    def end(self) -> tuple[Handler | None, float | None]:
        """Release the call, which ended otherwise; return the handler and when a signal came."""
        self._call = None
        return self._previous, self._noted_s

    def check(self) -> None:
        """Let come what was held back, if this is the object of an outermost block."""
        noted_s, self._noted_s = self._noted_s, None
        if noted_s is not None and self._previous is not None:
            # With a frame, as a signal has: what it raises is known by that for a signal's.
            self._previous(SIGINT, sys._getframe())  # noqa: SLF001

    def let_through(self, call: Callable[[], T]) -> T:
        """Call what is the user's own code, with the signal as the user has set it."""
        if self._previous is None:
            return call()
        try:
            try:
                self._restore()
                self.check()
                return call()
            finally:
                self._take_back()
        finally:
            # Where a Ctrl-C has landed in the taking back: what follows must not be hit by another.
            self._take_back()

    def _take_back(self) -> None:
        # Unless the call has set another one, which is to stay.
        if getsignal(SIGINT) == self._previous:
            self._install()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.is_around(frame):
            self._restore()
            previous, _ = self.end()
            if previous is not None:
                previous(number, frame)
            return
        now_s = monotonic()
        if self._noted_s is None:
            self._noted_s = now_s
        elif now_s - self._noted_s >= _PATIENCE_S and self._previous is not None:
            self._previous(number, frame)

    def _install(self) -> None:
        try:
            signal(SIGINT, self._on_signal)
        except ValueError:
            # The main thread of a subinterpreter, in which no signal is ever handled.
            self._previous = None

    def _restore(self) -> None:
        if getsignal(SIGINT) == self._on_signal:
            signal(SIGINT, self._previous)


def raise_if_signal(exc: BaseException) -> None:
    """Raise what a signal handler has raised, if that is *exc* or one of the group that it is.

    For code that catches what it has not raised itself, first of all.
    """
    if not is_interruptible():
        return
    if is_from_signal(exc):
        raise exc
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            raise_if_signal(each)


def is_from_signal(exc: BaseException, handlers: frozenset[CodeType] | None = None) -> bool:
    """Return whether *exc* came of a signal, and not of the code that it has interrupted.

    A handler is recognised in the traceback by what it was given: the frame that it interrupted.
    That of Ctrl-C is none of Python's, and leaves no frame.

    Args:
        exc: what has been raised in the calling thread.
        handlers: the code of those that count, of ``handlers()``; by default all do.
    """
    if not is_interruptible():
        return False
    if isinstance(exc, KeyboardInterrupt):
        return True
    interrupted: FrameType | None = None
    entry = exc.__traceback__
    while entry is not None:
        if (
            interrupted is not None
            and _was_given(entry.tb_frame, interrupted)
            and (handlers is None or entry.tb_frame.f_code in handlers)
        ):
            return True
        interrupted, entry = entry.tb_frame, entry.tb_next
    return False


def handlers() -> frozenset[CodeType]:
    """Return the code of every handler of a signal that is a function of Python's."""
    return frozenset(
        code for number in range(1, NSIG) if (code := _code_of(getsignal(number))) is not None
    )


def _code_of(handler: object) -> CodeType | None:
    """Return the code that is executed when *handler* is called, if it is Python's."""
    holder = getattr(handler, "__self__", None)
    if isinstance(holder, held_back):
        return _code_of(holder.held)
    if isinstance(handler, functools.partial):
        return _code_of(handler.func)
    code = getattr(handler, "__code__", None)
    if code is None and callable(handler):
        code = getattr(getattr(type(handler), "__call__", None), "__code__", None)  # noqa: B004
    return code if isinstance(code, CodeType) else None


def _was_given(frame: FrameType, other: FrameType) -> bool:
    """Return whether *other* is among the arguments that *frame* was called with."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & CO_VARARGS)
    for name in code.co_varnames[:count]:
        value = frame.f_locals.get(name)
        if value is other or (type(value) is tuple and any(each is other for each in value)):
            return True
    return False


class system_errors_suppressed:  # noqa: N801 - reads as a clause in a with statement
    """Suppress an ``OSError`` that a system call in the block raises, and none of a signal's."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return isinstance(exc, OSError) and not is_from_signal(exc)


def is_interruptible() -> bool:
    """Return whether a signal may interrupt the calling thread."""
    return threading.current_thread() is threading.main_thread()


def _give_back_in_child() -> None:
    """Undo, in a forked child, what the main thread of the parent has set: it waits there alone.

    A Ctrl-C would be held back in the child for ever, such as a worker of a process pool.
    """
    holder = getattr(getsignal(SIGINT), "__self__", None)
    if isinstance(holder, held_back):
        holder._restore()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_back_in_child)
