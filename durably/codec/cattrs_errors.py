"""Convert errors of cattrs to paths and texts, and raise errors of the same form."""

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
    """A required key is missing. Not a ``KeyError``, which a user's hook may raise."""


def with_note(error: Exception, place: str | int) -> Exception:
    """Add a note to an error, as cattrs does, that names the field or item."""
    note = (
        AttributeValidationNote("", place, None)
        if isinstance(place, str)
        else IterableValidationNote("", place, None)
    )
    error.__notes__ = [*getattr(error, "__notes__", ()), note]
    return error


def problems_in(error: BaseException, path: str = "$") -> Iterator[tuple[str, str]]:
    """Yield (path, text) for each problem in an error of structuring."""
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
