"""How a step waits: by leaving its thread, or in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from durably._platform.clock import moment
from durably._platform.signals import entered_in_job
from durably.errors import StepTimeoutError
from durably.execution.current_run import CurrentRun, Services, retry_transient
from durably.execution.step_recorder import StepRecorder
from durably.execution.step_runner import StepRunner
from durably.store.outcome import Suspended
from durably.store.rows import NewWait, Wait

T = TypeVar("T")

# A shorter wait keeps its thread: to leave it and to come back costs two commits.
SHORT_S: Final = 5.0
# How often a wait that keeps its thread looks at the wall clock, which may jump, and at the file.
_LOOK_S: Final = 0.1


class Waiting:
    """The waits of one run. Usable from any thread, as long as the run is executed."""

    def __init__(self, run: CurrentRun, services: Services, step_runner: StepRunner) -> None:
        self._run = run
        self._services = services
        self._recorder: StepRecorder = step_runner.recorder
        self._caller = step_runner.caller

    # -- what is stored of a wait ----------------------------------------------------------

    @entered_in_job
    def opened(self, new: NewWait) -> Wait:
        """Return the wait as it was stored by the first call.

        Raises:
            StopRun: another claim of the run is the current one.
        """
        run = self._run
        now_us = self._services.clock.now_us()
        checkpoints = self._services.checkpoints
        return self._ours(
            retry_transient(
                self._services,
                run,
                "storing a wait",
                lambda: checkpoints.open_wait(run.run_pk, run.fence, new, now_us),
            )
        )

    @entered_in_job
    def note_check(self, name: str, tries: int, next_us: int) -> None:
        """Store how often a poll has checked, and when it checks again."""
        run = self._run
        is_stored = retry_transient(
            self._services,
            run,
            "storing a wait",
            self._services.checkpoints.note_check,
            run.run_pk,
            run.fence,
            name,
            tries,
            next_us,
        )
        if not is_stored:
            self._ours(None)

    @entered_in_job
    def closed(self, name: str) -> Wait:
        """Return a wait that is over: with its answer, or without one from now on."""
        run = self._run
        return self._ours(
            retry_transient(
                self._services,
                run,
                "storing a wait",
                self._services.checkpoints.close_wait,
                run.run_pk,
                run.fence,
                name,
                self._services.clock.now_us(),
            )
        )

    def _ours(self, found: Wait | None) -> Wait:
        if found is None:
            self._recorder.lose()
            self._run.check()
            raise AssertionError("check raises, as the run is to stop")
        return found

    # -- waiting ---------------------------------------------------------------------------

    def seconds_until(self, until_us: int) -> float:
        """Return the seconds until an instant of the wall clock, never below 0."""
        return max(0.0, (until_us - self._services.clock.now_us()) / 1e6)

    def until(self, name: str, until_us: int) -> None:
        """Wait for an instant of the wall clock.

        Raises:
            StopRun: the run leaves its thread until then, or is to stop.
        """
        self.for_change(Suspended("time", name, until_us), lambda: False)

    @entered_in_job
    def for_change(self, outcome: Suspended, has_come: Callable[[], bool]) -> None:
        """Wait until *has_come* returns true, or the time of *outcome* is over.

        Raises:
            StopRun: the run leaves its thread until then, or is to stop.
        """
        run, until_us = self._run, outcome.until_us
        run.check()
        while not has_come():
            left_s = SHORT_S if until_us is None else self.seconds_until(until_us)
            if left_s <= 0:
                return
            if left_s >= SHORT_S and run.can_suspend:
                run.suspend(outcome)
            run.wait = outcome
            try:
                self._caller.sleep(min(left_s, _LOOK_S))
            finally:
                run.wait = None

    def timed_out(self, name: str, wait: Wait) -> StepTimeoutError:
        """Return the error of a wait whose deadline has passed."""
        until = "" if wait.until_us is None else f" at {moment(wait.until_us)}"
        return StepTimeoutError(
            f"the time of step {name!r:.80} of run {self._run.id} was over{until}"
        )
