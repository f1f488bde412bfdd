"""The dispatcher thread: claims runs when slots are free and hands them to the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from durably._platform.clock import Clock
from durably._platform.lock_timeouts import BUSY_TIMEOUT_S
from durably.errors import DatabaseError
from durably.store.api import Store
from durably.store.change_feed import ChangeFeed
from durably.store.rows import Claim, RunRow
from durably.worker.service import ErrorSink, Service

# How long claims may fail before the error is raised to a call that waits until all runs are done:
# as long as a lock on the database is waited for.
PATIENCE_S: Final = BUSY_TIMEOUT_S


class Dispatcher(Service):
    """Claim runs for free slots.

    Woken by what this process makes claimable, by other processes' commits, and by slots that get
    free. While no slot is free it sleeps: the thread that ends a run claims the next one itself.

    Args:
        has_free_slot: returns whether a slot is free; if not, this thread is woken when one is.
        reserve_slots: takes the free slots and returns what to claim for them, or ``None``.
        return_slots: returns that many of them.
        want_slot: notes that there may be more to claim than there were slots.
        hand_over: hands a claimed run, which has a slot, to the pool; returns ``False`` if no
            thread could be made for it, so that it was put back.
        wait_for_listeners: waits a moment for listeners of committed changes.
        on_none_claimable: called when no run could be claimed.
    """

    def __init__(
        self,
        store: Store,
        *,
        changes: ChangeFeed,
        has_free_slot: Callable[[], bool],
        reserve_slots: Callable[[], Claim | None],
        return_slots: Callable[[int], None],
        want_slot: Callable[[], None],
        hand_over: Callable[[RunRow], bool],
        wait_for_listeners: Callable[[], None],
        on_none_claimable: Callable[[], None],
        clock: Clock,
        poll_interval_s: float,
        on_error: ErrorSink,
    ) -> None:
        super().__init__("dispatcher", clock=clock, interval_s=None, on_error=on_error)
        self._store = store
        self._changes = changes
        self._has_free_slot = has_free_slot
        self._reserve_slots = reserve_slots
        self._return_slots = return_slots
        self._want_slot = want_slot
        self._hand_over = hand_over
        self._wait_for_listeners = wait_for_listeners
        self._on_none_claimable = on_none_claimable
        self._poll_interval_s = poll_interval_s
        self._version = changes.version()
        # The error of claims that have failed for so long that no call should wait for the next
        # one; None once a claim has succeeded.
        self.failure: DatabaseError | None = None
        self._failing_since: float | None = None

    def tick(self) -> None:
        """Claim as many runs as there are free slots."""
        # Read before the claim: a commit during it causes another one.
        self._changes.forget_offers()
        self._version = self._changes.version()
        began = self._clock.monotonic()
        try:
            self.dispatch()
        except DatabaseError as exc:
            if self._failing_since is None:
                self._failing_since = began
            # A disk may have room again, or fail only once.
            if not exc.is_transient or self._clock.monotonic() >= self._failing_since + PATIENCE_S:
                self.failure = exc
            raise
        self._failing_since = self.failure = None

    def dispatch(self) -> int:
        """Claim and hand over the runs that can start now, and return how many there were."""
        claim = self._reserve_slots()
        if claim is None:
            return 0
        claimed: list[RunRow] = []
        try:
            # This read costs microseconds and no write transaction.
            if self._store.has_claimable(claim):
                # The event of a trigger comes before the one of its run's start.
                self._wait_for_listeners()
                claimed = self._store.claim(claim)
            else:
                self._on_none_claimable()
        finally:
            self._return_slots(claim.limit - len(claimed))
        if len(claimed) == claim.limit:
            self._want_slot()  # there may be more
        failure: DatabaseError | None = None
        are_all_begun = True
        for row in claimed:
            try:
                are_all_begun &= self._hand_over(row)
            except DatabaseError as exc:
                failure = exc  # the others have slots and are handed over nevertheless
        if not are_all_begun:
            # A run that was put back must not wake this thread: it would be claimed again at once,
            # without effect.
            self._changes.forget_offers()
            self._version = self._changes.version()
        if failure is not None:
            raise failure
        return len(claimed)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        self._failing_since = self.failure = None
        super().start()

    def pause(self) -> None:
        """Wait for something to claim, or for a slot to claim it for."""
        self._changes.wait_for_offer(
            self._version, self._poll_interval_s, polls=self._has_free_slot()
        )

    def wake(self) -> None:
        """Make this thread claim now."""
        self._changes.wake_claimer()
