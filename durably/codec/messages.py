"""Describe problems with values: what is wrong, where, and the text of the message."""

from __future__ import annotations

import reprlib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Final

from durably._platform.nesting import MAX_DEPTH, is_too_deep
from durably._platform.safe_repr import full_name, safe_repr, too_deep, type_name

_MAX_REPR: Final = 80
_MAX_TEXT: Final = 300
_MAX_PROBLEMS: Final = 1000
_UNIONS: Final = (typing.Union, types.UnionType)
_LIBRARIES: Final = ("numpy", "pandas")
# Methods of values of NumPy and pandas that convert to values of Python.
_CONVERSIONS: Final = ("to_pydatetime", "to_pytimedelta", "tolist", "to_dict")


IMPORT_IT: Final = "import what it names where the program runs, and not only under TYPE_CHECKING"
OR_NAME_IT: Final = (
    "or name the type: step.options(returns=...), durably.job(input=..., output=...)"
)


class Problem(Exception):  # noqa: N818 - never leaves the codec
    """One problem with a value, with its path relative to the handler that catches it."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text, path)
        self.text = text
        self.path = path

    def under(self, path: str) -> Problem:
        """Return the same problem, relative to where *path* begins."""
        return type(self)(self.text, path + self.path)


class Mismatch(Problem):
    """A value of another type than was expected."""


class NotStorable(Problem):
    """A value of the expected type that cannot be stored.

    Rejected in payloads too: its data would be another value.
    """


class Outdated(Problem):
    """A stored value of a class that has changed since."""


class TooDeep(Problem):
    """Circular or too deeply nested. Ends the search for further problems.

    A list that contains itself twice has 2**depth paths to the limit.
    """

    def __init__(self, *, has_forms: bool = False) -> None:
        counts = "; a tuple or a set counts as two, an instance of a class as three"
        more = counts if has_forms else ""
        super().__init__(f"circular, or nested more deeply than {MAX_DEPTH} levels{more}")


class Problems(Exception):  # noqa: N818 - never leaves the codec
    """All problems of a value."""

    def __init__(self, each: Iterable[Problem]) -> None:
        super().__init__(each)
        self.each = each


class Unsupported(Exception):  # noqa: N818 - never leaves the codec
    """A type whose values cannot be stored."""


class _Repr(reprlib.Repr):
    """Bounded representations, computed without the full ``repr`` of a container."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _MAX_REPR
        self.maxlevel = 3


_repr_of: Final = _Repr().repr


def clip(text: str, limit: int = _MAX_TEXT) -> str:
    """Return the beginning of *text*."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def show(value: object) -> str:
    """Return a representation of at most 80 characters, even if ``repr`` fails."""
    if is_too_deep(value):
        return too_deep(value)
    try:
        return clip(_repr_of(value), _MAX_REPR)
    except Exception:  # noqa: BLE001 - a failing repr must not hide the error being reported
        return "<no repr>"


def mismatch(expected: str, value: object, type_: Any = None) -> Mismatch:
    """Return the problem that *value* is not of *type_*."""
    is_wanted = getattr(type_, "__module__", "").partition(".")[0] in _LIBRARIES
    conversion = "" if is_wanted else conversion_of(value)
    advice = f" ({conversion})" if conversion else ""
    return Mismatch(f"expected {expected}, found {_found(value, type_)}{advice}")


def conversion_of(value: object) -> str:
    """Return how to convert a value of NumPy or pandas into one of Python; "" for others."""
    cls = type(value)
    if cls.__module__.partition(".")[0] not in _LIBRARIES:
        return ""
    if cls.__name__ in ("NaTType", "NAType"):
        return "use None in its place"
    for method in _CONVERSIONS:
        if hasattr(cls, method):
            return f"convert it with .{method}()"
    return ""


def _found(value: object, type_: Any) -> str:
    """Return what *value* is, in words that differ from the name of the expected type."""
    cls = type(value)
    args = typing.get_args(type_) if typing.get_origin(type_) in _UNIONS else (type_,)
    for arg in args:
        expected = typing.get_origin(arg) or arg
        if isinstance(expected, type) and expected is not cls and is_alike(expected, cls):
            return f"another class of that name ({difference(cls, expected)})"
    return type_name(value)


def is_alike(one: type, other: type) -> bool:
    """Return whether two classes, not builtins, have the same name."""
    return one.__name__ == other.__name__ and one.__module__ != "builtins"


def difference(cls: type, expected: type) -> str:
    """Return how a class differs from another of the same name."""
    if full_name(cls) != full_name(expected):
        return f"{full_name(cls)}, not {full_name(expected)}"
    return (
        f"{full_name(cls)} was defined again since; define again what is annotated with it, "
        "such as the function"
    )


def name_of(type_: Any) -> str:
    """Return the name of a type as a user writes it."""
    if type_ is types.NoneType:
        return "None"
    args = typing.get_args(type_)
    if isinstance(type_, type) and not args:
        return type_.__qualname__.rpartition("<locals>.")[2]
    origin = typing.get_origin(type_)
    if origin in _UNIONS:
        return " | ".join(map(name_of, args))
    if isinstance(origin, type) and args:
        inside = ", ".join("..." if arg is ... else name_of(arg) for arg in args)
        return clip(f"{name_of(origin)}[{inside}]", _MAX_REPR)
    return clip(safe_repr(type_).replace("typing.", ""), _MAX_REPR)


def segment(key: object) -> str:
    """Return the path segment of a key or an index."""
    if isinstance(key, str):
        plain = str.__str__(key)  # a subclass may override __str__
        if plain.isidentifier() and len(plain) <= _MAX_REPR:
            return f".{plain}"
    return f"[{show(key)}]"


def text_of(error: BaseException) -> str:
    """Return the message of an exception that other code raised."""
    if is_too_deep(error):
        return too_deep(error)
    try:
        # attrs' validators put the attribute, the limits and the value behind the sentence.
        first = error.args[0] if error.args else ""
        text = first if isinstance(first, str) and len(error.args) > 1 else str(error)
    except Exception:  # noqa: BLE001 - a failing str() must not hide the error being reported
        text = ""
    name = type(error).__name__
    return clip(f"{name}: {text}" if text else name)


def problems_in(error: BaseException, path: str = "$") -> Iterator[tuple[str, str]]:
    """Yield (path, text) for each problem in an error."""
    if isinstance(error, Problem):
        yield path + error.path, error.text
    elif isinstance(error, Problems):
        for each in error.each:
            yield from problems_in(each, path)
    elif isinstance(error, RecursionError):
        yield path, TooDeep().text
    else:
        yield path, text_of(error)


def sentence(what: str, problems: Iterable[tuple[str, str]]) -> str:
    """Return one message for all problems."""
    unique = list(dict.fromkeys(f"{path}: {text}" for path, text in problems))
    more = len(unique) - _MAX_PROBLEMS
    tail = [f"and {more} more"] if more > 0 else []
    return f"{what}: " + "; ".join(unique[:_MAX_PROBLEMS] + tail)
