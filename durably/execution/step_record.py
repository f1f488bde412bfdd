"""Store steps that have no result, and check whether this claim may still store anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import attrs

from durably.codec import UNTYPED
from durably.errors import DatabaseError, OwnershipLost, RunCancelled, RunInterrupted
from durably.events import StepCancelled, StepEvent, StepFailed
from durably.execution.current_run import CurrentRun, Services, patiently
from durably.models import RunStatus, error_info

T = TypeVar("T")

# Reasons to stop after which nothing of this claim is wanted any more.
NOT_OURS: Final = (RunCancelled, OwnershipLost)


class StepRecorder:
    """Store and emit the ends of the steps of one run. Usable from any thread.

    Attributes:
        indexes: of the steps that failed or were cancelled, by name: a step keeps its index when
            its name comes again.
    """

    def __init__(self, active: CurrentRun, services: Services) -> None:
        self._active = active
        self._services = services
        self.indexes: dict[str, int] = {}

    def save(self, *row: Any, failed: DatabaseError) -> bool:
        """Store a result, whose first try has *failed*; return whether this claim may do so."""
        return self._stored(self._services.checkpoints.save, *row, failed=failed)

    def raised(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        """Store that a step has no result; return if the caller is to raise *exc* as it is."""
        active = self._active
        active.refuse_forked_child()
        if active.is_callers_signal(exc):
            return  # for example the user's Ctrl-C, not a failure of the step: the run goes back
        active.await_stop(self._services.clock, exc)
        if active.stop_reason is RunInterrupted:
            # The step stopped itself, or failed during the stop, as with a child process that got
            # the signal as well: the run goes back, and the step begins again.
            active.check()
        if active.stop_reason in NOT_OURS:
            self.cancelled(name, index, started_at_us)
            active.check()
        self._failed(name, index, started_at_us, exc)

    def _failed(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        services, active = self._services, self._active
        error = error_info(exc)
        active.failed_steps.append((name, exc))
        self.indexes[name] = index
        is_stored = self._stored(
            services.checkpoints.fail,
            active.run_pk,
            active.fence,
            index,
            name,
            services.codec.encode(
                attrs.asdict(error), UNTYPED, what="the error of step", name=name
            ),
            started_at_us,
            services.clock.now_us(),
        )
        if not is_stored:
            self.not_stored(name, index, started_at_us)
        self.emit(StepFailed, name, index, error=error)

    def cancelled(self, name: str, index: int, started_at_us: int) -> None:
        """Store that a step ended after its run was cancelled or recovered by another owner."""
        services, active = self._services, self._active
        self.indexes[name] = index
        self._stored(
            services.checkpoints.cancel,
            active.run_pk,
            active.fence,
            index,
            name,
            started_at_us,
            services.clock.now_us(),
        )
        self.emit(StepCancelled, name, index)

    def not_stored(self, name: str, index: int, started_at_us: int) -> NoReturn:
        """Stop after a write of this claim had no effect: another claim is current, or none."""
        self._lose(self._state())
        self.cancelled(name, index, started_at_us)
        self._active.check()
        raise AssertionError("check raises, as the run is to stop")

    def require_ownership(self) -> None:
        """Stop if another claim is current, or none.

        Called if a checkpoint of this run is missing, and before a function that this claim may no
        longer execute: a process that was stopped for long does not know yet.
        """
        active = self._active
        asked_at = self._services.clock.monotonic()
        state = self._state()
        if state != (RunStatus.RUNNING, active.fence):
            self._lose(state)
            active.check()
        active.current_at = asked_at

    def _state(self) -> tuple[str, int] | None:
        return self.read(self._services.checkpoints.state, self._active.run_pk)

    def _lose(self, state: tuple[str, int] | None) -> None:
        is_cancelled = state == (RunStatus.CANCELLED, self._active.fence)
        self._active.stop(RunCancelled if is_cancelled else OwnershipLost)

    def _stored(
        self, verb: Callable[..., bool], *args: Any, failed: DatabaseError | None = None
    ) -> bool:
        return patiently(self._services, self._active, "storing a step", verb, *args, failed=failed)

    def read(self, query: Callable[..., T], *args: Any) -> T:
        """Read checkpoints, trying again while a failure may pass."""
        return patiently(self._services, self._active, "reading checkpoints", query, *args)

    def emit(self, cls: type[StepEvent], name: str, index: int, **fields: Any) -> None:
        """Emit an event of a step."""
        emitter = self._services.emitter
        if emitter.wants(cls):
            emitter.emit(cls, **self._active.fields, step_name=name, step_index=index, **fields)
