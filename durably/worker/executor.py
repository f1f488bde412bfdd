"""The executor: executes claimed runs and settles them, in threads of the pool and of callers."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from durably._platform.safe_repr import on_one_line
from durably.errors import DatabaseError, ForkedError
from durably.execution.current_run import CurrentRun
from durably.execution.live_failures import LiveFailures
from durably.execution.services import Services
from durably.jobs import Job
from durably.jobs.registry import JobRegistry
from durably.store.outcome import Failed, TriedAgain
from durably.store.rows import Claim
from durably.worker.claimer import Claimer
from durably.worker.contexts import ExecutionContexts, call_in_copy
from durably.worker.current_runs import CurrentRuns
from durably.worker.deadlines import Deadlines
from durably.worker.run_log import RunLog
from durably.worker.service import ErrorSink
from durably.worker.settling import Settling

logger = logging.getLogger("durably")

_FORKED_EXIT_STATUS: Final = 70


class Executor:
    """Executes runs that were claimed. Usable from any thread."""

    def __init__(
        self,
        *,
        services: Services,
        registry: JobRegistry,
        runs: CurrentRuns,
        claimer: Claimer,
        settling: Settling,
        live_failures: LiveFailures,
        run_log: RunLog,
        deadlines: Deadlines,
        on_error: ErrorSink,
    ) -> None:
        self._services = services
        self._registry = registry
        self._runs = runs
        self._claimer = claimer
        self._settling = settling
        self._live_failures = live_failures
        self._run_log = run_log
        self._deadlines = deadlines
        self._on_error = on_error
        self._contexts = ExecutionContexts()

    def execute_in_slot(self, run: CurrentRun) -> None:
        """Execute a run in a thread of the pool, then each run that its end has claimed."""
        self._runs.thread.has_slot = True
        following: CurrentRun | None = run
        try:
            while following is not None:
                current, following = following, None
                self._claimer.note_executed()
                try:
                    following = self._execute(current, self._claimer.claim_with_end)
                except ForkedError as exc:
                    _end_forked_child(exc)
                except Exception as exc:  # noqa: BLE001 - a pool thread must return its slot
                    self._on_error(exc, "worker")
        finally:
            self._claimer.free_slot()

    def execute_here(self, run: CurrentRun) -> None:
        """Execute a run that was claimed for the calling thread.

        Raises:
            DatabaseError: its end could not be stored.
        """
        with self.put_back_on_error(run):
            self._execute(run, lambda: None)

    def execute_as_call(self, run: CurrentRun, job: Job[Any, Any]) -> None:
        """Execute a run that was claimed for the calling thread as if that called the job.

        The job reads the thread's own context variables: by them a notebook knows, for one, which
        cell prints. Call it within ``put_back_on_error``.

        Raises:
            DatabaseError: its end could not be stored.
        """
        call_in_copy(lambda: self._execute_here(run, lambda: None, job))

    @contextmanager
    def put_back_on_error(self, run: CurrentRun) -> Iterator[None]:
        """Put a run that was claimed for the calling thread back if the block raises."""
        try:
            yield
        except BaseException:
            # Its end may not be stored.
            self._put_back_if_possible(run)
            raise

    def _put_back_if_possible(self, run: CurrentRun) -> None:
        if os.getpid() != run.pid:
            return
        try:
            self._claimer.put_back(run)
        except DatabaseError as exc:
            # The heartbeat will put it back, or an engine that finds this one's lock free.
            logger.warning(
                "%s could not be put back (%s); it is as soon as the database can be written, or "
                "when this process has ended",
                run.short_name,
                on_one_line(str(exc)),
            )

    def _execute(
        self, run: CurrentRun, claim_next: Callable[[], Claim | None]
    ) -> CurrentRun | None:
        return self._contexts.call(lambda: self._execute_here(run, claim_next))

    def _execute_here(
        self,
        run: CurrentRun,
        claim_next: Callable[[], Claim | None],
        job: Job[Any, Any] | None = None,
    ) -> CurrentRun | None:
        from durably.execution.run_execution import (  # noqa: PLC0415 - where first needed
            Execution,
        )

        following: CurrentRun | None = None
        thread = self._runs.thread
        outer, thread.run = thread.run, run
        try:
            job = job or self._registry.require(run.job_name)
            execution = Execution(
                run, job, self._services, is_stopping=lambda: self._runs.is_stopping(run)
            )
            self._run_log.started(run, job)
            with self._deadlines.limiting(run, job):
                outcome = execution.execute()
            if isinstance(outcome, Failed) and run.failure is not None:
                # Before the end is stored, after which a waiting thread asks for it.
                self._live_failures.note(run.id, run.attempt, run.failure)
            since = self._services.clock.monotonic()
            # The event of an end that is tried again comes before the one of the next start.
            is_again = isinstance(outcome, TriedAgain)
            with self._services.emitter.announcing(run.id) if is_again else nullcontext():
                settled = self._settling.settle(run, outcome, claim_next)
                if settled.claimed is not None:
                    following = self._claimer.enter(settled.claimed, since)
                settled.emit()
            run.raise_callers_signal()
            if run.is_callers:
                settled.require_stored()
        except BaseException:
            if following is not None:
                self._claimer.put_back(following)
            raise
        finally:
            thread.run = outer
            run.is_over = True
            run.let_go()
            self._runs.leave(run)
        return following


def _end_forked_child(exc: ForkedError) -> None:
    """End a child that a job forked, in its copy of a pool thread.

    If this returned, the child would continue as a second pool thread of the parent's engine, and
    would never end.
    """
    sys.stderr.write(f"durably: {exc}\n")
    sys.stderr.flush()
    os._exit(_FORKED_EXIT_STATUS)
