"""Show tagged values as JSON-like data for people, without making the values."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from durably._platform.nesting import MAX_DEPTH
from durably.codec.forms import BYTES, FILE, SHAPES, SIZE, TAG, VALUE
from durably.codec.json_text import dump
from durably.codec.plain import SCALARS

_AS_A_LIST: Final = ("tuple", "set", "frozenset")
_MISSING: Final = ("pandas.NaT", "pandas.NA")
_AS_IT_IS: Final = ("OrderedDict", "Counter", "defaultdict")
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - of instants without a zone
# How many nanoseconds a unit of NumPy and pandas has.
_UNITS: Final = {
    "D": 86_400 * 10**9,
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 1000,
    "ns": 1,
}
PICKLED: Final = "pickled."
"""How the tags of pickled values begin."""


def readable(data: Any, depth: int = 0) -> Any:
    """Return tagged JSON-like data with lists, objects and texts in place of the tagged values.

    Nothing is executed or imported for it, whatever the data is.
    """
    cls = type(data)
    if cls in SCALARS:
        return data
    if depth > MAX_DEPTH:
        return "..."
    depth += 1
    if cls is list:
        return [readable(item, depth) for item in data]
    if TAG in data and data.keys() in SHAPES and type(data[TAG]) is str:
        return _readable_value(data[TAG], data, depth)
    return {key: readable(item, depth) for key, item in data.items()}


def _readable_value(tag: str, data: dict[str, Any], depth: int) -> Any:
    if tag.startswith(PICKLED):
        return f"<pickled {tag.removeprefix(PICKLED)}, not read>"
    if VALUE not in data:
        held = data[SIZE] if FILE in data else _size_of(data[BYTES])
        return f"<{tag}, {held} bytes>"
    stored = data[VALUE]
    if tag in _AS_IT_IS or (tag in _AS_A_LIST and type(stored) is list):
        return readable(stored, depth)
    if tag == "dict" and type(stored) is list:
        return _readable_dict(stored, depth)
    if type(stored) is dict:
        shown = _readable_object(stored, depth)
    else:
        shown = _readable_scalar(tag, stored, depth)
    if shown is not None:
        return shown
    return stored if type(stored) is str else f"{tag}({dump(stored)})"


def _readable_dict(stored: list[Any], depth: int) -> Any:
    pairs = [pair for pair in stored if type(pair) is list and len(pair) == 2]
    items = [[readable(key, depth), readable(item, depth)] for key, item in pairs]
    shown = {_key(key): item for key, item in items}
    return shown if len(shown) == len(items) else items  # 1 and "1" are two keys


def _readable_scalar(tag: str, stored: Any, depth: int) -> Any:
    """Show what a library's type or a duration has as a number."""
    if tag in _MISSING:
        return tag.removeprefix("pandas.")
    if tag == "timedelta" and type(stored) in (int, float):
        return _of_seconds(stored)
    if tag in _OF_LIBRARIES and type(stored) is list:
        held = (*stored, None, None, None)
        return readable(_OF_LIBRARIES[tag](*held[:3]), depth)
    return None


def _readable_object(stored: dict[str, Any], depth: int) -> Any:
    """Show what has a class, or is a deque."""
    if "items" in stored:
        return readable(stored["items"], depth)
    if "fields" in stored:
        return readable(stored["fields"], depth)
    if type(stored.get("class")) is str:
        name = stored["class"].rpartition(":")[2]
        return f"{name}.{stored['name']}" if "name" in stored else f"{name}({stored.get('value')})"
    return None


def _scalar(dtype: Any, value: Any, _: Any) -> Any:
    """Show a scalar of NumPy."""
    if type(dtype) is str and dtype[1:4] == "M8[":
        return _instant(value, dtype[4:-1], None)
    if type(dtype) is str and dtype[1:4] == "m8[":
        return _duration(value, dtype[4:-1], None)
    return value if dtype != "bytes" and type(value) in SCALARS else None


def _instant(number: Any, unit: Any, zone: Any) -> Any:
    """Show an instant as a text, in UTC if it has a zone."""
    if type(number) is not int or type(unit) is not str or unit not in _UNITS:
        return None
    seconds, nanoseconds = divmod(number * _UNITS[unit], 10**9)
    try:
        text = (_EPOCH + dt.timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return None
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}{'' if zone is None else '+00:00'}"


def _duration(number: Any, unit: Any, _: Any) -> Any:
    """Show a duration as a text."""
    if type(number) is not int or type(unit) is not str or unit not in _UNITS:
        return None
    microseconds, rest = divmod(number * _UNITS[unit], 1000)
    return None if rest else _of_seconds(0, microseconds)


def _of_seconds(seconds: float, microseconds: int = 0) -> str | None:
    try:
        return str(dt.timedelta(seconds=seconds, microseconds=microseconds))
    except (OverflowError, ValueError):
        return None


def _fields(_: Any, fields: Any, __: Any) -> Any:
    """Show a model of pydantic."""
    return fields


_OF_LIBRARIES: Final = {
    "numpy.scalar": _scalar,
    "pandas.Timestamp": _instant,
    "pandas.Timedelta": _duration,
    "pydantic.BaseModel": _fields,
}


def _size_of(content: object) -> int:
    """Return how many bytes a base64 text stands for."""
    text = content if type(content) is str else ""
    return len(text) * 3 // 4 - text.count("=", -2)


def _key(key: Any) -> str:
    return key if type(key) is str else dump(key)
