"""The forms of the standard library's types: single values and containers."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import pathlib
import uuid
from typing import Any, Final

from durably.codec.forms import AnyForm, Form, Inside, NestedForm
from durably.codec.json_text import dump
from durably.codec.messages import NotStorable, Problem, show
from durably.codec.scalars import STDLIB
from durably.codec.typing_utils import DATE, DATETIME, frozen_time_base

# --- Single values -----------------------------------------------------------------------------


def _scalar(type_: type, tag: str) -> Form:
    """Return the form of a type that is written as its annotation would write it."""
    how = STDLIB[type_]

    def decode(stored: Any) -> Any:
        if type(stored) not in how.written:
            raise _unlike(tag)
        return how.read(stored)

    return Form(tag, how.write, decode)


def _unlike(tag: str) -> Problem:
    return Problem(f"a {tag} that durably did not write so")


def _items(stored: Any, tag: str) -> list[Any]:
    if type(stored) is not list:
        raise _unlike(tag)
    return stored


def _numbers(stored: Any, tag: str, count: int, type_: type) -> list[Any]:
    if [type(each) for each in _items(stored, tag)] != [type_] * count:
        raise _unlike(tag)
    return _items(stored, tag)


def _path(type_: type[pathlib.PurePath], tag: str) -> Form:
    def decode(stored: Any) -> pathlib.PurePath:
        if type(stored) is not str:
            raise _unlike(tag)
        return type_(stored)

    return Form(tag, str, decode)


_SCALARS: Final[dict[type, AnyForm]] = {
    DATETIME: _scalar(DATETIME, "datetime"),
    DATE: _scalar(DATE, "date"),
    dt.time: _scalar(dt.time, "time"),
    dt.timedelta: _scalar(dt.timedelta, "timedelta"),
    uuid.UUID: _scalar(uuid.UUID, "UUID"),
    decimal.Decimal: _scalar(decimal.Decimal, "Decimal"),
    bytes: Form("bytes", lambda value: value, lambda stored: _bytes(stored, "bytes")),
    bytearray: Form(
        "bytearray", lambda value: value, lambda stored: bytearray(_bytes(stored, "bytearray"))
    ),
    fractions.Fraction: Form(
        "Fraction",
        lambda value: [value.numerator, value.denominator],
        lambda stored: fractions.Fraction(*_numbers(stored, "Fraction", 2, int)),
    ),
    complex: Form(
        "complex",
        lambda value: [value.real, value.imag],
        lambda stored: complex(*_numbers(stored, "complex", 2, float)),
    ),
    range: Form(
        "range",
        lambda value: [int(value.start), int(value.stop), int(value.step)],
        lambda stored: range(*_numbers(stored, "range", 3, int)),
    ),
    type(pathlib.Path()): _path(pathlib.Path, "Path"),
    pathlib.PurePosixPath: _path(pathlib.PurePosixPath, "PurePosixPath"),
    pathlib.PureWindowsPath: _path(pathlib.PureWindowsPath, "PureWindowsPath"),
}


def _bytes(stored: Any, tag: str) -> bytes:
    if type(stored) is not bytes:
        raise _unlike(tag)
    return stored


# --- Containers --------------------------------------------------------------------------------


def _sequence(make: Any, tag: str) -> NestedForm:
    def encode(value: Any, inside: Inside) -> list[Any]:
        return [inside(item, index) for index, item in enumerate(value)]

    def decode(stored: Any, inside: Inside) -> Any:
        return make(inside(item, index) for index, item in enumerate(_items(stored, tag)))

    return NestedForm(tag, encode, decode)


def _set(make: Any, tag: str) -> NestedForm:
    def encode(value: Any, inside: Inside) -> list[Any]:
        # The order of a set changes from process to process.
        return sorted((inside(item, ...) for item in value), key=dump)

    def decode(stored: Any, inside: Inside) -> Any:
        items = [inside(item, index) for index, item in enumerate(_items(stored, tag))]
        made = make(items)
        if len(made) != len(items):
            raise _unlike(tag)
        return made

    return NestedForm(tag, encode, decode)


def _encode_dict(value: dict[Any, Any], inside: Inside) -> list[Any]:
    return [[inside(key, key), inside(item, key)] for key, item in value.items()]


def _decode_dict(stored: Any, inside: Inside) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for index, pair in enumerate(_items(stored, "dict")):
        if type(pair) is not list or len(pair) != 2:
            raise _unlike("dict")
        key = inside(pair[0], index)
        made[key] = inside(pair[1], index)
    if len(made) != len(stored):
        raise _unlike("dict")
    return made


def _mapping(type_: Any, tag: str) -> NestedForm:
    """Return the form of a type that differs from a dict in its methods only."""

    def encode(value: Any, inside: Inside) -> Any:
        return inside(dict(value))

    def decode(stored: Any, inside: Inside) -> Any:
        made = inside(stored)
        if type(made) is not dict:
            raise _unlike(tag)
        return type_(made)

    return NestedForm(tag, encode, decode, levels=1)


_DEFAULTDICT: Final = _mapping(lambda made: collections.defaultdict(None, made), "defaultdict")


def _encode_defaultdict(value: Any, inside: Inside) -> Any:
    if value.default_factory is not None:
        msg = (
            f"a defaultdict with a default_factory ({show(value.default_factory)}) has no stored "
            f"form without a type; return dict(...) of it"
        )
        raise NotStorable(msg)
    return _DEFAULTDICT.encode(value, inside)


def _encode_deque(value: Any, inside: Inside) -> dict[str, Any]:
    items = [inside(item, index) for index, item in enumerate(value)]
    return {"items": items, "maxlen": value.maxlen}


def _decode_deque(stored: Any, inside: Inside) -> Any:
    if type(stored) is not dict or stored.keys() != {"items", "maxlen"}:
        raise _unlike("deque")
    items = [inside(item, index) for index, item in enumerate(_items(stored["items"], "deque"))]
    if type(stored["maxlen"]) not in (int, type(None)):
        raise _unlike("deque")
    return collections.deque(items, stored["maxlen"])


_CONTAINERS: Final[dict[type, AnyForm]] = {
    tuple: _sequence(tuple, "tuple"),
    set: _set(set, "set"),
    frozenset: _set(frozenset, "frozenset"),
    dict: NestedForm("dict", _encode_dict, _decode_dict, levels=3),
    collections.OrderedDict: _mapping(collections.OrderedDict, "OrderedDict"),
    collections.Counter: _mapping(collections.Counter, "Counter"),
    collections.defaultdict: NestedForm(
        "defaultdict", _encode_defaultdict, _DEFAULTDICT.decode, levels=1
    ),
    collections.deque: NestedForm("deque", _encode_deque, _decode_deque, levels=3),
}

_FORMS: Final = {**_SCALARS, **_CONTAINERS}
_BY_TAG: Final = {form.tag: form for form in _FORMS.values()}


def form_of(cls: type) -> AnyForm | None:
    """Return the form of the values of exactly this class."""
    return _FORMS.get(frozen_time_base(cls) or cls)


def form_named(tag: str) -> AnyForm | None:
    """Return the form of a tag."""
    return _BY_TAG.get(tag)
