"""Time: the one place to replace in tests.

Two readings that are never mixed: ``now_us`` is for people and may jump;
``monotonic`` is for deadlines, never does, and goes on while a test has frozen the time.
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
        """The wall clock in microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds from an arbitrary point, never going back."""
        return monotonic()

    def wait(self, latch: Latch, timeout_s: float | None) -> bool:
        """Block until *latch* is set or *timeout_s* seconds have passed; return whether it is."""
        return latch.wait(timeout_s)


def jittered(wait_s: float) -> float:
    """Between half of *wait_s* and all of it, so that those who wait for one thing part.

    By the nanoseconds at which each of them asks. Better random numbers would not part them
    better, and the module that makes those takes as long to import as six of durably's.
    """
    return wait_s * (0.5 + perf_counter_ns() % 1000 / 1998)


def to_datetime(us: int) -> datetime:
    """The aware UTC instant *us* microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=us)


def from_datetime(instant: datetime) -> int:
    """Microseconds since the epoch of an aware *instant*."""
    return (instant - _EPOCH) // _MICROSECOND
