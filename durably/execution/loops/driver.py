"""Drive a map: read items, hand them out, and take back what has become of them."""

from __future__ import annotations

import heapq
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from durably._platform.latch import Latch
from durably._platform.signals import deliver
from durably.errors import RetryAfter
from durably.execution.current_run import CurrentRun
from durably.execution.loops.committer import Committer
from durably.execution.loops.failures import Failures
from durably.execution.loops.map_log import MapLog
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.record import MapRecord
from durably.execution.loops.source import Source
from durably.execution.loops.tasks import ItemRunner, Reused, Task
from durably.execution.loops.workers import CallingThread, Kit, Threads, Workers
from durably.execution.pacing import Pace, seconds_until
from durably.execution.services import Services
from durably.execution.step_recorder import StepRecorder

# How often it is checked whether the run is to stop, while items are in progress.
_POLL_S: Final = 0.1
# So many items from checkpoints are one batch.
_MOST_REUSED: Final = 256
# An item that has taken so long is worth a wait for the disk.
_SLOW_US: Final = 10_000
# So many items that are not stored are read before the first of them begins.
_MOST_READ_AHEAD: Final = 10_000


class Driver:
    """Execute the items of one map; the thread that iterates over ``batches`` drives.

    Args:
        on_begin: called before the first item begins.
        may_begin: returns whether an item at that position may begin now.
        reads_ahead: whether items that are stored are returned before any other begins, as far as
            the items are in memory.
        is_iterated: whether the caller waits for each item: one that has taken long is stored and
            yielded before the next one begins in the calling thread.

    Attributes:
        executing: the items that threads of the map are inside of.
        is_early: whether items are left, since too many have failed.
    """

    def __init__(
        self,
        options: LoopOptions,
        run: CurrentRun,
        services: Services,
        *,
        source: Source,
        runner: ItemRunner,
        record: MapRecord,
        recorder: StepRecorder,
        map_log: MapLog,
        on_begin: Callable[[], None],
        may_begin: Callable[[int], bool] = lambda _: True,
        reads_ahead: bool = False,
        is_iterated: bool = False,
    ) -> None:
        self._is_iterated = is_iterated
        self._reads_ahead = reads_ahead and isinstance(options.items, list | tuple | range)
        self._run = run
        self._services = services
        self._source = source
        self._runner = runner
        self._record = record
        self._recorder = recorder
        self._map_log = map_log
        self.executing: set[Task] = set()
        self._on_begin = on_begin
        self._may_begin = may_begin
        self._has_begun = False
        self.is_early = False
        self._failures = Failures(record.name, options.max_failures)
        # What has come back: batches that are stored, and items that have not ended. The latch is
        # set for each, and for nothing, to wake this thread. No queue's ``get``: before Python
        # 3.13 a signal may make one with a timeout wait for ever.
        self._inbox: deque[list[Task] | Task] = deque()
        self._arrived = Latch()
        self._ready: deque[Task] = deque()
        self._delayed: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._handed = 0
        self._returned = 0
        self._ending = Latch()
        self._committer = Committer(
            record.save,
            self._put,
            most=options.max_uncommitted,
            start=services.start_thread,
            has_ended=self._has_ended,
        )
        is_threaded = options.executor is not None or (options.max_workers or 1) > 1
        self._pace = Pace(
            options.rate, services.clock, self._ending if is_threaded else run.stopped
        )
        kit = Kit(
            options=options,
            runner=runner,
            committer=self._committer,
            pace=self._pace,
            go_back=self._put,
            wake=self._arrived.set,
            ending=self._ending,
            start=services.start_thread,
        )
        self._workers: Workers
        if options.executor is not None:
            # Importing that takes as long as a map of some items.
            from durably.execution.loops import elsewhere  # noqa: PLC0415 - where first needed

            self._workers = elsewhere.workers(kit)
        elif is_threaded:
            self._workers = Threads(kit, self.executing)
        else:
            self._workers = CallingThread(kit, run.stopped)

    @property
    def failures(self) -> Failures:
        """Return the items that have failed and were yielded."""
        return self._failures

    @property
    def limited_s(self) -> float:
        """Return for how long nothing begins, if nothing is executed either."""
        return 0.0 if self.executing else max(0.0, self._pace.not_before_s - self._pace.now_s())

    def _put(self, received: list[Task] | Task | None) -> None:
        """Give something back to the thread that drives; called in the threads of the map."""
        if received is not None:
            self._inbox.append(received)
        self._arrived.set()

    def _has_ended(self, task: Task, ended: int, failed: int) -> None:
        """Note that an item has ended; called in the thread that has executed it."""
        if task.is_held:
            return  # it says nothing of those that are tried
        if task.exc is not None and (
            not isinstance(task.exc, Exception) or self._failures.are_too_many(failed, ended)
        ):
            self.is_early = True
            self._ending.set()

    def batches(self) -> Iterator[list[Task] | Reused]:
        """Yield items that are stored, in batches, in the order in which they are.

        The last ones are left to ``finish``.

        Raises:
            StopRun: the run is to stop.
            BaseException: what the iterable, ``key``, or the handler of a signal has raised.
        """
        while True:
            deliver()
            self.check()
            handed, is_reading = self._handed, self._reads_ahead
            reused = self._hand_out()
            if reused:
                self._runner.decode(reused)
                yield reused
            if self._is_done():
                if self._source.failure is not None:
                    raise self._source.failure
                return
            is_idle = not reused and not is_reading and self._handed == handed
            stored = self._receive(is_waiting=is_idle)
            if stored:
                yield stored

    def check(self) -> None:
        """Raise if the run is to stop, or items could not be stored."""
        run, committer = self._run, self._committer
        if run.stop_reason is not None or run.is_over or os.getpid() != run.pid:
            run.check()
        if self._workers.failure is not None:
            raise self._workers.failure
        if committer.failure is not None:
            raise committer.failure
        if committer.is_lost:
            self._recorder.lose()
            run.check()

    def _hand_out(self) -> Reused:
        """Hand out items until the workers have enough; return those that are stored already."""
        reused = Reused()
        if self._reads_ahead:
            self._read(_MOST_REUSED, reused)
            self._reads_ahead = (
                not self._source.is_exhausted and len(self._ready) < _MOST_READ_AHEAD
            )
            return reused
        room = 0
        while not self._ending.is_set() and len(reused) < _MOST_REUSED:
            if room <= 0 and (room := self._workers.room()) <= 0:
                break
            task = self._due() or self._next(room, reused)
            if task is None:
                if self._ready or self._source.is_exhausted:
                    break
                continue
            self._begin(task)
            room -= 1
            if self._workers.is_calling_thread:
                break
        return reused

    def _due(self) -> Task | None:
        """Return the item whose turn it is to be tried again, if there is one."""
        if self._delayed and self._delayed[0][0] <= self._services.clock.monotonic():
            return heapq.heappop(self._delayed)[2]
        return None

    def _next(self, room: int, reused: Reused) -> Task | None:
        """Return the next item to execute; ``None`` if there is none now."""
        if not self._ready and not self._source.is_exhausted:
            self._read(room, reused)
            if reused and self._ready and self._workers.is_calling_thread:
                return None  # they are returned before the next one begins
        if self._ready and self._may_begin(self._ready[0].position):
            return self._ready.popleft()
        return None

    def _read(self, most: int, reused: Reused) -> None:
        self._ready += self._source.take(most, reused)

    def _begin(self, task: Task) -> None:
        if task.is_held:
            self._handed += 1
            self._committer.add(task)
            return
        services = self._services
        if services.clock.monotonic() - self._run.current_at > services.longest_doubt_s:
            self._recorder.require_ownership()
        if not self._has_begun:
            self._has_begun = True
            self._on_begin()
        self._handed += 1
        self._workers.submit(task)
        if (
            self._is_iterated
            and self._workers.is_calling_thread
            and task.completed_at_us - task.started_at_us >= _SLOW_US
        ):
            self._committer.await_all()

    def _receive(self, *, is_waiting: bool) -> list[Task]:
        """Take what has come back; return the items that are stored."""
        if is_waiting:
            self._await_arrival()
        # Before the inbox is emptied: what arrives from now on ends the next wait.
        self._arrived.clear()
        stored: list[Task] = []
        while self._inbox:
            received = self._inbox.popleft()
            if isinstance(received, list):
                self._note(received)
                stored += received
            else:
                self._returned += 1
                self._delay(received)
        return stored

    def _await_arrival(self) -> None:
        left_s = _POLL_S
        if self._delayed:
            left_s = min(left_s, self._delayed[0][0] - self._services.clock.monotonic())
        self._arrived.wait(max(0.0, left_s))

    def _note(self, ended: list[Task]) -> None:
        for task in ended:
            if task.exc is not None:
                self._failures.add(task.position, task.key, task.exc)

    def _delay(self, task: Task) -> None:
        """Put an item that has not ended in line for its next try."""
        clock = self._services.clock
        if isinstance(task.exc, RetryAfter):
            wait_s = seconds_until(task.exc, clock)
            if self._pace.postpone(wait_s):
                self._map_log.rate_limited(wait_s)
            task.exc = None
        elif task.wait_s is not None:
            wait_s = task.wait_s
        elif not self._ending.is_set():
            self._ready.append(task)
            return
        else:
            return
        due_s = clock.monotonic() + min(wait_s, math.inf)
        heapq.heappush(self._delayed, (due_s, next(self._order), task))

    def _is_done(self) -> bool:
        """Return whether every item has ended, or none begins any more and those begun have."""
        if self._ending.is_set():
            self._give_up_delayed()
        elif self._ready or self._delayed or not self._source.is_exhausted:
            return False
        return self._handed == self._returned + self._committer.added

    def _give_up_delayed(self) -> None:
        """Count the items that wait for another try as failed."""
        while self._delayed:
            task = heapq.heappop(self._delayed)[2]
            if task.exc is not None:
                self._runner.give_up(task)
                self._handed += 1
                self._committer.add(task)

    def finish(
        self, *, is_abrupt: bool = False, on_wait: Callable[[], None] = lambda: None
    ) -> tuple[list[Task], list[Task]]:
        """End the workers, after the items in progress; return what is stored, and what is not.

        Args:
            is_abrupt: whether processes are ended in the middle of their items.
            on_wait: called before the wait for those items, which a signal ends, also in this.
        """
        self._workers.stop(is_abrupt=is_abrupt)
        try:
            on_wait()
            self._workers.join()
        finally:
            left = self._committer.stop()
        stored = self._receive(is_waiting=False)
        self._note(left)
        return stored, left
