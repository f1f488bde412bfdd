"""Convert JSON-like data to ASCII text and back, unchanged where Python's json would change it."""

from __future__ import annotations

import json
import re
import sys
from _json import encode_basestring_ascii, make_encoder
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from durably._platform.safe_repr import type_name

if TYPE_CHECKING:
    from decimal import Decimal


def _reject(value: object) -> NoReturn:
    msg = f"{type_name(value)} is not JSON-like"
    raise TypeError(msg)


# What ``json.dumps`` and ``json.loads`` call in the end, made once: a program that patches the json
# module, to round its floats or to parse them as Decimal, changes nothing that is stored.
_chunks: Final = make_encoder(
    None,  # nothing is remembered to find circles: what is written was copied, and has none
    _reject,
    encode_basestring_ascii,
    None,  # no indent
    ":",
    ",",
    False,  # keys stay in their order
    False,  # no key is skipped
    True,  # NaN and infinities are written
)
_decoder: Final = json.JSONDecoder()
_scan: Final = _decoder.scan_once  # type: ignore[attr-defined]  # which decode calls in the end

# JSON writes a character outside the BMP as two escaped surrogates, and so two surrogates
# that are side by side in a str would be read back as that one character. In a text that
# begins with a space, there is one more NUL between such neighbours than in the value.
_MARK: Final = " "

TAGGED: Final = "\t"
"""The first character of a text with tagged values, which :mod:`durably.codec.forms` describes."""

FILED: Final = "\n"
"""The first character of a text that only says in which file the text is. No other begins so."""

# Compiled when first needed, for an emoji at the earliest: it takes as long as importing a module.
_SPLIT: Final = "([\ud800-\udbff]\x00*)(?=[\udc00-\udfff])"
_JOIN: Final = "([\ud800-\udbff])\x00(\x00*)(?=[\udc00-\udfff])"

# The ASCII characters that json escapes, the most frequent ones first, each once.
_ESCAPED: Final = tuple(dict.fromkeys(("\n", '"', "\\", *map(chr, range(32)), "\x7f")))
# C code that reads JSON takes some of the stack for each level. On Python 3.11 only the
# recursion limit keeps it from taking more than there is. Up to these it is safe everywhere.
_SAFE_RECURSION: Final = 3000
_SAFE_NESTING: Final = 1000
_STRUCTURE: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]'
# From so many characters on, searching for each of these costs less than json's own loop.
_LARGE: Final = 1000


def dump(data: Any) -> str:
    """Return plain JSON-like data as a text from which :func:`load` returns the same data."""
    if type(data) is str and data.isascii():
        return _quote(data)
    try:
        text = repr(data) if type(data) is int else "".join(_chunks(data, 0))
    except ValueError:  # an integer of more digits than Python converts
        text = _write_slowly(data)
    # Emoji have escaped surrogates in the text too; only the data can
    # distinguish them. Searching for one character is much faster than searching for three.
    if "\\" in text and "\\ud" in text:
        marked = _each_text(data, lambda text: re.sub(_SPLIT, "\\1\x00", text))
        if marked != data:
            return _MARK + _write_slowly(marked)
    return text


def dump_any(data: Any, default: Callable[[Any], Any]) -> str:
    """Return any data as JSON, with *default* for what is not JSON-like; skip keys other than str.

    Raises:
        ValueError: it is circular, or holds an integer of more digits than Python converts.
    """
    write = make_encoder(
        {},
        default,
        encode_basestring_ascii,
        None,
        ":",
        ",",
        sort_keys=False,
        skipkeys=True,
        allow_nan=True,
    )
    return "".join(write(data, 0))


def is_plain(text: str) -> bool:
    """Return whether a text has only JSON: no tagged values, no NaN, no infinities."""
    names = ("NaN", "Infinity")
    if not any(name in text for name in names):
        return not text.startswith(TAGGED)
    found: list[str] = []
    json.loads(text, parse_constant=found.append)
    return not found and not text.startswith(TAGGED)


def load(text: str, revive: Callable[[str], Any] | None = None) -> Any:
    """Return the data of a text that :func:`dump` wrote, or of any other JSON.

    Args:
        revive: returns the value of a text with tagged values, which begins with :data:`TAGGED`.
            Without it their data is returned.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    if len(text) > _SAFE_NESTING and _is_too_deep(text):
        raise RecursionError
    try:
        data, end = _scan(text, 0)
        if end == len(text):
            return data
    except (ValueError, StopIteration):
        pass  # it begins with a mark; or it is invalid, which the next line reports
    if text.startswith(TAGGED):
        inside = text.lstrip(TAGGED)
        return load(inside) if revive is None else revive(inside)
    try:
        data = _decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts
        data = json.JSONDecoder(parse_int=from_digits).decode(text)
    if text.startswith(_MARK):
        return _each_text(data, lambda text: re.sub(_JOIN, "\\1\\2", text))
    return data


def _is_too_deep(text: str) -> bool:
    return sys.getrecursionlimit() > _SAFE_RECURSION and nesting(text) > _SAFE_NESTING


def load_all(texts: Sequence[str], revive: Callable[[str], Any] | None = None) -> list[Any]:
    """Return the data of several texts, each as :func:`load` returns it, with fewer calls.

    Raises:
        ValueError: one is not JSON.
        RecursionError: one is nested too deeply.
    """
    if sys.getrecursionlimit() > _SAFE_RECURSION:
        return [load(text, revive) for text in texts]
    loaded = []
    for text in texts:
        try:
            data, end = _scan(text, 0)
        except (ValueError, StopIteration):
            data, end = None, -1
        loaded.append(data if end == len(text) else load(text, revive))
    return loaded


def nesting(text: str) -> int:
    """Return how deeply the arrays and objects of a JSON text are nested, or more."""
    openings = text.count("[") + text.count("{")
    if openings <= _SAFE_NESTING:
        return openings
    depth = deepest = 0
    for match in re.finditer(_STRUCTURE, text):
        found = match[0]
        depth += (found in "[{") - (found in "]}")
        deepest = max(deepest, depth)
    return deepest


def to_digits(number: int) -> str:
    """Return the decimal digits of an integer of any size.

    ``str`` rejects more than 4300 digits, or fewer if so configured; ``Decimal`` is exact
    and has no such limit.
    """
    from decimal import Decimal  # noqa: PLC0415 - where first needed

    return str(Decimal(number))


def from_digits(text: str) -> int:
    """Return the integer, of any size, whose decimal digits are *text*."""
    return int(to_decimal(text))


def to_decimal(text: str) -> Decimal:
    """Return the number that *text* is, exactly, regardless of the calling thread's context.

    Raises:
        ArithmeticError: it is not a number. Where the thread's context does not trap that,
            ``Decimal(text)`` is a NaN.
    """
    from decimal import Context, Decimal, InvalidOperation  # noqa: PLC0415 - where first needed

    return Decimal(text, Context(traps=[InvalidOperation]))


def _quote(text: str) -> str:
    """Write ASCII text as json does, but faster where nothing is to be escaped.

    json goes from character to character. A search for one character reads dozens at a time,
    so that even a search for each of those that are escaped is several times as fast.
    """
    if len(text) < _LARGE or any(escaped in text for escaped in _ESCAPED):
        return encode_basestring_ascii(text)
    return f'"{text}"'


def _write_slowly(data: Any) -> str:
    if isinstance(data, dict):
        pairs = (
            f"{encode_basestring_ascii(key)}:{_write_slowly(item)}" for key, item in data.items()
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(_write_slowly, data)) + "]"
    return to_digits(data) if type(data) is int else "".join(_chunks(data, 0))


def _each_text(data: Any, change: Callable[[str], str]) -> Any:
    """Copy *data* with all its strings changed."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {change(key): _each_text(item, change) for key, item in data.items()}
    return [_each_text(item, change) for item in data] if isinstance(data, list) else data
