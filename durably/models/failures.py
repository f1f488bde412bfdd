"""Exceptions as they are recorded, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from durably._platform.nesting import is_too_deep
from durably._platform.safe_repr import full_name, safe_str, too_deep
from durably._platform.signals import raise_if_signal
from durably._platform.tracebacks import format_exception, users_traceback
from durably._platform.values import Value

# A longer traceback or message keeps only its two ends: people read it, and a job that fails in a
# loop must not fill the file.
_LONGEST_TEXT: Final = 64 * 1024
_MOST_NOTES: Final = 100


def _as_tuple(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(notes)


@attrs.frozen(eq=False, repr=False)
class ErrorInfo(Value):
    """An exception as it was recorded; ``str()`` gives ``type: message``.

    ``type`` is ``ValueError`` for builtins, ``package.module.Qualified.Name`` for others.
    ``traceback`` is what Python prints, with the frames of your code alone; durably's own are there
    only if durably is at fault. ``notes`` are those that were added to the exception by
    ``add_note``.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        ``notes``
    """

    type: str
    message: str
    traceback: str = attrs.field(repr=False)
    notes: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple, repr=False)
    # Of a run: the step that has failed it.
    _failed_step: str | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)
    # Likewise: the first of its steps that has a result.
    _first_step: str | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def stored_error(error: ErrorInfo) -> dict[str, Any]:
    """Return an error as it is stored, as JSON-like data."""
    text = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return {**text, "notes": list(error.notes)} if error.notes else text


def error_info(exc: BaseException) -> ErrorInfo:
    """Return *exc* as it is recorded, whatever its ``str()`` does."""
    return ErrorInfo(
        full_name(type(exc)), _shortened(_message(exc)), traceback_of(exc), _notes_of(exc)
    )


def _message(exc: BaseException) -> str:
    try:
        message = too_deep(exc) if is_too_deep(exc) else str(exc)
        return str.__str__(message)  # no subclass of a user's
    except BaseException as raised:  # noqa: BLE001 - a user's __str__ may raise anything
        raise_if_signal(raised)
        return f"<unprintable {type(exc).__qualname__}>"


def _notes_of(exc: BaseException) -> tuple[str, ...]:
    """Return the notes of *exc*; anything may be among them."""
    notes = vars(exc).get("__notes__", ())
    if not isinstance(notes, list | tuple):
        notes = (notes,)
    return tuple(_shortened(safe_str(note)) for note in notes[:_MOST_NOTES])


def traceback_of(exc: BaseException) -> str:
    """Return the traceback of *exc* and of its causes, as Python prints it.

    It shows the user's frames alone, unless durably is at fault. If Python cannot format it, return
    a line that says so.
    """
    try:
        return _shortened(format_exception(printable(exc)))
    except BaseException as raised:  # noqa: BLE001 - a user's __str__ may raise anything
        raise_if_signal(raised)
        return f"<the traceback of {type(exc).__qualname__} could not be formatted>"


def printable(exc: BaseException) -> BaseException:
    """Return *exc*, or if it is nested too deeply to print, a short error with its traceback.

    A logger that prints an exception also prints its causes.
    """
    if _is_printable(exc):
        return exc
    return RuntimeError(too_deep(exc)).with_traceback(users_traceback(exc))


def _is_printable(exc: BaseException) -> bool:
    """Return whether neither *exc* nor any of its causes is nested too deeply to be printed."""
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if is_too_deep(each):
            return False
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return True


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
