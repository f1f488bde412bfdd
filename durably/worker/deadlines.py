"""The deadlines of the runs that are executed here, for jobs that do not check them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from durably._platform.clock import Clock
from durably.execution.current_run import CurrentRun
from durably.execution.tries import retry_of, timeout_of
from durably.jobs import Job

if TYPE_CHECKING:
    from durably.settings.retries import Retry

# A job that comes to a step boundary has so long to end by itself: what it raises says more.
GRACE_S: Final = 0.25
# How often a run is checked whose job waits in its thread, so that its deadline is postponed.
_PAUSED_S: Final = 1.0

_UNLIMITED: Final = nullcontext()


class Deadlines:
    """End runs whose time is over, although they are inside a step. Usable from any thread.

    The heartbeat's thread calls ``next_s`` and ``end_overdue``; there is no thread for each run.

    Args:
        expire: ends a run.

    Attributes:
        wake: makes the heartbeat's thread call ``next_s`` again.
    """

    def __init__(self, clock: Clock, expire: Callable[[CurrentRun, Retry | None], None]) -> None:
        self._clock = clock
        self._expire = expire
        self.wake: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # guards the two below
        self._watched: dict[CurrentRun, Retry | None] = {}
        # When the heartbeat's thread checks the next time.
        self._next_s = math.inf

    def limiting(self, run: CurrentRun, job: Job[Any, Any]) -> AbstractContextManager[None]:
        """Limit the time of an execution in a ``with`` block, if it has a limit."""
        timeout_s = timeout_of(run, job)
        return _UNLIMITED if timeout_s is None else self._limiting(run, job, timeout_s)

    @contextmanager
    def _limiting(self, run: CurrentRun, job: Job[Any, Any], timeout_s: float) -> Iterator[None]:
        run.begin_time(timeout_s, self._clock.monotonic())
        with self._lock:
            self._watched[run] = retry_of(run, job)
            is_earlier = self._due_s(run) < self._next_s
        if is_earlier:
            self.wake()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(run, None)

    def _due_s(self, run: CurrentRun) -> float:
        if run.is_paused or run.deadline_s is None:
            return self._clock.monotonic() + _PAUSED_S
        return run.deadline_s + GRACE_S

    def next_s(self) -> float:
        """Return when ``end_overdue`` is to be called, by the clock's ``monotonic``."""
        with self._lock:
            self._next_s = min(map(self._due_s, self._watched), default=math.inf)
            return self._next_s

    def end_overdue(self) -> None:
        """End the runs whose time is over.

        Raises:
            DatabaseError: that of one could not be stored; it is tried again.
        """
        now_s = self._clock.monotonic()
        with self._lock:
            overdue = [run for run in self._watched if self._due_s(run) <= now_s]
            retries = [self._watched.pop(run) for run in overdue]
        for run, retry in zip(overdue, retries, strict=True):
            try:
                self._expire(run, retry)
            except BaseException:
                with self._lock:
                    self._watched[run] = retry
                raise
