"""Run the steps of a run: return stored results, or call functions and store their results."""

from __future__ import annotations

import functools
import threading
from _thread import get_ident
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from durably._platform import fork_hooks
from durably._platform.signals import deliver, let_through
from durably.codec import UNTYPED, Unresolved, return_type_of
from durably.errors import (
    DatabaseError,
    EngineClosedError,
    RetryAfter,
    SerializationError,
    ValidationError,
)
from durably.execution.code_changes import CodeChanges
from durably.execution.current_run import CurrentRun
from durably.execution.deadlines import check_deadline
from durably.execution.nested_steps import NestedSteps
from durably.execution.services import Services
from durably.execution.step_checks import LARGE_RESULT, check_call, warn_of_size
from durably.execution.step_log import current_deadline, current_step
from durably.execution.step_recorder import NOT_OURS
from durably.execution.step_turns import StepTurns
from durably.execution.storing import encoded
from durably.settings import OnChange, OnDuplicateStep
from durably.store.bounds import FENCE_BITS

if TYPE_CHECKING:
    from durably.execution.layers import Layers
    from durably.execution.pacing import RateLimit
    from durably.execution.step_calls import StepCaller
    from durably.settings.retries import Retry
    from durably.store.rows import Checkpoint

T = TypeVar("T")

# How a step's function is called: again after failures, how often, and for how long.
_Options = tuple["Retry | None", "RateLimit | None", "float | None"]
_NO_OPTIONS: Final = (None, None, None)
# Functions of which a run knows how their results are stored; the steps of a loop call a few.
_MOST_FUNCTIONS: Final = 16
_STORED: Final = "the stored result of step"


class StepRunner(StepTurns):
    """Run the steps of one run. Usable from any thread, as long as the run is executed.

    Each step pays for everything here, right after the wait for the disk of the step before, which
    left the processor's caches cold. So it makes few calls.
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
        super().__init__(
            run,
            services,
            on_duplicate_step=on_duplicate_step,
            nested=nested,
            is_layered=on_change == "redo",
        )
        # What happens to results of other code, where a step does not say.
        self.on_change: OnChange = on_change or "warn"
        # Says which results are out of date, once a step is to be executed again then.
        self.layers: Layers | None = None
        self._layers_lock = threading.Lock()
        self.changes = self._changes = CodeChanges(run, services, self._recorder)
        # The code of each function that captures nothing, the type of its results, if that was
        # looked up, and the fingerprint that is stored with them.
        self._functions: dict[FunctionType, tuple[CodeType, Any, int | None]] = {}
        if self.on_change == "redo":
            self.track_layers()

    @functools.cached_property
    def caller(self) -> StepCaller:
        """Calls functions again, and waits between two calls."""
        with fork_hooks.no_fork():  # for the child, as before a claim
            from durably.execution.step_calls import StepCaller  # noqa: PLC0415 - where first needed

        return StepCaller(self._run, self._services, self._recorder, self._nested)

    def track_layers(self) -> Layers:
        """Find out from now on which results are out of date; replace those."""
        from durably.execution.layers import Layers  # noqa: PLC0415 - where first needed

        with self._layers_lock:
            if self.layers is None:
                run, read = self._run, self._recorder.read
                used, has_stored = read(self._checkpoints.layer)
                newest = run.fence << FENCE_BITS if has_stored else 0
                if used and not has_stored:
                    newest = read(self._services.checkpoints.newest_layer, run.run_pk, used)
                layers = Layers(run.fence, newest, self._nested.cell)
                self._nested.begin_again = layers.begin_again
                self._recorder.layer(layers)
                self.layers = layers
            return self.layers

    def take(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        returns: Any = None,
        retry: Retry | None = None,
        rate: RateLimit | None = None,
        timeout_s: float | None = None,
        on_change: OnChange | None = None,
        depends_on: str | None = None,
    ) -> Any:
        """Return the step's result: from its checkpoint, or from *fn*, whose result is stored.

        Args:
            returns: the type of the result; by default the annotation of *fn*.
            retry: how often to call *fn* again after a failure.
            rate: limits how often *fn* is called.
            timeout_s: for each call of *fn*.
            on_change: what happens to a result of other code; by default as in the job.
            depends_on: what the result depends on beside the arguments, as text. With that and with
                ``"redo"``, ``track_layers`` must have been called.
        """
        run = self._run
        has_deadline = run.deadline_s is not None or current_deadline.get() is not None
        if has_deadline or run.stop_reason is not None or run.is_over or fork_hooks.pid != run.pid:
            self._check()
        if type(name) is str and callable(fn):
            # A resume pays for this at each step that it passes: a stored name needs no checks.
            checkpoint = self._checkpoints.take_result(name)
            if checkpoint is not None:
                return self._replayed(name, fn, *self._known(fn, returns), checkpoint, on_change)
        check_call(run, name, fn)
        type_, code = self._known(fn, returns)
        turn = (get_ident(),)
        if self._turns.setdefault(name, turn) is not turn:
            self._await_turn(name, turn)
        try:
            checkpoint, is_repeated = None, False
            if self._checkpoints.may_hold(name):
                checkpoint, is_repeated = self._stored(name)
            options = retry, rate, timeout_s
            if self.layers is not None:
                change = on_change or self.on_change, depends_on, is_repeated
                return self._take_layered(
                    name, checkpoint, fn, args, kwargs, type_, code, options, *change
                )
            if checkpoint is None or checkpoint[1] is None:
                index = self._index_of(name, checkpoint)
                try:
                    result = self._execute(name, index, fn, args, kwargs, type_, code, options)
                finally:
                    if self.layers is not None:  # since it began: what follows comes after it
                        self.layers.use(self.layers.layer)
                deliver()  # here already, so that it is kept if the job does not let it through
                return result
        except BaseException as exc:
            run.keep_callers_signal(exc)
            raise
        finally:
            self.end_turn(name)
        # What was used twice in one execution is no other version of one function.
        if is_repeated and not self._repeated(name):
            on_change = "redo"
        return self._replayed(name, fn, type_, code, checkpoint[:4], on_change)

    def _known(self, fn: Callable[..., Any], returns: Any) -> tuple[Any, int | None]:
        """Return the type of a function's results, and the fingerprint that is stored with them.

        Args:
            returns: the type, if the step has it.
        """
        # Each step pays for this: most need nothing else.
        known = self._functions.get(fn) if type(fn) is FunctionType else None
        if known is not None and known[0] is fn.__code__:
            type_ = known[1] if returns is None else returns
            if type_ is not None:
                return type_, known[2]
        type_ = return_type_of(fn) if returns is None else returns
        code = self._changes.of(fn)
        if (
            type(fn) is FunctionType
            # It keeps nothing else alive.
            and fn.__closure__ is None
            and fn.__defaults__ is None
            and fn.__kwdefaults__ is None
            and type(type_) is not Unresolved  # what it names may be defined later
        ):
            if len(self._functions) >= _MOST_FUNCTIONS:
                self._functions.clear()
            self._functions[fn] = fn.__code__, type_ if returns is None else None, code
        return type_, code

    def _take_layered(
        self,
        name: str,
        checkpoint: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        type_: Any,
        code: int | None,
        options: _Options,
        on_change: OnChange,
        depends_on: str | None,
        is_repeated: bool,  # noqa: FBT001 - called in one place
    ) -> Any:
        """Do what ``take`` does where results may be out of date, inside the turn of the step."""
        layers, replaced, inputs = self.layers, None, None
        assert layers is not None  # noqa: S101 - the caller checks
        if on_change == "redo":
            inputs = layers.hash_of(args, kwargs, depends_on)
        if checkpoint is not None and checkpoint[1] is not None:
            is_other_use = is_repeated and not self._repeated(name)
            is_redo = inputs is not None and not is_other_use
            if not is_redo or not layers.is_out_of_date(code, checkpoint, inputs):
                if not is_other_use:
                    layers.use(checkpoint[4])
                if is_redo and checkpoint[5] is None:
                    note = self._services.checkpoints.note_inputs
                    self._recorder.stored(note, self._run.run_pk, self._run.fence, name, inputs)
                change: OnChange = "redo" if is_other_use else on_change
                return self._replayed(name, fn, type_, code, checkpoint[:4], change)
            self._checkpoints.give_back(checkpoint)
            replaced = checkpoint
        index = self._index_of(name, checkpoint)
        entered = layers.enter(name, inputs, replaced)
        try:
            result = self._execute(name, index, fn, args, kwargs, type_, code, options)
        finally:
            layers.leave(name, entered)
        deliver()
        return result

    def _stored(self, name: str) -> tuple[Any, bool]:
        """Return what is stored of a step, and whether this execution has used it before."""
        checkpoint, is_repeated = self._recorder.read(self._checkpoints.find, name)
        if checkpoint is None and is_repeated:
            self._recorder.require_ownership()
        return checkpoint, is_repeated

    def _replayed(
        self,
        name: str,
        fn: Callable[..., Any],
        type_: Any,
        code: int | None,
        checkpoint: Checkpoint,
        on_change: OnChange | None = None,
    ) -> Any:
        index, output, _, old_code = checkpoint
        assert output is not None  # noqa: S101 - completed steps have one
        services = self._services
        failed: BaseException | None = None
        try:
            result = services.codec.decode(output, type_, what=_STORED, name=name)
        except BaseException as exc:  # noqa: BLE001 - raised below, as no context of another one
            failed = exc
        if failed is not None:
            self._checkpoints.give_back(checkpoint)
            try:
                raise self._unreadable(name, output, type_, failed)
            finally:
                del failed  # it refers to this frame, and so to the job's
        self._nested.note(name)
        self._run.has_replayed = True
        if old_code != code:
            change = on_change or self.on_change
            if change != "redo":  # else it was compared before
                self._changes.used(name, fn, old_code, warns=change == "warn")
        if services.emitter.has_listeners:
            self._recorder.emit("step:skip", name, index)
        return result

    def _unreadable(
        self, name: str, output: str, type_: Any, failed: BaseException
    ) -> BaseException:
        """Return what is to be raised where a stored result could not be decoded."""
        if isinstance(failed, DatabaseError):
            error = DatabaseError(f"run {self._run.id}: {failed}", is_transient=failed.is_transient)
            error.__cause__ = failed
            return error
        if isinstance(failed, ValidationError | SerializationError):
            # Again, with advice for which the database is read.
            advice = self._changes.ways_out(name)
            try:
                self._services.codec.decode(output, type_, what=_STORED, name=name, advice=advice)
            except (ValidationError, SerializationError) as exc:
                return SerializationError(str(exc))
        return failed

    def _call(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: _Options,
    ) -> Any:
        if options != _NO_OPTIONS:
            return self.caller.call(name, fn, args, kwargs, *options)
        try:
            return let_through(fn, *args, **kwargs)
        except RetryAfter as exc:
            after = exc
        return self.caller.call(name, fn, args, kwargs, after=after)

    def _execute(
        self,
        name: str,
        index: int,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        type_: Any,
        code: int | None,
        options: _Options,
    ) -> Any:
        services, run, recorder = self._services, self._run, self._recorder
        codec, clock = services.codec, services.clock
        run.has_executed = True
        started = clock.monotonic()
        if started - run.current_at > services.longest_doubt_s:
            recorder.require_ownership()
        if services.emitter.has_listeners:
            recorder.emit("step:start", name, index)
            started = clock.monotonic()
        started_at_us = clock.now_us()
        outer = None if current_step.get() is None else self.outer()
        self._inside[name] = index
        recorder.begin(name, self._checkpoints.replayed)
        try:
            token = current_step.set(name)
            try:
                if type_ is not UNTYPED:
                    codec.require_storable(type_, what="the result of step", name=name)
                value = self._call(name, fn, args, kwargs, options)
                if fork_hooks.pid != run.pid:
                    run.refuse_forked_child()
                # The result as it is stored, and as it will be read.
                text, result = encoded(
                    services, run, "storing a step", value, type_, "the result of step", name
                )
            finally:
                current_step.reset(token)
                del self._inside[name]
        except BaseException as exc:
            self._nested.outer_failed(name)
            recorder.raised(name, index, started_at_us, exc)
            recorder.forget(name)
            raise
        if run.stop_reason in NOT_OURS:
            recorder.cancelled(name, index, started_at_us)
            run.check()
        row = run.run_pk, run.fence, index, name, text, started_at_us, clock.now_us(), code, outer
        try:
            is_stored = recorder.save(*row)
        except (DatabaseError, EngineClosedError) as exc:
            is_stored = recorder.save_again(row, exc)
        if not is_stored:
            recorder.not_stored(name, index, started_at_us)
        self._checkpoints.note_stored(name, index)
        self._nested.note(name)
        self._nested.outer_completed(name)
        if services.emitter.has_listeners and services.emitter.wants("step:complete"):
            recorder.emit(
                "step:complete",
                name,
                index,
                # Decoded again: what the job does to its value must not show in the event.
                output=codec.decode(text, type_, what="the result of step", name=name),
                duration=clock.monotonic() - started,
            )
        if len(text) > LARGE_RESULT:
            warn_of_size(services, name, text)
        if run.stop_reason is not None or run.deadline_s is not None:
            self._check()
        return result

    def _check(self) -> None:
        """Raise if the job is to stop, or if a deadline of the calling thread has passed."""
        self._run.check()
        check_deadline(self._run, self._services.clock)
