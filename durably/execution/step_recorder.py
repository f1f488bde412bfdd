"""Store steps that have no result, and check whether this claim may still store anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from durably.codec import UNTYPED
from durably.errors import (
    DatabaseError,
    EngineClosedError,
    OwnershipLost,
    RetryAfter,
    RunCancelled,
    RunInterrupted,
    RunSuspended,
)
from durably.execution.current_run import CurrentRun, Services, encoded, retry_transient
from durably.models import RunStatus, error_info, stored_error

if TYPE_CHECKING:
    from durably.execution.emitter import EventType

T = TypeVar("T")

# Reasons to stop after which nothing of this claim is wanted any more.
NOT_OURS: Final = (RunCancelled, OwnershipLost)


class StepRecorder:
    """Store and emit the ends of the steps of one run. Usable from any thread.

    Attributes:
        indexes: of the steps that failed or were cancelled, by name: a step keeps its index when
            its name comes again.
    """

    def __init__(self, run: CurrentRun, services: Services) -> None:
        self._run = run
        self._services = services
        self.indexes: dict[str, int] = {}

    def save(self, *row: Any, failed: DatabaseError | EngineClosedError) -> bool:
        """Store a result, whose first try has *failed*; return whether this claim may do so."""
        return self._stored(self._services.checkpoints.save, *row, failed=failed)

    def encoded(self, name: str, value: Any, type_: Any) -> tuple[str, Any]:
        """Return the text of a result, whose large parts are in files, and what is read from it."""

        def encode() -> tuple[str, Any]:
            return self._services.codec.encode_and_decode(
                value, type_, what="the result of step", name=name, has_parts=True
            )

        return encoded(self._services, self._run, "storing a step", encode)

    def raised(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        """Store that a step has no result; return if the caller is to raise *exc* as it is."""
        run = self._run
        run.refuse_forked_child()
        if run.is_callers_signal(exc):
            return  # for example the user's Ctrl-C, not a failure of the step: the run goes back
        run.await_stop(self._services.clock, exc)
        if run.stop_reason in (RunInterrupted, RunSuspended):
            # The step stopped itself, or failed during the stop, as with a child process that got
            # the signal as well: the run goes back or waits, and the step begins again.
            run.check()
        if run.stop_reason in NOT_OURS:
            self.cancelled(name, index, started_at_us)
            run.check()
        if isinstance(exc, RetryAfter):
            return  # no failure: the job is left, and the step is called when it goes on
        self._failed(name, index, started_at_us, exc)

    def _failed(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        services, run = self._services, self._run
        error = error_info(exc)
        run.failed_steps.append((name, exc))
        self.indexes[name] = index
        is_stored = self._stored(
            services.checkpoints.fail,
            run.run_pk,
            run.fence,
            index,
            name,
            services.codec.encode(
                stored_error(error), UNTYPED, what="the error of step", name=name
            ),
            started_at_us,
            services.clock.now_us(),
        )
        if not is_stored:
            self.not_stored(name, index, started_at_us)
        self.emit("step:fail", name, index, error=error)

    def cancelled(self, name: str, index: int, started_at_us: int) -> None:
        """Store that a step ended after its run was cancelled or recovered by another owner."""
        services, run = self._services, self._run
        self.indexes[name] = index
        self._stored(
            services.checkpoints.cancel,
            run.run_pk,
            run.fence,
            index,
            name,
            started_at_us,
            services.clock.now_us(),
        )
        self.emit("step:cancel", name, index)

    def not_stored(self, name: str, index: int, started_at_us: int) -> NoReturn:
        """Stop after a write of this claim had no effect: another claim is current, or none."""
        self._lose(self._state())
        self.cancelled(name, index, started_at_us)
        self._run.check()
        raise AssertionError("check raises, as the run is to stop")

    def lose(self) -> None:
        """Stop the job, after a write of this claim had no effect."""
        self._lose(self._state())

    def require_ownership(self) -> None:
        """Stop if another claim is current, or none.

        Called if a checkpoint of this run is missing, and before a function that this claim may no
        longer execute: a process that was stopped for long does not know yet.
        """
        run = self._run
        asked_at = self._services.clock.monotonic()
        state = self._state()
        if state != (RunStatus.RUNNING, run.fence):
            self._lose(state)
            run.check()
        run.current_at = asked_at

    def _state(self) -> tuple[str, int] | None:
        return self.read(self._services.checkpoints.state, self._run.run_pk)

    def _lose(self, state: tuple[str, int] | None) -> None:
        is_cancelled = state == (RunStatus.CANCELLED, self._run.fence)
        self._run.stop(RunCancelled if is_cancelled else OwnershipLost)

    def _stored(
        self,
        verb: Callable[..., bool],
        *args: Any,
        failed: DatabaseError | EngineClosedError | None = None,
    ) -> bool:
        return retry_transient(
            self._services, self._run, "storing a step", verb, *args, failed=failed
        )

    def read(self, query: Callable[..., T], *args: Any) -> T:
        """Read checkpoints, trying again while a failure may pass."""
        return retry_transient(self._services, self._run, "reading checkpoints", query, *args)

    def emit(self, type_: EventType, name: str, index: int, **fields: Any) -> None:
        """Emit an event of a step."""
        emitter = self._services.emitter
        if emitter.wants(type_):
            emitter.emit(type_, **self._run.fields, step_name=name, step_index=index, **fields)
