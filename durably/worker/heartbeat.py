"""The heartbeat thread: marks this engine as alive, and reads the state of its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from durably._platform.clock import Clock
from durably.errors import OwnershipLost, RunCancelled
from durably.execution.current_run import CurrentRun
from durably.store.outcome import NotExecuted
from durably.store.rows import RunKey
from durably.worker.deadlines import Deadlines
from durably.worker.service import ErrorSink, Service

if TYPE_CHECKING:
    from durably.store.api import Store


class Heartbeat(Service):
    """Mark the owner and all its running runs as alive, in one short transaction.

    It has a connection of its own, so that no long write of this process can delay it. It calls
    no listener and takes no lock of other threads.

    Args:
        owner: returns the number of this engine's owner row.
        runs: returns the runs that are inside their jobs now.
        on_unregistered: called when the owner row is gone, because another engine found this one
            dead.
        check_file: raises if the database file is not in its place any more.
        deadlines: of the runs, which this thread checks between two heartbeats.
    """

    def __init__(
        self,
        store: Store,
        *,
        owner: Callable[[], int],
        runs: Callable[[], list[CurrentRun]],
        on_unregistered: Callable[[], None],
        check_file: Callable[[], None],
        deadlines: Deadlines,
        clock: Clock,
        interval_s: float,
        on_error: ErrorSink,
    ) -> None:
        super().__init__("heartbeat", clock=clock, interval_s=interval_s, on_error=on_error)
        self._beat_interval_s = interval_s
        self._store = store
        self._owner = owner
        self._runs = runs
        self._on_unregistered = on_unregistered
        self._check_file = check_file
        self._deadlines = deadlines
        deadlines.wake = self.wake
        # How many heartbeats were committed, each an interval or more after the one before it that
        # counts. This engine finds another one hung only by this count, while the other one's
        # heartbeat does not change. Calls that execute one run each start this thread anew, and so
        # cause many heartbeats within an interval: those prove nothing about another engine.
        self.committed = 0
        self._counted_at: float | None = None
        # When the newest heartbeat was, or the registration, which is one too.
        self._beat_at: float | None = None
        # Runs that this engine owns in the database although it does not execute them.
        self._strays: frozenset[tuple[RunKey, int]] = frozenset()

    def note_registered(self) -> None:
        """Count the owner row that was just stored as a heartbeat."""
        self._beat_at = self._counted_at = self._clock.monotonic()

    def is_due(self) -> bool:
        """Return whether the last heartbeat was an interval ago.

        A call that executes one run starts this thread and ends it, and needs no commit for that.
        """
        return self._beat_at is None or self._clock.monotonic() >= self._next_at(self._beat_at)

    def _next_at(self, beat_at: float) -> float:
        return beat_at + self._beat_interval_s

    def pause(self) -> None:
        """Wait until the next heartbeat, and end the runs whose deadline comes before."""
        clock, deadlines = self._clock, self._deadlines
        beats_at = self._next_at(clock.monotonic() if self._beat_at is None else self._beat_at)
        deadlines.end_overdue()
        while (now := clock.monotonic()) < beats_at:
            if clock.wait(self._wake, max(0.0, min(beats_at, deadlines.next_s()) - now)):
                return
            deadlines.end_overdue()

    def tick(self) -> None:
        """Store one heartbeat; stop the runs that were cancelled or recovered by others."""
        try:
            self._tick()
        finally:
            self._beat_at = self._clock.monotonic()

    def _tick(self) -> None:
        self._check_file()
        beats_at = self._clock.monotonic()
        # Read before the heartbeat, so that a run that is claimed meanwhile does not seem lost.
        expected = self._runs()
        beat = self._store.beat(self._owner(), self._clock.now_us)
        if not beat.is_registered:
            self._on_unregistered()
            return
        self._count(beats_at)
        for run in expected:
            if (run.run_pk, run.fence) in beat.running:
                run.current_at = beats_at
            else:
                self._learn(run)
        self._put_back_strays(beat.running)

    def _count(self, beats_at: float) -> None:
        if self._counted_at is None:
            self._counted_at = beats_at  # the first one begins the first interval
        elif beats_at - self._counted_at >= self._beat_interval_s:
            self._counted_at = beats_at
            self.committed += 1

    def _put_back_strays(self, running: frozenset[tuple[RunKey, int]]) -> None:
        """Put back runs whose end could not be stored, or whose thread a Ctrl-C ended.

        Only those found at two heartbeats: one that was claimed a moment ago is about to start.
        """
        here = {(run.run_pk, run.fence) for run in self._runs()}
        strays = running - here
        for run_pk, fence in strays & self._strays:
            self._store.requeue(NotExecuted(run_pk, fence), self._clock.now_us())
        self._strays = strays

    def _learn(self, run: CurrentRun) -> None:
        if run.is_over:
            return
        state = self._store.checkpoints.state(run.run_pk)
        if state == ("running", run.fence):
            return
        is_ours = state is not None and state[1] == run.fence
        is_cancelled = is_ours and state is not None and state[0] == "cancelled"
        if is_ours and state is not None and state[0] in ("completed", "failed"):
            return  # it has just ended here
        run.stop(RunCancelled if is_cancelled else OwnershipLost)
