"""Store steps that have no result, and check whether this claim may still store anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from durably.codec import UNTYPED
from durably.codec.json_text import dump, is_plain
from durably.errors import (
    DatabaseError,
    EngineClosedError,
    OwnershipLost,
    RetryAfter,
    RunCancelled,
    RunInterrupted,
    RunSuspended,
    SerializationError,
)
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.storing import retry_transient
from durably.models import RunStatus, error_info, stored_error
from durably.store.calls import OpenCalls

if TYPE_CHECKING:
    from durably.execution.emitter import EventType
    from durably.execution.layers import Layers

T = TypeVar("T")

# Reasons to stop after which nothing of this claim is wanted any more.
NOT_OURS: Final = (RunCancelled, OwnershipLost)


class Notes:
    """What the calls of a step's function have noted, a dict for each that has noted anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_call: dict[int, dict[str, str]] = {}

    def add(self, call: int, data: dict[str, str]) -> None:
        """Add encoded values to those of a call, by their keys."""
        with self._lock:
            self._by_call.setdefault(call, {}).update(data)

    def text(self) -> str:
        """Return all as a JSON array."""
        with self._lock:
            return f"[{','.join(_object(data) for data in self._by_call.values())}]"


def _object(data: dict[str, str]) -> str:
    return "{" + ",".join(f"{dump(key)}:{text}" for key, text in data.items()) + "}"


def joined(first: str, second: str) -> str:
    """Return two JSON arrays as one."""
    return "[" + ",".join(inner for text in (first, second) if (inner := text[1:-1])) + "]"


class StepRecorder:
    """Store and emit the ends of the steps of one run. Usable from any thread.

    Attributes:
        indexes: of the steps that failed or were cancelled, by name: a step keeps its index when
            its name comes again.
        again: how often the function of a step in progress was called, if more than once, by name.
        notes: what the calls of the function of a step in progress have noted, by name.
    """

    def __init__(self, run: CurrentRun, services: Services) -> None:
        self._run = run
        self._services = services
        self.indexes: dict[str, int] = {}
        # Where the steps in progress are noted, and the slot of each there.
        self._begun = services.begun()
        self._slots: dict[str, int] = {}
        # Stores a result; another one once there is more to store of a step.
        self.save: Callable[..., bool] = services.checkpoints.save
        # Says which results are out of date, under ``on_change="redo"``.
        self.layers: Layers | None = None
        self.again: dict[str, int] = {}
        self.notes: dict[str, Notes] = {}

    def calls_of(self, name: str) -> tuple[int, str]:
        """Return how often the function of a step was called, and what it noted, as JSON text.

        The step begins anew when its name comes again.
        """
        notes = self.notes.pop(name, None)
        return self.again.pop(name, 1), "[]" if notes is None else notes.text()

    def note(self, name: str, data: dict[str, Any]) -> None:
        """Keep data with the call of the function of a step that is in progress."""
        # As it is now: the caller may change it later.
        codec = self._services.codec
        kept = {}
        for key, value in data.items():
            what = f"the note {key!r:.80} of step"
            kept[key] = text = codec.encode(value, UNTYPED, what=what, name=name)
            if not is_plain(text):
                raise SerializationError(
                    f"{what} {name!r:.80} is not JSON-like; note None, bools, finite numbers, "
                    "str, and lists and dicts of them"
                )
        self.save = self._save_calls
        notes = self.notes.setdefault(name, Notes())
        notes.add(self.again.get(name, 1), kept)

    def begin(self, name: str, reused: int) -> None:
        """Note that a step begins, for the engine that finds this process dead in it."""
        if self._begun is not None:
            run = self._run
            self._slots[name] = self._begun.begin(run.run_pk, run.fence, name, 1, reused)

    def called_again(self, name: str) -> None:
        """Note that the function of a step in progress is called once more."""
        run = self._run
        self.save = self._save_calls
        self.again[name] = count = self.again.get(name, 1) + 1
        if self._begun is not None:
            reused = run.count_steps().replayed
            slot = self._begun.begin(run.run_pk, run.fence, name, count, reused)
            self._begun.forget(self._slots.pop(name))
            self._slots[name] = slot

    def forget(self, name: str) -> None:
        """Take the note back, since it is stored that the step has failed."""
        if self._begun is not None:
            self._begun.forget(self._slots.pop(name))

    def end(self, name: str) -> None:
        """Note that the calling thread has left the step of that name, if it was in it."""
        slot = self._slots.pop(name, None)
        if slot is not None and self._begun is not None:
            self._begun.end(slot)

    def _save_calls(self, *row: Any) -> bool:
        """Store a result, with how often the function was called and what that has noted."""
        name: str = row[3]
        if self.layers is not None:
            row += self.layers.of(name)
            save_layered = self._services.checkpoints.save_layered
            return self.stored(save_layered, *row, *self.calls_of(name))
        if name not in self.again and name not in self.notes:
            return self._services.checkpoints.save(*row)
        return self.stored(self._services.checkpoints.save_calls, *row, *self.calls_of(name))

    def layer(self, layers: Layers) -> None:
        """Store from now on of which layer results are, and replace those that are out of date."""
        self.layers = layers
        self.save = self._save_calls

    def save_again(self, row: tuple[Any, ...], failed: DatabaseError | EngineClosedError) -> bool:
        """Store a result whose first try has *failed*; return whether this claim may do so."""
        if self.layers is not None:
            return self._save_calls(*row)
        return self.stored(self._services.checkpoints.save, *row, failed=failed)

    def raised(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        """Store that a step has no result; return if the caller is to raise *exc* as it is."""
        run = self._run
        run.refuse_forked_child()
        if run.is_callers_signal(exc):
            self._leave_open(name)
            return  # for example the user's Ctrl-C, not a failure of the step: the run goes back
        run.await_stop(self._services.clock, exc)
        if run.stop_reason in (RunInterrupted, RunSuspended):
            # The step stopped itself, or failed during the stop, as with a child process that got
            # the signal as well: the run goes back or waits, and the step begins again.
            self._leave_open(name)
            run.check()
        if run.stop_reason in NOT_OURS:
            self.cancelled(name, index, started_at_us)
            run.check()
        if isinstance(exc, RetryAfter):
            return  # no failure: the job is left, and the step is called when it goes on
        self._failed(name, index, started_at_us, exc)

    def _leave_open(self, name: str) -> None:
        """Keep the calls of a step that begins again, until the end of this execution is stored."""
        count, notes = self.calls_of(name)
        before = self._run.open_calls.get(name)
        if before is not None:  # by a job that goes on after a stop
            count += before.calls
            notes = joined(before.notes, notes)
        self._run.open_calls[name] = OpenCalls(name, count, notes)

    def _failed(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        services, run = self._services, self._run
        error = error_info(exc)
        run.failed_steps.append((name, exc))
        if self.layers is not None and self.layers.replaces(name):
            # Its result stays until there is another one, and is out of date as long.
            self.layers.fail(name)
            self.require_ownership()
            self._leave_open(name)
            self.emit("step:fail", name, index, error=error)
            return
        self.indexes[name] = index
        is_stored = self.stored(
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
            *self.calls_of(name),
        )
        if not is_stored:
            self.not_stored(name, index, started_at_us)
        self.emit("step:fail", name, index, error=error)

    def cancelled(self, name: str, index: int, started_at_us: int) -> None:
        """Store that a step ended after its run was cancelled or recovered by another owner."""
        services, run = self._services, self._run
        self.indexes[name] = index
        self.stored(
            services.checkpoints.cancel,
            run.run_pk,
            run.fence,
            index,
            name,
            started_at_us,
            services.clock.now_us(),
            *self.calls_of(name),
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

    def stored(
        self,
        verb: Callable[..., bool],
        *args: Any,
        failed: DatabaseError | EngineClosedError | None = None,
    ) -> bool:
        """Store something of a step, trying again while a failure may pass."""
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
