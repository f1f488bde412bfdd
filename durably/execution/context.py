"""The step context, which a job gets as its first argument: its steps, progress and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from durably._platform.signals import entered_in_job
from durably.codec import NOTHING, Nothing
from durably.errors import SerializationError, ValidationError
from durably.execution.changes import checked_change
from durably.execution.current_run import CurrentRun
from durably.execution.deadlines import check_deadline, remaining_s
from durably.execution.loops.step_loops import StepLoops
from durably.execution.nested_steps import NestedSteps
from durably.execution.services import Services
from durably.execution.step_children import StepChildren
from durably.execution.step_log import (
    NUMBERS,
    StepLog,
    checked_progress,
    current_item,
    current_step,
)
from durably.execution.step_options import PlainStep, ReturningStep, check_rate_limit
from durably.execution.step_runner import StepRunner
from durably.execution.step_waits import StepWaits
from durably.settings import Duration, OnChange, OnDuplicateStep, time_limit, waitable

if TYPE_CHECKING:
    from durably.execution.pacing import RateLimit
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
        on_change: OnChange | None = None,
        nested: NestedSteps | None = None,
    ) -> None:
        self._run = run
        self._services = services
        self.log = StepLog(run, services)
        self._step_runner = StepRunner(
            run,
            services,
            on_duplicate_step=on_duplicate_step,
            on_change=on_change,
            nested=nested,
        )

    def __reduce__(self) -> NoReturn:
        # A copy would use the same indexes again.
        raise SerializationError(
            f"the step object belongs to run {self._run.id}, which is executed here; it can be "
            "used from threads of its job, but not be copied or pickled"
        )

    # -- what is being executed ------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """Return the id of the run.

        .. versionadded:: 0.1.0
        """
        return self._run.id

    @property
    def job_name(self) -> str:
        """Return the name of the job.

        .. versionadded:: 0.1.0
        """
        return self._run.job_name

    @property
    def labels(self) -> dict[str, str]:
        """Return a copy of the labels of the run.

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
            StepTimeoutError: the deadline of the run has passed, or that of the step or the item
                that the calling thread executes.

        .. versionadded:: 0.1.0
        """
        self._run.check()
        check_deadline(self._run, self._services.clock)

    @entered_in_job
    def sleep(self, seconds: Duration) -> None:
        """Block for *seconds* (or a ``timedelta``); wake up and raise as ``check`` does.

        It is short, in place, and not stored: a resume sleeps again. See ``sleep_until``.

        Raises:
            StopRun: the run is to stop, or has ended.
            StepTimeoutError: the deadline of the run has passed, or that of the step or the item
                that the calling thread executes; it is raised at once then.
            ValidationError: *seconds* is not a duration, or negative.

        .. versionadded:: 0.1.0
        """
        self._run.check()
        self._step_runner.caller.sleep(waitable(seconds, "step.sleep"))

    @property
    def remaining(self) -> float | None:
        """Return the seconds until the deadline, never below 0; ``None`` without one.

        It is that of the run, or of the step or the item of a map that the calling thread executes,
        whichever is nearer. Pass it to what can wait:
        ``requests.get(url, timeout=step.remaining)``.

        .. versionadded:: 0.2.0
        """
        return remaining_s(self._run, self._services.clock)

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

    def note(self, /, **data: Any) -> None:
        """Keep JSON-like data with the record of the step that the calling thread is inside of.

        It is stored with the end of the step, also if that has failed: token counts, costs. Several
        calls are merged, and each call of the step's function has a dict of its own in
        ``StepRecord.notes``. Costs no commit.

        Raises:
            ValidationError: the thread is not inside the function of a ``step.run``.
            SerializationError: a value is not JSON-like.
            StopRun: the run has ended.

        .. versionadded:: 0.2.0
        """
        if self._run.is_over:
            self._run.check()
        name = current_step.get()
        if name is None or current_item.get() is not None or name not in self._run.turns:
            raise ValidationError(
                "step.note keeps data with a step, and was called outside of one; call it in the "
                "function that step.run calls, in the thread that it is called in"
            )
        self._step_runner.recorder.note(name, data)

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
            StepTimeoutError: the deadline of the run has passed, or that of the step or the item
                that the calling thread executes.
            StopRun: the run was cancelled, interrupted or recovered, or has ended.
            Exception: whatever *fn* raised; the step is recorded as failed.

        .. versionadded:: 0.1.0
        """
        result: T = self._step_runner.take(name, fn, args, kwargs)
        return result

    @overload
    def options(
        self,
        *,
        returns: Nothing,
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout: Duration | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> ReturningStep[None]: ...
    @overload
    def options(
        self,
        *,
        returns: type[U],
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout: Duration | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> ReturningStep[U]: ...
    @overload
    def options(
        self,
        *,
        returns: None = None,
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout: Duration | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> PlainStep: ...
    @overload
    def options(
        self,
        *,
        returns: Any,
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout: Duration | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> ReturningStep[Any]: ...
    def options(
        self,
        *,
        returns: Any = None,
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout: Duration | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> Any:
        """Return a step with options: ``step.options(returns=Row, retry=Retry()).run(name, fn)``.

        Args:
            returns: the type of the result, if *fn* is not annotated, or wrongly. With
                ``durably.NOTHING`` the result is discarded, whatever it is, and ``run`` returns
                ``None``.
            retry: how to call *fn* again after a failure; by default it is not called again.
            rate: limits how often *fn* is called, with all other steps and maps that have it.
            timeout: seconds (or a ``timedelta``) for each call of *fn*, a deadline that
                ``step.check``, ``step.sleep`` and the steps inside of it enforce, and that
                ``step.remaining`` returns. A function that does not check it is not stopped.
            on_change: what happens if the stored result was made by other code than today's:
                ``"warn"`` uses it and warns (``CodeChangedWarning``), ``"ignore"`` uses it, and
                ``"redo"`` executes the step again, and all that come after it with ``"redo"``. It
                does so too if an argument is another one, or *depends_on*, or if a step before it
                was executed since. An argument that is not JSON-like, all of it, is not compared: a
                date, a ``Path``, a dataclass, a ``Decimal``, an enum member. That is for pure
                computations; a step that sends mails would send them again. By default as in the
                job or the session.
            depends_on: a JSON-like value that the result depends on beside the arguments, such as a
                threshold or ``durably.fingerprint_of(path)``. It means ``on_change="redo"``.

        Returns:
            An object with the same ``run`` as the step context, with these settings.

        Raises:
            ValidationError: *returns* is not a type that can be stored, *retry* not a ``Retry``,
                *rate* not a ``RateLimit``, *timeout* not a positive duration, *on_change* another
                word, or *depends_on* not JSON-like, or given with another *on_change*.

        .. versionadded:: 0.1.0
        .. versionchanged:: 0.2.0 Has ``on_change`` and ``depends_on``.
        """
        if retry is not None:
            from durably.settings.retries import check_retry  # noqa: PLC0415 - where first needed

            check_retry(retry)
        if on_change is not None or depends_on is not None:
            on_change, depends_on = checked_change("step.options", on_change, depends_on)
            if on_change == "redo":
                self._step_runner.track_layers()
        if rate is not None:
            check_rate_limit(rate)
        timeout_s = None if timeout is None else time_limit(timeout)
        options = retry, rate, timeout_s, on_change, depends_on
        if returns is not None:
            if returns is not NOTHING:
                self._services.codec.check_type(returns, "step.options(returns=...)")
            return ReturningStep(self._step_runner, returns, *options)
        return PlainStep(self._step_runner, None, *options)
