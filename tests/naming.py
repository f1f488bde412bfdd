"""Names for parametrized tests: the same in each process, whatever lies where in its memory."""

from __future__ import annotations

import re

_LONGEST = 40
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def plainly(value: object) -> str:
    """What *value* looks like, in a few characters of ASCII; its type, if it will not say."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} of {len(value)}"  # their order is another one each time
    try:
        text = ascii(value)
    except Exception:
        text = f"<{type(value).__qualname__}>"
    return _ADDRESS.sub("", text[: 2 * _LONGEST])[:_LONGEST]
