"""Check the text of names, keys and labels before it is stored."""

from __future__ import annotations

import unicodedata

from durably._platform.safe_repr import short_repr, type_name
from durably.errors import ValidationError


def check_text(value: object, what: str, *, longest: int | None = None) -> str:
    """Return *value* if it is text that can be a name or key: not empty, storable, not too long.

    Raises:
        ValidationError: it is not; the message begins with *what*.
    """
    if not isinstance(value, str):
        raise not_a_str(value, what)
    if not value:
        raise ValidationError(f"{what} must not be empty")
    if longest is not None and len(value) > longest:
        raise ValidationError(f"{what} has {len(value)} characters; {longest} are allowed")
    check_storable(value, what)
    return value


def not_a_str(value: object, what: str) -> ValidationError:
    """Return the error for *value*, which is not text; the message begins with *what*."""
    advice = "" if value is None or callable(value) else "; convert it with str()"
    return ValidationError(f"{what} must be a str, not {type_name(value)}{advice}")


def check_storable(value: str, what: str) -> None:
    """Raise ``ValidationError`` for a NUL, where SQLite cuts text, or a lone surrogate.

    UTF-8 cannot encode a lone surrogate.
    """
    if "\0" in value:
        raise ValidationError(f"{what} contains a NUL character: {short_repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"{what} contains a lone surrogate: {value!a:.80}") from None


def check_name(value: object, what: str, *, longest: int) -> str:
    """Return *value* if it can be a name: storable text without control characters.

    Raises:
        ValidationError: it is not; the message begins with *what*.
    """
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= longest:
        return value  # the usual case, fast: such text contains nothing that is rejected below
    name = check_text(value, what, longest=longest)
    # Printable text, the usual case, contains no control characters.
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) == "Cc":
                raise ValidationError(
                    f"{what} contains the control character {character!a}: {name!a:.80}"
                )
    return name
