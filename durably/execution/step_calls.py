"""Call the function of a step, again after failures, and when it asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from durably._platform.signals import let_through
from durably.errors import RetryAfter
from durably.execution.current_run import CurrentRun
from durably.execution.deadlines import check_deadline, limited, time_limited
from durably.execution.nested_steps import NestedSteps
from durably.execution.pacing import RateLimit, reserve, seconds_until
from durably.execution.services import Services
from durably.execution.step_recorder import StepRecorder
from durably.models import short_name

if TYPE_CHECKING:
    from durably.settings.retries import Retry

logger = logging.getLogger("durably")

# A shorter wait keeps its thread: to leave it and to come back costs two commits.
SHORT_S: Final = 5.0


class StepCaller:
    """Call the functions of the steps of one run. Usable from any thread."""

    def __init__(
        self, run: CurrentRun, services: Services, recorder: StepRecorder, nested: NestedSteps
    ) -> None:
        self._run = run
        self._services = services
        self._recorder = recorder
        self._nested = nested

    def call(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout_s: float | None = None,
        *,
        after: RetryAfter | None = None,
    ) -> Any:
        """Return what *fn* returns, at the call that does.

        Args:
            name: of the step.
            timeout_s: for each call.
            after: what the first call has raised, if the caller has made it.
        """
        run, clock = self._run, self._services.clock
        failures = 0
        pause_s = None if after is None else self._asked_to_wait(name, after)
        while True:
            if pause_s is not None:
                self._nested.outer_failed(name)
                self._pause(pause_s)
            if rate is not None:
                self.sleep(max(0.0, reserve(rate) - clock.monotonic()))
            if pause_s is not None:
                self._recorder.called_again(name)
            try:
                with time_limited(timeout_s, clock):
                    return let_through(fn, *args, **kwargs)
            except Exception as exc:
                run.refuse_forked_child()
                if run.is_callers_signal(exc):
                    raise
                if isinstance(exc, RetryAfter):
                    pause_s = self._asked_to_wait(name, exc)
                    continue
                failures += 1
                if retry is None:
                    raise
                from durably.settings.retries import next_wait_s  # noqa: PLC0415 - where first needed

                pause_s = next_wait_s(retry, exc, failures)
                if pause_s is None:
                    raise
                run.await_stop(clock, exc)

    def _asked_to_wait(self, name: str, after: RetryAfter) -> float:
        """Return how long to wait in this thread.

        Raises:
            RetryAfter: *after*, if the job is to leave its thread for so long.
        """
        self._run.refuse_forked_child()
        pause_s = seconds_until(after, self._services.clock)
        if pause_s >= SHORT_S and self._run.row.kind == "job":
            raise after
        logger.info(
            "%s: step %r is asked to wait for %.3g s",
            short_name(self._run.id, self._run.job_name, None),
            name,
            pause_s,
        )
        return pause_s

    def _pause(self, seconds: float) -> None:
        self.sleep(seconds)
        clock, run = self._services.clock, self._run
        if clock.monotonic() - run.current_at > self._services.longest_doubt_s:
            self._recorder.require_ownership()

    def sleep(self, seconds: float) -> None:
        """Block for *seconds*; if the run is to stop, or a deadline has passed, raise."""
        run, clock = self._run, self._services.clock
        self.wait(limited(seconds, run, clock))
        check_deadline(run, clock)

    def wait(self, seconds: float) -> None:
        """Block for *seconds*; if the run is to stop, wake up and raise."""
        run = self._run
        run.check()
        try:
            self._services.clock.wait(run.stopped, seconds)
        except BaseException as exc:
            run.keep_callers_signal(exc)
            raise
        run.check()
