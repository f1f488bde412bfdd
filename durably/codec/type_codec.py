"""Define TypeCodec, which writes and reads the values of one type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from durably.codec.messages import Mismatch, mismatch
from durably.codec.plain import UNTYPED, Misfit

if TYPE_CHECKING:
    import cattrs


class TypeCodec:
    """Write and read the values of one type.

    A type may contain itself, so other codecs may use one before it is complete: they look up
    its hooks when they call them.
    """

    __slots__ = (
        "compares",
        "fields",
        "has_form",
        "is_open",
        "is_users",
        "name",
        "read",
        "type",
        "write",
    )

    def __init__(self, type_: Any, name: str) -> None:
        self.type = type_
        self.name = name
        self.write: Callable[[Any], Any] = self._write_later
        """Convert a value to data; a value of another type becomes a misfit."""
        self.read: Callable[[Any, Any], Any] = self._read_later
        """Convert plain data to a value, or raise; a structure hook of cattrs."""
        self.compares = True
        """User code is called, so that a value may come back changed."""
        self.is_open = False
        """Data of any kind may be of this type."""
        self.has_form = False
        """Its values are written and read by a form; see :mod:`durably.codec.forms`."""
        self.is_users = False
        """The user's converter has hooks for it."""
        self.fields: Mapping[str, Field] | None = None
        """The fields by key, for a type that is written as an object of known keys."""

    def _write_later(self, value: Any) -> Any:
        return self.write(value)

    def _read_later(self, data: Any, type_: Any = None) -> Any:
        return self.read(data, type_)

    def __repr__(self) -> str:
        return self.name

    def become(self, other: TypeCodec) -> None:
        """Copy all attributes of *other*."""
        for attribute in TypeCodec.__slots__:
            setattr(self, attribute, getattr(other, attribute))

    def mismatch(self, value: object) -> Mismatch:
        """Return the problem that *value* is not of this type."""
        return mismatch(self.name, value, self.type)

    def misfit(self, value: object, data: Any = None) -> Misfit:
        """Return a misfit for a value of another type, with the data made of it if any."""
        return Misfit(value if data is None else data, self.mismatch(value))


class Field(NamedTuple):
    """A field of a class, or a key of a TypedDict."""

    name: str
    key: str
    argument: str
    codec: TypeCodec
    is_required: bool


class TypeCodecLookup(Protocol):
    """Return codecs of inner types to the functions that complete a codec."""

    converter: cattrs.Converter

    def of(self, type_: Any) -> TypeCodec:
        """Return the codec of a type."""
        ...

    def has_form(self, cls: type) -> bool:
        """Return whether a class is a library's, or one that the program has a codec for."""
        ...


def _same(data: Any, _: Any = None) -> Any:
    return data


ANYTHING: Final = TypeCodec(UNTYPED, "JSON-like data")
"""Any JSON-like data; :func:`plain` copies and checks it with the rest of the value."""
ANYTHING.write = ANYTHING.read = _same
ANYTHING.compares = False
ANYTHING.is_open = True
