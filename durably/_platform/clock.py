"""The clocks, which tests can replace here.

Two readings that are never mixed: ``now_us`` is for people and may jump; ``monotonic`` is for
deadlines, never jumps, and continues while a test has frozen the time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from durably._platform.latch import Latch
from durably._platform.realtime import monotonic, perf_counter_ns

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Clock:
    """The machine's clocks. Stateless, usable from any thread."""

    def now_us(self) -> int:
        """Return the time of the wall clock in microseconds since the epoch."""
        return time.time_ns() // 1000

    # Returns the seconds since an arbitrary point; they never go back.
    monotonic = staticmethod(monotonic)

    def wait(self, latch: Latch, timeout_s: float | None) -> bool:
        """Block until *latch* is set or *timeout_s* seconds have passed; return whether it is."""
        return latch.wait(timeout_s)


def jittered(wait_s: float) -> float:
    """Return between half of *wait_s* and all of it, so that waiting threads do not try at once.

    It uses the nanoseconds of the clock. Better random numbers would not help more, and importing
    the module for them takes as long as importing six of durably's.
    """
    return wait_s * (0.5 + perf_counter_ns() % 1000 / 1998)


def to_datetime(us: int) -> datetime:
    """Return the aware UTC instant *us* microseconds after the epoch."""
    return _EPOCH + timedelta(0, 0, us)  # by keyword it takes half as long again


def from_datetime(instant: datetime) -> int:
    """Return the microseconds since the epoch of an aware *instant*."""
    return (instant - _EPOCH) // _MICROSECOND


def moment(us: int) -> str:
    """Return a time for people: that of the day, with the date if it is another one."""
    then = to_datetime(us).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return f"{then:%H:%M}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"
