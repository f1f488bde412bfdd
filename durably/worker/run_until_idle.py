"""Execute runs until none can be claimed, also in an engine that was not started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from durably._platform.clock import Clock
from durably._platform.signalled import is_after_ctrl_c
from durably._platform.signals import is_from_signal
from durably.errors import ConflictError
from durably.store.change_feed import ChangeFeed
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.dispatcher import Dispatcher
from durably.worker.leaving import Notice
from durably.worker.lifecycle import Lifecycle
from durably.worker.state import EngineState
from durably.worker.timers import Timers

# How often a waiting call checks by itself: nothing wakes it when a reserved slot is returned.
_POLL_S: Final = 0.05


class RunUntilIdle:
    """Claim runs for calls that wait until none is left. Usable from any thread.

    Args:
        check_in_place: raises if the database file is gone.
    """

    def __init__(
        self,
        state: EngineState,
        claimer: Claimer,
        runs: CurrentRuns,
        dispatcher: Dispatcher,
        timers: Timers,
        lifecycle: Lifecycle,
        changes: ChangeFeed,
        check_in_place: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._state = state
        self._claimer = claimer
        self._runs = runs
        self._dispatcher = dispatcher
        self._timers = timers
        self._lifecycle = lifecycle
        self._changes = changes
        self._check_in_place = check_in_place
        self._clock = clock
        # Guarded by the lock of the lifecycle: the calls for which an engine that was not started
        # claims now, and whether they have a limit of runs.
        self._calls: set[object] = set()
        self._are_counted = False
        # The number of stops. A call that began before a stop, and has claimed nothing yet, claims
        # nothing.
        self.stops = 0

    def end_waiting_calls(self) -> None:
        """Make pending calls that have claimed nothing return at once."""
        self.stops += 1

    def run(self, max_runs: int | None, stops: int, max_wait_s: float = 0.0) -> int:
        """Execute runs until none can be claimed, or *max_runs*, and return how many.

        Args:
            stops: the number of stops when the call began.
            max_wait_s: within how long from now a run is awaited that is not due yet.
        """
        until_us = self._timers.instant_us(max_wait_s) if max_wait_s else None
        most = math.inf if max_runs is None else max_runs
        with self._claiming(max_runs, stops) as before:
            self.wait(lambda: self._claimer.executed - before >= most, until_us)
        return self._claimer.executed - before

    def wait(
        self, is_enough: Callable[[], bool] = lambda: False, until_us: int | None = None
    ) -> None:
        """Block until nothing executes here and nothing can be claimed, or *is_enough* is true.

        Args:
            until_us: until when a run that is not due yet is awaited.

        Raises:
            DatabaseError: the dispatcher cannot claim; nothing executes any more.
        """
        while not self._is_over(is_enough, until_us):
            pass

    def _is_over(self, is_enough: Callable[[], bool], until_us: int | None) -> bool:
        # Not woken by each end: waking a thread takes as long as a small run.
        self._claimer.wait_until_idle(lambda: None, self._clock.monotonic() + _POLL_S)
        self._check_in_place()
        seen = self._changes.snapshot()
        entered = self._runs.entered
        is_idle = self._claimer.is_idle
        if is_idle:
            if not self._state.takes_runs or is_enough():
                return True
            self._timers.wake_due()
            # A run that is claimed during this check may have the key that all others wait for.
            is_done = not self._claimer.can_claim() and self._claimer.is_idle_since(entered)
            if is_done and (until_us is None or not self._timers.is_due_by(until_us)):
                return True
        # Also while the dispatcher tries again: it may do so without a pause.
        failure = self._dispatcher.failure
        if failure is not None and self._claimer.is_only_claiming:
            raise failure
        if is_idle:
            self._changes.wait(seen, _POLL_S)
        return False

    @contextmanager
    def _claiming(self, max_runs: int | None, stops: int) -> Iterator[int]:
        """Claim runs within the block; yield how many had been executed before."""
        call = object()
        before = self._begin(call, max_runs, stops)
        if before is None:
            yield self._claimer.executed
            return
        interrupt = True
        try:
            yield before
            interrupt = False
        finally:
            # After a Ctrl-C the runs that were begun for the caller go back. Either way this waits
            # for them, and for runs that were claimed after the block had found none.
            if self._end(call, interrupt=interrupt):
                self._wait_for_rest(interrupt=interrupt)
                self._runs.end_stop()

    def _wait_for_rest(self, *, interrupt: bool) -> None:
        notice = Notice(self._runs.all, self._clock, interrupt=True, again=is_after_ctrl_c())

        def poll() -> None:
            if interrupt:
                notice()

        try:
            self._claimer.wait_until_idle(poll)
        except BaseException as exc:
            if interrupt and is_from_signal(exc):
                self._lifecycle.abandon()  # the second Ctrl-C
            raise

    def _begin(self, call: object, max_runs: int | None, stops: int) -> int | None:
        """Start the dispatcher for a call, unless the engine was started or a stop came before.

        Return how many runs had been executed before, if ``_end`` must follow, else ``None``.

        Raises:
            ConflictError: another call executes runs, and one of the two counts them: neither
                count would be true.
        """
        is_counted = max_runs is not None
        with self._lifecycle.locked():
            self._lifecycle.raise_if_closed()
            if self._state.is_started or self.stops != stops:
                return None
            if self._calls and (is_counted or self._are_counted):
                raise ConflictError(
                    "run_until_idle(max_runs=...) counts runs, and another run_until_idle() of "
                    "this engine is executing them; wait for the first call to return, or start "
                    "the engine"
                )
            before = self._claimer.executed
            self._dispatcher.start()
            self._claimer.resume(max_runs)
            self._state.claims_for_calls = True
            self._calls.add(call)
            self._are_counted = is_counted
            self._changes.notify_dispatcher()
            return before

    def _end(self, call: object, *, interrupt: bool) -> bool:
        """Stop claiming, unless a start or another call needs it; return whether it stopped."""
        with self._lifecycle.locked():
            self._calls.discard(call)
            if self._state.is_started or self._calls:
                return False
            self._claimer.drain(interrupt=interrupt)
            with self._lifecycle.ending():
                self._dispatcher.stop()
            return True
