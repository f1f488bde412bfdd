"""How long a wait lasts, and when it checks for workers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from durably._platform.clock import Clock
from durably._platform.lock_timeouts import limited

# How often a waiting thread checks whether anything can still execute its run.
_WORKER_CHECK_S: Final = 1.0


class Patience:
    """How long one wait lasts, and when it checks for workers again."""

    def __init__(self, clock: Clock, timeout_s: float | None) -> None:
        self._clock = clock
        self._deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        self._next_check = clock.monotonic()
        self._was_stuck = False

    @property
    def is_endless(self) -> bool:
        """Return whether there is no timeout."""
        return self._deadline is None

    def is_stuck_again(self, *, is_stuck: bool) -> bool:
        """Return whether it is stuck and was at the last check: another job may just continue."""
        was_stuck, self._was_stuck = self._was_stuck, is_stuck
        return was_stuck and is_stuck

    def is_over(self) -> bool:
        """Return whether the timeout is over."""
        return self._deadline is not None and self._clock.monotonic() >= self._deadline

    def is_check_due(self) -> bool:
        """Return whether to check for workers now, and note that it is done."""
        now = self._clock.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + _WORKER_CHECK_S
        return True

    def limited(self) -> AbstractContextManager[None]:
        """Limit the waits of the calling thread for locks to the timeout, within the block."""
        return limited(self._clock, self.left())

    def left(self) -> float | None:
        """Return the seconds that are left; ``None`` without a timeout."""
        return None if self._deadline is None else self._deadline - self._clock.monotonic()

    def longest_pause(self) -> float:
        """Return the seconds after which to read the run at the latest."""
        if self._deadline is None:
            return _WORKER_CHECK_S
        return max(0.0, min(_WORKER_CHECK_S, self._deadline - self._clock.monotonic()))
