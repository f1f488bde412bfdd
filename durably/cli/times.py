"""Times as people type and read them: local, short, and relative where that says more."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

_AGO: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS: Final = {"today": 0, "yesterday": 1}

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400


def now() -> datetime:
    """Return the time, in the zone of this machine."""
    return datetime.now(UTC).astimezone()


class Instant(click.ParamType):  # type: ignore[type-arg]  # of click 8.5, and not of 8.2
    """A point in the past: ``yesterday``, ``30d``, or an ISO date with or without a time."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what was typed as an aware instant."""
        if isinstance(value, datetime):
            return value
        text = value.strip().lower()
        try:
            if text in _DAYS:
                midnight = now().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
                return (midnight - timedelta(days=_DAYS[text])).astimezone()
            ago = _AGO.fullmatch(text)
            if ago is not None:
                return now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
            # One without a zone is of this machine's.
            return datetime.fromisoformat(value.strip()).astimezone()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: write yesterday, today, 90m, 24h, 30d, 2026-11-28 or "
                "2026-11-28T14:30",
                param,
                ctx,
            )


def moment(when: datetime | None) -> str:
    """Return an instant for a table: the day and the time, with the year if it is another one."""
    if when is None:
        return ""
    local = when.astimezone()
    return f"{local:%m-%d %H:%M}" if local.year == now().year else f"{local:%Y-%m-%d}"


def lasted(seconds: float | None) -> str:
    """Return a time span with the precision that people need."""
    if seconds is None:
        return ""
    if round(seconds, 1) < _MINUTE_S:
        return f"{seconds:.2f} s" if seconds < 0.1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02} min"
    return f"{whole // _DAY_S:,} d {whole % _DAY_S // _HOUR_S} h"


def since(when: datetime) -> float:
    """Return the seconds from an instant until now, none if the clock was set back."""
    return max(0.0, (datetime.now(UTC) - when).total_seconds())
