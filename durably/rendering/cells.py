"""The cells of tables and cards, as HTML: one function for each kind.

What comes from users is cut, made harmless for a line of text, and escaped. Styles are written
into the elements: style sheets do not survive where notebooks are shown without being trusted.
Colours suit light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from durably.rendering import words

_NAME_WIDTH: Final = 60
_VALUE_WIDTH: Final = 100
_WIDE: Final = 400
_LINES: Final = 40
_SHORT_ID: Final = 8
_NUMBER_WIDTH: Final = 20
# Longer numbers are not divided into groups.
_LARGE: Final = 10**15
_BAR_PX: Final = 240

COLOURS: Final = {
    "completed": "#2e7d32",
    "failed": "#c62828",
    "error": "#c62828",
    "running": "#1565c0",
    "info": "#1565c0",
    "warning": "#a15c00",
    "cancelled": "#8d6e63",
    "interrupted": "#8d6e63",
}
GREY: Final = "#757575"

_CODE: Final = "font-family:monospace;unicode-bidi:isolate"
_FAINT: Final = "opacity:.65"


def span(text: str, style: str, *, title: str = "") -> str:
    """Return an element with that text, which is escaped."""
    tooltip = f' title="{escape(title)}"' if title else ""
    return f'<span style="{style}"{tooltip}>{escape(text)}</span>'


def status(value: Any) -> str:
    """Return a status as a label in its colour."""
    word = words.text(value, _NAME_WIDTH)
    colour = COLOURS.get(word, GREY)
    return span(
        word, f"background:{colour};color:#fff;border-radius:1em;padding:1px 8px;font-size:90%"
    )


def name(value: Any) -> str:
    """Return a name or another short text."""
    return "" if value is None else f"<bdi>{escape(words.text(value, _NAME_WIDTH))}</bdi>"


def id(value: Any) -> str:  # noqa: A001 - the name of a kind
    """Return an id."""
    return span(words.text(value, _NAME_WIDTH), f"{_CODE};{_FAINT}")


def path(value: Any) -> str:
    """Return a path."""
    return span(words.text(value, _WIDE), f"{_CODE};overflow-wrap:anywhere")


def short_id(value: Any) -> str:
    """Return the end of a run's id, the whole as its tooltip."""
    whole = words.text(value, _NAME_WIDTH)
    return span(whole[-_SHORT_ID:], f"{_CODE};{_FAINT}", title=whole)


def number(value: Any) -> str:
    """Return a number."""
    if value is None:
        return ""
    is_short = isinstance(value, int | float) and abs(value) < _LARGE
    if is_short and value == int(value):
        return f"{int(value):,}"
    return escape(words.text(value, _NUMBER_WIDTH))


def code(value: Any) -> str:
    """Return the ``repr`` of a value."""
    return span(words.value_text(value, _VALUE_WIDTH), _CODE)


def wide_code(value: Any) -> str:
    """Return more of the ``repr`` of a value, for a card."""
    return span(words.value_text(value, _WIDE), f"{_CODE};overflow-wrap:anywhere")


def message(value: Any) -> str:
    """Return a message, such as that of an error."""
    return "" if value is None else f"<bdi>{escape(words.text(value, _VALUE_WIDTH))}</bdi>"


def lines(value: Any) -> str:
    """Return text of several lines, such as a traceback; long ones are cut in the middle."""
    shown, most = words.plain(value), _LINES * _WIDE
    if len(shown) > most:
        shown = f"{shown[: most // 2]}\n…\n{shown[-most // 2 :]}"
    each = shown.strip("\n").split("\n")
    if len(each) > _LINES:
        each[_LINES // 2 : -_LINES // 2] = ["…"]
    text = "\n".join(escape(words.text(line, _WIDE)) for line in each)
    return f'<pre style="margin:0;white-space:pre-wrap;unicode-bidi:isolate">{text}</pre>'


def outcome(value: Any) -> str:
    """Return the output of what has completed, or a message that says why it has not.

    Args:
        value: the message if there is one, and the output.
    """
    said, output = value
    if said is not None:
        return message(said)
    return "" if output is None else code(output)


def when(then: Any) -> str:
    """Return how long ago something was, the exact local time as its tooltip."""
    if not isinstance(then, datetime):
        return ""
    return (
        f'<time datetime="{escape(then.isoformat())}" title="{escape(words.exact(then))}">'
        f"{escape(words.ago(then))}</time>"
    )


def seconds(value: Any) -> str:
    """Return a duration."""
    return "" if value is None else escape(words.took(value))


def lasted(value: Any) -> str:
    """Return how long something took, or takes so far.

    Args:
        value: its start and its end, each ``None`` if it is not known.
    """
    start, end = value
    if start is None:
        return ""
    until = datetime.now(UTC) if end is None else end
    took = words.took(max(0.0, (until - start).total_seconds()))
    return escape(f"{took} so far" if end is None else took)


def counts(value: Any) -> str:
    """Return how many things have which status.

    Args:
        value: the numbers by status.
    """
    return " ".join(f"{status(kind)} {number(count)}" for kind, count in value.items())


def bar(value: Any) -> str:
    """Return how far something is, as a bar and as numbers, or what of that is known.

    Args:
        value: the current number, the total, and a status.
    """
    current, total, kind = value
    part = _part(current, total)
    if part is None:
        return number(current)
    colour = COLOURS.get(words.plain(kind), GREY)
    return (
        f'<span style="display:inline-block;width:{_BAR_PX}px;height:8px;border-radius:3px;'
        f'background:rgba(128,128,128,.3);vertical-align:middle">'
        f'<span style="display:block;width:{part * 100:.1f}%;height:8px;border-radius:3px;'
        f'background:{colour}"></span></span> {number(current)}/{number(total)}'
    )


def _part(current: Any, total: Any) -> float | None:
    """Return a number between 0 and 1; ``None`` where it is not known."""
    if current is None or total is None or not total > 0:
        return None
    try:
        part = float(current / total)
    except OverflowError:
        return None
    return min(1.0, max(0.0, part)) if math.isfinite(part) else None


KINDS: Final[dict[str, Callable[[Any], str]]] = {
    each.__name__: each
    for each in (
        bar, code, counts, id, lasted, lines, message, name, number, outcome, path, seconds,
        short_id, status, when, wide_code,
    )
}  # fmt: skip
"""The functions by the names that columns have for them."""

RIGHT: Final = frozenset({"lasted", "number", "seconds"})
"""The kinds that are aligned at the right."""

WHOLE: Final = RIGHT | {"name", "short_id", "status", "when"}
"""The kinds of columns that are not broken into lines."""
