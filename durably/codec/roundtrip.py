"""Check that a value read back from its data equals the original."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from durably._platform.safe_repr import full_name, type_name
from durably.codec.json_text import dump
from durably.codec.messages import Problem, Unsupported, difference, segment
from durably.codec.plain import SCALARS, has_named_items, is_named_tuple, plain, plain_scalar
from durably.codec.redefined import is_redefined
from durably.codec.type_codec import TypeCodec
from durably.codec.typing_utils import frozen_time_base, is_record

_CONTAINERS: Final = (list, tuple, dict, set, frozenset, deque)
_MISSING: Final = object()
# What a field has that a class has no more, or not yet, which was defined again.
_DEFAULT: Final = object()


def compare(before: Any, after: Any, codec_of: Callable[[Any], TypeCodec]) -> None:
    """Check that a value came back unchanged.

    Accepts at every place a change to a plain value (a tuple to a list, say): the codecs have
    rejected it where it is not allowed.

    Raises:
        Problem: it changed; the message names the first place.
    """
    if before is after:
        return
    inside: Iterable[tuple[str, Any, Any]] = ()
    cls: Any = type(after)
    is_again = type(before) is not cls and is_redefined(type(before), cls)
    is_same = type(before) is cls or is_again or _may_come_back_as(before, cls)
    if is_again and is_named_tuple(cls):
        inside = [
            (segment(n), getattr(before, n, _DEFAULT), getattr(after, n)) for n in cls._fields
        ]
    elif is_same and isinstance(after, _CONTAINERS):
        is_same = len(before) == len(after)
        inside = _items_of(before, after, codec_of)
    elif is_same and isinstance(after, (str, int, float)) and not isinstance(after, enum.Enum):
        old, new = plain_scalar(before), plain_scalar(after)
        is_same = old == new or (old != old and new != new)  # noqa: PLR0124 - NaN
        if cls not in SCALARS:
            inside = [("", getattr(before, "__dict__", None), getattr(after, "__dict__", None))]
    elif is_same:
        codec = _codec(cls, codec_of)
        # For a user's type its hooks define what is equal.
        names = [] if codec is not None and (codec.is_users or codec.has_form) else _names_in(cls)
        absent = _DEFAULT if is_again else _MISSING
        inside = [
            (step, getattr(before, name, absent), getattr(after, name, _MISSING))
            for name, step in names
        ]
        has_form = codec is not None and codec.has_form  # which defines what is equal
        is_same = has_form or bool(names) or _is_written_alike(before, after, codec)
    if not is_same:
        msg = f"would come back as {_other(before, after)}"
        raise Problem(msg)
    for step, old, new in inside:
        if old is not new and old is not _DEFAULT:
            try:
                compare(old, new, codec_of)
            except Problem as problem:
                raise problem.under(step) from None


def _other(before: Any, after: Any) -> str:
    name, was = type_name(after), type_name(before)
    if type(before) is type(after):
        return f"another {name}"
    if name == was:
        return f"another class of that name ({difference(type(after), type(before))})"
    return f"{name}, not as {was}"


def _may_come_back_as(before: Any, cls: type) -> bool:
    """Return whether a value may come back as one of another class."""
    if cls in SCALARS:
        is_number = cls is float and isinstance(before, int)
        return (isinstance(before, cls) or is_number) and not isinstance(before, enum.Enum)
    if cls is list:
        return isinstance(before, (list, tuple)) and not has_named_items(type(before))
    if cls is dict or cls is frozenset:
        return isinstance(before, dict if cls is dict else set)
    return frozen_time_base(type(before)) is cls


def _items_of(
    before: Any, after: Any, codec_of: Callable[[Any], TypeCodec]
) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(after, dict):
        for old, new in zip(before.items(), after.items(), strict=False):
            yield segment(old[0]), old, new
    elif isinstance(after, (set, frozenset)):
        same = {item: item for item in after}
        has_all = all(item in same for item in before)
        classes = {} if has_all else {full_name(cls): cls for cls in _classes_in(after)}
        for item in before:
            key = item if item in same else _renewed(item, classes, codec_of)
            yield "[...]", item, same.get(key, _MISSING)
    else:
        for index, pair in enumerate(zip(before, after, strict=False)):
            yield f"[{index}]", *pair


def _classes_in(items: Iterable[Any]) -> Iterator[type]:
    """Yield the classes of the items of a set, also of those inside of tuples."""
    for item in items:
        if isinstance(item, (tuple, frozenset)) and not has_named_items(type(item)):
            yield from _classes_in(item)
        else:
            yield type(item)


def _renewed(item: Any, classes: Mapping[str, type], codec_of: Callable[[Any], TypeCodec]) -> Any:
    """Return an item of a set with instances of *classes* where theirs were defined again."""
    if type(item) in (tuple, frozenset):
        return type(item)(_renewed(each, classes, codec_of) for each in item)
    cls = classes.get(full_name(type(item)))
    codec = None if cls is None else _codec(cls, codec_of)
    if codec is None:
        return item
    try:
        renewed = codec.read(plain(codec.write(item)), cls)
        hash(renewed)
    except Exception:  # noqa: BLE001 - hooks, validators and __hash__ raise anything
        return item
    return renewed


@functools.lru_cache(maxsize=1000)
def _names_in(cls: Any) -> list[tuple[str, str]]:
    """Return the fields of an attrs class or a dataclass, and their path segments."""
    if not is_record(cls):
        return []
    fields: Iterable[Any] = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    return [(field.name, segment(field.name)) for field in fields]


def _codec(cls: type, codec_of: Callable[[Any], TypeCodec]) -> TypeCodec | None:
    try:
        return codec_of(cls)
    except Unsupported:  # a field that is not stored may hold anything
        return None


def _is_written_alike(before: Any, after: Any, codec: TypeCodec | None) -> bool:
    try:
        if codec is None:
            is_nan = type(before) is complex and repr(before) == repr(after)
            return is_nan or bool(before == after)
        return dump(plain(codec.write(before))) == dump(plain(codec.write(after)))
    except Exception:  # noqa: BLE001 - whatever a class does when it is compared
        return False
