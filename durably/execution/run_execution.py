"""One claimed run, from its start to its end. Knows nothing of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import attrs

from durably import events
from durably._platform.interrupts import raise_if_signal
from durably.codec import UNTYPED
from durably.errors import (
    DatabaseError,
    NoWorkerError,
    OwnershipLost,
    RunCancelled,
    RunInterrupted,
    StopRun,
)
from durably.execution.context import StepContext
from durably.execution.current_run import ActiveRun, Services, patiently, tell_worker_error
from durably.jobs import Job, output_type, payload_type, takes_payload
from durably.models import ErrorInfo, error_info
from durably.store.rows import Claim, Ended, Ending, RunRow

# How to go on where the payload's class has changed since the run was triggered.
_GO_ON: Final = (
    "it was stored by an earlier version of the code: give new fields a default, or trigger a new "
    "run and delete this one"
)

ClaimNext = Callable[[], Claim | None]


class _Outcome(NamedTuple):
    """How a job came back: exactly one of these, or neither for a run that goes back."""

    output: Any = None
    output_text: str | None = None
    error: ErrorInfo | None = None
    failed_step: str | None = None

    @property
    def goes_back(self) -> bool:
        """Whether the job was stopped before it came to an end."""
        return self.output_text is None and self.error is None


class Execution:
    """Executes the job of one claimed run and stores its end.

    Args:
        claim_next: says what to claim in the transaction that ends this run, or ``None``.
        is_stopping: whether the engine claims nothing any more that the run could wait for.
    """

    def __init__(
        self,
        active: ActiveRun,
        job: Job[Any, Any],
        services: Services,
        claim_next: ClaimNext,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._active = active
        self._job = job
        self._services = services
        self._claim_next = claim_next
        self._is_stopping = is_stopping
        self._untold: Callable[[], None] | None = None

    def execute(self) -> RunRow | None:
        """Run the job to its end; return the run that was claimed with it, if any.

        The end is stored, and told by ``tell``.

        Raises:
            BaseException: of a signal in a thread of the user's, as a Ctrl-C is; the run is pending
                again.
            ForkedError: this is a child that a step forked.
        """
        try:
            outcome = self._outcome()
        except BaseException as exc:
            if self._active.is_callers_signal(exc):
                self._end(_Outcome(), lambda: None)
                self.tell()
            raise
        claimed = self._end(outcome, self._claim_next)
        if self._active.callers_signal is not None:
            # The job has kept it to itself: nothing is claimed in a thread of the user's.
            self.tell()
            raise self._active.callers_signal
        return claimed

    def _outcome(self) -> _Outcome:
        active, job, services = self._active, self._job, self._services
        if active.stop_reason not in (None, RunInterrupted):
            return _Outcome()  # cancelled or taken over since its claim: it does not begin
        try:
            context = StepContext(
                active,
                services,
                on_duplicate_step=job.on_duplicate_step or services.on_duplicate_step,
            )
        except DatabaseError as exc:
            raise_if_signal(exc)
            if exc.is_of_row:
                return self._failed(exc)  # it would be the same at each attempt
            # Not the job's fault: the run goes back, and is claimed again later.
            tell_worker_error(services.emitter, exc, "reading checkpoints", active.id)
            return _Outcome()
        try:
            arguments = self._arguments()
            if services.emitter.wants(events.RunStarted):
                # Decoded once more: what the job does to its own must not show in the event.
                payload = next(iter(self._arguments()), None)
                services.emitter.emit(
                    events.RunStarted, **active.fields, payload=payload, attempt=active.attempt
                )
            returned = job.run(context, *arguments)
            active.refuse_forked_child()
            text, output = services.codec.encode_and_decode(
                returned, output_type(job), what=f"the result of job {job.name!r}"
            )
        except BaseException as exc:
            active.refuse_forked_child()
            if active.is_callers_signal(exc):
                raise
            # Whatever else a job raises fails its run, and no more. Where the engine stops, that is
            # why nothing executes what a thread of the job may wait for.
            if _is_no_worker(exc) and self._is_stopping():
                return _Outcome()
            return self._failed(exc)
        return _Outcome(output=output, output_text=text)

    def _arguments(self) -> tuple[Any, ...]:
        job, active = self._job, self._active
        if not takes_payload(job):
            return ()
        payload = self._services.codec.decode(
            active.row.payload,
            payload_type(job),
            what=f"the stored payload of run {active.id}",
            advice=_GO_ON,
        )
        return (payload,)

    def _failed(self, exc: BaseException) -> _Outcome:
        self._active.await_stop(self._services.clock, exc)
        # The step whose exception this is, not one that the job has dealt with.
        # A copy: threads of the job that outlive it may still fail in steps of theirs.
        steps = tuple(self._active.failed_steps)
        step = next((name for name, error in reversed(steps) if _leads_to(exc, error)), None)
        return _Outcome(error=error_info(exc), failed_step=step)

    def _end(self, outcome: _Outcome, claim_next: ClaimNext) -> RunRow | None:
        active, services = self._active, self._services
        with active.storing:
            active.is_over = True
            progress = active.take_progress()
        if active.stop_was_raised or (outcome.error is not None and active.stop_reason is not None):
            # A job may keep a stop to itself (a bare except, a future whose result is never
            # read), and then return without the rest of its work. And what fails after a stop was
            # asked for may do so because of it.
            outcome = _Outcome()
        error_text = None
        if outcome.error is not None:
            error_text = services.codec.encode(
                # With the step, for the run:fail that other engines build from the database.
                attrs.asdict(outcome.error) | {"failed_step": outcome.failed_step},
                UNTYPED,
                what="the error of a job",
            )
        self._flush_lines()
        now_us = services.clock.now_us()
        ended: Ended | None = None
        if not (outcome.goes_back and active.stop_reason in (RunCancelled, OwnershipLost)):
            ended = self._store(
                Ending(
                    run=active.key,
                    fence=active.fence,
                    output=outcome.output_text,
                    error=error_text,
                    progress=None if progress is None else self._services.buffers.encoded(progress),
                    keep_steps=services.preserve_steps,
                    now_us=now_us,
                ),
                claim_next,
            )
        is_effective = ended is not None and ended.is_effective
        if not is_effective:
            # Cancelled, or taken over. Whichever: this job has left its thread.
            self._release()
        if not is_effective or outcome.goes_back or active.row.concurrency_key is not None:
            # Itself, also where others have put it back before, or the next one with its key.
            services.changes.offer()
        else:
            services.changes.notify()
        if is_effective:

            def untold() -> None:
                if progress is not None:
                    self._services.buffers.told(active, progress)
                self._tell(outcome, now_us)

            self._untold = untold
        return None if ended is None else ended.claimed

    def tell(self) -> None:
        """Emit the events of the end.

        Apart from ``execute``: a listener may block, and the heartbeat puts a claimed run back
        that is nobody's for two beats, so that its new owner must know of it before.
        """
        untold, self._untold = self._untold, None
        if untold is not None:
            # After what a listener of progress is being told: it may be waiting for this end,
            # which is stored.
            with self._active.telling:
                untold()

    def _flush_lines(self) -> None:
        try:
            self._services.buffers.flush_lines()
        except DatabaseError as exc:
            raise_if_signal(exc)
            tell_worker_error(self._services.emitter, exc, "storing log lines", self._active.id)

    def _release(self) -> None:
        active, services = self._active, self._services
        try:
            self._services.buffers.release(active)
        except DatabaseError as exc:
            raise_if_signal(exc)
            tell_worker_error(services.emitter, exc, "releasing a run", active.id)
            self._services.buffers.release_later(active)

    def _store(self, ending: Ending, claim_next: ClaimNext) -> Ended | None:
        """Store the end; ``None`` if that cannot be done.

        The run then stays as it is in the database, and is put back by the heartbeat, or by
        whoever finds this process dead.
        """

        def store() -> Ended:
            return self._services.store.settle(ending, claim_next())

        try:
            return patiently(self._services, self._active, "storing the end of a run", store)
        except (StopRun, DatabaseError) as exc:
            raise_if_signal(exc)
            return None

    def _tell(self, outcome: _Outcome, now_us: int) -> None:
        active, services = self._active, self._services
        emitter = services.emitter
        started_at_us = active.row.started_at_us
        duration = max(0, now_us - (now_us if started_at_us is None else started_at_us)) / 1e6
        if outcome.output_text is not None:
            emitter.emit(
                events.RunCompleted, **active.fields, output=outcome.output, duration=duration
            )
        elif outcome.error is not None:
            emitter.emit(
                events.RunFailed,
                **active.fields,
                error=outcome.error,
                failed_step=outcome.failed_step,
                duration=duration,
            )
        else:
            emitter.emit(events.RunInterrupted, **active.fields)


def _is_no_worker(exc: BaseException) -> bool:
    """Return whether nothing but ``NoWorkerError`` was raised, in several threads perhaps."""
    # Not by split(), which takes some of the thread's stack for each group inside another.
    left = [exc]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
        elif not isinstance(each, NoWorkerError):
            return False
    return True


def _leads_to(exc: BaseException | None, origin: BaseException) -> bool:
    """Whether *exc* is *origin*, or was raised because of it."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if exc is origin:
            return True
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return False
