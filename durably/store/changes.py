"""Noticing commits: at once in this process, within milliseconds from another one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from durably.clock import Clock
from durably.interrupts import held_back

# How often a waiting thread looks for commits of other processes. The PRAGMA costs microseconds,
# but waking the thread for it many times that: oftener, an idle engine would take a percent of
# a core; more rarely, another process's run would wait over 20 ms for its start.
LOOK_INTERVAL_S: Final = 0.020


class Seen(NamedTuple):
    """What a waiter has seen: changes told in this process, and the file's version."""

    told: int
    data_version: int


class ChangeFeed:
    """Wakes threads when the database may have changed. Usable from any thread.

    Args:
        data_version: reads SQLite's ``data_version`` on a connection that never writes.
    """

    def __init__(self, data_version: Callable[[], int], clock: Clock) -> None:
        self._data_version = data_version
        self._clock = clock
        self._told = 0
        # Entered itself, not by way of the condition: a Ctrl-C cannot land between the taking of a
        # plain lock and the block that releases it.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        # Taken until there is an offer. A lock and no event: opening it is one call, which a
        # Ctrl-C cannot leave half done, and waiting at it costs an idle engine the least.
        self._gate = threading.Lock()
        self._gate.acquire()

    def notify(self) -> None:
        """Wake every waiter: something changed that this process knows of."""
        with self._lock:
            self._told += 1
            self._condition.notify_all()

    def offer(self) -> None:
        """Wake every waiter, and who claims: a run may have become claimable, or may be claimed."""
        self.wake_claimer()
        self.notify()

    def wake_claimer(self) -> None:
        """Wake who claims, or keep it from its next sleep."""
        if self._gate.locked():
            try:
                self._gate.release()
            except RuntimeError:
                return  # somebody else was faster

    def forget_offers(self) -> None:
        """Let the next wait for an offer be for one that is still to come."""
        self._gate.acquire(blocking=False)

    def wait_for_offer(self, version: int, timeout_s: float, *, look_s: float | None) -> None:
        """Block until there is an offer or *timeout_s* has passed; for one thread, which claims.

        Args:
            version: the file's version that the thread has seen: another one is an offer too.
            look_s: how often to look at it; ``None`` for never.
        """
        deadline = self._clock.monotonic() + timeout_s
        while True:
            if look_s is not None and self._data_version() != version:
                return
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return
            if self._gate.acquire(timeout=left_s if look_s is None else min(left_s, look_s)):
                return

    def version(self) -> int:
        """The file's version now."""
        return self._data_version()

    def look(self) -> Seen:
        """The present state; take it before reading what you then wait for."""
        return Seen(self._told, self._data_version())

    def wait(self, seen: Seen, timeout_s: float, *, look_s: float = LOOK_INTERVAL_S) -> bool:
        """Block until something changed since *seen* or *timeout_s* has passed; say which."""
        deadline = self._clock.monotonic() + timeout_s
        interrupts = held_back()
        while True:
            with interrupts, self._lock:
                if self._told != seen.told:
                    return True
                remaining = deadline - self._clock.monotonic()
                if remaining > 0:
                    self._condition.wait(min(remaining, look_s))
                if self._told != seen.told:
                    return True
            if self._data_version() != seen.data_version:
                return True
            if remaining <= 0:
                return False
