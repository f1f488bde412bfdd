"""Executing runs until none can be claimed, also in an engine that was not started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from durably._platform.interrupts import held_back, is_from_signal
from durably.execution.current_run import ActiveRun
from durably.store.change_feed import ChangeFeed
from durably.worker.dispatcher import Dispatcher
from durably.worker.leaving import Notice, is_leaving
from durably.worker.lifecycle import Lifecycle
from durably.worker.pool import Pool

# How often a drain looks by itself: a slot that was reserved in vain is told to nobody.
_LOOK_S: Final = 0.05


class Drain:
    """Has runs claimed for calls that wait until there is none left. Usable from any thread.

    Args:
        is_started: whether the engine claims by itself.
        check_in_place: raises if the database file is gone.
        active: the runs that are inside their jobs.
    """

    def __init__(
        self,
        pool: Pool,
        dispatcher: Dispatcher,
        lifecycle: Lifecycle,
        changes: ChangeFeed,
        *,
        is_started: Callable[[], bool],
        check_in_place: Callable[[], None],
        active: Callable[[], list[ActiveRun]],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._lifecycle = lifecycle
        self._changes = changes
        self._is_started = is_started
        self._check_in_place = check_in_place
        self._active = active
        # Guarded by the lock of the lifecycle: the calls for which an engine that was not started
        # claims now, and whether they count their runs.
        self._calls: set[object] = set()
        self._are_counted = False
        # Stops that have come: a call that had begun before, and has nothing claimed yet, does not.
        self.stops = 0

    @property
    def is_claiming(self) -> bool:
        """Whether runs are claimed for a call, in an engine that was not started."""
        return bool(self._calls)

    def refuse_waiting(self) -> None:
        """Have calls that have not come to claim anything yet come back without that."""
        self.stops += 1

    def run(self, max_runs: int | None, interrupts: held_back, stops: int) -> int:
        """Execute runs until none can be claimed, or so many; say how many.

        Args:
            stops: how many had come when it was called.
        """
        most = math.inf if max_runs is None else max_runs
        with self._claiming(max_runs, interrupts, stops) as before:
            self.wait(lambda: self._pool.executed - before >= most)
        return self._pool.executed - before

    def wait(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Block until nothing executes here and nothing can be claimed, or it is enough.

        Raises:
            DatabaseError: the dispatcher cannot claim; nothing executes any more.
        """
        with held_back() as interrupts:
            while not self._is_over(is_enough):
                interrupts.check()

    def _is_over(self, is_enough: Callable[[], bool]) -> bool:
        self._check_in_place()
        seen = self._changes.look()
        entered = self._pool.entered
        if self._pool.is_idle:
            if self._pool.is_draining or is_enough():
                return True
            # What is claimed while this looks may hold the key that all others wait for.
            if not self._pool.can_claim() and self._pool.is_idle_since(entered):
                return True
        # Also while the dispatcher tries once more: it may do so without a pause.
        failure = self._dispatcher.failure
        if failure is not None and self._pool.is_only_claiming:
            raise failure
        self._changes.wait(seen, _LOOK_S)
        return False

    @contextmanager
    def _claiming(self, max_runs: int | None, interrupts: held_back, stops: int) -> Iterator[int]:
        """Have runs claimed within the block; gives how many had been executed before."""
        call = object()
        before = self._begin(call, max_runs, interrupts, stops)
        if before is None:
            yield self._pool.executed
            return
        interrupt = True
        try:
            yield before
            interrupt = False
        finally:
            # After a Ctrl-C what was begun for the caller goes back. It is waited for either way,
            # and so is what was claimed after the block had seen nothing to claim.
            if self._end(call, interrupt=interrupt):
                self._wait_for_rest(interrupts, interrupt=interrupt)
                self._pool.end_interrupt()

    def _wait_for_rest(self, interrupts: held_back, *, interrupt: bool) -> None:
        notice = Notice(self._active, interrupt=True, again=is_leaving())

        def look() -> None:
            interrupts.check()
            if interrupt:
                notice()

        try:
            self._pool.wait_until_idle(look)
        except BaseException as exc:
            if interrupt and is_from_signal(exc):
                self._lifecycle.abandon()  # the second Ctrl-C
            raise

    def _begin(
        self, call: object, max_runs: int | None, interrupts: held_back, stops: int
    ) -> int | None:
        """Have the dispatcher claim; ``None`` if it does so because of a start, or is to stop.

        Gives how many runs had been executed before, if ``_end`` is to follow. Calls that count
        their runs wait for others, and others for them: neither count would be true.
        """
        is_counted = max_runs is not None
        while True:
            with self._lifecycle.locked():
                self._lifecycle.refuse_closed()
                if self._is_started() or self.stops != stops:
                    return None
                if not self._calls or not (is_counted or self._are_counted):
                    before = self._pool.executed
                    self._dispatcher.start()
                    self._pool.resume(max_runs)
                    self._calls.add(call)
                    self._are_counted = is_counted
                    self._changes.offer()
                    return before
            self._lifecycle.wait_for_change(_LOOK_S)
            interrupts.check()

    def _end(self, call: object, *, interrupt: bool) -> bool:
        """Claim nothing more, unless a start or another call wants it; whether that is so."""
        try:
            with self._lifecycle.locked():
                self._calls.discard(call)
                if self._is_started() or self._calls:
                    return False
                self._pool.drain(interrupt=interrupt)
                with self._lifecycle.ending():
                    self._dispatcher.stop()
                return True
        finally:
            # Where a Ctrl-C, the second within long, has come before the lock.
            self._calls.discard(call)
