"""The dispatcher thread: wakes runs that are due, and claims runs for free slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from durably._platform.clock import Clock
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S
from durably.errors import DatabaseError
from durably.store.change_feed import ChangeFeed
from durably.worker.service import ErrorSink, Service
from durably.worker.timers import Timers

# How long claims may fail before the error is raised to a call that waits until all runs are done:
# as long as a lock on the database is waited for.
PATIENCE_S: Final = BUSY_TIMEOUT_S


class Dispatcher(Service):
    """Wake runs that are due, and claim runs for free slots.

    Woken by what this process makes claimable, by other processes' commits, and by slots that get
    free. While no slot is free it sleeps: the thread that ends a run claims the next one itself. It
    never sleeps longer than until the next run is due.

    Args:
        has_free_slot: returns whether a slot is free; if not, this thread is woken when one is.
        dispatch: claims and starts the runs that can start now; returns ``False`` if some were put
            back, because no thread can be started for them.
    """

    def __init__(
        self,
        *,
        changes: ChangeFeed,
        has_free_slot: Callable[[], bool],
        dispatch: Callable[[], bool],
        timers: Timers,
        clock: Clock,
        poll_interval_s: float,
        on_error: ErrorSink,
    ) -> None:
        super().__init__("dispatcher", clock=clock, interval_s=None, on_error=on_error)
        self._changes = changes
        self._has_free_slot = has_free_slot
        self.dispatch = dispatch
        self._timers = timers
        self._poll_interval_s = poll_interval_s
        self._version = changes.version()
        # The error of claims that have failed for so long that no call should wait for the next
        # one; None once a claim has succeeded.
        self.failure: DatabaseError | None = None
        self._failing_since: float | None = None

    def tick(self) -> None:
        """Wake the runs that are due, and claim as many as there are free slots."""
        # Read before the claim: a commit during it causes another one.
        self._changes.forget_wakeups()
        self._version = self._changes.version()
        began = self._clock.monotonic()
        try:
            self._timers.wake_due()
            if not self.dispatch():
                # A run that was put back must not wake this thread: it would be claimed again at
                # once, without effect.
                self._changes.forget_wakeups()
                self._version = self._changes.version()
        except DatabaseError as exc:
            if self._failing_since is None:
                self._failing_since = began
            # A disk may have room again, or fail only once.
            if not exc.is_transient or self._clock.monotonic() >= self._failing_since + PATIENCE_S:
                self.failure = exc
            raise
        self._failing_since = self.failure = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        self._failing_since = self.failure = None
        super().start()

    def pause(self) -> None:
        """Wait for something to claim, for a slot to claim it for, or until a run is due."""
        # Asked first: a thread that frees a slot from here on wakes this one.
        polls = self._has_free_slot()
        pause_s = self._timers.seconds_left(self._poll_interval_s)
        self._changes.wait_for_wakeup(self._version, pause_s, polls=polls)

    def wake(self) -> None:
        """Make this thread claim now."""
        self._changes.wake_dispatcher()
