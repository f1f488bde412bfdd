"""Noticing commits: at once in this process, within milliseconds from another one.

SQLite tells nobody of a commit, so who waits looks at the file's version. Who waits for long, an
idle engine's thread that claims, has the kernel wake it for that where it can (``watch.py``).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from durably._platform.clock import Clock
from durably._platform.interrupts import raise_if_signal
from durably._platform.latch import Wakeups
from durably.store.sqlite.notify.watch import LogWatch, Woken, open_watch

# How often a waiting thread looks for commits of other processes. The PRAGMA costs microseconds,
# but waking the thread for it many times that: oftener, an idle engine would take a percent of
# a core; more rarely, another process's run would wait over 20 ms for its start.
LOOK_INTERVAL_S: Final = 0.020

# How often it looks all the same while the log is watched: there are file systems that do not tell
# of every write.
WATCHED_LOOK_S: Final = 0.25
# It comes to that by looks that are twice as long apart each time: a commit may be in its sync
# when the watch begins, with all that it writes written before.
FIRST_WATCHED_LOOK_S: Final = LOOK_INTERVAL_S

# The log is written before the commit is seen, by as much as a sync takes. After a write the
# first look is this much later, the next ones after twice as long each.
_FIRST_LOOK_S: Final = 0.001

# How many looks must find nothing before the log is watched: a watch costs a commit a microsecond
# and a waking, which are too many while there is a commit every few milliseconds.
_CALM_LOOKS: Final = 2


class Seen(NamedTuple):
    """What a waiter has seen: changes told in this process, and the file's version."""

    told: int
    data_version: int


class ChangeFeed:
    """Wakes threads when the database may have changed. Usable from any thread.

    Args:
        data_version: reads SQLite's ``data_version`` on a connection that never writes.
        log_path: the file that each commit writes to; without it, none is watched.
    """

    def __init__(
        self, data_version: Callable[[], int], clock: Clock, log_path: str | None = None
    ) -> None:
        self._data_version = data_version
        self._clock = clock
        self._log_path = log_path  # None once it turned out that it cannot be watched
        self._told = 0
        # Each number is used once, so that two threads that report at once change it all the same.
        self._numbers = itertools.count(1)
        self._waiting = Wakeups()
        # Taken until there is an offer. A lock and no latch: opening it is one call, and waiting at
        # it costs an idle engine the least.
        self._gate = threading.Lock()
        self._gate.acquire()
        # Takes the place of the gate once there is one. Who claims goes from one to the other
        # only in a wait, which ends with that as if there were an offer: whoever still wakes it
        # at the place that it has left has made the offer before that, so that the look for runs
        # that comes then finds it.
        self._watch: LogWatch | None = None
        # The version at the last wait for an offer, how many more looks must find it again before
        # the log is watched, and when the next look will be while it is.
        self._calm_version: int | None = None
        self._looks_until_calm = _CALM_LOOKS
        self._watched_look_s = FIRST_WATCHED_LOOK_S

    def notify(self) -> None:
        """Wake every waiter: something changed that this process knows of."""
        self._told = next(self._numbers)
        self._waiting.wake_all()

    def offer(self) -> None:
        """Wake every waiter, and who claims: a run may have become claimable, or may be claimed."""
        self.wake_claimer()
        self.notify()

    def wake_claimer(self) -> None:
        """Wake who claims, or keep it from its next sleep."""
        watch = self._watch
        if watch is not None and watch.ring():
            return
        if self._gate.locked():
            try:
                self._gate.release()
            except RuntimeError as exc:
                raise_if_signal(exc)  # otherwise somebody else was faster

    def forget_offers(self) -> None:
        """Let the next wait for an offer be for one that is still to come."""
        self._gate.acquire(blocking=False)
        if self._watch is not None:
            self._watch.forget_rings()

    def wait_for_offer(self, version: int, timeout_s: float, *, look_s: float | None) -> None:
        """Block until there is an offer or *timeout_s* has passed; for one thread, which claims.

        It may also end without either; the thread is to look for runs after each.

        Args:
            version: the file's version that the thread has seen: another one is an offer too.
            look_s: how often to look at it, while nothing else tells of it; ``None`` for never.
        """
        if version != self._calm_version:
            self._calm_version = version
            self._disarm()
        if look_s is None:
            self._rest(timeout_s)
            return
        deadline = self._clock.monotonic() + timeout_s
        rest_s = look_s
        while self._data_version() == version:
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return  # armed, if it is: what is written until the next wait ends that one
            if self._looks_until_calm > 0 or self._log_path is None:
                woken = self._rest(min(left_s, rest_s))
                self._looks_until_calm -= rest_s == look_s
                rest_s = min(2 * rest_s, look_s)
            else:
                woken = self._rest_watching(self._log_path, version, left_s)
                if woken is Woken.BY_WRITE:
                    self._disarm()
                    rest_s = _FIRST_LOOK_S
                    woken = self._rest(rest_s)
            if woken is Woken.BY_RING:
                self._disarm()
                return

    def _rest(self, timeout_s: float) -> Woken:
        watch = self._watch
        if watch is None:
            return Woken.BY_RING if self._gate.acquire(timeout=timeout_s) else Woken.BY_TIME
        try:
            return watch.wait(timeout_s, for_write=False)
        except OSError:
            return self._watch_no_more()

    def _rest_watching(self, log_path: str, version: int, timeout_s: float) -> Woken:
        watch = self._watch
        if watch is None:
            self._watch = open_watch(log_path)
            return self._watch_no_more() if self._watch is None else Woken.BY_RING
        try:
            watch.arm()
            # Only now: what was seen before that has been written before.
            if self._data_version() != version:
                return Woken.BY_TIME
            woken = watch.wait(min(timeout_s, self._watched_look_s), for_write=True)
        except OSError:
            return self._watch_no_more()
        self._watched_look_s = min(2 * self._watched_look_s, WATCHED_LOOK_S)
        return woken

    def _disarm(self) -> None:
        """Watch the log again only after some looks that find nothing."""
        self._looks_until_calm = _CALM_LOOKS
        self._watched_look_s = FIRST_WATCHED_LOOK_S
        if self._watch is not None:
            self._watch.disarm()

    def _watch_no_more(self) -> Woken:
        """Look by the clock from now on: the log cannot be watched."""
        self._log_path = self._watch = None
        return Woken.BY_RING

    def close(self) -> None:
        """Give back what a watch of the log has taken from the system. Nobody waits any more."""
        self._watch_no_more()

    def version(self) -> int:
        """The file's version now."""
        return self._data_version()

    def look(self) -> Seen:
        """The present state; take it before reading what you then wait for."""
        return Seen(self._told, self._data_version())

    def wait(self, seen: Seen, timeout_s: float, *, look_s: float = LOOK_INTERVAL_S) -> bool:
        """Block until something changed since *seen* or *timeout_s* has passed; say which."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            left_s = deadline - self._clock.monotonic()
            if self._waiting.wait_until(lambda: self._told != seen.told, min(left_s, look_s)):
                return True
            if self._data_version() != seen.data_version:
                return True
            if left_s <= 0:
                return False
