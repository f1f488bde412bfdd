"""The step context, which a job gets as its first argument: its steps, progress and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job
from durably.codec import NOTHING, Nothing
from durably.errors import SerializationError, StepTimeoutError, ValidationError
from durably.execution.current_run import CurrentRun, Services
from durably.execution.loops.step_loops import StepLoops
from durably.execution.nested_steps import NestedSteps
from durably.execution.pacing import RateLimit
from durably.execution.step_children import StepChildren
from durably.execution.step_log import (
    NUMBERS,
    StepLog,
    checked_progress,
    current_deadline,
    current_item,
    current_step,
)
from durably.execution.step_options import PlainStep, ReturningStep
from durably.execution.step_runner import StepRunner
from durably.execution.step_waits import StepWaits
from durably.execution.waiting import Waiting
from durably.settings import Duration, OnDuplicateStep, waitable
from durably.settings.retries import Retry

Ps = ParamSpec("Ps")
T = TypeVar("T")
U = TypeVar("U")


class StepContext(StepLoops, StepWaits, StepChildren):
    """The first argument of a job: its steps, its progress, its log.

    Usable from any thread that the job starts, as long as the run is executed. ``log`` writes
    structured lines: ``step.log.info("read", rows=12)``.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        run: CurrentRun,
        services: Services,
        *,
        on_duplicate_step: OnDuplicateStep,
        nested: NestedSteps | None = None,
    ) -> None:
        self._run = run
        self._services = services
        self.log = StepLog(run, services)
        self._step_runner = StepRunner(
            run, services, on_duplicate_step=on_duplicate_step, nested=nested
        )
        self._waiting = Waiting(run, services, self._step_runner)

    def __reduce__(self) -> NoReturn:
        # A copy would use the same indexes again.
        raise SerializationError(
            f"the step object belongs to run {self._run.id}, which is executed here; it can be "
            "used from threads of its job, but not be copied or pickled"
        )

    # -- what is being executed ------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id of the run.

        .. versionadded:: 0.1.0
        """
        return self._run.id

    @property
    def job_name(self) -> str:
        """The name of the job.

        .. versionadded:: 0.1.0
        """
        return self._run.job_name

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the run; a copy.

        .. versionadded:: 0.1.0
        """
        return dict(self._run.labels)

    @property
    def attempt(self) -> int:
        """Return the run's ``attempt``: 1, and one more after each failure, retry or death.

        .. versionadded:: 0.1.0
        """
        return self._run.attempt

    @property
    def cancelled(self) -> bool:
        """Return whether the run was cancelled, interrupted or recovered by another owner.

        .. versionadded:: 0.1.0
        """
        return self._run.stop_reason is not None

    # -- stopping -------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``StopRun`` at once if the run was cancelled, interrupted or recovered.

        ``run`` does so by itself before and after each function; call this inside long ones.

        Raises:
            StopRun: a subclass says why; do not catch it.
            StepTimeoutError: the deadline of the item that the calling thread executes has passed.

        .. versionadded:: 0.1.0
        """
        self._run.check()
        self._check_deadline()

    @entered_in_job
    def sleep(self, seconds: Duration) -> None:
        """Block for *seconds* (or a ``timedelta``); wake up and raise as ``check`` does.

        It is short, in place, and not stored: a resume sleeps again. See ``sleep_until``.

        Raises:
            StopRun: the run is to stop, or has ended.
            StepTimeoutError: the deadline of the item that the calling thread executes has passed.
            ValidationError: *seconds* is not a duration, or negative.

        .. versionadded:: 0.1.0
        """
        self._run.check()
        seconds_s = waitable(seconds, "step.sleep")
        left_s = self.remaining
        self._step_runner.caller.sleep(seconds_s if left_s is None else min(seconds_s, left_s))
        self._check_deadline()

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline of the item of a map, never below 0; ``None`` without one.

        Pass it to what can wait: ``requests.get(url, timeout=step.remaining)``.

        .. versionadded:: 0.2.0
        """
        deadline_s = current_deadline.get()
        if deadline_s is None:
            return None
        return max(0.0, deadline_s - self._services.clock.monotonic())

    def _check_deadline(self) -> None:
        if current_deadline.get() is not None and self.remaining == 0:
            raise StepTimeoutError(
                f"the time of item {current_item.get()!r:.80} of step {current_step.get()!r:.80} "
                "is over; give it a longer timeout, or smaller items"
            )

    # -- progress -------------------------------------------------------------------------

    def progress(
        self, current: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report how far the run is, in units of your own. Cheap enough for an inner loop.

        The progress is kept in memory, and stored and emitted as ``run:progress`` a few times a
        second, and always at the end of the run.

        Raises:
            ValidationError: *current* or *total* is not a number, or *message* not a str.
            StopRun: the run has ended.

        .. versionadded:: 0.1.0
        """
        run = self._run
        if (
            type(current) not in NUMBERS
            or not (total is None or type(total) in NUMBERS)
            or not (message is None or type(message) is str)
        ):
            current, total, message = checked_progress(current, total, message)
        if run.is_over:
            run.check()
        run.has_own_progress = True
        if run.has_replayed and not run.has_executed:
            run.reused_progress = current
            run.has_replayed = False
        run.progress = (current, total, message)
        if not run.has_new_progress:
            run.has_new_progress = True
            self._services.buffers.progressed(run)

    # -- steps ----------------------------------------------------------------------------

    @entered_in_job
    def run(self, name: str, fn: Callable[Ps, T], /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Return ``fn(*args, **kwargs)``, executed once for this run and stored under *name*.

        If the run has a checkpoint of that name, its result is returned and *fn* is not
        called. Otherwise *fn* is called in this thread, and its result is committed
        before this returns; what is returned is the value decoded from the checkpoint, so
        that a resumed run sees the same. Its type is *fn*'s return annotation, else JSON-like data.

        Args:
            name: unique within the run; 1 to 500 characters, no control characters.

        Raises:
            DuplicateStepError: a step of that name has already completed in this execution;
                *fn* was not called.
            SerializationError: the result has no faithful stored form; the step failed.
            ValidationError: the name is not usable.
            StopRun: the run was cancelled, interrupted or recovered, or has ended.
            Exception: whatever *fn* raised; the step is recorded as failed.

        .. versionadded:: 0.1.0
        """
        result: T = self._step_runner.take(name, fn, args, kwargs)
        return result

    @overload
    def options(
        self, *, returns: Nothing, retry: Retry | None = None, rate: RateLimit | None = None
    ) -> ReturningStep[None]: ...
    @overload
    def options(
        self, *, returns: type[U], retry: Retry | None = None, rate: RateLimit | None = None
    ) -> ReturningStep[U]: ...
    @overload
    def options(
        self, *, returns: None = None, retry: Retry | None = None, rate: RateLimit | None = None
    ) -> PlainStep: ...
    @overload
    def options(
        self, *, returns: Any, retry: Retry | None = None, rate: RateLimit | None = None
    ) -> ReturningStep[Any]: ...
    def options(
        self, *, returns: Any = None, retry: Retry | None = None, rate: RateLimit | None = None
    ) -> Any:
        """Return a step with options: ``step.options(returns=Row, retry=Retry()).run(name, fn)``.

        Args:
            returns: the type of the result, if *fn* is not annotated, or wrongly. With
                ``durably.NOTHING`` the result is discarded, whatever it is, and ``run`` returns
                ``None``.
            retry: how to call *fn* again after a failure; by default it is not called again.
            rate: limits how often *fn* is called, with all other steps and maps that have it.

        Returns:
            An object with the same ``run`` as the step context, with these settings.

        Raises:
            ValidationError: *returns* is not a type that can be stored, *retry* not a ``Retry``, or
                *rate* not a ``RateLimit``.

        .. versionadded:: 0.1.0
        """
        if retry is not None and not isinstance(retry, Retry):
            raise ValidationError(f"retry must be a Retry, not {short_repr(retry)}")
        if rate is not None and not isinstance(rate, RateLimit):
            raise ValidationError(f"rate must be a RateLimit, not {short_repr(rate)}")
        if returns is not None:
            if returns is not NOTHING:
                self._services.codec.check_type(returns, "step.options(returns=...)")
            return ReturningStep(self._step_runner, returns, retry, rate)
        return PlainStep(self._step_runner, None, retry, rate)
