"""Times, durations and values in the words that people read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, cast

from durably._platform.displayable import displayable
from durably._platform.safe_repr import safe_repr, safe_str
from durably._platform.spans import span

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400

# So many elements of a container are shown from its beginning, and from its end.
_FIRST: Final = 20
_LAST: Final = 4
_MOST_LEVELS: Final = 6
_LONGEST: Final = 1000
_BRACKETS: Final[dict[type, Sequence[str]]] = {
    list: "[]",
    tuple: "()",
    dict: "{}",
    set: "{}",
    frozenset: ("frozenset({", "})"),
}


def took(seconds: float) -> str:
    """Return a duration with the precision that people need, as ``0.3 s`` or ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return ""
    if not round(seconds, 1):
        return f"{max(0, seconds) * 1000:.0f} ms"
    whole = round(seconds)
    if whole >= _DAY_S:
        return f"{whole // _DAY_S:,} d {whole % _DAY_S // _HOUR_S} h"
    return span(seconds)


def ago(then: datetime, now: datetime | None = None) -> str:
    """Return when something was: how long ago within a day, else the local date and time."""
    now = datetime.now(UTC) if now is None else now
    past_s = (now - then).total_seconds()
    for most_s, unit_s, unit in (
        (_MINUTE_S, 1, "s"),
        (_HOUR_S, _MINUTE_S, "min"),
        (_DAY_S, _HOUR_S, "h"),
    ):
        if 0 <= past_s < most_s:
            return f"{past_s // unit_s:.0f} {unit} ago"
    local = _local(then)
    return f"{local:%m-%d %H:%M}" if local.year == _local(now).year else f"{local:%Y-%m-%d %H:%M}"


def exact(then: datetime) -> str:
    """Return an instant in local time, with its offset from UTC."""
    return _local(then).isoformat(" ")


def _local(then: datetime) -> datetime:
    try:
        return then.astimezone()
    except (OverflowError, OSError, ValueError):  # at either end of the calendar
        return then


def value_text(value: object, width: int) -> str:
    """Return the ``repr`` of a value as one line of at most *width* characters.

    Takes no longer for plain data of 10 MB than for a few lines, and never raises.
    """
    return displayable(_bounded(value, width, 0), width)


def plain(value: object) -> str:
    """Return ``str`` of a value, cut where plain data is long; never raises."""
    kind = type(value)
    if kind is str:
        return cast("str", value)
    return _bounded(value, _LONGEST, 0) if kind in _BRACKETS or kind is bytes else safe_str(value)


def text(value: object, width: int) -> str:
    """Return ``str`` of a value as one line of at most *width* characters."""
    return displayable(plain(value), width)


def _bounded(value: Any, width: int, level: int) -> str:
    """Return the ``repr`` of a value, in which what is long is cut already."""
    kind = type(value)
    if kind is str or kind is bytes:
        return _bounded_text(value, width)
    if kind in _BRACKETS:
        if level >= _MOST_LEVELS:
            return "…"
        return _bounded_container(value, width, level + 1)
    return safe_repr(value)


def _bounded_text(value: str | bytes, width: int) -> str:
    if len(value) <= 2 * width:
        return repr(value)
    ends = repr(value[:width])[:-1], repr(value[-width:])
    return f"{ends[0]}…{ends[1].lstrip('b')[1:]}"


def _bounded_container(value: Any, width: int, level: int) -> str:
    if not value:
        return repr(value)

    def shown(items: Iterable[Any]) -> list[str]:
        if isinstance(value, dict):
            pairs = ((_bounded(k, width, level), _bounded(value[k], width, level)) for k in items)
            return [f"{key}: {each}" for key, each in pairs]
        return [_bounded(each, width, level) for each in items]

    count = len(value)
    if count <= _FIRST + _LAST:
        parts = shown(value)
    else:
        # Of a set no elements are the last ones.
        last = [] if isinstance(value, set | frozenset) else list(islice(reversed(value), _LAST))
        more = f"… {count - _FIRST - len(last):,} more …"
        parts = [*shown(islice(value, _FIRST)), more, *shown(reversed(last))]
    opening, closing = _BRACKETS[type(value)]
    comma = "," if count == 1 and type(value) is tuple else ""
    return f"{opening}{', '.join(parts)}{comma}{closing}"
