"""Time: the one place to replace in tests.

Two readings that are never mixed: ``now_us`` is for people and may jump;
``monotonic`` is for deadlines, never does, and goes on while a test has frozen the time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from durably.interrupts import INTERRUPT_LOOK_S, held_back, is_interruptible
from durably.realtime import monotonic, perf_counter_ns

if TYPE_CHECKING:
    import threading

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

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Block until *event* is set or *timeout_s* seconds have passed; say whether it is set."""
        if not is_interruptible():
            return event.wait(timeout_s)
        deadline = None if timeout_s is None else self.monotonic() + timeout_s
        interrupts = held_back()
        with interrupts:
            left_s = INTERRUPT_LOOK_S if timeout_s is None else timeout_s
            while left_s > 0 and not event.wait(min(left_s, INTERRUPT_LOOK_S)):
                interrupts.check()
                left_s = INTERRUPT_LOOK_S if deadline is None else deadline - self.monotonic()
        return event.is_set()


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
