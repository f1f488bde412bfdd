"""Names, keys and labels: what text is fit to be stored as one."""

from __future__ import annotations

import unicodedata

from durably._platform.safe_repr import short_repr, type_name
from durably.errors import ValidationError


def check_text(value: object, what: str, *, longest: int | None = None) -> str:
    """*value* as a name or key: text that is not empty, storable, and not too long.

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
    """Refuse what SQLite would cut short (NUL) or UTF-8 cannot hold (lone surrogates)."""
    if "\0" in value:
        raise ValidationError(f"{what} holds a NUL character: {short_repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"{what} holds a lone surrogate: {value!a:.80}") from None


def check_name(value: object, what: str, *, longest: int) -> str:
    """*value* as a name: storable text without control characters.

    Raises:
        ValidationError: it is not; the message begins with *what*.
    """
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= longest:
        return value  # the usual case in a hurry: such text holds nothing that is refused below
    name = check_text(value, what, longest=longest)
    # Printable text, the usual case, holds no control characters.
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) == "Cc":
                raise ValidationError(
                    f"{what} holds the control character {character!a}: {name!a:.80}"
                )
    return name
