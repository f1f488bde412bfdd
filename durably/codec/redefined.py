"""Values of a class that was defined again since its type was annotated, as in a notebook.

The cell of a class is executed again, and that of the job, which is annotated with it, is not: from
then on there are two classes of one name. A value of the newer one is converted by way of its
fields, as if it were data, and comes back as one of the class that is annotated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from durably.codec.messages import name_of
from durably.codec.plain import plain
from durably.codec.type_codec import TypeCodec

T = TypeVar("T")


class _Noted(threading.local):
    """What ``unfit`` collects in one thread."""

    each: list[tuple[TypeCodec, type, Any]] | None = None


_noted = _Noted()


def is_redefined(cls: type, expected: Any) -> bool:
    """Return whether *cls* is another class of the same module and qualified name."""
    return (
        cls is not expected
        and isinstance(expected, type)
        and cls.__qualname__ == expected.__qualname__
        and cls.__module__ == expected.__module__ != "builtins"
    )


def note(codec: TypeCodec, value: object, data: T) -> T:
    """Return the data of a value whose class was defined again, after noting it for ``unfit``."""
    if _noted.each is not None:
        _noted.each.append((codec, type(value), data))
    return data


def unfit(write: Callable[[Any], Any], value: Any) -> str | None:
    """Return the name of a class that was defined again and whose value does not fit its place.

    Args:
        write: writes *value*, which may have such values inside.
    """
    noted: list[tuple[TypeCodec, type, Any]] = []
    _noted.each = noted
    try:
        write(value)
    except Exception:  # noqa: BLE001, S110 - it is the error that is being reported
        pass
    finally:
        _noted.each = None
    for codec, cls, data in noted:  # those inside come first
        try:
            codec.read(plain(data, exact=False), None)
        except Exception:  # noqa: BLE001 - hooks and validators raise anything
            return name_of(cls)
    return None
