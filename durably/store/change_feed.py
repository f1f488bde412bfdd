"""Noticing commits: at once in this process, by polling in all others.

SQLite notifies nobody of a commit, so a waiting thread polls the file's ``data_version``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final, NamedTuple

from durably._platform.clock import Clock
from durably._platform.latch import Latch, Wakeups

# How often a waiting thread polls while there is work. The PRAGMA costs microseconds, but waking
# the thread for it many times that: at twice the rate it would take two percent of a core.
POLL_INTERVAL_S: Final = 0.020
# How often the dispatcher polls after a long time without a commit, and how fast it gets there:
# the pause is this part of the time since the last one.
IDLE_POLL_INTERVAL_S: Final = 0.25
_PAUSE_RATIO: Final = 0.1

# No version of a file.
_UNREAD: Final = -2


class Snapshot(NamedTuple):
    """What a waiting thread has seen: changes notified in this process, and the file's version."""

    notified: int
    data_version: int


class ChangeFeed:
    """Wakes threads when the database may have changed. Usable from any thread.

    Args:
        data_version: reads SQLite's ``data_version`` on a connection that never writes.
    """

    def __init__(self, data_version: Callable[[], int], clock: Clock) -> None:
        self._data_version = data_version
        self._clock = clock
        self._notified = 0
        # Each number is used once, so that two threads that report at once change it all the same.
        self._numbers = itertools.count(1)
        self._waiting = Wakeups()
        self._wakeup = Latch()
        # The version at the dispatcher's last wait, and when it was first seen.
        self._version: int | None = None
        self._changed_at_s = 0.0

    def notify(self) -> None:
        """Wake all waiting threads: something changed that this process knows of."""
        self._notified = next(self._numbers)
        self._waiting.wake_all()

    def notify_dispatcher(self) -> None:
        """Wake all waiting threads and the dispatcher: a run may be claimable."""
        self.wake_dispatcher()
        self.notify()

    def wake_dispatcher(self) -> None:
        """Wake the dispatcher, or keep it from its next sleep; no other thread."""
        self._wakeup.set()

    def forget_wakeups(self) -> None:
        """Make the dispatcher's next wait end only with a wakeup that is still to come."""
        self._wakeup.clear()

    def wait_for_wakeup(self, version: int, timeout_s: float, *, polls: bool) -> None:
        """Block until a wakeup or until *timeout_s* has passed; for the dispatcher's thread.

        Args:
            version: the file's version that the thread has seen: another one ends the wait too.
            polls: whether to poll for another one.
        """
        now_s = self._clock.monotonic()
        if version != self._version:
            self._version, self._changed_at_s = version, now_s
        if not polls:
            self._clock.wait(self._wakeup, timeout_s)
            return
        deadline_s = now_s + timeout_s
        while now_s < deadline_s and self._data_version() == version:
            pause_s = _PAUSE_RATIO * (now_s - self._changed_at_s)
            pause_s = min(max(pause_s, POLL_INTERVAL_S), IDLE_POLL_INTERVAL_S, deadline_s - now_s)
            if self._clock.wait(self._wakeup, pause_s):
                return
            now_s = self._clock.monotonic()

    def version(self) -> int:
        """Return the file's version now."""
        return self._data_version()

    def snapshot(self) -> Snapshot:
        """Return the present state; call it before reading what you then wait for."""
        return Snapshot(self._notified, self._data_version())

    def quick_snapshot(self) -> Snapshot:
        """Return the present state without reading the version: a wait ends with its first poll."""
        return Snapshot(self._notified, _UNREAD)

    def wait(self, seen: Snapshot, timeout_s: float, *, poll_s: float = POLL_INTERVAL_S) -> bool:
        """Block until something changed since *seen* or *timeout_s* has passed; return which."""
        deadline_s = self._clock.monotonic() + timeout_s
        while True:
            left_s = deadline_s - self._clock.monotonic()
            if self._waiting.wait_until(
                lambda: self._notified != seen.notified, min(left_s, poll_s)
            ):
                return True
            if self._data_version() != seen.data_version:
                return True
            if left_s <= 0:
                return False
