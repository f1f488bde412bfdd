"""What is shown of an error that nothing handles: in a terminal, in a thread, in a notebook.

Python prints a frame for each function that an exception leaves, durably's own among them. Hooks
that are called before it does so remove them; then they call the hook that was there before.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from durably._platform.interactive import ipython_shell, is_ipython
from durably._platform.tracebacks import format_exception, remove_own_frames

_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[0m"


def install_hooks() -> None:
    """Install the hooks, unless they are there.

    They stay: an error usually ends the program after the last engine was closed. Code that
    replaces them later, and restores what it found, finds what was there before it.
    """
    if not isinstance(sys.excepthook, _ExceptHook):
        sys.excepthook = _ExceptHook(sys.excepthook)
    if not isinstance(threading.excepthook, _ThreadHook):
        threading.excepthook = _ThreadHook(threading.excepthook)
    shell = ipython_shell()
    # IPython asks no group how to show it. A handler of the user's stays.
    if shell is not None and getattr(shell, "custom_exceptions", None) == ():
        shell.set_custom_exc((BaseExceptionGroup,), _show_group)


def _show_group(
    shell: Any, kind: Any, exc: BaseException, traceback: Any, tb_offset: int | None = None
) -> list[str] | None:
    """Show a group of durably's as it renders itself, and any other one as IPython does."""
    render = getattr(type(exc), "_render_traceback_", None)
    if render is None:
        shell.showtraceback((kind, exc, traceback), tb_offset=tb_offset)
        return None
    # For ``%debug``, which may begin in another place: see debug_from.
    sys.last_type, sys.last_value, sys.last_traceback = kind, exc, traceback
    lines: list[str] = render(exc)
    shell._showtraceback(kind, exc, lines)  # noqa: SLF001 - what the shells of front ends override
    return lines


class _ExceptHook:
    """``sys.excepthook``."""

    def __init__(self, previous: Any) -> None:
        self._previous = previous

    def __call__(self, kind: Any, exc: BaseException, traceback: Any) -> None:  # noqa: ARG002 - of Python
        if self._previous is sys.__excepthook__ and "_durably_is_said" in vars(exc):
            return  # the display of a map has said how it ended
        # Another hook, such as one that sends errors to a service, gets the error itself.
        if self._previous is not sys.__excepthook__ or not _is_reported(exc, ""):
            remove_own_frames(exc)
            self._previous(kind, exc, exc.__traceback__)


class _ThreadHook:
    """``threading.excepthook``."""

    def __init__(self, previous: Any) -> None:
        self._previous = previous

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        kind, exc, _, thread = args
        if exc is None:
            return  # of no use; Python gives one
        name = threading.get_ident() if thread is None else thread.name
        before = f"Exception in thread {name}:\n"
        if self._previous is not threading.__excepthook__ or not _is_reported(exc, before):
            remove_own_frames(exc)
            cleaned = (kind, exc, exc.__traceback__, thread)
            self._previous(threading.ExceptHookArgs(cleaned))


def _is_reported(exc: BaseException, before: str) -> bool:
    """Print the report of an error that has one; return whether that was done."""
    report = report_on(exc)
    if report is None or sys.stderr is None:
        return False
    sys.stderr.write(f"{before}{report}")
    return True


def report_on(exc: BaseException) -> str | None:
    """Return what is printed of an error that nothing handles, ``None`` if that is Python's own."""
    report = getattr(type(exc), "_report", None) or _report_of_stop(exc)
    return None if report is None else report(exc)


def _report_of_stop(exc: BaseException) -> Callable[[BaseException], str] | None:
    notes = _stop_notes(exc)
    if not notes or "_durably_is_alone" not in vars(exc):
        return None
    return lambda exc: f"{type(exc).__name__}: {notes[0]}\n"


# -- IPython and Jupyter -----------------------------------------------------------------------


def rendered(exc: BaseException) -> list[str]:
    """Return what IPython shows for an error, without durably's frames."""
    remove_own_frames(exc)
    debug_from(exc, exc)
    tracer = getattr(ipython_shell(), "InteractiveTB", None)
    if tracer is None:
        return format_exception(exc).splitlines()
    lines: list[str] = tracer.structured_traceback(type(exc), exc, exc.__traceback__)
    return lines


def rendered_line(name: str, text: str) -> str:
    """Return the line that begins what IPython shows for an error, in its colours."""
    colors = getattr(ipython_shell(), "colors", "nocolor")
    is_plain = str(colors).lower() == "nocolor"
    return f"{name}: {text}" if is_plain else f"{_RED}{name}{_PLAIN}: {text}"


def add_note(exc: BaseException, note: str) -> None:
    """Add a note to an exception of the user's, unless its class forbids to set attributes."""
    with suppress(AttributeError, TypeError):
        exc.add_note(note)


def add_stop_note(exc: BaseException, note: str) -> None:
    """Add a note to the exception of a signal that says where it was raised.

    For a Ctrl-C IPython shows the note alone.

    Nothing is added if a place inside has done so.

    Args:
        note: begins with "stopped".
    """
    if _stop_notes(exc):
        return
    add_note(exc, note)
    if isinstance(exc, KeyboardInterrupt) and is_ipython():
        lines = [rendered_line(type(exc).__name__, note)]
        # IPython asks the object for it, so that this works for an exception of Python's.
        exc._render_traceback_ = functools.partial(list, lines)  # type: ignore[attr-defined]


def show_stop_alone(exc: BaseException) -> None:
    """Make a script that *exc* ends print where it has stopped and no traceback, for a Ctrl-C."""
    if isinstance(exc, KeyboardInterrupt):
        vars(exc)["_durably_is_alone"] = True  # for the hooks


def _stop_notes(exc: BaseException) -> list[str]:
    notes = getattr(exc, "__notes__", ())
    return [note for note in notes if isinstance(note, str) and note.startswith("stopped")]


def debug_from(shown: BaseException, cause: BaseException) -> None:
    """Make a debugger that is started after the error *shown* begin in the frames of *cause*."""
    if getattr(sys, "last_value", None) is not shown or cause.__traceback__ is None:
        return
    sys.last_type, sys.last_value = type(cause), cause
    sys.last_traceback = cause.__traceback__
    if hasattr(sys, "last_exc"):
        sys.last_exc = cause
    tracer = getattr(ipython_shell(), "InteractiveTB", None)
    if tracer is not None:
        tracer.tb = cause.__traceback__
