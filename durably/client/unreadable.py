"""Rows of the file that cannot be read: another program has written them, or they are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn, TypeVar

from durably.codec.json_text import load
from durably.errors import DatabaseError
from durably.store import defects

# Exceptions that a row which durably did not write may cause; the row is then checked.
UNREADABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)

A = TypeVar("A")
B = TypeVar("B")


def checked(text: str, is_right: Callable[[Any], bool]) -> Any:
    """Return a stored value.

    Raises:
        ValueError: *is_right* says that durably writes no such value.
    """
    value = load(text)
    if not is_right(value):
        raise ValueError("a stored value has another type than durably writes")
    return value


def raise_defect(exc: Exception, what: str, defect: str | None) -> NoReturn:
    """Raise the error for a row that *exc* was raised for.

    Args:
        what: names the row.
        defect: what is wrong with the row; ``None`` if nothing is, so that *exc* is durably's.
    """
    if defect is None:
        raise exc
    raise defects.unreadable(what, defect) from exc


def readable(read: Callable[[A], B], rows: Iterable[A]) -> Iterator[B]:
    """Yield the result of *read* for each readable row; log a warning for each other one."""
    for row in rows:
        try:
            yield read(row)
        except DatabaseError as exc:
            if not exc.is_of_row:
                raise
            defects.note(str(exc))
    defects.log_noted()
