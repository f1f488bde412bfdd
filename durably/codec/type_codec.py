"""The form of a type: how its values are written and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from durably.codec.messages import Mismatch, mismatch
from durably.codec.plain import UNTYPED, Misfit

if TYPE_CHECKING:
    import cattrs


class TypeCodec:
    """How the values of one type are written and read.

    A type may hold itself, so a form is handed out before it is complete: its hooks are
    looked up when they are called.
    """

    __slots__ = ("compares", "fields", "is_open", "is_users", "name", "read", "type", "write")

    def __init__(self, type_: Any, name: str) -> None:
        self.type = type_
        self.name = name
        self.write: Callable[[Any], Any] = self._write_later
        """A value to data; what is not of this type becomes a misfit."""
        self.read: Callable[[Any, Any], Any] = self._read_later
        """A cattrs structure hook: plain data to a value, or an error."""
        self.compares = True
        """Whether somebody's own code takes part, so that a value may come back changed."""
        self.is_open = False
        """Whether data of whatever kind may be of this type."""
        self.is_users = False
        """Whether it is a type of the user's own, with hooks in the user's converter."""
        self.fields: Mapping[str, Field] | None = None
        """By its key, for a type that is written as an object of known keys."""

    def _write_later(self, value: Any) -> Any:
        return self.write(value)

    def _read_later(self, data: Any, type_: Any = None) -> Any:
        return self.read(data, type_)

    def __repr__(self) -> str:
        return self.name

    def become(self, other: TypeCodec) -> None:
        """Be another name of *other*."""
        for attribute in TypeCodec.__slots__:
            setattr(self, attribute, getattr(other, attribute))

    def mismatch(self, value: object) -> Mismatch:
        """Say that *value* is not of this type."""
        return mismatch(self.name, value, self.type)

    def misfit(self, value: object, data: Any = None) -> Misfit:
        """Leave a value that is not of this type in place, or data made of it."""
        return Misfit(value if data is None else data, self.mismatch(value))


class Field(NamedTuple):
    """A field of a class, or a key of a TypedDict."""

    name: str
    key: str
    argument: str
    codec: TypeCodec
    is_required: bool


class TypeCodecLookup(Protocol):
    """Where the builders of forms find the forms of the types inside."""

    converter: cattrs.Converter

    def of(self, type_: Any) -> TypeCodec:
        """Give the form of a type."""
        ...


def _same(data: Any, _: Any = None) -> Any:
    return data


ANYTHING: Final = TypeCodec(UNTYPED, "JSON-like data")
"""Any JSON-like data, which is copied and judged while all of the value is made plain."""
ANYTHING.write = ANYTHING.read = _same
ANYTHING.compares = False
ANYTHING.is_open = True
