"""Times for people: how long something takes, with the precision that they need."""

from __future__ import annotations

from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
# Shorter times are shown with tenths.
_BRIEF_S: Final = 10


def span(seconds: float, *, brief_s: float = _BRIEF_S) -> str:
    """Return a time for people, with tenths below *brief_s*."""
    if round(seconds, 1) < brief_s:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S:,} h {whole % _HOUR_S // _MINUTE_S} min"


def limited_text(workers: int, wait_s: float) -> str:
    """Return what is said while nothing begins for so long."""
    who = "waiting" if workers == 1 else f"all {workers:,} workers wait"
    return f"rate limited: {who} {span(wait_s)} (Ctrl-C is safe)"
