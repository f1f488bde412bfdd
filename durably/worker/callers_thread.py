"""Claim and execute runs in the threads of callers, without the pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, Unpack

import attrs

from durably.errors import ConflictError, RunInterrupted
from durably.execution.current_run import CurrentRun
from durably.jobs import Job
from durably.store.rows import Beginning, BeginOptions, NewRun, RunKey
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.executor import Executor
from durably.worker.lifecycle import Lifecycle
from durably.worker.timers import Timers

T = TypeVar("T")


@attrs.define(eq=False, repr=False, slots=False)
class CallersThread:
    """Claim and execute runs for the calling thread. Usable from any thread.

    Args:
        check_file: raises ``DatabaseLostError`` if the file is not in its place.
        recover: puts back what dead and hung engines have left.
    """

    _lifecycle: Lifecycle
    _claimer: Claimer
    _executor: Executor
    _runs: CurrentRuns
    _timers: Timers
    _check_file: Callable[[], None]
    recover: Callable[..., object]

    def raise_if_inside_job(self) -> None:
        """Raise ``ConflictError`` if the calling thread executes a job of this engine."""
        if self._runs.is_inside_job:
            raise ConflictError(
                "run() would execute a run inside the step or job that calls it; trigger it here "
                "and wait for it, or call its function in a step"
            )

    def raise_if_unusable(self) -> None:
        """Raise ``EngineClosedError`` if the engine is closed, or is being closed.

        Raise ``DatabaseLostError`` if the file is not in its place.
        """
        self._lifecycle.raise_if_closed()
        self._check_file()

    def with_threads(self, call: Callable[[], T]) -> T:
        """Make a call while the heartbeat and the flusher run, and return its result."""
        return self._lifecycle.with_threads(call)

    # -- the run that is first in line ---------------------------------------------------

    def process_one(self) -> bool:
        """Claim and execute one run; return ``False`` if there was none."""

        def process() -> bool:
            self.recover()
            return self._execute_one()

        return self._lifecycle.with_threads(process)

    def execute_child(self, run_pk: RunKey) -> bool:
        """Claim and execute a run that the calling thread waits for; return whether it did."""
        # Nobody would execute what that run waits for, either.
        return self._execute_one(run_pk, keeps_thread=True)

    def _execute_one(self, run_pk: RunKey | None = None, *, keeps_thread: bool = False) -> bool:
        self._timers.wake_due()
        run = self._claimer.claim_one(run_pk)
        if run is None:
            return False
        run.keeps_thread = keeps_thread
        self._executor.execute_here(run)
        return True

    # -- a certain run -------------------------------------------------------------------

    def begin(
        self, new: NewRun, origins: str, codes: str, **options: Unpack[BeginOptions]
    ) -> tuple[Beginning, CurrentRun | None]:
        """Create or continue a certain run, and claim it if possible; see ``Claimer.begin``."""
        return self._claimer.begin(new, origins, codes, **options)

    def execute(
        self,
        run: CurrentRun,
        job: Job[Any, Any],
        *,
        announce: Callable[[], object],
        timeout_s: float | None,
    ) -> bool:
        """Execute a run that was begun; return whether its timeout was over before its end.

        Args:
            announce: called before; the run goes back if it raises.
            timeout_s: after which the run stops at its next step boundary.

        Raises:
            DatabaseError: its end could not be stored.
            BaseException: what a signal handler has raised in this thread. The run goes back.
        """
        with self._executor.put_back_on_error(run):
            announce()
            with _stopped_after(run, timeout_s) as is_over:
                self._executor.execute_as_call(run, job)
            return is_over()


@contextmanager
def _stopped_after(run: CurrentRun, timeout_s: float | None) -> Iterator[Callable[[], bool]]:
    """Stop the run at its next step boundary if the block lasts longer."""
    has_expired = False
    if timeout_s is None:
        yield lambda: has_expired
        return

    def expire() -> None:
        nonlocal has_expired
        has_expired = True
        run.stop(RunInterrupted)

    timer = threading.Timer(max(0.0, timeout_s), expire)
    timer.name, timer.daemon = "durably-timeout", True
    timer.start()
    try:
        yield lambda: has_expired
    finally:
        timer.cancel()
        timer.join()
