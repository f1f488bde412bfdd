"""Timers: wakes the runs whose time has come, and says when the next one is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durably._platform.clock import Clock

if TYPE_CHECKING:
    from durably.store.api import Store


class Timers:
    """Wakes waiting runs, and pending ones that were not due. Usable from any thread.

    They are due by the wall clock, which may jump: it is read anew each time.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def wake_due(self) -> None:
        """Make all runs claimable that are due now. Reads a row, and writes only if there are any.

        The runs of a batch are claimable before the next batch is read.
        """
        now_us = self._clock.now_us()
        due_us = self._store.next_due_us()
        if due_us is None or due_us > now_us:
            return
        while self._store.wake_due(now_us):
            self._store.changes.notify_dispatcher()

    def instant_us(self, after_s: float) -> int:
        """Return the instant that many seconds from now."""
        return self._clock.now_us() + int(after_s * 1e6)

    def is_due_by(self, instant_us: int) -> bool:
        """Return whether a run is due by that instant."""
        due_us = self._store.next_due_us()
        return due_us is not None and due_us <= instant_us

    def seconds_left(self, most_s: float) -> float:
        """Return the seconds until the next run is due, *most_s* at most, never below 0."""
        due_us = self._store.next_due_us()
        if due_us is None:
            return most_s
        return max(0.0, min(most_s, (due_us - self._clock.now_us()) / 1e6))
