"""The runs that are inside their jobs here, and the threads that execute them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from durably._platform.latch import Wakeups
from durably.errors import RunInterrupted, StopRun
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import Emitter
from durably.store.change_feed import ChangeFeed
from durably.store.rows import RunRow
from durably.worker.ownership import Ownership
from durably.worker.state import EngineState


class _Thread(threading.local):
    """What the current thread does for this engine."""

    run: CurrentRun | None = None  # of the innermost job that it is inside
    has_slot = False
    is_waiting = False


class CurrentRuns:
    """The runs that are inside their jobs, or were claimed and are about to be, by run and fence.

    While it is *interrupting*, a run that was claimed a moment ago is put back at its first step
    boundary as well. Usable from any thread.
    """

    def __init__(
        self,
        state: EngineState,
        emitter: Emitter,
        changes: ChangeFeed,
        ownership: Ownership,
    ) -> None:
        self._state = state
        self._emitter = emitter
        self._changes = changes
        self._ownership = ownership
        self.thread = _Thread()
        # Woken when the last run leaves, and by others when a slot gets free.
        self.changed = Wakeups()
        self._lock = threading.Lock()  # guards all below
        self._runs: dict[tuple[int, int], CurrentRun] = {}
        # The reasons to stop runs that have not entered yet.
        self._stopped_early: dict[tuple[int, int], type[StopRun]] = {}
        self._is_interrupting = False
        # Whether the engine is being stopped, and not only out of runs.
        self._is_stopping = False
        # How many threads with a slot have jobs that wait for runs.
        self._waiting = 0
        # How many runs have entered.
        self.entered = 0

    # -- the runs --------------------------------------------------------------------------

    def all(self) -> list[CurrentRun]:
        """Return the runs."""
        with self._lock:
            return list(self._runs.values())

    def snapshot(self) -> tuple[list[CurrentRun], int]:
        """Return the runs, and how many others have entered and left before."""
        with self._lock:
            return list(self._runs.values()), self.entered - len(self._runs)

    @property
    def are_none(self) -> bool:
        """Return whether there is no run."""
        return not self._runs

    def keys(self) -> str:
        """Return the keys of the runs whose jobs are not over, as a JSON array.

        A run that others have put back meanwhile is not claimed before its old job has left.
        """
        with self._lock:
            return str([run.run_pk for run in self._runs.values() if not run.is_over])

    def enter(self, run: CurrentRun) -> None:
        """Add a run that was claimed."""
        place = run.run_pk, run.fence
        with self._lock:
            self.entered += 1
            self._runs[place] = run
            reason = self._stopped_early.pop(place, None)
            if reason is None and self._is_interrupting and not run.is_callers:
                reason = RunInterrupted
            is_stopping = self._is_stopping and not run.is_callers
        if is_stopping:
            run.note_stop(is_stopping=True)
        if reason is not None:
            run.stop(reason)

    def leave(self, run: CurrentRun) -> None:
        """Remove a run whose job has left its thread."""
        if os.getpid() != run.pid:
            return
        with self._lock:
            self._runs.pop((run.run_pk, run.fence), None)
        if not self._runs:
            self.changed.wake_all()
        self._changes.notify()

    def forget_early_stops(self) -> None:
        """Forget the reasons to stop runs that have not entered and, by now, never will."""
        with self._lock:
            self._stopped_early.clear()

    # -- stopping them ---------------------------------------------------------------------

    def stop_all(self, reason: type[StopRun]) -> None:
        """Stop all runs at their next step boundary."""
        for run in self.all():
            run.stop(reason)

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""
        place = row.run, row.fence
        with self._lock:
            run = self._runs.get(place)
            if run is None and row.owner is not None and row.owner == self._ownership.owner:
                # It was claimed and is about to enter; or it has just left, and this claim of it
                # never enters again.
                self._stopped_early[place] = reason
        if run is not None:
            run.stop(reason)

    def interrupt(self) -> None:
        """Stop all runs, and those that are about to enter, until ``end_stop`` or ``resume``."""
        with self._lock:
            self._is_interrupting = True
        self.stop_all(RunInterrupted)

    def begin_stop(self) -> None:
        """Call ``note_stop``, also for runs that enter from now on."""
        with self._lock:
            self._is_stopping = True
        self.note_stop()

    def note_stop(self) -> None:
        """Note in the runs that a signal may be ending this process: one that fails goes back."""
        for run in self.all():
            run.note_stop(is_stopping=True)

    def end_stop(self) -> None:
        """Stop no run that enters from now on."""
        with self._lock:
            self._is_interrupting = self._is_stopping = False

    def resume(self) -> None:
        """End the stop also for runs that have entered."""
        self.end_stop()
        for run in self.all():
            run.note_stop(is_stopping=False)

    def is_stopping(self, run: CurrentRun) -> bool:
        """Return whether the run is in a slot and nothing else is claimed any more."""
        return not self._state.takes_runs and not run.is_callers

    # -- the calling thread ----------------------------------------------------------------

    @property
    def is_inside_job(self) -> bool:
        """Return whether the calling thread is inside a job of this engine."""
        return self.thread.run is not None

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if the calling thread executes a job whose run is to stop.

        Waiting for a run is a step boundary of the job. A listener's call raises nothing.

        Args:
            is_futile: whether the wait cannot succeed; the run goes back if the engine is stopping.
        """
        run = self.thread.run
        if self._emitter.is_inside_listener:
            return
        if run is None:
            if is_futile:
                self._note_futile_wait()
            return
        if is_futile and self.is_stopping(run):
            run.stop(RunInterrupted)
        run.check()

    def _note_futile_wait(self) -> None:
        """Note that a stop ends a wait in a thread that a job of any run may have started.

        The wait raises an error there, which the job may swallow as it may swallow a stop.
        """
        for run in self.all():
            if run.stop_reason is RunInterrupted:
                run.stop_was_raised = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark that the calling thread waits for a run, if it executes a job in a slot."""
        thread = self.thread
        if not thread.has_slot or thread.is_waiting:
            try:
                yield
            except BaseException as exc:
                if thread.run is not None:
                    thread.run.keep_callers_signal(exc)
                raise
            return
        thread.is_waiting = True
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            thread.is_waiting = False
            with self._lock:
                self._waiting -= 1

    def are_all_waiting(self, slots: int) -> bool:
        """Return whether *slots* runs, and no run in a caller's thread, only wait for others."""
        with self._lock:
            return self._waiting >= slots and not any(run.is_callers for run in self._runs.values())
