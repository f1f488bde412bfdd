"""Copy values to plain JSON-like data, and report what is not JSON-like.

To write a value, the codec of its type converts it to data. A part of another type stays in
place, wrapped in a :class:`Misfit`; :func:`plain` then either rejects it, with its path, or (in
payloads, which may be data instead of instances) continues with the data inside.
"""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import io
import os
import re
import types
from array import array
from collections.abc import Callable, Iterator, Mapping, MappingView, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn, cast

from durably._platform.nesting import MAX_DEPTH
from durably._platform.safe_repr import type_name
from durably.codec.messages import (
    NotStorable,
    Problem,
    Problems,
    TooDeep,
    conversion_of,
    segment,
)


class Untyped:
    """The type of :data:`UNTYPED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNTYPED"


UNTYPED: Final = Untyped()
"""Stands for "JSON-like data, no type"."""


class Nothing(enum.Enum):
    """``step.options(returns=durably.NOTHING)``: throw the result away, whatever it is.

    The result need not be storable: null is stored, and ``step.run`` returns ``None``.

    .. versionadded:: 0.2.0
    """

    NOTHING = "NOTHING"

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = Nothing.NOTHING


class Unresolved:
    """The type of an annotation that cannot be resolved; *reason* is which one, and why.

    A result of that type is stored as JSON-like data if it would come back unchanged.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


SCALARS: Final = frozenset({str, int, bool, float, types.NoneType})
# What stands for something outside of the value: a lock, a thread, a connection, a process.
_LIVE: Final = frozenset(
    {
        "_thread",
        "threading",
        "socket",
        "_socket",
        "sqlite3",
        "subprocess",
        "apsw",
        "_queue",
        "queue",
    }
)
# What to do instead with some values of the standard library.
_MADE: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (io.IOBase, "return its path, or what is read from it"),
    ((Iterator, MappingView), "use a list of its items"),
    (BaseException, "raise it, or return its text"),
    (Mapping, "return dict(...) of it"),
    (memoryview, "return bytes(...) of it"),
    (array, "return its .tolist()"),
    (re.Pattern, "return its .pattern"),
    (re.Match, "return its .group() or .groups()"),
    (dt.tzinfo, "return str(...) of it"),
    (types.ModuleType, "use data, not code"),
    (enum.Enum, "return its .value"),
    (types.SimpleNamespace, "return vars(...) of it"),
    # Of classes derived from those that have a form.
    (tuple, "return tuple(...) of it"),
    (bytes, "return bytes(...) of it"),
    (bytearray, "return bytearray(...) of it"),
    (frozenset, "return frozenset(...) of it"),
    (AbstractSet, "return set(...) of it"),
    (dt.datetime, "return datetime.combine(value.date(), value.timetz())"),
    (os.PathLike, "return pathlib.Path(...) of it"),
    (Sequence, "return list(...) of it"),
)
TWICE: Final = "two keys have the same stored form"


class Misfit:
    """A value that is not of the type of its place."""

    __slots__ = ("data", "problem")

    def __init__(self, data: Any, problem: Problem) -> None:
        self.data = data
        self.problem = problem


def plain(data: Any, exact: bool = True, depth: int = 0) -> Any:  # noqa: FBT001, FBT002 - called for each value
    """Copy a JSON-like value into plain dicts, lists, strings and numbers.

    Args:
        exact: whether every misfit is rejected, or only those that cannot be stored.

    Raises:
        Problem: something in it is rejected; :func:`copy_and_problems` returns what, and where.
    """
    cls = type(data)
    if cls in SCALARS:
        return data
    is_dict = cls is dict or isinstance(data, dict)
    if is_dict or cls is list or _is_list(data):
        if depth >= MAX_DEPTH:
            raise TooDeep
        depth += 1
        if not is_dict:
            return [item if type(item) in SCALARS else plain(item, exact, depth) for item in data]
        copy = {
            key if type(key) is str else _plain_key(key, exact): (
                item if type(item) in SCALARS else plain(item, exact, depth)
            )
            for key, item in data.items()
        }
        if len(copy) != len(data):
            raise Problem(TWICE)
        return copy
    if cls is Misfit:
        if exact or type(data.problem) is NotStorable:
            raise data.problem
        return plain(data.data, exact, depth)
    return plain_scalar(data)


def kept(data: Any, has_form: Callable[[type], bool], depth: int = 0) -> Any:
    """Copy what a codec wrote, with values in it as they are that have no type.

    Args:
        has_form: returns whether a class is a library's, or one that the program has a codec for.

    Raises:
        Problem: something in it is not of the type of its place.
    """
    cls = type(data)
    if cls in SCALARS:
        return data
    if cls is Misfit:
        raise data.problem
    if cls is dict or cls is list:
        if depth >= MAX_DEPTH:
            raise TooDeep
        depth += 1
        if cls is list:
            return [item if type(item) in SCALARS else kept(item, has_form, depth) for item in data]
        return {
            key if type(key) is str else kept(key, has_form, depth): (
                item if type(item) in SCALARS else kept(item, has_form, depth)
            )
            for key, item in data.items()
        }
    is_plain = isinstance(data, (str, int, float)) and not isinstance(data, enum.Enum)
    return plain_scalar(data) if is_plain and not has_form(cls) else data


class NotPlainError(Exception):
    """Something in a value is not exactly of a type that JSON has."""


def json_copy(data: Any, depth: int = 0) -> Any:
    """Copy a value that is made of exactly the types that JSON has.

    Raises:
        NotPlainError: something in it is of another type.
        TooDeep: it is circular or too deeply nested.
    """
    cls = type(data)
    if cls in SCALARS:
        return data
    if depth >= MAX_DEPTH:
        raise TooDeep
    depth += 1
    if cls is list:
        return [item if type(item) in SCALARS else json_copy(item, depth) for item in data]
    if cls is dict:
        return {
            key if type(key) is str else _reject_key(): (
                item if type(item) in SCALARS else json_copy(item, depth)
            )
            for key, item in data.items()
        }
    raise NotPlainError


def _reject_key() -> NoReturn:
    raise NotPlainError


def all_plain(data: Any) -> Any:
    """Copy a JSON-like value like :func:`plain`, but report everything that is rejected.

    Raises:
        TooDeep: it is circular or too deeply nested.
        Problems: something in it is rejected.
    """
    try:
        return plain(data)
    except TooDeep:
        raise
    except Problem:
        raise Problems(copy_and_problems(data)[1]) from None


def check_discardable(value: object) -> None:
    """Check that a value may be discarded.

    Raises:
        Problem: it is a coroutine that was never awaited.
    """
    if isinstance(value, types.CoroutineType):
        value.close()
        msg = "a coroutine, so nothing was done; pass a plain function that calls asyncio.run"
        raise Problem(msg)


def exactly_plain(data: Any) -> Any:
    """Copy like :func:`all_plain`, but reject what would come back as another type.

    Raises:
        TooDeep: it is circular or too deeply nested.
        Problems: something in it is rejected.
    """
    copy = all_plain(data)
    changed = list(_changed(data, copy, ""))
    if changed:
        raise Problems(changed)
    return copy


def _changed(before: Any, after: Any, path: str) -> Iterator[Problem]:
    if type(before) is not type(after):
        yield Problem(f"{type_name(before)} would come back as {type_name(after)}", path)
    elif isinstance(after, list):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changed(old, new, f"{path}[{index}]")
    elif isinstance(after, dict):
        for (key, old), (copied, new) in zip(before.items(), after.items(), strict=True):
            yield from _changed(key, copied, path + segment(copied))
            yield from _changed(old, new, path + segment(copied))


def plain_scalar(value: Any) -> Any:
    """Return the plain str, int or float of an instance of a subclass.

    Raises:
        Problem: it is not one.
    """
    if not isinstance(value, enum.Enum):
        # The unbound methods of the base: a subclass may have overridden its own.
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
    raise Problem(_reason_not_json(value))


def copy_and_problems(data: Any, *, exact: bool = True) -> tuple[Any, list[Problem]]:
    """Return a copy with the data of its misfits, and everything that :func:`plain` rejects."""
    problems: list[Problem] = []

    def copy(data: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise TooDeep
        if type(data) is Misfit:
            if not exact and type(data.problem) is not NotStorable:
                return copy(data.data, path, depth)
            problems.append(data.problem.under(path))
            return None
        if isinstance(data, dict):
            keys: dict[Any, Any] = {}
            for key in data:
                bare = key_data(key)
                try:
                    keys[_plain_key(key, exact)] = key
                except Problem as problem:
                    problems.append(problem.under(path + segment(bare)))
                    keys[bare] = key
            if len(keys) != len(data):
                problems.append(Problem(TWICE, path))
            return {k: copy(data[old], path + segment(k), depth + 1) for k, old in keys.items()}
        if _is_list(data):
            return [copy(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(data)]
        if type(data) not in SCALARS:
            try:
                return plain_scalar(data)
            except Problem as problem:
                problems.append(problem.under(path))
        return data

    return copy(data, "", 0), problems


def is_named_tuple(type_: Any) -> bool:
    """Return whether *type_* is a class of named tuples."""
    return isinstance(type_, type) and issubclass(type_, tuple) and hasattr(type_, "_fields")


def _is_list(data: Any) -> bool:
    return isinstance(data, (list, tuple)) and not has_named_items(type(data))


def has_named_items(cls: type) -> bool:
    """Return whether a class is one of tuples whose items have names, which a list would lose.

    Beside named tuples there are those of C code: what ``os.stat`` and ``time.localtime`` return.
    """
    return issubclass(cls, tuple) and (hasattr(cls, "_fields") or hasattr(cls, "n_fields"))


def key_data(key: Any) -> Any:
    """Return the data of a key that is a misfit; else the key."""
    return key_data(key.data) if type(key) is Misfit else key


def _plain_key(key: Any, exact: bool) -> str:  # noqa: FBT001
    if type(key) is Misfit:
        if exact or type(key.problem) is NotStorable:
            raise key.problem
        key = key_data(key)
    if isinstance(key, str):
        return cast("str", plain_scalar(key))
    msg = f"a key is {type_name(key)} and not str; annotate the dict's type to have other keys"
    raise Problem(msg)


def _reason_not_json(value: object) -> str:
    """Return why *value* is not JSON-like, and advice."""
    name = type(value).__qualname__
    if isinstance(value, type) or inspect.isroutine(value):
        code = getattr(value, "__qualname__", name)
        return f"{type_name(value)} {code!r:.80} has no stored form; use data, not code"
    return f"{type_name(value)} has no stored form; {_advice(value)}"


def _advice(value: object) -> str:
    """Return what to do with a value that has no form, in words that work."""
    cls = type(value)
    if inspect.isawaitable(value) or inspect.isasyncgen(value):
        if inspect.iscoroutine(value):
            value.close()  # otherwise Python says later, anywhere, that it was never awaited
        return "return its result, from a function without async"
    for kind, advice in _MADE:
        if isinstance(value, kind):
            return advice
    if cls.__module__ in _LIVE:
        return "make it where it is used, outside of steps"
    return conversion_of(value) or (
        "return data made from it, or give its class a form with durably.codecs.register(...) or, "
        "for an annotated one, with the engine's converter="
    )
