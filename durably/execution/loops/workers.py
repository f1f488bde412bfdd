"""Where the items of a map are executed: in the calling thread, or on threads of the map's own."""

from __future__ import annotations

import contextvars
import queue
import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from durably._platform.latch import Latch, join
from durably.execution.loops.committer import Committer, StartThread
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.tasks import ItemRunner, Task
from durably.execution.pacing import Pace

# So many items are read at once by a map that executes one at a time.
_AHEAD: Final = 4


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Kit:
    """What workers need of the map.

    Args:
        go_back: called with an item that has not ended; in a thread of the map.
        wake: wakes the thread that drives the map.
        ending: set when no further item is to begin.
    """

    options: LoopOptions
    runner: ItemRunner
    committer: Committer
    pace: Pace
    go_back: Callable[[Task], None]
    wake: Callable[[], None]
    ending: Latch
    start: StartThread


class Workers(Protocol):
    """Executes items. An item that has ended goes to the committer, any other one back."""

    is_calling_thread: bool
    """``submit`` executes the item."""

    failure: BaseException | None
    """What has ended the map, of which no item is at fault."""

    def submit(self, task: Task) -> None:
        """Execute an item, now or soon."""

    def room(self) -> int:
        """Return how many items are to be read and submitted now."""

    def stop(self, *, is_abrupt: bool = False) -> None:
        """Begin no further item, and end after those in progress. Idempotent.

        Args:
            is_abrupt: whether processes are ended in the middle of their items.
        """

    def join(self) -> None:
        """Wait for that end. A signal ends the wait."""


class CallingThread:
    """Execute each item where it is submitted, in the calling thread.

    Args:
        stopped: set when the run is to stop.
    """

    def __init__(self, kit: Kit, stopped: Latch) -> None:
        self.is_calling_thread = True
        self.failure: BaseException | None = None
        self._stopped = stopped
        self._runner = kit.runner
        self._committer = kit.committer
        self._pace = kit.pace
        self._go_back = kit.go_back

    def submit(self, task: Task) -> None:
        """Execute an item."""
        self._committer.await_room(self._stopped)
        if self._pace.await_turn() and self._runner.execute(task):
            self._committer.add(task)
        else:
            self._go_back(task)

    def room(self) -> int:
        """Return how many items are to be read now, of which one is submitted at a time."""
        return _AHEAD

    def stop(self, *, is_abrupt: bool = False) -> None:
        """Do nothing: no item is in progress."""

    def join(self) -> None:
        """Do nothing."""


class Threads:
    """Execute items on threads, which start when they are needed.

    Each runs in a copy of the context of the thread that drives the map.

    Args:
        executing: holds the items that are inside their function.
    """

    def __init__(self, kit: Kit, executing: set[Task]) -> None:
        self._most_threads = kit.options.max_workers or 1
        self._executing = executing
        self.is_calling_thread = False
        self.failure: BaseException | None = None
        self._runner = kit.runner
        self._committer = kit.committer
        self._pace = kit.pace
        self._go_back = kit.go_back
        self._wake = kit.wake
        self._ending = kit.ending
        self._start = kit.start
        self._todo: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, task: Task) -> None:
        """Execute an item on the next free thread."""
        self._todo.put(task)
        if len(self._threads) < self._most_threads:
            self._start_another()

    def _start_another(self) -> None:
        context = contextvars.copy_context()
        number = len(self._threads) + 1
        try:
            thread = self._start(f"map-{number}", lambda: context.run(self._work_in_context))
        except RuntimeError:  # the system has no more threads
            if not self._threads:
                raise
            self._most_threads = len(self._threads)
        else:
            self._threads.append(thread)

    def room(self) -> int:
        """Return how many items are to be read and submitted now."""
        return self._most_threads + 2 - self._todo.qsize()

    def _work_in_context(self) -> None:
        decimal = sys.modules.get("decimal")
        if decimal is not None:
            decimal.setcontext(decimal.getcontext().copy())  # programs change it in place
        self._work()

    def _work(self) -> None:
        try:
            while (task := self._todo.get()) is not None:
                self._committer.await_room(self._ending)
                if self._pace.await_turn() and self._execute(task):
                    self._committer.add(task)
                    if self._todo.qsize() < self._most_threads:
                        self._wake()
                else:
                    self._go_back(task)
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that drives the map
            self._committer.break_off(exc)

    def _execute(self, task: Task) -> bool:
        self._executing.add(task)
        try:
            return self._runner.execute(task)
        finally:
            self._executing.discard(task)

    def stop(self, *, is_abrupt: bool = False) -> None:  # noqa: ARG002 - a thread cannot be ended
        """Begin no further item, and end after those in progress."""
        self._ending.set()
        for _ in self._threads:
            self._todo.put(None)

    def join(self) -> None:
        """Wait for that end."""
        join(*self._threads)
