"""Values of records that lie in files, and are read when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Later:
    """Stands for a value in a field of a record until it is asked for.

    Args:
        read: returns the value; what it raises goes to who asks.
    """

    __slots__ = ("read",)

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read


class _Field:
    """A field whose value may be read later; in the place of a slot."""

    def __init__(self, slot: Any) -> None:
        self._slot: Final = slot

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = self._slot.__get__(instance, owner)
        if type(value) is Later:
            value = value.read()
            self._slot.__set__(instance, value)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        self._slot.__set__(instance, value)


def may_be_read_later(cls: type[T], *names: str) -> type[T]:
    """Allow fields of a class with slots to have values that are a :class:`Later`."""
    for name in names:
        setattr(cls, name, _Field(cls.__dict__[name]))
    return cls
