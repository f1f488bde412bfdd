"""The base of the package's attrs classes, with their ``==``, ``hash()`` and ``repr()``.

attrs writes these methods anew for each class, as source text that is compiled at each import.
For the 25 classes of the package that is 5 ms of processor time, of 84 for ``import durably``.
"""

from __future__ import annotations

from contextlib import suppress
from reprlib import recursive_repr
from typing import Any, Final, cast

import attrs

from durably._platform.displayable import displayable

# The repr of a field is not longer.
_LONGEST: Final = 1000


class Value:
    """Base of attrs classes made with ``eq=False, repr=False``: as if attrs had written both.

    A subclass that adds no field need not be decorated again.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        # Not as tuples, for which a thing is equal to itself, even a NaN.
        return all(
            _are_equal(getattr(self, name), getattr(other, name)) for name in _compared(self)
        )

    def __hash__(self) -> int:
        return hash((self.__class__, *(getattr(self, name) for name in _compared(self))))

    @recursive_repr()
    def __repr__(self) -> str:
        fields = [field for field in _fields(self) if field.repr]
        shown = ", ".join(
            f"{field.name}={_cut(repr(getattr(self, field.name)))}" for field in fields
        )
        return f"{self.__class__.__qualname__.rpartition('>.')[2]}({shown})"


def _cut(text: str) -> str:
    """Return the ``repr`` of a field, such as a message, cut in the middle if it is long."""
    return text if len(text) <= _LONGEST else displayable(text, _LONGEST)


def _are_equal(one: Any, other: Any) -> bool:
    """Return ``one == other``, also for arrays, frames and what contains them."""
    with suppress(ValueError, TypeError):  # what NumPy, pandas and polars raise for its truth
        return bool(one == other)
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(one[key], other[key]) for key in one)
    if hasattr(one, "equals"):  # of pandas, polars and pyarrow
        return bool(one.equals(other))
    return bool(one.shape == other.shape and (one == other).all())


def _fields(value: Value) -> tuple[attrs.Attribute[object], ...]:
    # Every class below is one of attrs, which this base cannot say of itself.
    cls = cast("type[attrs.AttrsInstance]", value.__class__)
    fields: tuple[attrs.Attribute[object], ...] = attrs.fields(cls)
    return fields


def _compared(value: Value) -> list[str]:
    return [field.name for field in _fields(value) if field.eq]


def field_names(cls: type[Value]) -> list[str]:
    """Return the names of the fields of a class, in their order."""
    return [field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", cls))]


def as_dict(value: Value) -> dict[str, Any]:
    """Return the public fields of *value* by name; values in them are dicts as well."""
    names = [field.name for field in _fields(value) if not field.name.startswith("_")]
    return {name: _as_plain(getattr(value, name)) for name in names}


def _as_plain(value: Any) -> Any:
    return as_dict(value) if isinstance(value, Value) else value
