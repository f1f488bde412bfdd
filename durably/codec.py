"""Values in and out of JSON text, validated, typed and faithful.

Every type is compiled once into a tree of nodes. A node knows both directions::

    value --encode--> JSON-like data --structure--> the value again

*Encoding* is exact: a value that is not of the node's type, or that would come back as
something else, is refused. *Structuring* is strict: data that does not fit is an error,
never converted. *Loosening* is for payloads alone: it accepts instances and plain data side
by side and turns what is an instance into data, so that structuring sees only data.

Classes are structured by functions that cattrs generates, and types of a user's own by the
hooks of the user's cattrs converter; both report what is wrong in cattrs' error groups,
which :func:`_problems` turns into paths.
"""

from __future__ import annotations

import abc
import base64
import binascii
import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import json
import pathlib
import re
import reprlib
import threading
import types
import typing
import uuid
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final, cast

import attrs
import cattrs
import typing_extensions
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn_from_attrs, override

from durably.errors import SerializationError, ValidationError
from durably.shown import type_name

MAX_DEPTH: Final = 200
"""How deeply stored data may be nested.

Well below what Python's stack allows, so that what was stored by a shallow caller can also
be read by a deep one.
"""

_MAX_REPR: Final = 80
_MAX_TEXT: Final = 300
_MAX_PROBLEMS: Final = 1000


class _Untyped:
    """The type of :data:`UNTYPED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNTYPED"


UNTYPED: Final = _Untyped()
"""Stands for "JSON-like data, no type"."""

_NoneType: Final = type(None)


# --- What can be wrong -----------------------------------------------------------------------


class _Problem(Exception):  # noqa: N818 - never leaves this module
    """One thing that is wrong, and where it is relative to the one who catches it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.path = ""

    def under(self, segment: str) -> _Problem:
        """Say that all this happened inside *segment*."""
        self.path = segment + self.path
        return self


class _Mismatch(_Problem):
    """A value of another type."""


class _TooDeep(_Problem):
    """Circular or too deeply nested. Nobody looks further once this was raised.

    A list that holds itself twice has 2**depth paths to the limit.
    """

    def __init__(self) -> None:
        super().__init__(f"circular, or nested more deeply than {MAX_DEPTH} levels")


class _Unsupported(Exception):  # noqa: N818 - never leaves this module
    """A type for which there is no node."""


class _MissingKeyError(Exception):
    """A required key is not there."""


class _Repr(reprlib.Repr):
    """Bounded representations, computed without building the whole one for containers."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _MAX_REPR
        self.maxlevel = 3


_repr_of: Final = _Repr().repr


def _clip(text: str, limit: int) -> str:
    """Give the beginning of *text*."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _show(value: object) -> str:
    """Give a representation of at most 80 characters, whatever ``repr`` does."""
    try:
        return _clip(_repr_of(value), _MAX_REPR)
    except Exception:  # noqa: BLE001 - a failing repr must not hide the error being reported
        return "<no repr>"


def _name(type_: Any) -> str:
    """Name a type as a reader of the error would write it."""
    if type_ is _NoneType:
        return "None"
    if isinstance(type_, type) and not typing.get_args(type_):
        return type_.__qualname__.rpartition("<locals>.")[2]
    args = typing.get_args(type_)
    if _is_union(type_):
        return " | ".join(map(_name, args))
    origin = typing.get_origin(type_)
    if isinstance(origin, type) and args:
        inside = ", ".join("..." if arg is ... else _name(arg) for arg in args)
        return _clip(f"{_name(origin)}[{inside}]", _MAX_REPR)
    return _clip(repr(type_).replace("typing.", ""), _MAX_REPR)


def _segment(key: object) -> str:
    """Give the path segment of a key of a mapping."""
    if isinstance(key, str):
        plain = str.__str__(key)  # a subclass may say anything about itself
        if plain.isidentifier() and len(plain) <= _MAX_REPR:
            return f".{plain}"
    return f"[{_show(key)}]"


def _text_of(error: BaseException) -> str:
    """Give the sentence inside an exception that somebody else raised."""
    try:
        # attrs' validators put the attribute, the limits and the value behind the sentence.
        first = error.args[0] if error.args else ""
        text = first if isinstance(first, str) and len(error.args) > 1 else str(error)
    except Exception:  # noqa: BLE001 - a failing str() must not hide the error being reported
        text = ""
    name = type(error).__name__
    return _clip(f"{name}: {text}" if text else name, _MAX_TEXT)


def _problems(error: BaseException, path: str = "$") -> Iterator[tuple[str, str]]:
    """Give (path, what is wrong) for everything in an error of structuring."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            yield from _problems(inner, path + _noted_segment(inner, type(error)))
    elif isinstance(error, _Problem):
        yield path + error.path, error.text
    elif isinstance(error, _MissingKeyError):
        yield path, "required, but missing"
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields, key=_show):
            yield path + _segment(key), "unknown key"
    elif isinstance(error, RecursionError):
        yield path, _TooDeep().text
    else:
        yield path, _text_of(error)


def _noted_segment(error: BaseException, group: type[BaseValidationError]) -> str:
    """Give the path segment that cattrs has noted on an error within a group of that kind.

    An error that went up through several groups carries a note of each; the last is the
    outermost, but groups are new exceptions, so that one error has one note of each kind.
    """
    wanted = (
        AttributeValidationNote
        if issubclass(group, ClassValidationError)
        else IterableValidationNote
    )
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, wanted):
            if isinstance(note, AttributeValidationNote):
                return _segment(note.name)
            return f"[{note.index}]" if isinstance(note.index, int) else _segment(note.index)
    return ""


def _sentence(what: str, problems: Iterable[tuple[str, str]]) -> str:
    """Make one message of all problems."""
    unique = list(dict.fromkeys(f"{path}: {text}" for path, text in problems))
    more = len(unique) - _MAX_PROBLEMS
    tail = [f"and {more} more"] if more > 0 else []
    return f"{what}: " + "; ".join(unique[:_MAX_PROBLEMS] + tail)


# --- JSON text -------------------------------------------------------------------------------

_dumps: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# JSON writes a character outside the BMP as two escaped surrogates, and so two surrogates
# that stand side by side in a str would be read back as that one character. In a text that
# begins with a space, there is one more NUL between such neighbours than in the value.
_MARK: Final = " "
_PAIR: Final = re.compile("[\ud800-\udbff]\x00*[\udc00-\udfff]")
_SPLIT: Final = re.compile("([\ud800-\udbff]\x00*)(?=[\udc00-\udfff])")
_JOIN: Final = re.compile("([\ud800-\udbff])\x00(\x00*)(?=[\udc00-\udfff])")

# Python refuses to convert integers of more than 4300 digits (by default; a user may have
# lowered it to 640), so larger ones go through chunks that are below any possible limit.
_CHUNK_DIGITS: Final = 600
_CHUNK: Final = 10**_CHUNK_DIGITS


def _to_digits(number: int) -> str:
    """Give the decimal digits of an integer of any size."""
    if number < 0:
        return "-" + _to_digits(-number)
    # 10**600 to the powers of 2, as far as the number reaches: splitting in halves keeps the
    # work below that of taking off one chunk after another.
    powers = [_CHUNK]
    while powers[-1] <= number:
        powers.append(powers[-1] ** 2)

    def digits(part: int, level: int) -> str:
        if level < 0:
            return str(part).zfill(_CHUNK_DIGITS)
        high, low = divmod(part, powers[level])
        return digits(high, level - 1) + digits(low, level - 1)

    return digits(number, len(powers) - 1).lstrip("0") or "0"


def _from_digits(text: str) -> int:
    """Give the integer whose decimal digits *text* has, of any size."""
    if text.startswith("-"):
        return -_from_digits(text[1:])
    if len(text) <= _CHUNK_DIGITS:
        return int(text)
    middle = len(text) // 2
    low = text[-middle:]
    high = _from_digits(text[:-middle])
    return int(high * 10**middle + _from_digits(low))


def _dump_slowly(data: Any, *, marked: bool) -> str:
    """Write what the fast encoder cannot: huge integers, and marked strings."""
    if isinstance(data, str):
        return encode_basestring_ascii(_SPLIT.sub("\\1\x00", data) if marked else data)
    if isinstance(data, dict):
        pairs = (
            f"{_dump_slowly(key, marked=marked)}:{_dump_slowly(item, marked=marked)}"
            for key, item in data.items()
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(data, list):
        return "[" + ",".join(_dump_slowly(item, marked=marked) for item in data) + "]"
    if type(data) is int:
        return _to_digits(data)
    return _dumps(data)


def _has_pair(data: Any) -> bool:
    """Whether any string in *data* holds two surrogates that would be read back as one."""
    if isinstance(data, str):
        return _PAIR.search(data) is not None
    if isinstance(data, dict):
        return any(_has_pair(key) or _has_pair(item) for key, item in data.items())
    return isinstance(data, list) and any(map(_has_pair, data))


def _dump(data: Any) -> str:
    """Write JSON-like data, as it comes out of a node, as ASCII text."""
    try:
        text = _dumps(data)
    except ValueError:  # an integer of more digits than Python converts
        marked = _has_pair(data)
        return (_MARK if marked else "") + _dump_slowly(data, marked=marked)
    # Emoji have escaped surrogates in the text too; only the data can tell.
    if "\\ud" in text and _has_pair(data):
        return _MARK + _dump_slowly(data, marked=True)
    return text


def _unmark(data: Any) -> Any:
    """Undo the marking of all strings in *data*."""
    if isinstance(data, str):
        return _JOIN.sub("\\1\\2", data)
    if isinstance(data, dict):
        return {_unmark(key): _unmark(item) for key, item in data.items()}
    if isinstance(data, list):
        return [_unmark(item) for item in data]
    return data


# What ``json.loads`` calls in the end, without its look for white space around the text:
# texts of ours have none but the mark, on which this gives up.
_read_json: Final = json.JSONDecoder().raw_decode


def _load(text: str) -> Any:
    """Read a text that :func:`_dump` wrote."""
    try:
        data, end = _read_json(text)
        if end == len(text):
            return data
    except ValueError:
        pass  # what is wrong with it is said below
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts
        data = json.loads(text, parse_int=_from_digits)
    return _unmark(data) if text.startswith(_MARK) else data


# --- JSON-like values ------------------------------------------------------------------------

_ATOMS: Final = frozenset({str, int, bool, float, _NoneType})
_ANNOTATE: Final = (
    "annotate the function's return type, or pass returns=... to step.options() "
    "(inside a class: annotate the field)"
)


def _refuse_json(value: object) -> _Problem:
    """Say why *value* is not JSON-like, and what to do about it."""
    cls = type(value)
    name = cls.__qualname__
    if isinstance(value, enum.Enum):
        why = f"enum member {_show(value)} would come back as a plain value; {_ANNOTATE}"
    elif inspect.isawaitable(value) or inspect.isasyncgen(value):
        why = f"{name} has no stored form; return what it results in, from a plain function"
    elif isinstance(value, Iterator):
        why = f"{name} has no stored form; return a list of what it gives"
    elif isinstance(value, type) or inspect.isroutine(value):
        code = getattr(value, "__qualname__", name)
        why = f"{type_name(value)} {code!r:.80} has no stored form; return data, not code"
    elif _is_class(cls) or cls in _LEAVES or isinstance(value, _TYPED_ONLY):
        why = f"{type_name(value)} has no stored form without a type; {_ANNOTATE}"
    else:
        why = (
            f"{type_name(value)} has no stored form; return JSON-like data, or a type that is "
            f"annotated ({_ANNOTATE}) and that the engine's converter= has hooks for"
        )
    return _Problem(why)


def _plain(value: Any, depth: int) -> Any:
    """Copy a JSON-like value into plain dicts, lists, strings and numbers.

    Raises:
        _Problem: something in it is not JSON-like.
    """
    cls = type(value)
    if cls in _ATOMS:
        return value
    if isinstance(value, dict):
        if depth >= MAX_DEPTH:
            raise _TooDeep
        plain = {}
        key = None
        try:
            for key, item in value.items():
                plain[key if type(key) is str else _plain_key(key)] = (
                    item if type(item) in _ATOMS else _plain(item, depth + 1)
                )
        except _Problem as problem:
            raise problem.under(_segment(key)) from None
        return plain
    if cls is list or (isinstance(value, (list, tuple)) and not _is_named(cls)):
        if depth >= MAX_DEPTH:
            raise _TooDeep
        items: list[Any] = []
        try:
            for item in value:
                items.append(item if type(item) in _ATOMS else _plain(item, depth + 1))  # noqa: PERF401 - the index of a failing item
        except _Problem as problem:
            raise problem.under(f"[{len(items)}]") from None
        return items
    return _plain_atom(value)


def _plain_atom(value: Any) -> Any:
    """Give the plain form of an instance of a subclass of str, int or float."""
    if not isinstance(value, enum.Enum):
        # The unbound methods of the base: a subclass may have overridden its own.
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
    raise _refuse_json(value)


def _plain_key(key: Any) -> str:
    """Give the plain form of a key of a JSON-like dict."""
    if isinstance(key, str):
        return cast("str", _plain_atom(key))
    msg = f"a key is {type_name(key)} and not str; annotate the dict's type to have other keys"
    raise _Problem(msg)


def _json_problems(value: Any, depth: int = 0, path: str = "") -> Iterator[_Problem]:
    """Give everything that keeps *value* from being JSON-like."""
    if depth >= MAX_DEPTH and isinstance(value, (dict, list, tuple)):
        raise _TooDeep
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        for key in value:
            try:
                _plain_key(key)
            except _Problem as problem:
                yield problem.under(path + _segment(key))
        inside = ((_segment(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)) and not _is_named(type(value)):
        inside = ((f"[{index}]", item) for index, item in enumerate(value))
    elif type(value) not in _ATOMS:
        try:
            _plain_atom(value)
        except _Problem as problem:
            yield problem.under(path)
    for segment, item in inside:
        yield from _json_problems(item, depth + 1, path + segment)


# --- Kinds of types --------------------------------------------------------------------------


def _is_union(type_: Any) -> bool:
    return typing.get_origin(type_) in (typing.Union, types.UnionType)


def _is_class(type_: Any) -> bool:
    """Whether *type_* is an attrs class or a dataclass."""
    return isinstance(type_, type) and (attrs.has(type_) or dataclasses.is_dataclass(type_))


def _is_named(type_: Any) -> bool:
    """Whether *type_* is a named tuple."""
    return isinstance(type_, type) and issubclass(type_, tuple) and hasattr(type_, "_fields")


def _is_anything(type_: Any) -> bool:
    """Whether *type_* says nothing about the values."""
    return (
        type_ is UNTYPED
        or type_ is Any
        or type_ is typing_extensions.Any
        or type_ is object
        or isinstance(type_, typing.TypeVar)
    )


def _is_alias(type_: Any) -> bool:
    """Whether *type_* was made by a ``type`` statement."""
    made_by = getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)
    return isinstance(type_, (made_by, typing_extensions.TypeAliasType))


def _substitute(type_: Any, variables: Mapping[Any, Any]) -> Any:
    """Put types in the place of type variables."""
    if isinstance(type_, typing.TypeVar):
        return variables.get(type_, type_)
    parameters = getattr(type_, "__parameters__", ())
    if not variables or not parameters or isinstance(type_, type):
        return type_
    return type_[tuple(variables.get(parameter, parameter) for parameter in parameters)]


def _variables_of(type_: Any) -> dict[Any, Any]:
    """Give what the type variables of a generic class, and of its bases, stand for."""
    origin = typing.get_origin(type_) or type_
    variables: dict[Any, Any] = dict(
        zip(getattr(origin, "__parameters__", ()), typing.get_args(type_), strict=False)
    )
    for base in getattr(origin, "__orig_bases__", ()):
        if typing.get_origin(base) not in (None, typing.Generic, typing.Protocol):
            variables = {**_variables_of(_substitute(base, variables)), **variables}
    return variables


def _hints_of(cls: type) -> dict[str, Any]:
    """Give the resolved annotations of a class."""
    try:
        try:
            return typing.get_type_hints(cls, include_extras=True)
        except NameError:
            # A class that was defined in a function may name itself.
            return typing.get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    except Exception as error:
        msg = f"an annotation of {_name(cls)} cannot be resolved ({_text_of(error)})"
        raise _Unsupported(msg) from error


# --- Nodes -----------------------------------------------------------------------------------

_KINDS: Final = frozenset({"null", "bool", "int", "float", "str", "list", "dict"})
_KIND_OF: Final[Mapping[type, str]] = {
    _NoneType: "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "list",
    tuple: "list",
    dict: "dict",
}


def _kind(data: object) -> str:
    """Give the kind of JSON that *data* is, or an empty string."""
    return _KIND_OF.get(type(data), "dict" if isinstance(data, Mapping) else "")


class _Check(enum.IntEnum):
    """What has to be compared to know that a value came back."""

    NOTHING = 0
    """It is put together by Python's own types alone."""
    STORED = 1
    """Somebody's ``__init__`` takes part: compare what would be stored."""
    HIDDEN = 2
    """Compare also what is not stored."""


class _Node(abc.ABC):
    """One type, compiled: both directions between its values and JSON-like data."""

    def __init__(self, expected: str, kinds: Iterable[str], children: Iterable[_Node] = ()) -> None:
        self.expected = expected
        self.kinds = frozenset(kinds)
        self.children = list(children)
        self.own_check = _Check.NOTHING

    @functools.cached_property
    def check(self) -> _Check:
        """What has to be compared for this node and everything below it."""
        seen: dict[int, _Node] = {}
        todo: list[_Node] = [self]
        while todo:
            node = todo.pop()
            if id(node) not in seen:
                seen[id(node)] = node
                todo.extend(node.children)
        return max(node.own_check for node in seen.values())

    @abc.abstractmethod
    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001 - called for each value
        """Give the data of exactly a value of this type.

        With *full*, also of what is not stored, so that two values can be compared.

        Raises:
            _Problem: it is of another type, or would come back as something else.
        """

    def loosen(self, value: Any, depth: int) -> Any:
        """Give the data of a value of this type; anything else as it is.

        Raises:
            _TooDeep: the value is circular or too deeply nested.
        """
        try:
            return self.encode(value, depth, full=False)
        except _TooDeep:
            raise
        except _Problem:
            return value

    @abc.abstractmethod
    def structure(self, data: Any) -> Any:
        """Make a value of JSON-like data.

        Raises:
            Exception: one that :func:`_problems` understands.
        """

    def distance(self, data: Any) -> int:
        """Give how many things keep *data* from being of this type, without going deeper."""
        return _kind(data) not in self.kinds

    def mismatch(self, value: object) -> _Problem:
        """Say that *value* is not of this type."""
        return _Mismatch(f"expected {self.expected}, found {type_name(value)}")


class _Json(_Node):
    """JSON-like data."""

    def __init__(self) -> None:
        super().__init__("JSON-like data", _KINDS)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: ARG002, FBT001
        return _plain(value, depth)

    def structure(self, data: Any) -> Any:
        try:
            return _plain(data, 0)
        except _TooDeep:
            raise
        except _Problem as first:
            problems = list(_json_problems(data))
            raise IterableValidationError("JSON-like data", problems or [first], object) from None


class _Atom(_Node):
    """None, bool, int, float or str, or a subclass of the last three."""

    def __init__(self, type_: type) -> None:
        self._base: type = next(base for base in type_.__mro__ if base in _ATOMS)
        super().__init__(_name(type_), {_KIND_OF[self._base]})
        self._type = type_
        self._is_plain = self._base is type_
        if not self._is_plain:
            self.own_check = _Check.HIDDEN

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: ARG002, FBT001
        cls = type(value)
        if not self._is_plain:
            if cls is not self._type:
                raise self.mismatch(value)
            data = _plain_atom(value)
            return {"\0data": data, "\0state": _plain_state(value)} if full else data
        if cls is self._type:
            return value
        if self._type is float and isinstance(value, int):
            return self._float(value)
        # bool is a subclass of int, and enum members are instances of their mixed-in types.
        if cls is bool or not isinstance(value, self._type) or isinstance(value, enum.Enum):
            raise self.mismatch(value)
        return _plain_atom(value)

    def structure(self, data: Any) -> Any:
        if type(data) is not self._base:
            if self._base is not float or type(data) is not int:
                raise self.mismatch(data)
            data = self._float(data)
        return data if self._is_plain else self._type(data)

    def _float(self, value: int) -> float:
        """Give the float of an int that has one."""
        if isinstance(value, (bool, enum.Enum)):
            raise self.mismatch(value)
        try:
            number = float(value)
        except OverflowError:
            raise self.mismatch(value) from None
        if number != value:
            raise self.mismatch(value)
        return number


def _plain_state(value: Any) -> Any:
    """Give the attributes of an instance of a subclass of a builtin, to compare them."""
    return {name: _show(item) for name, item in getattr(value, "__dict__", {}).items()}


@attrs.frozen
class _Leaf:
    """How the values of one type of the standard library are written."""

    expected: str
    kinds: frozenset[str]
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


# ISO 8601 cannot say which one of two equal wall-clock times is meant. Without a timezone
# that is all there is (datetime.now() gives fold=1 for an hour each autumn).
_FOLD: Final = ";fold=1"


def _write_instant(value: dt.datetime | dt.time) -> str:
    if value.tzinfo is None:
        return value.isoformat() + _FOLD * value.fold
    if value.utcoffset() is None:
        msg = f"{type_name(value)} has a timezone but no UTC offset, so it has no stored form"
        raise _Problem(msg)
    return value.isoformat()


def _read_datetime(text: str) -> dt.datetime:
    iso = text.removesuffix(_FOLD)
    if len(iso) <= len("2026-01-01"):
        msg = "a date without a time"
        raise ValueError(msg)
    return dt.datetime.fromisoformat(iso).replace(fold=int(iso != text))


def _read_time(text: str) -> dt.time:
    iso = text.removesuffix(_FOLD)
    return dt.time.fromisoformat(iso).replace(fold=int(iso != text))


_SECONDS: Final = re.compile(r"(-?)(\d{1,15})(?:\.(\d{1,6}))?")


def _write_timedelta(value: dt.timedelta) -> int | float | str:
    """Write whole seconds as int, else as float, else (where floats are too coarse) as text."""
    whole, micros = divmod(value // dt.timedelta(microseconds=1), 1_000_000)
    if not micros:
        return whole
    seconds = value.total_seconds()
    if dt.timedelta(seconds=seconds) == value:
        return seconds
    sign = "-" if value < dt.timedelta() else ""
    whole, micros = divmod(abs(value) // dt.timedelta(microseconds=1), 1_000_000)
    return f"{sign}{whole}.{micros:06}"


def _read_timedelta(seconds: float | str) -> dt.timedelta:
    if not isinstance(seconds, str):
        return dt.timedelta(seconds=seconds)
    match = _SECONDS.fullmatch(seconds)
    if match is None:
        msg = "not a number of seconds"
        raise ValueError(msg)
    sign, whole, fraction = match.groups("")
    size = dt.timedelta(seconds=int(whole), microseconds=int(fraction.ljust(6, "0")))
    return -size if sign else size


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii"), validate=True)


def _read_bytearray(text: str) -> bytearray:
    return bytearray(_read_bytes(text))


_TEXT: Final = frozenset({"str"})
_LEAVES: Final[Mapping[type, _Leaf]] = {
    dt.datetime: _Leaf("datetime (ISO 8601)", _TEXT, _write_instant, _read_datetime),
    dt.date: _Leaf("date (ISO 8601)", _TEXT, dt.date.isoformat, dt.date.fromisoformat),
    dt.time: _Leaf("time (ISO 8601)", _TEXT, _write_instant, _read_time),
    dt.timedelta: _Leaf(
        "timedelta (seconds)",
        frozenset({"int", "float", "str"}),
        _write_timedelta,
        _read_timedelta,
    ),
    uuid.UUID: _Leaf("UUID", _TEXT, str, uuid.UUID),
    decimal.Decimal: _Leaf("Decimal (as text)", _TEXT, str, decimal.Decimal),
    bytes: _Leaf("bytes (base64)", _TEXT, _write_bytes, _read_bytes),
    bytearray: _Leaf("bytearray (base64)", _TEXT, _write_bytes, _read_bytearray),
}
_TYPED_ONLY: Final = (set, frozenset, collections.deque, pathlib.PurePath, tuple)


class _LeafNode(_Node):
    """A type of the standard library that is written as text or a number."""

    def __init__(self, type_: type, leaf: _Leaf) -> None:
        super().__init__(leaf.expected, leaf.kinds)
        self._type = type_
        self._leaf = leaf

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: ARG002, FBT001
        if type(value) is not self._type:
            raise self.mismatch(value)
        return self._leaf.write(value)

    def structure(self, data: Any) -> Any:
        if _kind(data) not in self.kinds:
            raise self.mismatch(data)
        try:
            return self._leaf.read(data)
        except (ValueError, ArithmeticError, binascii.Error):
            raise self.mismatch(data) from None


class _EnumNode(_Node):
    """An enum, by value."""

    def __init__(self, type_: type[enum.Enum]) -> None:
        self._type = type_
        self._members: dict[str, enum.Enum] = {}
        try:
            for member in type_:
                self._members.setdefault(_dump(_plain(member.value, 0)), member)
        except _Problem as problem:
            msg = f"the values of enum {_name(type_)} are not JSON-like: {problem.text}"
            raise _Unsupported(msg) from None
        self._is_flag = issubclass(type_, enum.Flag)
        kinds = {_kind(_load(text)) for text in self._members}
        options = ", ".join(_show(member.value) for member in type_)
        expected = _clip(f"{_name(type_)} ({options})", _MAX_TEXT)
        super().__init__(expected, kinds | {"int"} if self._is_flag else kinds)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: ARG002, FBT001
        if type(value) is not self._type:
            raise self.mismatch(value)
        data = _plain(value.value, 0)
        if self.structure(data) is not value:
            msg = f"the value of {_show(value)} belongs to another member"
            raise _Problem(msg)
        return data

    def structure(self, data: Any) -> Any:
        member = self._members.get(_dump(data)) if _kind(data) in self.kinds else None
        if member is not None:
            return member
        if self._is_flag and type(data) is int:
            try:
                return self._type(data)
            except ValueError:
                pass
        raise self.mismatch(data)


class _LiteralNode(_Node):
    """One of some values."""

    def __init__(self, type_: Any) -> None:
        self._values: dict[tuple[type, Any], str] = {}
        self._by_text: dict[str, Any] = {}
        kinds = set()
        for value in typing.get_args(type_):
            data = value.value if isinstance(value, enum.Enum) else value
            try:
                text = _dump(_plain(data, 0))
            except _Problem as problem:
                msg = f"{_name(type_)}: {problem.text}"
                raise _Unsupported(msg) from None
            kinds.add(_kind(_load(text)))
            self._values[type(value), value] = text
            self._by_text.setdefault(text, value)
        super().__init__("one of " + _clip(_name(type_), _MAX_TEXT), kinds)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: ARG002, FBT001
        try:
            text = self._values[type(value), value]
        except (KeyError, TypeError):  # TypeError: not hashable
            raise self.mismatch(value) from None
        if type(self._by_text[text]) is not type(value):
            msg = f"{_show(value)} is stored like {_show(self._by_text[text])}"
            raise _Problem(msg)
        return _load(text)

    def structure(self, data: Any) -> Any:
        if _kind(data) in self.kinds:
            text = _dump(data)
            if text in self._by_text:
                return self._by_text[text]
        raise self.mismatch(data)


def _each(
    items: Iterable[tuple[Any, Any]],
    structure: Callable[[Any], Any],
    message: str,
    result: list[Any],
) -> None:
    """Structure the data of (index, data) into *result*, and raise all errors at once."""
    errors: list[Exception] = []
    for index, data in items:
        try:
            result.append(structure(data))
        except _TooDeep:
            raise
        except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
            note = IterableValidationNote("", index, None)
            error.__notes__ = [*getattr(error, "__notes__", ()), note]
            errors.append(error)
    if errors:
        raise IterableValidationError(message, errors, list)


class _SequenceNode(_Node):
    """A list, or something that is written as one: all items of one type."""

    def __init__(
        self,
        expected: str,
        accepts: tuple[type, ...],
        make: Callable[[list[Any]], Any],
        item: _Node,
    ) -> None:
        super().__init__(expected, {"list"}, [item])
        self._accepts = accepts
        self._make = make
        self._item = item

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        cls: Any = type(value)
        if cls not in self._accepts and not (isinstance(value, list) and list in self._accepts):
            raise self.mismatch(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        if isinstance(value, collections.deque) and value.maxlen is not None:
            msg = "a deque with maxlen has no stored form"
            raise _Problem(msg)
        encode = self._item.encode
        data: list[Any] = []
        try:
            for item in cast("Iterable[Any]", value):
                data.append(encode(item, depth + 1, full))  # noqa: PERF401 - the index of a failing item
        except _Problem as problem:
            raise problem.under(f"[{len(data)}]") from None
        return data

    def loosen(self, value: Any, depth: int) -> Any:
        if not isinstance(value, (*self._accepts, list, tuple)):
            return value
        if depth >= MAX_DEPTH:
            raise _TooDeep
        return [self._item.loosen(item, depth + 1) for item in cast("Iterable[Any]", value)]

    def structure(self, data: Any) -> Any:
        if type(data) is not list:
            raise self.mismatch(data)
        result: list[Any] = []
        _each(enumerate(data), self._item.structure, self.expected, result)
        return self._make(result)


class _SetNode(_Node):
    """A set or a frozenset, written as a list in the order of the items' texts."""

    def __init__(self, expected: str, make: type, accepts: tuple[type, ...], item: _Node) -> None:
        super().__init__(expected, {"list"}, [item])
        self._make = make
        self._accepts = accepts
        self._item = item

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        if type(value) not in self._accepts:
            raise self.mismatch(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        data = []
        for item in value:
            try:
                data.append(self._item.encode(item, depth + 1, full))
            except _Problem as problem:
                raise problem.under("[...]") from None
        # The order of a set changes from process to process; what is stored should not.
        return sorted(data, key=_dump)

    def loosen(self, value: Any, depth: int) -> Any:
        if not isinstance(value, (set, frozenset, list, tuple)):
            return value
        if depth >= MAX_DEPTH:
            raise _TooDeep
        return [self._item.loosen(item, depth + 1) for item in value]

    def structure(self, data: Any) -> Any:
        if type(data) is not list:
            raise self.mismatch(data)
        result: list[Any] = []
        _each(enumerate(data), self._hashable, self.expected, result)
        return self._make(result)

    def _hashable(self, data: Any) -> Any:
        item = self._item.structure(data)
        hash(item)
        return item


class _TupleNode(_Node):
    """A tuple of so many items, each of its own type; also a named one."""

    def __init__(self, expected: str, type_: Any, items: Iterable[_Node] = ()) -> None:
        super().__init__(expected, {"list"}, items)
        self._type = type_
        if type_ is not tuple:
            self.own_check = _Check.STORED

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        if type(value) is not self._type:
            raise self.mismatch(value)
        if len(value) != len(self.children):
            raise self._wrong_length(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        data: list[Any] = []
        try:
            for item, node in zip(value, self.children, strict=True):
                data.append(node.encode(item, depth + 1, full))
        except _Problem as problem:
            raise problem.under(f"[{len(data)}]") from None
        return data

    def loosen(self, value: Any, depth: int) -> Any:
        if type(value) not in (self._type, list, tuple) or len(value) != len(self.children):
            return value
        if depth >= MAX_DEPTH:
            raise _TooDeep
        pairs = zip(value, self.children, strict=True)
        return [node.loosen(item, depth + 1) for item, node in pairs]

    def structure(self, data: Any) -> Any:
        if type(data) is not list:
            raise self.mismatch(data)
        if len(data) != len(self.children):
            raise self._wrong_length(data)
        result: list[Any] = []
        pairs = enumerate(zip(data, self.children, strict=True))
        _each(pairs, lambda pair: pair[1].structure(pair[0]), self.expected, result)
        return tuple(result) if self._type is tuple else self._type(*result)

    def _wrong_length(self, value: Any) -> _Problem:
        return _Problem(
            f"expected {self.expected} ({len(self.children)} items), found {len(value)} items"
        )


class _MappingNode(_Node):
    """A dict or one of its relatives, written as an object.

    The keys of JSON are strings. Keys that are always written as strings stay what they are;
    of others the key is the JSON text.
    """

    def __init__(
        self,
        expected: str,
        type_: type,
        make: Callable[[dict[Any, Any]], Any],
        key: _Node,
        item: _Node,
        is_like: Callable[[Any], bool] = lambda _: True,
    ) -> None:
        super().__init__(expected, {"dict"}, [key, item])
        self._type = type_
        self._make = make
        self._key = key
        self._item = item
        self._is_like = is_like

    @functools.cached_property
    def _has_text_keys(self) -> bool:
        # A union may put a label beside the text.
        return self._key.kinds == _TEXT and not isinstance(self._key, _UnionNode)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        is_ours = isinstance(value, dict) if self._type is dict else type(value) is self._type
        if not is_ours or not self._is_like(value):
            raise self.mismatch(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        encode = self._item.encode
        data = {}
        key = None
        try:
            for key, item in value.items():
                data[self._encode_key(key)] = encode(item, depth + 1, full)
        except _Problem as problem:
            raise problem.under(_segment(key)) from None
        if len(data) != len(value):
            msg = "two keys have the same stored form"
            raise _Problem(msg)
        return data

    def _encode_key(self, key: Any) -> str:
        data = self._key.encode(key, 0, full=False)
        return cast("str", data) if self._has_text_keys else _dump(data)

    def loosen(self, value: Any, depth: int) -> Any:
        if not isinstance(value, Mapping):
            return value
        if depth >= MAX_DEPTH:
            raise _TooDeep
        data = {}
        for key, item in value.items():
            loose_key = key
            with contextlib.suppress(_Problem):
                loose_key = self._encode_key(key)
            data[loose_key] = self._item.loosen(item, depth + 1)
        # {1: ..., "1": ...}: left as it is, so that structuring refuses the key.
        return data if len(data) == len(value) else value

    def structure(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise self.mismatch(data)
        values: list[Any] = []
        keys: list[Any] = []
        errors: list[Exception] = []
        for how, result, what in (
            (self._item.structure, values, data.values()),
            (self._structure_key, keys, data.keys()),
        ):
            try:
                _each(zip(data, what, strict=True), how, self.expected, result)
            except IterableValidationError as error:
                errors.extend(error.exceptions)
        if errors:
            raise IterableValidationError(self.expected, errors, dict)
        made = dict(zip(keys, values, strict=True))
        if len(made) != len(data):
            msg = "two keys are the same"
            raise _Problem(msg)
        return self._make(made)

    def _structure_key(self, key: Any) -> Any:
        if type(key) is not str:
            raise self._wrong_key(key)
        if self._has_text_keys:
            return self._hashable(key)
        try:
            data = _load(key)
        except ValueError:
            return self._hashable(key)
        try:
            return self._hashable(data)
        except _Problem:
            # {"1": ...} for keys that are int | str, from outside: not our way to write it.
            return self._hashable(key)

    def _hashable(self, data: Any) -> Any:
        key = self._key.structure(data)
        hash(key)
        return key

    def _wrong_key(self, key: Any) -> _Problem:
        return _Problem(f"expected a key that is {self._key.expected}, found {type_name(key)}")


@attrs.frozen
class _Field:
    """A field of a class, or a key of a TypedDict."""

    name: str
    key: str
    node: _Node
    is_required: bool = True


def _distance(data: Mapping[Any, Any], fields: Mapping[str, _Field]) -> int:
    """Count what is wrong with the keys of *data* and with its plain values."""
    wrong = sum(1 for key in data if key not in fields)
    for key, field in fields.items():
        if key not in data:
            wrong += field.is_required
        elif isinstance(field.node, (_LiteralNode, _EnumNode, _Atom, _LeafNode)):
            try:
                field.node.structure(data[key])
            except Exception:  # noqa: BLE001 - of whatever kind
                wrong += 1
        elif isinstance(field.node, (_ClassNode, _TypedDictNode, _SequenceNode)):
            wrong += _kind(data[key]) not in field.node.kinds
    return wrong


class _TypedDictNode(_Node):
    """A TypedDict."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected, {"dict"})
        self._fields: dict[str, _Field] = {}

    def fill(self, fields: Iterable[_Field]) -> None:
        """Give the keys, which may lead back to this node."""
        self._fields = {field.key: field for field in fields}
        self.children = [field.node for field in self._fields.values()]

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        if not isinstance(value, dict):
            raise self.mismatch(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        data = {}
        for key, item in value.items():
            field = self._fields.get(key)
            if field is None:
                msg = "unknown key"
                raise _Problem(msg).under(_segment(key))
            try:
                data[field.key] = field.node.encode(item, depth + 1, full)
            except _Problem as problem:
                raise problem.under(_segment(key)) from None
        for field in self._fields.values():
            if field.is_required and field.key not in data:
                msg = "required, but missing"
                raise _Problem(msg).under(_segment(field.key))
        return data

    def loosen(self, value: Any, depth: int) -> Any:
        if not isinstance(value, Mapping):
            return value
        if depth >= MAX_DEPTH:
            raise _TooDeep
        fields = self._fields
        return {
            key: fields[key].node.loosen(item, depth + 1) if key in fields else item
            for key, item in value.items()
        }

    def distance(self, data: Any) -> int:
        if not isinstance(data, Mapping):
            return 1
        return _distance(data, self._fields)

    def structure(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise self.mismatch(data)
        result: dict[str, Any] = {}
        errors: list[Exception] = []
        for field in self._fields.values():
            if field.key not in data:
                if field.is_required:
                    errors.append(_noted(_MissingKeyError(), field.name))
                continue
            try:
                result[field.name] = field.node.structure(data[field.key])
            except _TooDeep:
                raise
            except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
                errors.append(_noted(error, field.name))
        unknown = set(data) - set(self._fields)
        if unknown:
            errors.append(ForbiddenExtraKeysError("", dict, unknown))
        if errors:
            raise ClassValidationError(self.expected, errors, dict)
        return result


def _noted(error: Exception, name: str) -> Exception:
    """Note on an error, as cattrs does, which field it is about."""
    note = AttributeValidationNote("", name, None)
    error.__notes__ = [*getattr(error, "__notes__", ()), note]
    return error


class _Given(dict[str, Any]):
    """The data of a class. Says, unlike a plain ``KeyError``, that it is a key that misses."""

    def __missing__(self, key: str) -> Any:
        raise _MissingKeyError(key)


class _ClassNode(_Node):
    """An attrs class or a dataclass, written as an object."""

    def __init__(self, expected: str, type_: Any) -> None:
        super().__init__(expected, {"dict"})
        self._type = type_
        self._fields: list[_Field] = []
        self._by_key: dict[str, _Field] = {}
        self._hidden: list[_Field] = []
        self._make: Callable[[Any, Any], Any] = lambda data, _: data
        self.own_check = _Check.STORED

    def fill(
        self,
        fields: Iterable[_Field],
        hidden: Iterable[_Field],
        make: Callable[[Any, Any], Any],
    ) -> None:
        """Give the fields, which may lead back to this node.

        Args:
            fields: what is stored.
            hidden: what is not stored, since ``__init__`` does not take it.
            make: the structuring function that cattrs generated.
        """
        self._fields = list(fields)
        self._by_key = {field.key: field for field in self._fields}
        self._hidden = list(hidden)
        self._make = make
        self.children = [field.node for field in (*self._fields, *self._hidden)]
        if self._hidden:
            self.own_check = _Check.HIDDEN

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        if type(value) is not self._type:
            raise self._other_class(value)
        if depth >= MAX_DEPTH:
            raise _TooDeep
        data = {}
        for field in self._fields:
            data[field.key] = self._encode_field(field, value, depth, full)
        if full and self._hidden:
            data["\0hidden"] = {
                field.name: self._encode_field(field, value, depth, full) for field in self._hidden
            }
        return data

    def _encode_field(self, field: _Field, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        try:
            return field.node.encode(getattr(value, field.name), depth + 1, full)
        except _Problem as problem:
            raise problem.under(_segment(field.name)) from None
        except AttributeError as error:
            raise _Problem(_text_of(error)).under(_segment(field.name)) from None

    def _other_class(self, value: Any) -> _Problem:
        if isinstance(value, self._type):
            name = _name(type(value))
            return _Problem(
                f"expected {self.expected}, found its subclass {name}, which would come back as "
                f"{self.expected}; annotate {self.expected} | {name}"
            )
        return self.mismatch(value)

    def loosen(self, value: Any, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            raise _TooDeep
        if type(value) is self._type:
            return {
                field.key: field.node.loosen(getattr(value, field.name), depth + 1)
                for field in self._fields
                if hasattr(value, field.name)
            }
        if not isinstance(value, Mapping):
            return value
        fields = self._by_key
        return {
            key: fields[key].node.loosen(item, depth + 1) if key in fields else item
            for key, item in value.items()
        }

    def distance(self, data: Any) -> int:
        if not isinstance(data, Mapping):
            return 1
        return _distance(data, self._by_key)

    def structure(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise self._other_class(data)
        given = _Given(data)
        try:
            return self._make(given, self._type)
        except ClassValidationError as error:
            if attrs.has(self._type):
                self._blame(given, error)
            raise

    def _blame(self, given: _Given, error: ClassValidationError) -> None:
        """Run the validators one by one, so that each names its field, and all are reported.

        ``__init__`` stops at the first one, and does not say where it was.
        """
        if any(_noted_segment(e, ClassValidationError) for e in error.exceptions) or any(
            isinstance(e, ForbiddenExtraKeysError) for e in error.exceptions
        ):
            return
        # An instance as it is when validators run: with all fields set.
        instance = self._type.__new__(self._type)
        values: dict[str, Any] = {}
        found: list[Exception] = []
        try:
            for attribute in attrs.fields(self._type):
                values[attribute.name] = self._value_of(attribute, given, instance)
                object.__setattr__(instance, attribute.name, values[attribute.name])
        except Exception:  # noqa: BLE001 - a converter or a default failed, and no validator
            return
        for attribute in attrs.fields(self._type):
            if attribute.validator is not None:
                try:
                    attribute.validator(instance, attribute, values[attribute.name])
                except Exception as problem:  # noqa: BLE001 - validators raise anything
                    found.append(_noted(problem, attribute.name))
        if found:
            raise ClassValidationError(self.expected, found, self._type)

    def _value_of(self, attribute: Any, given: _Given, instance: Any) -> Any:
        """Give what ``__init__`` sets the attribute to."""
        field = next((f for f in self._fields if f.name == attribute.name), None)
        if field is not None and field.key in given:
            value = field.node.structure(given[field.key])
        else:
            value = attribute.default
            if isinstance(value, attrs.Factory):  # type: ignore[arg-type] # a class, typed as a function
                value = value.factory(instance) if value.takes_self else value.factory()
        convert: Any = attribute.converter
        if isinstance(convert, attrs.Converter):
            return cast("Any", convert)(value, instance, attribute)
        return value if convert is None else convert(value)


_UNION: Final = "$union"
_VALUE: Final = "value"


class _UnionNode(_Node):
    """One of several types.

    Data is taken for the first member that it fits, exact matches first. Where that would be
    another one than the value's own, the name of its type is stored beside the data.
    """

    def __init__(self, expected: str, members: Iterable[tuple[str, _Node]]) -> None:
        self._members: dict[str, _Node] = {}
        for name, node in members:
            label = name
            while label in self._members:
                label += "'"
            self._members[label] = node
        nodes = list(self._members.values())
        super().__init__(expected, frozenset().union(*(node.kinds for node in nodes)), nodes)
        # No data fits two members: None, numbers, texts and one kind of object.
        self._is_disjoint = len(self.kinds) == sum(len(node.kinds) for node in nodes)
        self._by_kind = {kind: self._candidates(kind) for kind in _KINDS}
        self._some = [node for node in nodes if node.expected != "None"]

    def _candidates(self, kind: str) -> list[tuple[str, _Node]]:
        """Give the members that data of this kind may fit, the exact ones first."""

        def rank(member: tuple[str, _Node]) -> int:
            node = member[1]
            if isinstance(node, _Json):
                return 3
            if isinstance(node, _LiteralNode):
                return 0
            return 1 if isinstance(node, _Atom) and kind in node.kinds else 2

        fitting = [
            (label, node)
            for label, node in self._members.items()
            if kind in node.kinds or (kind == "int" and "float" in node.kinds)
        ]
        return sorted(fitting, key=rank)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        refused: list[_Problem] = []
        # First those of exactly this type: 1 for float | int is an int, and 1.0 a float.
        for label, node in sorted(
            self._members.items(), key=lambda member: not _is_exactly(member[1], value)
        ):
            try:
                data = node.encode(value, depth, full)
            except _TooDeep:
                raise
            except _Problem as problem:
                refused.append(problem)
                continue
            if full:  # the label always: the same data may stand for two members
                return {"\0type": label, "\0data": data}
            return self._tagged(label, data)
        # What is wrong inside a member, or with a value of its type, says more than that it
        # is none of them.
        best = max(refused, key=lambda p: (len(p.path), not isinstance(p, _Mismatch)))
        if best.path or not isinstance(best, _Mismatch):
            raise best
        raise self._some[0].mismatch(value) if len(self._some) == 1 else self.mismatch(value)

    def _tagged(self, label: str, data: Any) -> Any:
        """Put the label beside the data unless the data tells by itself."""
        if self._is_disjoint and not self._is_tagged(data):
            return data
        if not self._is_tagged(data):
            for other, node in self._likely(data):
                if other == label:
                    return data
                try:
                    node.structure(data)
                except Exception:  # noqa: BLE001, S112 - it does not fit this member
                    continue
                break
        return {_UNION: label, _VALUE: data}

    def _is_tagged(self, data: Any) -> bool:
        return (
            isinstance(data, dict)
            and len(data) == 2
            and _VALUE in data
            and isinstance(data.get(_UNION), str)
            and data[_UNION] in self._members
        )

    def loosen(self, value: Any, depth: int) -> Any:
        try:
            return self.encode(value, depth, full=False)
        except _TooDeep:
            raise
        except _Problem:
            pass
        found: list[Any] = []
        for label, node in self._likely(value):
            data = node.loosen(value, depth)
            try:
                node.structure(data)
            except Exception:  # noqa: BLE001 - it does not fit this member
                found.append(data)
            else:
                return self._tagged(label, data)
        return found[0] if len(found) == 1 else value

    def structure(self, data: Any) -> Any:
        if self._is_tagged(data):
            return self._members[data[_UNION]].structure(data[_VALUE])
        errors: list[Exception] = []
        for _, node in self._likely(data):
            try:
                return node.structure(data)
            except _TooDeep:
                raise
            except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
                errors.append(error)
        # An error with a place inside the data says more than that no member fits.
        inside = [error for error in errors if isinstance(error, BaseValidationError)]
        if inside or len(self._some) == len(errors) == 1:
            raise (inside or errors)[0]
        raise self.mismatch(data)

    def _likely(self, data: Any) -> list[tuple[str, _Node]]:
        """Give the members to try: those that fit as far as can be seen without going deeper.

        If none fits, the nearest one. Trying all of them at each level of a recursive type
        would take time exponential in its depth.
        """
        kind = _kind(data)
        candidates = self._by_kind.get(kind, [])
        if kind != "dict" or len(candidates) <= 1:
            return candidates
        distances = [node.distance(data) for _, node in candidates]
        nearest = [c for c, distance in zip(candidates, distances, strict=True) if not distance]
        return nearest or [candidates[distances.index(min(distances))]]


def _is_exactly(node: _Node, value: Any) -> bool:
    """Whether the node is of just the type of a builtin value."""
    return isinstance(node, (_Atom, _LiteralNode)) and _kind(value) in node.kinds


class _HookNode(_Node):
    """A type of the user's own, written and read by the hooks of the user's converter."""

    def __init__(
        self,
        type_: Any,
        write: Callable[[Any], Any] | None,
        read: Callable[[Any, Any], Any] | None,
        own: _Node | None,
    ) -> None:
        super().__init__(_name(type_), _KINDS, [own] if own is not None else [])
        self._type = type_
        self._write = write
        self._read = read
        self._own = own
        self.own_check = _Check.HIDDEN

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        if self._write is None:
            return cast("_Node", self._own).encode(value, depth, full)
        if isinstance(self._type, type) and not isinstance(value, self._type):
            raise self.mismatch(value)
        try:
            data = self._write(value)
        except (_Problem, RecursionError):
            raise
        except Exception as error:
            msg = f"the unstructure hook for {self.expected} failed: {_text_of(error)}"
            raise _Problem(msg) from error
        data = _plain(data, depth)
        return {"\0type": type(value).__qualname__, "\0data": data} if full else data

    def structure(self, data: Any) -> Any:
        if self._read is None:
            return cast("_Node", self._own).structure(data)
        return self._read(data, self._type)


class _LateNode(_Node):
    """Stands for a type within its own definition, until that is complete."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected, _KINDS)

    def encode(self, value: Any, depth: int, full: bool) -> Any:  # noqa: FBT001
        return self.children[0].encode(value, depth, full)

    def loosen(self, value: Any, depth: int) -> Any:
        return self.children[0].loosen(value, depth)

    def structure(self, data: Any) -> Any:
        return self.children[0].structure(data)


# --- The user's converter --------------------------------------------------------------------


class _OwnHook:
    """Stands in the converter for "no hook of the user's": the node of the type decides."""

    def __init__(self, codec: Codec, type_: Any) -> None:
        self._codec = codec
        self._type = type_

    def __call__(self, value: Any, type_: Any = None) -> Any:
        """Structure (two arguments) or unstructure (one): called by hooks of the user's."""
        if type_ is None:
            return self._codec.node_of(self._type).encode(value, 0, full=False)
        return self._codec.node_of(type_).structure(value)


_STRICT: Final = (
    str,
    int,
    float,
    bool,
    _NoneType,
    pathlib.PurePath,
    pathlib.Path,
    *_LEAVES,
)
_CONTAINERS: Final = frozenset(
    {
        list,
        tuple,
        set,
        frozenset,
        dict,
        collections.deque,
        collections.OrderedDict,
        collections.Counter,
        collections.defaultdict,
        collections.abc.Sequence,
        collections.abc.MutableSequence,
        collections.abc.Collection,
        collections.abc.Iterable,
        collections.abc.Set,
        collections.abc.MutableSet,
        collections.abc.Mapping,
        collections.abc.MutableMapping,
        typing.Literal,
    }
)


def _strict_copy(codec: Codec, converter: cattrs.Converter) -> cattrs.Converter:
    """Copy a converter so that it adds types, and decides nothing about Python's own ones."""
    copied = converter.copy(
        unstruct_strat=cattrs.UnstructureStrategy.AS_DICT,
        omit_if_default=False,
        forbid_extra_keys=True,
        prefer_attrib_converters=False,
        detailed_validation=True,
    )
    strict = cattrs.Converter(forbid_extra_keys=True, use_alias=copied.use_alias)

    def own(type_: Any) -> _OwnHook:
        return _OwnHook(codec, type_)

    # From the bottom to the top: ours for every type, then the hooks of the user, then ours
    # for Python's own types. Converter.copy() has no place between the user's hooks and
    # cattrs' defaults, and forgets hooks for unions; hence the private attributes.
    strict.register_structure_hook_factory(lambda _: True, own)
    strict.register_unstructure_hook_factory(lambda _: True, own)
    copied._structure_func.copy_to(strict._structure_func, skip=copied._struct_copy_skip)  # noqa: SLF001
    copied._unstructure_func.copy_to(strict._unstructure_func, skip=copied._unstruct_copy_skip)  # noqa: SLF001
    unions = dict(converter._union_struct_registry)  # noqa: SLF001

    def is_ours(type_: Any) -> bool:
        if _is_union(type_):
            return type_ not in unions
        return type_ in _CONTAINERS or typing.get_origin(type_) in _CONTAINERS

    strict.register_structure_hook_factory(is_ours, own)
    strict.register_unstructure_hook_factory(is_ours, own)
    for type_ in _STRICT:
        strict.register_structure_hook(type_, own(type_))
        strict.register_unstructure_hook(type_, own(type_))
    strict.register_structure_hook_factory(
        lambda type_: type_ in unions, lambda type_: unions[type_]
    )
    strict.register_structure_hook_factory(
        lambda type_: isinstance(type_, _Node),
        lambda node: lambda data, _: node.structure(data),
    )
    return strict


# --- The codec -------------------------------------------------------------------------------


class Codec:
    """Validates values, writes them as JSON text, and reads them back.

    Safe to be used by several threads at once.

    Args:
        converter: hooks for types of the user's own. It is copied; the copy is strict about
            everything else.

    Raises:
        ValidationError: *converter* is not a ``cattrs.Converter``.
    """

    def __init__(self, converter: cattrs.Converter | None = None) -> None:
        if converter is None:
            converter = cattrs.Converter()
        if not isinstance(converter, cattrs.Converter):
            msg = f"converter: expected a cattrs.Converter, found {type_name(converter)}"
            raise ValidationError(msg)
        self._json = _Json()
        self._converter = _strict_copy(self, converter)
        # The lock guards all four. A node is put into _nodes when everything below it is
        # complete; _nodes is read without the lock.
        self._lock = threading.RLock()
        self._nodes: dict[Any, tuple[Any, _Node]] = {}
        self._by_repr: dict[tuple[Any, str], _Node] = {}
        self._building: dict[tuple[Any, str], _Node] = {}
        self._nesting = 0

    def check_type(self, type_: Any, where: str) -> None:
        """Make sure that values of a type can be stored at all.

        Raises:
            ValidationError: they cannot; the message names *where*.
        """
        try:
            self.node_of(type_)
        except _Unsupported as error:
            msg = f"{where}: {error}"
            raise ValidationError(msg) from error

    def structure(self, value: Any, type_: Any, *, what: str) -> Any:
        """Validate a payload: an instance of the type, or data that structures into it.

        Returns:
            The structured value, as it would come back from storage. It shares nothing
            mutable with *value*.

        Raises:
            ValidationError: it does not fit; the message names every bad path.
        """
        cls = type(value)
        if cls in _ATOMS and (type_ is UNTYPED or type_ is cls):
            return value
        try:
            node = self.node_of(type_)
            if isinstance(node, _Json):
                return node.structure(value)
            data = node.loosen(value, 0)
            result = node.structure(data)
            if node.check is not _Check.NOTHING:
                self._compare_instance(node, value, result)
        except _Unsupported as error:
            msg = f"{what}: {error}"
            raise ValidationError(msg) from error
        except Exception as error:
            raise ValidationError(_sentence(what, _problems(error))) from error
        return result

    def encode(self, value: Any, type_: Any, *, what: str) -> str:
        """Give the JSON text of a value.

        Raises:
            SerializationError: it has no text from which it would come back the same under
                this type.
        """
        cls = type(value)
        if cls in _ATOMS and (type_ is UNTYPED or type_ is cls):
            return _dump(value)
        return self._encode(value, type_, what, decode=False)[0]

    def decode(self, text: str, type_: Any, *, what: str) -> Any:
        """Give the value of a JSON text.

        Raises:
            ValidationError: the text does not fit the type; the message names every bad path.
        """
        try:
            data = _load(text)
            if type_ is UNTYPED or (type(data) is type_ and type_ in _ATOMS):
                return data
            return self._decode(self.node_of(type_), data)
        except _Unsupported as error:
            msg = f"{what}: {error}"
            raise ValidationError(msg) from error
        except Exception as error:
            raise ValidationError(_sentence(what, _problems(error))) from error

    def encode_and_decode(self, value: Any, type_: Any, *, what: str) -> tuple[str, Any]:
        """Give the JSON text of a value, and the value that comes back from it.

        Raises:
            SerializationError: it does not come back as it was under this type.
        """
        cls = type(value)
        if cls in _ATOMS and (type_ is UNTYPED or type_ is cls):
            return _dump(value), value
        return self._encode(value, type_, what, decode=True)

    def load_json(self, text: str) -> Any:
        """Give the JSON-like data of a stored text.

        Raises:
            ValidationError: it is not JSON.
        """
        return self.decode(text, UNTYPED, what="stored data")

    def _encode(self, value: Any, type_: Any, what: str, *, decode: bool) -> tuple[str, Any]:
        try:
            node = self.node_of(type_)
            text = _dump(node.encode(value, 0, full=False))
            decoded = None
            if decode or node.check is not _Check.NOTHING:
                decoded = self._decode(node, _load(text))
            if node.check is not _Check.NOTHING:
                full = node.check is _Check.HIDDEN
                _compare(node.encode(value, 0, full), node.encode(decoded, 0, full))
        except _Unsupported as error:
            msg = f"{what}: {error}; return data of a supported type"
            raise SerializationError(msg) from error
        except Exception as error:
            raise SerializationError(_sentence(what, _problems(error))) from error
        return text, decoded

    @staticmethod
    def _decode(node: _Node, data: Any) -> Any:
        # What was read from JSON is JSON-like.
        return data if isinstance(node, _Json) else node.structure(data)

    @staticmethod
    def _compare_instance(node: _Node, value: Any, result: Any) -> None:
        try:
            before = node.encode(value, 0, full=True)
        except _Problem:
            return  # plain data, of which nothing is hidden
        _compare(before, node.encode(result, 0, full=True))

    # Types to nodes

    def node_of(self, type_: Any) -> _Node:
        """Give the node of a type, compiling it the first time.

        Raises:
            _Unsupported: there is none.
        """
        try:
            known = self._nodes.get(type_)
        except TypeError:  # the metadata of an Annotated need not be hashable
            if typing.get_origin(type_) is typing.Annotated:
                return self.node_of(type_.__origin__)
            msg = f"{_show(type_)} is not a type that can be stored"
            raise _Unsupported(msg) from None
        if known is not None and known[0] is type_:
            return known[1]
        with self._lock:
            # A | B equals B | A, but is not tried in the same order.
            key = (type_, repr(type_))
            node = self._by_repr.get(key) or self._building.get(key)
            if node is None:
                node = self._build(type_, key)
            if not self._nesting:
                self._nodes.setdefault(type_, (type_, node))
            return node

    def _build(self, type_: Any, key: tuple[Any, str]) -> _Node:
        self._nesting += 1
        try:
            node = self._building[key] = self._compile(type_, key)
        except RecursionError as error:
            msg = f"{_name(type_)} is nested too deeply"
            raise _Unsupported(msg) from error
        finally:
            self._nesting -= 1
            if not self._nesting:
                done, self._building = self._building, {}
        if not self._nesting:
            self._by_repr.update(done)
        return node

    def _compile(self, type_: Any, key: tuple[Any, str]) -> _Node:
        if _is_anything(type_):
            return self._json
        if type_ is None:
            return self.node_of(_NoneType)
        try:
            write = self._converter.get_unstructure_hook(type_)
            read = self._converter.get_structure_hook(type_)
        except Exception as error:
            msg = f"{_name(type_)}: a hook factory of the converter failed: {_text_of(error)}"
            raise _Unsupported(msg) from error
        users_write = None if isinstance(write, _OwnHook) else write
        users_read = None if isinstance(read, _OwnHook) else read
        if users_write is None and users_read is None:
            return self._compile_own(type_, key)
        own = None
        if users_write is None or users_read is None:
            try:
                own = self._compile_own(type_, key)
            except _Unsupported as error:
                missing = "structure" if users_read is None else "unstructure"
                msg = f"{_name(type_)}: the converter has no {missing} hook for it"
                raise _Unsupported(msg) from error
        return _HookNode(type_, users_write, users_read, own)

    def _compile_own(self, type_: Any, key: tuple[Any, str]) -> _Node:  # noqa: C901, PLR0911 - one per kind
        origin = typing.get_origin(type_)
        if origin is typing.Annotated:
            return self.node_of(type_.__origin__)
        if isinstance(type_, typing.NewType):
            return self.node_of(type_.__supertype__)
        if type_ is typing.Final:
            return self._json
        if origin is typing.Final:
            return self.node_of(typing.get_args(type_)[0])
        if _is_alias(type_) or _is_alias(origin):
            return self._compile_alias(type_, origin, key)
        if origin is typing.Literal:
            return _LiteralNode(type_)
        if _is_union(type_):
            return self._compile_union(type_)
        if origin in _CONTAINERS or type_ in _CONTAINERS:
            return self._compile_container(type_, origin or type_)
        if typing_extensions.is_typeddict(origin or type_):
            return self._compile_typed_dict(type_, origin or type_, key)
        if _is_class(origin or type_):
            return self._compile_class(type_, origin or type_, key)
        if _is_named(origin or type_):
            return self._compile_named_tuple(type_, origin or type_, key)
        if isinstance(type_, type):
            return self._compile_simple(type_)
        return _unsupported(type_)

    def _compile_simple(self, type_: type) -> _Node:
        if issubclass(type_, enum.Enum):
            return _EnumNode(type_)
        if issubclass(type_, (str, int, float)) or type_ is _NoneType:
            return _Atom(type_)
        if type_ in _LEAVES:
            return _LeafNode(type_, _LEAVES[type_])
        if issubclass(type_, pathlib.PurePath):
            try:
                # Path() makes an instance of the class for this system.
                return _LeafNode(type(type_()), _Leaf(_name(type_), _TEXT, str, type_))
            except NotImplementedError:
                return _unsupported(type_)
        return _unsupported(type_)

    def _compile_alias(self, type_: Any, origin: Any, key: tuple[Any, str]) -> _Node:
        late = self._building[key] = _LateNode(_name(type_))
        if _is_alias(type_):
            value = type_.__value__
        else:
            variables = dict(zip(origin.__type_params__, typing.get_args(type_), strict=False))
            value = _substitute(origin.__value__, variables)
        late.children = [self.node_of(value)]
        return late.children[0]

    def _compile_union(self, type_: Any) -> _Node:
        members = [(_name(member), self.node_of(member)) for member in typing.get_args(type_)]
        return _UnionNode(_name(type_), members)

    def _compile_container(self, type_: Any, origin: Any) -> _Node:  # noqa: PLR0911 - one per kind
        name = _name(type_)
        args = typing.get_args(type_)
        if origin is typing.Literal:
            return _unsupported(type_)
        if origin is tuple:
            if type_ is not tuple and args[1:] != (...,):
                return _TupleNode(name, tuple, [self.node_of(arg) for arg in args])
            return _SequenceNode(name, (tuple,), tuple, self._argument(args, 0))
        if origin in (set, collections.abc.MutableSet):
            return _SetNode(name, set, (set,), self._argument(args, 0))
        if origin is frozenset:
            return _SetNode(name, frozenset, (frozenset,), self._argument(args, 0))
        if origin is collections.abc.Set:
            return _SetNode(name, frozenset, (set, frozenset), self._argument(args, 0))
        if origin is collections.deque:
            return _SequenceNode(
                name, (collections.deque,), collections.deque, self._argument(args, 0)
            )
        if origin in (list, collections.abc.MutableSequence):
            return _SequenceNode(name, (list,), list, self._argument(args, 0))
        if issubclass(origin, collections.abc.Mapping):
            return self._compile_mapping(name, origin, args)
        return _SequenceNode(name, (list, tuple), list, self._argument(args, 0))

    def _compile_mapping(self, name: str, origin: Any, args: tuple[Any, ...]) -> _Node:
        key = self._argument(args, 0)
        if isinstance(key, _Json):
            key = self.node_of(str)
        if origin is collections.Counter:
            return _MappingNode(name, origin, origin, key, self.node_of(int))
        item = self._argument(args, 1)
        if origin is collections.OrderedDict:
            return _MappingNode(name, origin, origin, key, item)
        if origin is collections.defaultdict:
            factory = (typing.get_origin(args[1]) or args[1]) if args else None
            return _MappingNode(
                name,
                origin,
                functools.partial(collections.defaultdict, factory),
                key,
                item,
                lambda value: value.default_factory is factory,
            )
        return _MappingNode(name, dict, lambda made: made, key, item)

    def _argument(self, args: tuple[Any, ...], index: int) -> _Node:
        return self.node_of(args[index]) if args else self._json

    def _compile_typed_dict(self, type_: Any, cls: Any, key: tuple[Any, str]) -> _Node:
        node = self._building[key] = _TypedDictNode(_name(type_))
        variables = _variables_of(type_)
        fields = []
        for name, hint in _hints_of(cls).items():
            # __required_keys__ does not know of NotRequired within string annotations.
            is_required = name in cls.__required_keys__
            inner, is_stripped = hint, True
            while is_stripped:
                origin = typing.get_origin(inner)
                is_stripped = origin in _QUALIFIERS
                if is_stripped:
                    is_required = _QUALIFIERS.get(origin, is_required) is not False and (
                        _QUALIFIERS[origin] is True or is_required
                    )
                    inner = typing.get_args(inner)[0]
            fields.append(
                _Field(
                    name,
                    name,
                    self._field_node(cls, name, _substitute(inner, variables)),
                    is_required,
                )
            )
        node.fill(fields)
        return node

    def _compile_named_tuple(self, type_: Any, cls: Any, key: tuple[Any, str]) -> _Node:
        node = self._building[key] = _TupleNode(_name(type_), cls)
        variables = _variables_of(type_)
        hints = _hints_of(cls)
        node.children = [
            self._field_node(cls, name, _substitute(hints.get(name, Any), variables))
            for name in cls._fields
        ]
        return node

    def _compile_class(self, type_: Any, cls: Any, key: tuple[Any, str]) -> _Node:
        node = self._building[key] = _ClassNode(_name(type_), cls)
        variables = _variables_of(type_)
        hints = _hints_of(cls)
        use_alias = self._converter.use_alias
        fields, hidden, pseudo = [], [], {}
        overrides: dict[str, Any] = {}
        for spec in _specs_of(cls):
            hint = _substitute(hints.get(spec.name, spec.type), variables)
            if hint is typing.Final:
                hint = type(spec.default) if spec.has_default else Any
            custom = _override_of(hint)
            inner = self._field_node(cls, spec.name, hint)
            name = custom.rename or (spec.alias if use_alias else spec.name)
            field = _Field(spec.name, name, inner, is_required=not spec.has_default)
            if custom.omit or not spec.init:
                hidden.append(field)
                continue
            fields.append(field)
            if name != spec.name:
                overrides[spec.name] = override(rename=name)
            pseudo[spec.name] = attrs.field(
                default=cast("Any", None if spec.has_default else attrs.NOTHING),
                alias=spec.alias,
                type=cast("Any", inner),
                kw_only=True,
            )
        make = make_dict_structure_fn_from_attrs(
            list(attrs.fields(attrs.make_class("Fields", pseudo))),
            cls,
            self._converter,
            typevar_map={
                parameter.__name__: Any for parameter in getattr(cls, "__parameters__", ())
            },
            _cattrs_forbid_extra_keys=True,
            _cattrs_detailed_validation=True,
            _cattrs_use_alias=False,
            **overrides,
        )
        node.fill(fields, hidden, make)
        return node

    def _field_node(self, cls: type, name: str, hint: Any) -> _Node:
        try:
            return self.node_of(hint)
        except _Unsupported as error:
            msg = f"field {name} of {_name(cls)}: {error}"
            raise _Unsupported(msg) from error


_QUALIFIERS: Final[Mapping[Any, bool | None]] = {
    typing.Required: True,
    typing.NotRequired: False,
    typing_extensions.Required: True,
    typing_extensions.NotRequired: False,
    typing_extensions.ReadOnly: None,
}


def _unsupported(type_: Any) -> typing.NoReturn:
    msg = (
        f"{_name(type_)} is not a type that can be stored; use JSON-like data, attrs classes, "
        f"or give the engine a converter= with hooks for it"
    )
    raise _Unsupported(msg)


def _override_of(hint: Any) -> Any:
    """Give the cattrs override in the metadata of an annotation."""
    nothing = override()
    for item in getattr(hint, "__metadata__", ()):
        if isinstance(item, type(nothing)):
            return item
    return nothing


@attrs.frozen
class _Spec:
    """What is declared about a field of a class."""

    name: str
    alias: str
    type: Any
    init: bool
    default: Any

    @property
    def has_default(self) -> bool:
        return self.default is not attrs.NOTHING


def _specs_of(cls: Any) -> list[_Spec]:
    if attrs.has(cls):
        return [
            _Spec(a.name, a.alias, Any if a.type is None else a.type, a.init, a.default)
            for a in attrs.fields(cls)
        ]
    return [
        _Spec(
            f.name,
            f.name,
            f.type,
            f.init,
            f.default
            if f.default is not dataclasses.MISSING
            else attrs.NOTHING
            if f.default_factory is dataclasses.MISSING
            else f.default_factory,
        )
        for f in dataclasses.fields(cls)
    ]


def _compare(before: Any, after: Any) -> None:
    """Make sure that what came back is what went in.

    Raises:
        _Problem: it is not; names the first place.
    """
    if _dump(before) == _dump(after):
        return
    path = ""
    while type(before) is type(after):
        inside: list[tuple[str, Any, Any]] = []
        if isinstance(before, dict) and before.keys() == after.keys():
            inside = [
                ("" if key.startswith("\0") else _segment(key), before[key], after[key])
                for key in before
            ]
        elif isinstance(before, list) and len(before) == len(after):
            inside = [(f"[{i}]", *pair) for i, pair in enumerate(zip(before, after, strict=True))]
        differing = [item for item in inside if _dump(item[1]) != _dump(item[2])]
        if not differing:
            break
        segment, before, after = differing[0]
        path += segment
    msg = f"would come back as {type_name(after)}, not as {type_name(before)}"
    if type(after) is type(before):
        msg = f"would come back as another {type_name(after)}"
    raise _Problem(msg).under(path)


# --- Annotations -----------------------------------------------------------------------------

_return_types: Final[weakref.WeakKeyDictionary[Any, Any]] = weakref.WeakKeyDictionary()
_SAYS_NOTHING: Final = frozenset(
    {
        Any,
        object,
        typing_extensions.Any,
        typing.NoReturn,
        typing.Never,
        typing.Self,
        typing_extensions.Self,
        typing_extensions.Never,
    }
)


def return_type_of(fn: Callable[..., Any]) -> Any:
    """Give the type that a callable says it returns.

    Returns:
        The resolved annotation (for a class: the class), or :data:`UNTYPED` if there is none,
        it says nothing (``Any``, ``object``, a type variable), or it cannot be resolved.
        Never raises.
    """
    if type(fn) is types.FunctionType:
        # The usual case in a hurry: this is called for each step that a resume passes.
        annotation = fn.__annotations__.get("return", object)
        if type(annotation) is type:
            return UNTYPED if annotation is object else annotation
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, type) or typing.get_origin(target) is not None:
        return _said(target)
    target = getattr(target, "__func__", target)
    annotations = getattr(target, "__annotations__", None)
    if not inspect.isroutine(target) and not hasattr(target, "__wrapped__"):
        target = getattr(type(target).__call__, "__func__", type(target).__call__)
        annotations = getattr(target, "__annotations__", None)
    if not isinstance(annotations, dict) or "return" not in annotations:
        return UNTYPED
    annotation = annotations["return"]
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return _said(annotation)
    try:
        return _return_types[target]
    except (KeyError, TypeError):
        pass
    try:
        result = _said(_resolve(target, {"return": annotation})["return"])
    except Exception:  # noqa: BLE001 - whatever evaluating an annotation raises
        result = UNTYPED
    with contextlib.suppress(TypeError):  # not hashable, or not weakly referable
        _return_types[target] = result
    return result


def _said(type_: Any) -> Any:
    if isinstance(type_, typing.TypeVar):
        return UNTYPED
    try:
        return UNTYPED if type_ in _SAYS_NOTHING else type_
    except TypeError:  # not hashable: the metadata of an Annotated
        return type_


def _resolve(fn: Any, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve annotations of a function, also with names that it closes over."""
    inner = inspect.unwrap(fn)
    code = getattr(inner, "__code__", None)
    names: dict[str, Any] = {}
    for name, cell in zip(
        getattr(code, "co_freevars", ()), getattr(inner, "__closure__", None) or (), strict=False
    ):
        with contextlib.suppress(ValueError):  # not bound yet
            names[name] = cell.cell_contents
    holder = types.SimpleNamespace(__annotations__=dict(annotations))
    return typing.get_type_hints(
        holder, globalns=getattr(inner, "__globals__", {}), localns=names, include_extras=True
    )


def resolve_annotations(
    fn: Callable[..., Any], names: Container[str] | None = None
) -> dict[str, Any]:
    """Give the annotations of a callable, strings resolved.

    Args:
        names: of which parameters, ``"return"`` for the result; all by default. The others
            are not looked at: what they name may exist for type checkers only.

    Raises:
        ValidationError: one cannot be resolved; the message names it.
    """
    target: Any = fn
    if not inspect.isroutine(fn) and not hasattr(fn, "__wrapped__"):
        target = type(fn).__call__  # an object that can be called: its own are of its attributes
    annotations = getattr(target, "__annotations__", {})
    resolved = {}
    for name, annotation in annotations.items():
        if names is not None and name not in names:
            continue
        try:
            resolved.update(_resolve(target, {name: annotation}))
        except Exception as error:
            where = "the return value" if name == "return" else f"parameter {name!r}"
            msg = (
                f"the annotation {_show(annotation)} of {where} of "
                f"{getattr(fn, '__qualname__', fn)} cannot be resolved: {_text_of(error)}"
            )
            raise ValidationError(msg) from error
    return resolved
