"""Values in messages: what a user handed in, told in a few characters.

Errors are stored, logged and sent around. So what may be a payload, a result or a part of one is
named by its type alone; names, keys, options and code are shown.
"""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 80


def shown(value: object) -> str:
    """*value* as ``repr`` shows it, cut short.

    Never raises: an object whose ``repr`` fails, such as a detached record of an ORM or an int
    of more digits than Python prints, must not hide what is wrong with it.
    """
    try:
        return repr(value)[:_LONGEST]
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<unprintable {type(value).__qualname__}>"


def type_name(value: object) -> str:
    """Say what *value* is without saying what is in it."""
    return "None" if value is None else type(value).__name__
