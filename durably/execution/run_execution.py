"""One claimed run, from its start to its outcome. Knows nothing of threads, claims or the store."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from typing import Any, Final

import attrs

from durably._platform.signals import let_through
from durably.errors import (
    DatabaseError,
    NoWorkerError,
    OwnershipLost,
    RunCancelled,
    RunInterrupted,
    RunSuspended,
)
from durably.execution.context import StepContext
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.storing import encoded, report_worker_error
from durably.execution.tries import after_failure, retry_of
from durably.jobs import Job, output_type, payload_type, takes_payload
from durably.models import error_info
from durably.store.outcome import Completed, Failed, Interrupted, Lost, Outcome, TriedAgain

# The advice if the payload's class has changed since the run was triggered.
_GO_ON: Final = (
    "it was stored by an earlier version of the code: give new fields a default, or trigger a new "
    "run and delete this one"
)


class Execution:
    """Executes the job of one claimed run.

    Args:
        is_stopping: returns whether the engine claims nothing any more that the run could wait for.
    """

    def __init__(
        self,
        run: CurrentRun,
        job: Job[Any, Any],
        services: Services,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._run = run
        self._job = job
        self._services = services
        self._is_stopping = is_stopping

    def execute(self) -> Outcome:
        """Run the job to its end, and return how it ended; nothing of that is stored.

        If a signal in a thread of the user's has stopped the job, the run's ``callers_signal`` is
        what its handler raised. If the outcome is a failure, the exception is the run's
        ``failure``.

        Raises:
            ForkedError: this is a child that a step forked.
        """
        run = self._run
        run.job_thread = get_ident()
        try:
            outcome = self._outcome()
        except BaseException as exc:
            if not run.is_callers_signal(exc):
                raise
            run.callers_signal = exc
            outcome = Interrupted()
        run.end()
        return settled(run, outcome)

    def _outcome(self) -> Outcome:
        run, job, services = self._run, self._job, self._services
        if run.stop_reason not in (None, RunInterrupted):
            return Interrupted()  # cancelled or taken over since its claim: it does not begin
        try:
            context = StepContext(
                run,
                services,
                on_duplicate_step=job.on_duplicate_step or services.on_duplicate_step,
                on_change=job.on_change,
            )
        except DatabaseError as exc:
            if exc.is_of_row:
                return self._failed(exc)  # it would be the same at each attempt
            # Not the job's fault: the run goes back, and is claimed again later.
            report_worker_error(services.emitter, exc, "reading checkpoints", run.id)
            return Interrupted()
        try:
            arguments = self._arguments()
            if services.emitter.wants("run:start"):
                # Decoded again: what the job does to its own copy must not show in the event.
                payload = next(iter(self._arguments()), None)
                services.emitter.emit(
                    "run:start", **run.fields, payload=payload, attempt=run.attempt
                )
            returned = let_through(job.run, context, *arguments)
            run.refuse_forked_child()
            text, output = self._encoded(returned)
            unused = run.unused_steps()
        except BaseException as exc:
            run.refuse_forked_child()
            if run.is_callers_signal(exc):
                raise
            # Whatever else a job raises fails only its run. But if the engine stops, that is why
            # nothing executes the runs that a thread of the job may wait for.
            if _is_no_worker(exc) and self._is_stopping():
                return Interrupted()
            return self._failed(exc)
        return Completed(text, output, unused)

    def _failed(self, exc: BaseException) -> Outcome:
        """Return how the run leaves its code, which has raised *exc*."""
        run, services = self._run, self._services
        end = failed(run, services, exc)
        try:
            return after_failure(run, retry_of(run, self._job), services.clock, exc, end)
        except Exception as raised:
            if run.is_callers_signal(raised):
                raise
            return failed(run, services, raised)

    def _encoded(self, returned: Any) -> tuple[str, Any]:
        """Return what the job has returned as it is stored, and as it will be read."""
        type_, what = output_type(self._job), f"the result of job {self._job.name!r}"
        return encoded(self._services, self._run, "storing a result", returned, type_, what)

    def _arguments(self) -> tuple[Any, ...]:
        job, run = self._job, self._run
        if not takes_payload(job):
            return ()
        payload = self._services.codec.decode(
            run.row.payload,
            payload_type(job),
            what=f"the stored payload of run {run.id}",
            advice=_GO_ON,
        )
        return (payload,)


def failed(run: CurrentRun, services: Services, exc: BaseException) -> Failed:
    """Return how a run ends whose code has raised *exc*."""
    run.await_stop(services.clock, exc)
    run.failure = exc
    # The step that raised this exception, not one that the job has handled.
    # A copy: threads of the job that outlive it may still fail in their steps.
    steps = tuple(run.failed_steps)
    step = next((name for name, error in reversed(steps) if _leads_to(exc, error)), None)
    return Failed(attrs.evolve(error_info(exc), failed_step=step), step)


def settled(run: CurrentRun, outcome: Outcome) -> Outcome:
    """Return what the end of a run is, which its code has left with *outcome*."""
    is_failed = isinstance(outcome, Failed | TriedAgain)
    if run.stop_was_raised or (is_failed and run.stop_reason is not None):
        # A job may keep a stop to itself (a bare except, a future whose result is never
        # read), and then return without the rest of its work. And what fails after a stop was
        # asked for may do so because of it.
        outcome = Interrupted()
    if isinstance(outcome, Interrupted):
        if run.stop_reason in (RunCancelled, OwnershipLost):
            return Lost()
        if run.stop_reason is RunSuspended and run.suspension is not None:
            return run.suspension
    return outcome


def _is_no_worker(exc: BaseException) -> bool:
    """Return whether only ``NoWorkerError`` was raised, perhaps in several threads."""
    # Not with split(), which takes some of the thread's stack for each group inside another.
    left = [exc]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
        elif not isinstance(each, NoWorkerError):
            return False
    return True


def _leads_to(exc: BaseException | None, origin: BaseException) -> bool:
    """Return whether *exc* is *origin*, or was raised because of it."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if exc is origin:
            return True
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return False
