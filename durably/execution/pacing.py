"""How often something may begin, and when next."""

from __future__ import annotations

import math
import threading
from datetime import datetime, timedelta

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.realtime import monotonic
from durably._platform.safe_repr import short_repr
from durably.errors import RetryAfter, ValidationError


def check_rate(value: object, what: str) -> None:
    """Raise ``ValidationError`` if *value* is not a number of beginnings a second."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value < math.inf
        or 1 / value > threading.TIMEOUT_MAX
    ):
        raise ValidationError(f"{what} must be a number greater than zero, not {short_repr(value)}")


class RateLimit:
    """At most so many beginnings a second, evenly spread, of all that share this object.

    Pass one as ``per_second`` to several maps whose functions use the same service. Usable from any
    thread; it counts in this process alone.

    Args:
        per_second: how many may begin in a second, on average; may be below 1.
        burst: how many may begin at once after a pause.

    Raises:
        ValidationError: *per_second* is not a positive number, or *burst* not a positive int.

    .. versionadded:: 0.2.0
    """

    def __init__(self, per_second: float, burst: int = 1) -> None:
        check_rate(per_second, "RateLimit.per_second")
        if isinstance(burst, bool) or not isinstance(burst, int) or burst < 1:
            raise ValidationError(
                f"RateLimit.burst must be an int of at least 1, not {short_repr(burst)}"
            )
        self._per_second = per_second
        self._burst = burst
        self._interval_s = 1 / per_second
        self._lock = threading.Lock()  # guards the one below
        self._next_s = -math.inf

    def __repr__(self) -> str:
        return f"RateLimit({self._per_second!r}, burst={self._burst!r})"

    def _reserve(self, now_s: float) -> float:
        with self._lock:
            earliest_s = now_s - (self._burst - 1) * self._interval_s
            self._next_s = max(self._next_s, earliest_s)
            at_s = max(self._next_s, now_s)
            self._next_s += self._interval_s
            return at_s


def reserve(rate: RateLimit) -> float:
    """Return when the caller may begin, by the monotonic clock; nobody else may then."""
    return rate._reserve(monotonic())  # noqa: SLF001 - private to users alone


class Pace:
    """When the next item of a map may begin. Usable from any thread.

    Args:
        until: ends each wait when it is set.
    """

    def __init__(self, rate: RateLimit | None, clock: Clock, until: Latch) -> None:
        self._rate = rate
        self._clock = clock
        self._until = until
        self._not_before_s = -math.inf

    def postpone(self, seconds: float) -> bool:
        """Postpone what begins next by so long; return whether that is later than before."""
        not_before_s = self._clock.monotonic() + seconds
        is_later = not_before_s > self._not_before_s
        self._not_before_s = max(self._not_before_s, not_before_s)
        return is_later

    def reserve(self) -> float:
        """Reserve a turn; return when something may begin, by the monotonic clock."""
        return -math.inf if self._rate is None else reserve(self._rate)

    @property
    def not_before_s(self) -> float:
        """Return until when nothing may begin, by the monotonic clock."""
        return self._not_before_s

    def now_s(self) -> float:
        """Return the time of that clock."""
        return self._clock.monotonic()

    def await_turn(self) -> bool:
        """Wait until something may begin; return whether it still may."""
        if self._rate is None and self._not_before_s == -math.inf:
            return not self._until.is_set()
        if self._rate is not None:
            self._wait(reserve(self._rate))
        while (at_s := self._not_before_s) > self._clock.monotonic():
            if not self._wait(at_s):
                break
        return not self._until.is_set()

    def _wait(self, at_s: float) -> bool:
        left_s = at_s - self._clock.monotonic()
        return left_s <= 0 or not self._clock.wait(self._until, min(left_s, threading.TIMEOUT_MAX))


def seconds_until(after: RetryAfter, clock: Clock) -> float:
    """Return how long the exception asks to wait."""
    when = after.when
    if isinstance(when, datetime):
        return max(0.0, when.timestamp() - clock.now_us() / 1e6)
    if isinstance(when, timedelta):
        when = when.total_seconds()
    return max(0.0, min(when, threading.TIMEOUT_MAX))
