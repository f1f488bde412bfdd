"""What cattrs says is wrong, and what is said to it in the same way."""

from __future__ import annotations

from collections.abc import Iterator

from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from durably.codec import messages
from durably.codec.messages import segment, show


class MissingKeyError(Exception):
    """A required key is not there. A hook of the user's may raise any ``KeyError`` itself."""


def with_note(error: Exception, place: str | int) -> Exception:
    """Note on an error, as cattrs does, which field or item it is about."""
    note = (
        AttributeValidationNote("", place, None)
        if isinstance(place, str)
        else IterableValidationNote("", place, None)
    )
    error.__notes__ = [*getattr(error, "__notes__", ()), note]
    return error


def problems_in(error: BaseException, path: str = "$") -> Iterator[tuple[str, str]]:
    """Give (path, what is wrong) for everything in an error of structuring."""
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        inside, whole = error.group_exceptions()
        for inner, note in inside:
            place = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from problems_in(inner, path + segment(place))
        for inner in whole:
            yield from problems_in(inner, path)
    elif isinstance(error, MissingKeyError):
        yield path, "required, but missing"
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields, key=show):
            yield path + segment(key), "unknown key"
    else:
        yield from messages.problems_in(error, path)
