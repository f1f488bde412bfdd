"""Handlers of signals, deferred while the main thread is inside a call of durably.

Python calls the handler of a signal in the main thread, between any two instructions, and what
it raises is raised there: after a lock was taken and before the ``try`` that would release it,
after a run was claimed and before anything knows of it. So each public call (``door``) replaces
every handler that is Python code by one that notes the signal, and calls those that were noted

- where the call waits for something else than durably's own work (``deliver``),
- before it calls the user's code, which has its own handlers (``let_through``),
- at its end.

Between these points no signal raises anything, so no other code has to expect it. Only the main
thread is ever interrupted, and only it can replace a handler: in other threads all of this does
nothing. Outside of calls, and in the user's code inside of them, every handler is the user's own.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from durably._platform.realtime import monotonic
from durably._platform.tracebacks import passes_on, remove_own_frames

try:
    # The functions of ``signal`` make enum members of what they return, which takes microseconds.
    import _signal  # type: ignore[import-not-found]
except ImportError:  # not CPython
    import signal as _signal

Ps = ParamSpec("Ps")
getsignal: Final = _signal.getsignal
signal: Final = _signal.signal
NSIG: Final = _signal.NSIG

T = TypeVar("T")
C = TypeVar("C", bound=type)
Handler = Callable[[int, FrameType | None], Any]

# Of a code object: it has an argument like ``*args``, or is a generator; as in ``inspect``, which
# is slow to import.
_CO_VARARGS: Final = 0x04
_CO_GENERATOR: Final = 0x20

# Those that nobody can handle, and those of an instruction that cannot be executed again.
_NOT_HANDLED: Final = ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP")
_NUMBERS: Final = tuple(
    number
    for number in range(1, NSIG)
    if number not in {getattr(_signal, name, 0) for name in _NOT_HANDLED}
)
# Those whose handlers raise, in programs: a stop or a time limit. That a job has set a handler of
# another one is not noticed before the next call of the engine: checking all signals in each step
# would take a twentieth of it.
_USUAL: Final = frozenset(
    getattr(_signal, f"SIG{name}", 0)
    for name in ("HUP", "INT", "QUIT", "BREAK", "USR1", "USR2", "TERM", "ALRM", "VTALRM", "PROF")
)

# A signal that comes this long after one of its number that is still deferred is not deferred:
# whatever the call waits for (a listener, a hook that blocks), it has lasted for too long.
PATIENCE_S: Final = 1.0

# How long a wait of the main thread goes on before the thread checks for signals: one that
# another thread of the process has received does not end a call into C.
SIGNAL_POLL_S: Final = 0.05

# The methods with such names that belong to the door of a class. Not ``__enter__``: after what is
# raised at its end Python does not call ``__exit__``.
_DOORS: Final = ("__init__", "__exit__", "__next__")


class _MainThread:
    """What happens to signals in the main thread. Changed only by it, in single steps."""

    __slots__ = ("handlers", "ident", "is_deferring", "noted", "seen", "usual")

    def __init__(self) -> None:
        self.ident = threading.main_thread().ident
        self.is_deferring = False
        # The signals that are deferred, each with when it has come first.
        self.noted: dict[int, float] = {}
        # All handlers when they were last read; those of them that are Python code; and those that
        # are Python code, or of a usual signal.
        self.seen: list[Any] = []
        self.handlers: dict[int, Handler] = {}
        self.usual: tuple[tuple[int, Any], ...] = ()


_main: Final = _MainThread()


def is_main_thread() -> bool:
    """Return whether a signal may interrupt the calling thread."""
    return get_ident() == _main.ident


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Note a signal, or do what its own handler does."""
    if _main.is_deferring:
        now_s = monotonic()
        if now_s - _main.noted.setdefault(number, now_s) < PATIENCE_S:
            return
    handler = _main.handlers.get(number)
    if handler is not None:
        handler(number, frame)


def _note_handlers() -> None:
    """Note all handlers."""
    before = _main.handlers
    current = zip(_NUMBERS, map(getsignal, _NUMBERS), strict=True)
    # One that is replaced already was left so by an exception in ``_restore``.
    seen = {n: before[n] if handler is _on_signal else handler for n, handler in current}
    handlers = {n: handler for n, handler in seen.items() if callable(handler)}
    usual = tuple(each for each in seen.items() if each[0] in handlers or each[0] in _USUAL)
    # Without a call between them, so that no signal comes between them.
    _main.handlers, _main.seen, _main.usual = handlers, [*seen.values()], usual


def _begin() -> None:
    """Defer all handlers from now on, which may all have changed since they were last read."""
    if [*map(getsignal, _NUMBERS)] != _main.seen:
        _note_handlers()
    _defer(())


def _defer(known: tuple[tuple[int, Any], ...]) -> None:
    """Defer all handlers from now on. Interrupted, it may be called again.

    Args:
        known: the handlers that may have changed since they were last read.
    """
    try:
        for number, handler in known:
            if getsignal(number) is not handler:
                _note_handlers()
                break
        for number in _main.handlers:
            signal(number, _on_signal)
        _main.is_deferring = True
    except BaseException as exc:
        _restore()
        if type(exc) is not ValueError or _is_from_below(exc):
            raise  # a handler's
        # The main thread of a subinterpreter, in which no signal is ever handled.
        _main.ident = None


def _is_from_below(exc: BaseException) -> bool:
    """Return whether Python code raised *exc*, and not the function that has caught it."""
    return exc.__traceback__ is not None and exc.__traceback__.tb_next is not None


def _restore() -> None:
    """Restore the handlers. One that stays replaced does what the user's own does."""
    for number, handler in _main.handlers.items():
        # Code that was called meanwhile may have set another one, which stays.
        if getsignal(number) is _on_signal:
            signal(number, handler)


def _call_noted() -> None:
    """Call the handlers of the signals that were noted, all of them also if one raises."""
    number, _ = _main.noted.popitem()
    try:
        # With a frame, as Python does: ``is_from_signal`` knows the handler by that.
        _main.handlers[number](number, sys._getframe())  # noqa: SLF001
    finally:
        if _main.noted:
            _call_noted()


def _stop_deferring() -> None:
    """Call the handlers of what was noted, and defer none any more."""
    try:
        while _main.noted:
            _call_noted()
    finally:
        _main.is_deferring = False
        try:
            for number, handler in _main.handlers.items():
                # Code that was called meanwhile may have set another one, which stays.
                if getsignal(number) is _on_signal:
                    signal(number, handler)
        except BaseException:
            _restore()
            raise
        finally:
            # Python checks for signals after calls and in loops, and so not between the last check
            # of those that were noted and the end of deferring; but a debugger does.
            if _main.noted:
                _call_noted()


class deferred:  # noqa: N801 - reads as a verb in a with statement
    """Defer all handlers in a ``with`` block; they are called at the end of the outermost one."""

    __slots__ = ("_is_outermost",)

    def __enter__(self) -> None:
        self._is_outermost = not _main.is_deferring and get_ident() == _main.ident
        if self._is_outermost:
            _begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_outermost:
            _stop_deferring()


def deliver() -> None:
    """Call the handlers of the signals that were deferred, at a point where a call may end."""
    if _main.noted and _main.is_deferring and get_ident() == _main.ident:
        while _main.noted:
            _call_noted()


def deliver_overdue() -> None:
    """Call them if one has been deferred for long, at a point where a call had better go on."""
    if _main.noted and monotonic() - min(_main.noted.values(), default=math.inf) >= PATIENCE_S:
        deliver()


@passes_on
def let_through(function: Callable[Ps, T], /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
    """Call the user's own code, with the handlers as the user has set them."""
    if not _main.is_deferring or get_ident() != _main.ident:
        return function(*args, **kwargs)
    try:
        try:
            _stop_deferring()
            return function(*args, **kwargs)
        finally:
            _defer(_main.usual)
    finally:
        # Where a handler has raised in the middle of that.
        if not _main.is_deferring:
            _defer(_main.usual)


def shorten(exc: BaseException) -> None:
    """Remove durably's frames from what leaves a public call, if durably is not at fault."""
    # Handlers are recognised by the frames; see ``is_from_signal``.
    if isinstance(exc, KeyboardInterrupt) or not is_from_signal(exc):
        remove_own_frames(exc)


def entered(function: Callable[Ps, T]) -> Callable[Ps, T]:
    """Defer all handlers while *function* is executed in the main thread.

    What it raises leaves it without durably's frames, if durably is not at fault.
    """
    return _entered(function, is_in_job=False)


def entered_in_job(function: Callable[Ps, T]) -> Callable[Ps, T]:
    """Defer all handlers as ``entered`` does; for what a job calls, which it does often."""
    return _entered(function, is_in_job=True)


def _entered(function: Callable[Ps, T], *, is_in_job: bool) -> Callable[Ps, T]:
    @passes_on
    @functools.wraps(function)
    def call(*args: Ps.args, **kwargs: Ps.kwargs) -> T:
        is_outermost = not _main.is_deferring and get_ident() == _main.ident
        if is_outermost:
            if is_in_job:
                _defer(_main.usual)
            else:
                _begin()
        try:
            return function(*args, **kwargs)
        except BaseException as exc:
            shorten(exc)
            # Python adds no frame where an exception is raised again, so not that of this line.
            raise
        finally:
            if is_outermost:
                try:
                    _stop_deferring()
                except KeyboardInterrupt as exc:
                    remove_own_frames(exc)
                    raise

    return call


def door(cls: C) -> C:
    """Make every public method of *cls* an ``entered`` one. A class decorator."""
    for name, member in tuple(vars(cls).items()):
        is_public = not name.startswith("_") or name in _DOORS
        if is_public and type(member) is FunctionType:
            assert not member.__code__.co_flags & _CO_GENERATOR  # noqa: S101 - its body is no call
            setattr(cls, name, entered(member))
    return cls


_note_handlers()


# -- what a handler has raised ---------------------------------------------------------------


def raise_if_signal(exc: BaseException) -> None:
    """Raise what a signal handler has raised, if that is *exc* or one of the group that it is.

    For code that catches what the user's code raises.
    """
    if not is_main_thread():
        return
    if is_from_signal(exc):
        raise exc
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            raise_if_signal(each)


def is_from_signal(exc: BaseException, handlers: frozenset[CodeType] | None = None) -> bool:
    """Return whether *exc* came of a signal, and not of the code that it has interrupted.

    A handler is recognised in the traceback by what it was given: the frame that it interrupted.
    That of Ctrl-C is not Python code, and leaves no frame.

    Args:
        exc: what has been raised in the calling thread.
        handlers: the code of those that count, of ``handlers()``; by default all do.
    """
    if not is_main_thread():
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
        if entry.tb_frame.f_code is not _on_signal.__code__:
            interrupted = entry.tb_frame
        entry = entry.tb_next
    return False


def handlers() -> frozenset[CodeType]:
    """Return the code of every handler of a signal that is a function of Python's."""
    current = ((number, getsignal(number)) for number in _NUMBERS)
    own = (_main.handlers.get(n) if each is _on_signal else each for n, each in current)
    return frozenset(code for each in own if (code := _code_of(each)) is not None)


def _code_of(handler: object) -> CodeType | None:
    """Return the code that is executed when *handler* is called, if it is Python's."""
    if isinstance(handler, functools.partial):
        return _code_of(handler.func)
    code = getattr(handler, "__code__", None)
    if code is None and callable(handler):
        code = getattr(getattr(type(handler), "__call__", None), "__code__", None)  # noqa: B004
    return code if isinstance(code, CodeType) else None


def _was_given(frame: FrameType, other: FrameType) -> bool:
    """Return whether *other* is among the arguments that *frame* was called with."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _CO_VARARGS)
    for name in code.co_varnames[:count]:
        value = frame.f_locals.get(name)
        if value is other or (type(value) is tuple and any(each is other for each in value)):
            return True
    return False


# -- forks -------------------------------------------------------------------------------------


def _start_anew_in_child() -> None:
    """Undo, in a forked child, what the main thread of the parent has set: it is alone there."""
    _main.ident = get_ident()
    _main.is_deferring = False
    _main.noted.clear()
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)
