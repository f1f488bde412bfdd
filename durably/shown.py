"""Values in messages: what a user handed in, told in a few characters."""

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
