"""Remove durably's own frames from tracebacks, so that they show the code of the user alone.

A frame belongs to the user unless it is one of durably, or of a library that durably itself has
called, such as contextlib. If durably is at fault, its frames stay: they show where it broke. That
is so if the innermost frame is durably's and the exception is not one that durably raises on
purpose (an error of ``durably.errors``, a warning, one in a function that ``passes_on``) or that
may arise in any code: a signal's, out of memory, too deep a recursion.
"""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType, TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from durably._platform.interactive import cell_label

F = TypeVar("F", bound=Callable[..., Any])

# What durably calls on its own behalf, apart from the standard library.
_LIBRARIES: Final = frozenset({"apsw", "attr", "attrs", "cattr", "cattrs"})
_ANYWHERE: Final = (MemoryError, RecursionError)
_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__))

# A class of the user's may have attributes of these names, and raise for them.
_cause_of, _context_of, _traceback_of = (
    vars(BaseException)[name].__get__ for name in ("__cause__", "__context__", "__traceback__")
)
_members_of: Final = vars(BaseExceptionGroup)["exceptions"].__get__

_passing_on: Final[set[CodeType]] = set()


def passes_on(function: F) -> F:
    """Mark a function of durably whose own exceptions are its caller's doing. A decorator.

    It calls the caller's function with the caller's arguments, or it rejects these by an exception
    of Python's own.
    """
    assert isinstance(function, FunctionType)  # noqa: S101 - of functions of Python's
    _passing_on.add(function.__code__)
    return function


class RemoteTraceback(Exception):  # noqa: N818 - named as those of the standard library
    """The traceback of an exception that another process has raised, as text; it is its cause.

    Those of the standard library's pools are named like this, too.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def format_exception(exc: BaseException) -> str:
    """Return what Python prints for *exc*, without durably's frames.

    So that it can be read after the kernel is gone, a cell of a notebook is named by its number.
    Of an exception of another process it is what that process has printed.
    """
    if isinstance(exc.__cause__, RemoteTraceback):
        return exc.__cause__.text
    root = traceback.TracebackException.from_exception(exc, limit=sys.maxsize)
    # Which counts the frames that are shown, from the outermost one on.
    limit = max(0, getattr(sys, "tracebacklimit", sys.maxsize))
    left = [(root, _Linked(exc))]
    while left:
        each, linked = left.pop()
        shown = _shown(linked.exc)
        kept = itertools.compress(each.stack, shown.is_kept(linked))
        each.stack = _Stack(itertools.islice(kept, limit))
        parts = [each.__cause__, each.__context__, *(each.exceptions or ())]
        for part, link in zip(parts, _links(linked, shown), strict=False):
            if part is not None and link is not None:
                left.append((part, link))
    return "".join(root.format())


def users_traceback(exc: BaseException) -> TracebackType | None:
    """Return the traceback of *exc* without durably's frames; *exc* itself keeps them."""
    return _rebuilt(_Linked(exc), _shown(exc))


def remove_own_frames(exc: BaseException) -> None:
    """Remove durably's frames from the tracebacks of *exc* and of what it is linked to.

    For an exception that has left durably, or is about to; it takes a microsecond or so a frame.
    """
    seen: set[int] = set()
    left: list[_Linked | None] = [_Linked(exc)]
    while left:
        linked = left.pop()
        if linked is None or id(linked.exc) in seen:
            continue
        seen.add(id(linked.exc))
        shown = _shown(linked.exc)
        # Not by setting the attribute, which a frozen class of the user's may forbid.
        BaseException.with_traceback(linked.exc, _rebuilt(linked, shown))
        left += _links(linked, shown)


def frames_in(text: str) -> list[str]:
    """Return the lines of a formatted exception that show its frames, without marks below them.

    Those of an exception with causes, and of a group, are all the lines of the text: each of its
    exceptions has frames of its own.
    """
    lines = text.splitlines()
    if is_of_several(text):
        return lines
    frames: list[str] = []
    for line in lines[1:] if lines[:1] == [_HEADER] else []:
        if not line.startswith("  "):
            break
        if line.strip(" ^~"):
            frames.append(line)
    return frames


def first_of_each_kind(excs: Sequence[BaseException], most: int) -> list[str]:
    """Return lines that show the first exception of each class, without durably's frames.

    Args:
        most: of how many classes.
    """
    first: dict[type, BaseException] = {}
    for exc in excs:
        first.setdefault(type(exc), exc)
    lines: list[str] = []
    for exc in itertools.islice(first.values(), most):
        text = format_exception(exc)
        lines += frames_in(text)
        if not is_of_several(text):
            lines += "".join(traceback.format_exception_only(exc)).splitlines()
    return lines


def is_of_several(text: str) -> bool:
    """Return whether a formatted exception is one with causes, or a group."""
    lines = text.splitlines()
    is_group = lines[:1] == [f"  + Exception Group {_HEADER}"]
    return is_group or any(line in _BETWEEN for line in lines)


def stacklevel() -> int:
    """Return the ``stacklevel`` for which a warning of the calling function names user code."""
    level = 1
    frame = sys._getframe(1)  # noqa: SLF001 - as warnings itself does
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE + os.sep):
        frame = frame.f_back
        level += 1
    return level


_HEADER: Final = "Traceback (most recent call last):"
_BETWEEN: Final = frozenset(
    {
        "The above exception was the direct cause of the following exception:",
        "During handling of the above exception, another exception occurred:",
    }
)


class _Linked(NamedTuple):
    """An exception, and whether durably has raised another one from it: it is not at fault."""

    exc: BaseException
    is_translated: bool = False


class _Shown(NamedTuple):
    """The entries of a traceback, which of them are the user's, and whether durably is at fault."""

    entries: list[TracebackType]
    are_users: list[bool]
    ends_in_durably: bool

    def is_kept(self, linked: _Linked) -> list[bool]:
        """Return for each entry whether it is shown."""
        if self.ends_in_durably and not linked.is_translated and not _is_on_purpose(linked.exc):
            return [True] * len(self.entries)
        return self.are_users


def _shown(exc: BaseException) -> _Shown:
    entries: list[TracebackType] = []
    are_users: list[bool] = []
    # Whether what is called, or raised, in the frame before is durably's doing.
    is_durablys = False
    entry = _traceback_of(exc)
    while entry is not None:
        code, module = entry.tb_frame.f_code, _module_of(entry)
        if is_of_durably(module):
            is_durablys = code not in _passing_on
            is_users = False
        else:
            is_durablys = is_durablys and _is_of_library(module)
            is_users = not is_durablys
        entries.append(entry)
        are_users.append(is_users)
        entry = entry.tb_next
    return _Shown(entries, are_users, is_durablys)


def _rebuilt(linked: _Linked, shown: _Shown) -> TracebackType | None:
    is_kept = shown.is_kept(linked)
    if all(is_kept):
        return shown.entries[0] if shown.entries else None
    rest: TracebackType | None = None
    for entry in itertools.compress(reversed(shown.entries), reversed(is_kept)):
        rest = TracebackType(rest, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return rest


def _module_of(entry: TracebackType) -> str:
    name = entry.tb_frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def is_of_durably(module: str) -> bool:
    """Return whether a module of that name is one of durably's."""
    return module == "durably" or module.startswith("durably.")


def _is_of_library(module: str) -> bool:
    root = module.partition(".")[0]
    # The methods that attrs and cattrs write are in no module.
    return not root or root in _LIBRARIES or root in sys.stdlib_module_names


def _is_on_purpose(exc: BaseException) -> bool:
    """Return whether durably raises such an exception on purpose, or it may arise anywhere."""
    if not isinstance(exc, Exception) or isinstance(exc, (*_ANYWHERE, Warning)):
        return True
    return any(cls.__module__ == "durably" for cls in type(exc).__mro__)


def _links(linked: _Linked, shown: _Shown) -> list[_Linked | None]:
    """Return what an exception was raised from and while handling, and the members of a group."""
    exc = linked.exc
    is_translated = linked.is_translated or (shown.ends_in_durably and _is_on_purpose(exc))
    members = _members_of(exc) if isinstance(exc, BaseExceptionGroup) else ()
    return [
        None if each is None else _Linked(each, is_translated)
        for each in (_cause_of(exc), _context_of(exc))
    ] + [_Linked(each) for each in members]


class _Stack(traceback.StackSummary):
    """The frames of the user, with cells of a notebook named as in the notebook."""

    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: Any) -> str:
        text = super().format_frame_summary(frame_summary, **options)
        label = cell_label(frame_summary.filename)
        if label is None:
            return text
        return text.replace(f'File "{frame_summary.filename}"', label, 1)
