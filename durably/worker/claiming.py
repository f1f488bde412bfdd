"""Claiming by itself: how an engine is started, and how it is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import attrs

from durably._platform.clock import Clock
from durably.errors import WaitTimeoutError
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.database_file import DatabaseFile
from durably.worker.dispatcher import Dispatcher
from durably.worker.foreign_runs import ForeignRuns
from durably.worker.lifecycle import Lifecycle
from durably.worker.ownership import Ownership
from durably.worker.reaper import Reaper
from durably.worker.run_until_idle import RunUntilIdle
from durably.worker.state import EngineState, State

if TYPE_CHECKING:
    from durably.store.api import Store


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Claiming:
    """Start and stop the dispatcher and the reaper of an engine. Usable from any thread."""

    _store: Store
    _clock: Clock
    _state: EngineState
    _lifecycle: Lifecycle
    _file: DatabaseFile
    _ownership: Ownership
    _foreign: ForeignRuns
    _runs: CurrentRuns
    _claimer: Claimer
    _put_sessions_back: Callable[[], None]
    _reaper: Reaper
    _dispatcher: Dispatcher
    _until_idle: RunUntilIdle

    # -- starting ------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover what dead processes left behind, then start the threads. Idempotent."""
        if self._state.now is State.STARTED:
            return
        self._lifecycle.with_threads(self._recover_and_start)
        # Waiting threads check again whether an engine can execute their runs.
        self._store.changes.notify_dispatcher()

    def _recover_and_start(self) -> None:
        # Outside of the lock: listeners of a recovery may block, and call the engine.
        self._reaper.recover()
        self._foreign.warn()
        with self._lifecycle.locked():
            self._start()

    def _start(self) -> None:
        if self._state.now is State.STARTED:
            return
        self._lifecycle.raise_if_closed()
        if self._state.is_started:
            # A stop had timed out: the threads are there.
            self._ownership.announce_started()
        else:
            self._lifecycle.lease(self)
            try:
                self._ownership.announce_started()
                self._reaper.start()
                self._dispatcher.start()
            except BaseException:
                self._end_reaper()
                self._lifecycle.release(self)
                raise
        self._claimer.resume()
        self._state.become(State.STARTED)

    # -- stopping ------------------------------------------------------------------------------

    def stop(
        self, *, interrupt: bool, timeout_s: float | None, on_wait: Callable[[], None]
    ) -> None:
        """Wait for the runs in progress, then end the threads. Idempotent.

        Sessions are left as they are, to be opened again.

        Args:
            on_wait: called now and then during the wait.

        Raises:
            WaitTimeoutError: they did not end in time; they continue, and nothing new is claimed.
        """
        deadline = math.inf if timeout_s is None else self._clock.monotonic() + timeout_s
        # The engine's threads, too, wait for locks of other processes only until the deadline.
        with self._store.hurried(deadline):
            was_started = self._state.is_started
            self._until_idle.end_waiting_calls()
            self._put_sessions_back()

            def poll() -> None:
                on_wait()
                if self._state.takes_runs:
                    # It was started meanwhile: drain again, so that this wait ends.
                    self._drain(interrupt=interrupt)

            while True:
                self._drain(interrupt=interrupt)
                if not self._claimer.wait_until_idle(poll, deadline):
                    self._raise_timed_out(timeout_s)
                with self._lifecycle.locked():
                    if self._end_started(was_started=was_started):
                        break
            self._runs.end_stop()

    def _drain(self, *, interrupt: bool) -> None:
        self._runs.begin_stop()
        self._claimer.drain(interrupt=interrupt)

    def _end_started(self, *, was_started: bool) -> bool:
        """End what a start has begun, if the engine is idle; return ``False`` if it is not.

        An engine that another thread has started since the stop began is left as it is.
        """
        if self._state.now is State.STARTED:
            return not was_started
        if not self._lifecycle.is_leased_by(self):
            return True
        if self._claimer.has_taken_slots:
            return False  # another thread has started it meanwhile, claimed a run, and stopped it
        self._end_reaper()
        self._sign_off()
        self._state.become(State.STOPPED)
        self._lifecycle.release(self)
        return True

    def _raise_timed_out(self, timeout_s: float | None) -> NoReturn:
        with self._lifecycle.locked():
            if self._state.now is not State.STARTED and self._lifecycle.is_leased_by(self):
                # Threads of other processes that wait for a pending run must not rely on this
                # engine.
                self._sign_off()
        left = len(self._runs.all())
        raise WaitTimeoutError(
            f"{left} {'run is' if left == 1 else 'runs are'} still executing after "
            f"{timeout_s} s; they continue, and nothing new is claimed until start()"
        )

    def _sign_off(self) -> None:
        if self._file.lost is None:
            self._ownership.announce_stopped()

    def _end_reaper(self) -> None:
        with self._lifecycle.ending():
            self._reaper.stop()
