"""Return representations of a user's values for messages: short, and without ever raising.

Errors are stored, logged and sent. So a message names a payload, a result or a part of one by its
type alone, and contains names, keys, options and code.
"""

from __future__ import annotations

import builtins
from typing import Final

from durably._platform.displayable import escaped
from durably._platform.nesting import MAX_DEPTH, is_too_deep
from durably._platform.signals import raise_if_signal

_LONGEST: Final = 80


def short_repr(value: object) -> str:
    """Return the first 80 characters of ``repr`` of *value*.

    Never raises: an object whose ``repr`` fails, such as a detached record of an ORM or an int
    of more digits than Python prints, must not hide the error.
    """
    return safe_repr(value)[:_LONGEST]


def safe_repr(value: object) -> str:
    """Return what ``repr`` returns, or the name of its type where that fails.

    Never raises, and never ends the process, as ``repr`` of a deep value may.
    """
    if is_too_deep(value):
        return too_deep(value)
    try:
        return repr(value)
    except Exception as raised:  # noqa: BLE001 - a user's __repr__ may raise anything
        raise_if_signal(raised)
        return f"<unprintable {type(value).__qualname__}>"


def safe_str(value: object) -> str:
    """Return what ``str`` returns, under the same guarantees as :func:`safe_repr`."""
    if is_too_deep(value):
        return too_deep(value)
    try:
        return str.__str__(value if isinstance(value, str) else str(value))
    except Exception as raised:  # noqa: BLE001 - a user's __str__ may raise anything
        raise_if_signal(raised)
        return f"<unprintable {type(value).__qualname__}>"


def on_one_line(text: str, longest: int | None = None) -> str:
    """Return *text* with what a terminal acts on escaped, and cut if it is too long."""
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return escaped(text)


def too_deep(value: object) -> str:
    """Return what stands for a value that is nested too deeply to be shown."""
    return f"<{type(value).__qualname__}, nested more deeply than {MAX_DEPTH} levels>"


def type_name(value: object) -> str:
    """Return the name of the type of *value*.

    It includes the module if a builtin has the same name, as NumPy's ``bool``.
    """
    cls = type(value)
    if value is None:
        return "None"
    is_alike = getattr(builtins, cls.__name__, cls) is not cls
    return full_name(cls) if is_alike else cls.__name__


def full_name(cls: type) -> str:
    """Return the name of a class with its module, as ``numpy.bool``; builtins have none."""
    module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return f"{module}{cls.__qualname__}"
