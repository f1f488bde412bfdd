"""How a step waits: by leaving its thread, or in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from durably._platform.clock import from_datetime, moment
from durably._platform.signals import entered_in_job
from durably.errors import NotFoundError, StepTimeoutError, ValidationError
from durably.execution.current_run import CurrentRun
from durably.execution.deadlines import uncounted
from durably.execution.services import Services
from durably.execution.step_calls import SHORT_S
from durably.execution.step_recorder import StepRecorder
from durably.execution.step_runner import StepRunner
from durably.execution.storing import retry_transient
from durably.settings import Duration, waitable
from durably.store.bounds import TIME
from durably.store.outcome import Suspended
from durably.store.rows import NewWait

if TYPE_CHECKING:
    from durably.store.read_rows import Wait

T = TypeVar("T")

# How often a wait that keeps its thread checks the wall clock, which may jump, and the file.
_POLL_S: Final = 0.1


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
        now_us = self._services.clock.now_us()
        stored = self._stored(self._services.checkpoints.open_wait, new, now_us)
        return self._ours(new.name, stored)

    @entered_in_job
    def note_check(self, name: str, tries: int, next_us: int) -> None:
        """Store how often a poll has checked, and when it checks again."""
        if not self._stored(self._services.checkpoints.note_check, name, tries, next_us):
            self._miss(name)

    @entered_in_job
    def found(self, name: str) -> Wait:
        """Return a wait that was stored, as it is now.

        Raises:
            NotFoundError: this run has none of that name.
            StopRun: another claim of the run is the current one.
        """
        checkpoints = self._services.checkpoints
        found = self._recorder.read(checkpoints.find_wait, self._run.run_pk, name)
        return self._ours(name, found)

    @entered_in_job
    def discard_answer(self, name: str) -> None:
        """Remove an answer that does not fit."""
        if not self._stored(self._services.checkpoints.discard_answer, name):
            self._miss(name)

    @entered_in_job
    def closed(self, name: str) -> Wait:
        """Return a wait that is over: with its answer, or without one from now on."""
        now_us = self._services.clock.now_us()
        return self._ours(name, self._stored(self._services.checkpoints.close_wait, name, now_us))

    def _stored(self, verb: Callable[..., T], *args: Any) -> T:
        """Write to a wait of this claim, trying again while a failure may pass."""
        run = self._run
        return retry_transient(
            self._services, run, "storing a wait", verb, run.run_pk, run.fence, *args
        )

    def _ours(self, name: str, found: Wait | None) -> Wait:
        return self._miss(name) if found is None else found

    def _miss(self, name: str) -> NoReturn:
        """Stop the job, or fail it if this claim is the current one: then nobody else would."""
        self._recorder.require_ownership()
        raise NotFoundError(
            f"run {self._run.id} has no ticket {name!r:.80}; pass to step.wait_for what "
            "step.prepare has returned in the same run, or redo that step"
        )

    def instant_us(self, when: Duration | datetime, what: str) -> int:
        """Return an instant, or what a duration from now on leads to, as it is stored.

        Raises:
            ValidationError: it is neither; the message begins with *what*.
        """
        if isinstance(when, datetime):
            if when.utcoffset() is None:
                raise ValidationError(f"{what} needs an aware datetime; this one has no time zone")
            return from_datetime(when)
        wait_s = waitable(when, what)
        # Within the bounds of a datetime.
        return min(self._services.clock.now_us() + int(wait_s * 1e6), TIME.most)

    def deadline_us(self, timeout: Duration | None) -> int | None:
        """Return when a timeout that begins now is over."""
        return None if timeout is None else self.instant_us(timeout, "timeout")

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
        run = self._run
        run.check()
        with uncounted(run, self._services.clock):
            self._wait_for_change(outcome, has_come)

    def _wait_for_change(self, outcome: Suspended, has_come: Callable[[], bool]) -> None:
        run = self._run
        try:
            while not has_come():
                left_s = SHORT_S
                if outcome.until_us is not None:
                    left_s = self.seconds_until(outcome.until_us)
                if left_s <= 0:
                    return
                if left_s >= SHORT_S and run.can_suspend:
                    run.suspend(outcome)
                run.wait = outcome
                child = outcome.run_pk
                if child is None or not self._services.family.execute(child):
                    self._caller.wait(min(left_s, _POLL_S))
        finally:
            run.wait = None

    def timed_out(self, name: str, wait: Wait) -> StepTimeoutError:
        """Return the error of a wait whose deadline has passed."""
        until = "" if wait.until_us is None else f" at {moment(wait.until_us)}"
        return StepTimeoutError(
            f"the time of step {name!r:.80} of run {self._run.id} was over{until}"
        )
