"""Check how deeply values are nested, before they are shown, logged or recorded.

``repr``, ``str`` and the writing of JSON take some of the C stack for each level. On Python 3.11
only the recursion limit keeps them from overflowing it, and programs raise that limit.
"""

from __future__ import annotations

import collections
import functools
import types
from typing import Any, Final

from durably._platform.signals import raise_if_signal

MAX_DEPTH: Final = 200
"""How deeply stored data may be nested.

Well below what Python's stack allows, so that what was stored by a shallow caller can also
be read by a deep one.
"""

_ATOMS: Final = frozenset({str, int, bool, float, bytes, types.NoneType})
_SHOW_THEIR_ATTRIBUTES: Final = (
    BaseException,
    collections.UserDict,
    collections.UserList,
    types.SimpleNamespace,
)


def is_too_deep(value: object) -> bool:
    """Return whether a value is nested more deeply than stored data may be.

    It inspects Python's own containers, exceptions, attrs classes and dataclasses, each part at
    most once for each depth. A circular value is not deep by itself: its ``repr`` ends.
    """
    if type(value) in _ATOMS:
        return False
    stack = [(id(value), iter(_parts_of(value)))]
    on_path = {id(value)}
    depths: dict[int, int] = {}
    while stack:
        if len(stack) > MAX_DEPTH:
            return True
        current, parts = stack[-1]
        for part in parts:
            key = id(part)
            if type(part) in _ATOMS or key in on_path or depths.get(key, 0) >= len(stack):
                continue
            inside = _parts_of(part)
            if inside:
                depths[key] = len(stack)
                on_path.add(key)
                stack.append((key, iter(inside)))
                break
        else:
            stack.pop()
            on_path.discard(current)
    return False


def _parts_of(value: Any) -> list[object]:
    """Return what ``repr`` or ``str`` of a value may show; a copy, as threads may change it."""
    parts: list[object] = []
    # The methods of the base: a subclass may have others of its own.
    if isinstance(value, (list, tuple)):
        base: Any = list if isinstance(value, list) else tuple
        parts += base.__iter__(value)
    elif isinstance(value, dict):
        parts += [*dict.keys(value), *dict.values(value)]
    elif isinstance(value, (set, frozenset, collections.deque, types.MappingProxyType)):
        parts += value.values() if isinstance(value, types.MappingProxyType) else value
    elif isinstance(value, functools.partial):
        parts += [value.args, value.keywords]
    elif isinstance(value, _SHOW_THEIR_ATTRIBUTES):
        parts += vars(value).values()
    elif not isinstance(value, type):
        parts += [_attribute(value, name) for name in _field_names(type(value))]
    if isinstance(value, BaseException):
        parts += [value.args, *(_attribute(value, name) for name in ("filename", "filename2"))]
    return parts


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception as raised:  # noqa: BLE001 - a property of the user's may raise anything
        raise_if_signal(raised)
        return None


def _field_names(cls: Any) -> list[str]:
    """Return the names of the fields of an attrs class or a dataclass."""
    fields = getattr(cls, "__attrs_attrs__", None)
    if isinstance(fields, tuple):
        return [field.name for field in fields]
    fields = getattr(cls, "__dataclass_fields__", None)
    return list(fields) if isinstance(fields, dict) else []
