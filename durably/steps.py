"""Steps: replay from the checkpoint or execute and store, and stop at the boundaries.

``ActiveRun`` is what the threads of an engine know of one run that is inside its job: it is how the
heartbeat, ``cancel`` and ``stop`` reach it. ``StepContext`` is what the job is given.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, overload

import attrs

from durably.clock import Clock
from durably.codec import UNTYPED, Codec, return_type_of
from durably.errors import (
    ConflictError,
    DatabaseError,
    DuplicateStepWarning,
    ForkedError,
    OwnershipLost,
    RunCancelled,
    RunInterrupted,
    StopRun,
    ValidationError,
)
from durably.events import (
    Emitter,
    LogWritten,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepSkipped,
    StepStarted,
    WorkerError,
)
from durably.jobs import check_name
from durably.models import ErrorInfo, LogLevel, Progress
from durably.retry import Retry
from durably.settings import Duration, seconds
from durably.store import runs
from durably.store import steps as stored
from durably.store.changes import ChangeFeed
from durably.store.database import Database
from durably.store.runs import RunRow

Ps = ParamSpec("Ps")
T = TypeVar("T")
U = TypeVar("U")

LONGEST_STEP_NAME: Final = 500
# A result above this is stored, with a warning: it slows every commit down around it.
LARGE_RESULT: Final = 16 * 1024 * 1024

# While the database refuses for a reason that may pass, a result is kept in memory and
# stored again after these pauses.
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0

_current_step: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "durably_current_step", default=None
)


class Buffers(Protocol):
    """Where progress and log lines go until the next commit takes them along."""

    def progressed(self, active: ActiveRun) -> None:
        """The run has new progress."""


@attrs.frozen(kw_only=True)
class Services:
    """What the execution of a run needs of its engine."""

    database: Database
    codec: Codec
    emitter: Emitter
    changes: ChangeFeed
    clock: Clock
    buffers: Buffers
    preserve_steps: bool


class ActiveRun:
    """One run inside its job: its place in the database, and whether it is to stop.

    ``stop`` may be called from any thread; the first reason wins, except that losing the
    run or its cancellation outweighs an interrupt.
    """

    def __init__(
        self, row: RunRow, labels: dict[str, str], owner: int, *, is_callers: bool = False
    ) -> None:
        self.key = row.run
        self.attempt = row.attempt
        self.owner = owner
        self.id = row.id
        self.job_name = row.job_name
        self.labels = labels
        self.row = row
        # Executed in a thread of the user's, where a Ctrl-C may land.
        self.is_callers = is_callers
        self.pid = os.getpid()
        self.is_over = False
        self.stopped = threading.Event()
        self.stop_reason: type[StopRun] | None = None
        self._lock = threading.Lock()  # guards the reason
        # Written by the job's threads and taken by whoever stores it; both are single
        # assignments, so that a call costs no more than that.
        self.progress: tuple[Any, Any, Any] | None = None
        self.has_new_progress = False
        # Held by the thread that stores and tells progress, so that none is told after the end.
        self.telling = threading.Lock()

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that every event of this run has."""
        return {"run_id": self.id, "job_name": self.job_name, "labels": self.labels}

    def stop(self, reason: type[StopRun]) -> None:
        """Make the job stop at its next step boundary."""
        with self._lock:
            if self.stop_reason is None or self.stop_reason is RunInterrupted:
                self.stop_reason = reason
        self.stopped.set()

    def check(self) -> None:
        """Raise if the job is to stop, has ended, or this is a forked child."""
        self.refuse_forked_child()
        if self.is_over:
            raise StopRun(f"run {self.id} has ended; its step object can no longer be used")
        if self.stop_reason is not None:
            raise self.stop_reason(_REASONS[self.stop_reason].format(id=self.id))

    def refuse_forked_child(self) -> None:
        """Raise in a child that was forked inside the job.

        One that comes back from a step is a second copy of the owner's thread: whatever it
        stored would be stored twice.
        """
        if os.getpid() != self.pid:
            raise ForkedError(
                f"run {self.id} is executed by the parent of this process, which a step forked; "
                "end the child with os._exit, or use subprocess"
            )

    def take_progress(self) -> Progress | None:
        """The newest progress, if it was not taken before."""
        if not self.has_new_progress:
            return None
        self.has_new_progress = False
        assert self.progress is not None  # noqa: S101 - set before the flag is
        return Progress(*self.progress)


_REASONS: Final[dict[type[StopRun], str]] = {
    RunCancelled: "run {id} was cancelled",
    RunInterrupted: "the engine is stopping; run {id} goes back to pending",
    OwnershipLost: "run {id} was taken over by another owner",
}


class _Replay:
    """The checkpoints that a run had when it was claimed, read in windows."""

    def __init__(self, database: Database, run: int, *, is_first_attempt: bool) -> None:
        self._database = database
        self._run = run
        self._window: dict[str, stored.Checkpoint] = {}
        self._next_index: int | None = None if is_first_attempt else 0
        self.next_free_index = 0
        if not is_first_attempt:
            self.next_free_index = database.read(stored.highest_index, run) + 1
            self._advance(0)

    def _advance(self, first_index: int) -> None:
        window = self._database.read(stored.window, self._run, first_index)
        self._window = {each.name: each for each in window.checkpoints}
        self._next_index = window.next_index

    def take(self, name: str) -> stored.Checkpoint | None:
        """What was stored under *name* before this execution; each is handed out once."""
        found = self._window.pop(name, None)
        if found is not None or self._next_index is None:
            return found
        # Not in this window: ask for the one name, and read on from there. A job that
        # replays in its old order asks once a window.
        found = self._database.read(stored.find, self._run, name)
        if found is not None and found.index >= self._next_index:
            self._advance(found.index)
            self._window.pop(name, None)
        return found


class _InFlight:
    """A step that some thread is executing now."""

    __slots__ = ("done", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()


class StepLog:
    """Structured log lines of a run: ``step.log.info("read", rows=12)``.

    Each is told as a ``log:write`` event, passed to ``logging.getLogger("durably.job.<name>")``, and
    attributed to the step that the calling thread is in. Usable from any thread, also
    after the run has ended. Never raises for what it is given.

    .. versionadded:: 0.1.0
    """

    def __init__(self, active: ActiveRun, services: Services) -> None:
        self._active = active
        self._services = services
        self._logger = logging.getLogger(f"durably.job.{active.job_name}")

    def debug(self, message: str, /, **data: Any) -> None:
        """Write a line of level debug."""
        self._write("debug", logging.DEBUG, message, data)

    def info(self, message: str, /, **data: Any) -> None:
        """Write a line of level info."""
        self._write("info", logging.INFO, message, data)

    def warning(self, message: str, /, **data: Any) -> None:
        """Write a line of level warning."""
        self._write("warning", logging.WARNING, message, data)

    def error(self, message: str, /, **data: Any) -> None:
        """Write a line of level error."""
        self._write("error", logging.ERROR, message, data)

    def _write(self, level: LogLevel, number: int, message: str, data: dict[str, Any]) -> None:
        active, services = self._active, self._services
        if self._logger.isEnabledFor(number):
            self._logger.log(number, "%s%s", message, _Shown(data), extra={"run_id": active.id})
        emitter = services.emitter
        if emitter.wants(LogWritten):
            emitter.emit(
                LogWritten,
                **active.fields,
                level=level,
                message=message if isinstance(message, str) else repr(message),
                data=data,
                step_name=_current_step.get(),
            )


class _Shown:
    """The data of a log line as text, made only when the line is written out."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __str__(self) -> str:
        return "".join(f" {key}={_safe_repr(value)}" for key, value in self._data.items())


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<unprintable {type(value).__qualname__}>"


class StepContext:
    """What a job is given: its steps, its progress, its log.

    Usable from any thread that the job starts, for as long as the run is executed.

    .. versionadded:: 0.1.0
    """

    def __init__(self, active: ActiveRun, services: Services) -> None:
        self._active = active
        self._services = services
        self.log = StepLog(active, services)
        self._replay = _Replay(services.database, active.key, is_first_attempt=active.attempt == 1)
        # Guards the three below. Never held while a step's function runs.
        self._lock = threading.Lock()
        self._next_index = self._replay.next_free_index
        self._used: set[str] = set()
        self._in_flight: dict[str, _InFlight] = {}
        # Steps that failed or were cancelled keep their index when their name comes again.
        self._indexes: dict[str, int] = {}
        self.failed_step: tuple[str, BaseException] | None = None

    # -- what is being executed ------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._active.id

    @property
    def job_name(self) -> str:
        """The name of the job."""
        return self._active.job_name

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the run; a copy."""
        return dict(self._active.labels)

    @property
    def attempt(self) -> int:
        """How often the run was claimed, this time included."""
        return self._active.attempt

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled, interrupted or taken over."""
        return self._active.stop_reason is not None

    # -- stopping -------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``StopRun`` at once if the run was cancelled, interrupted or taken over.

        ``run`` does so by itself before and after each function; call it inside long ones.
        """
        self._active.check()

    def sleep(self, seconds: Duration) -> None:
        """Block for so many seconds (or a ``timedelta``); wake up and raise as ``check`` does."""
        self._active.check()
        duration_s = max(0.0, _seconds(seconds, "step.sleep"))
        self._services.clock.wait(self._active.stopped, min(duration_s, threading.TIMEOUT_MAX))
        self._active.check()

    # -- telling --------------------------------------------------------------------------

    def progress(
        self, current: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the run is, in units of your own. Cheap enough for an inner loop.

        Kept in memory; stored, and told as ``run:progress``, a few times a second, and
        always at the end of the run.
        """
        active = self._active
        if type(current) not in _NUMBERS or message is not None or total is not None:
            current, total, message = _checked_progress(current, total, message)
        if active.is_over:
            active.check()
        active.progress = (current, total, message)
        if not active.has_new_progress:
            active.has_new_progress = True
            self._services.buffers.progressed(active)

    # -- steps ----------------------------------------------------------------------------

    def run(self, name: str, fn: Callable[Ps, T], /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Return ``fn(*args, **kwargs)``, executed once for this run and stored under *name*.

        If the run has a checkpoint of that name, its result is returned and *fn* is not
        called. Otherwise *fn* is called in this thread, and its result is committed
        before this returns; what is returned is the value decoded from the checkpoint, so
        that a resumed run sees the same. Its type is *fn*'s return annotation, else JSON-like data.

        Args:
            name: unique within the run; 1 to 500 characters, no control characters.

        Raises:
            SerializationError: the result has no faithful stored form; the step failed.
            ValidationError: the name is not usable.
            StopRun: the run was cancelled, interrupted or taken over, or has ended.
            Exception: whatever *fn* raised; the step is recorded as failed.
        """
        result: T = self._run(name, fn, args, kwargs, None, None)
        return result

    @overload
    def options(self, *, returns: type[U], retry: Retry | None = None) -> ReturningStep[U]: ...
    @overload
    def options(self, *, returns: None = None, retry: Retry | None = None) -> PlainStep: ...
    @overload
    def options(self, *, returns: Any, retry: Retry | None = None) -> ReturningStep[Any]: ...
    def options(self, *, returns: Any = None, retry: Retry | None = None) -> Any:
        """Settings for one step: ``step.options(returns=Row, retry=Retry()).run(name, fn, ...)``.

        Args:
            returns: the type of the result, where *fn* is not annotated (or wrongly).
            retry: try again inside the step; never done without being asked for.
        """
        if retry is not None and not isinstance(retry, Retry):
            raise ValidationError(f"retry must be a Retry, not {retry!r:.80}")
        if returns is not None:
            self._services.codec.check_type(returns, "step.options(returns=...)")
            return ReturningStep(self, returns, retry)
        return PlainStep(self, None, retry)

    def _run(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        returns: Any,
        retry: Retry | None,
    ) -> Any:
        active = self._active
        active.check()
        check_name(name, "a step's name", longest=LONGEST_STEP_NAME)
        if not callable(fn):
            raise ValidationError(f"step {name!r} needs a function, not {fn!r:.80}")
        type_ = return_type_of(fn) if returns is None else returns
        is_repeated = False
        while True:
            with self._lock:
                running = self._in_flight.get(name)
                if running is None:
                    is_repeated = is_repeated or name in self._used
                    checkpoint = None if is_repeated else self._replay.take(name)
                    if not is_repeated and (checkpoint is None or checkpoint.output is None):
                        index = self._index_of(name, checkpoint)
                        self._in_flight[name] = flight = _InFlight()
                        break
                    self._used.add(name)
            if running is None:
                return self._replayed(name, type_, checkpoint)
            self._wait_for(name, running)
        try:
            return self._execute(name, index, fn, args, kwargs, type_, retry)
        finally:
            with self._lock:
                del self._in_flight[name]
            flight.done.set()

    def _index_of(self, name: str, checkpoint: stored.Checkpoint | None) -> int:
        if checkpoint is not None:
            return checkpoint.index
        known = self._indexes.get(name)
        if known is not None:
            return known
        index = self._next_index
        if index >= stored.MOST_STEPS:
            raise ValidationError(
                f"run {self._active.id} has {index} steps, the most a run can have; "
                "make the steps larger, or trigger several runs"
            )
        self._next_index = index + 1
        return index

    def _wait_for(self, name: str, running: _InFlight) -> None:
        """Another thread executes a step of this name: its result will serve both."""
        if running.thread == threading.get_ident():
            raise ConflictError(
                f"step {name!r} of run {self._active.id} is used inside itself; "
                "give the inner one a name of its own"
            )
        while not self._services.clock.wait(running.done, 0.1):
            self._active.check()

    def _replayed(self, name: str, type_: Any, checkpoint: stored.Checkpoint | None) -> Any:
        services, active = self._services, self._active
        if checkpoint is None:
            warnings.warn(
                f"step {name!r} was used twice in run {active.id}; the second use returns the "
                "first one's result. Give each step a name of its own.",
                DuplicateStepWarning,
                stacklevel=4,
            )
            checkpoint = services.database.read(stored.find, active.key, name)
            if checkpoint is None or checkpoint.output is None:
                active.check()
                raise OwnershipLost(f"the checkpoints of run {active.id} are gone")
        assert checkpoint.output is not None  # noqa: S101 - completed steps have one
        result = services.codec.decode(
            checkpoint.output, type_, what=f"the stored result of step {name!r}"
        )
        self._emit(StepSkipped, name, checkpoint.index)
        return result

    def _execute(
        self,
        name: str,
        index: int,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        type_: Any,
        retry: Retry | None,
    ) -> Any:
        services, active = self._services, self._active
        clock = services.clock
        self._emit(StepStarted, name, index)
        started_at_us = clock.now_us()
        started = clock.monotonic()
        token = _current_step.set(name)
        try:
            value = self._call(fn, args, kwargs, retry)
            active.refuse_forked_child()
            text, result = services.codec.encode_and_decode(
                value, type_, what=f"the result of step {name!r}"
            )
        except StopRun as exc:
            if active.stop_reason is None:
                self._failed(name, index, started_at_us, exc)
            elif active.stop_reason is not RunInterrupted:
                self._cancelled(name, index, started_at_us)
            raise
        except ForkedError:
            raise
        except BaseException as exc:
            active.refuse_forked_child()
            if active.is_callers and isinstance(exc, KeyboardInterrupt):
                # The user's Ctrl-C, not the step's failure: the run goes back to pending.
                raise
            if active.stop_reason in (RunCancelled, OwnershipLost):
                self._cancelled(name, index, started_at_us)
                active.check()
            self._failed(name, index, started_at_us, exc)
            raise
        finally:
            _current_step.reset(token)
        if active.stop_reason in (RunCancelled, OwnershipLost):
            self._cancelled(name, index, started_at_us)
            active.check()
        if len(text) > LARGE_RESULT:
            warnings.warn(
                f"the result of step {name!r} takes {len(text) / 2**20:.0f} MiB in the database; "
                "write large data to a file of your own and return its name",
                stacklevel=4,
            )
        is_stored = self._patiently(
            stored.complete,
            active.key,
            active.attempt,
            index,
            name,
            text,
            started_at_us,
            clock.now_us(),
        )
        if not is_stored:
            self._learn_why_refused()
            self._cancelled(name, index, started_at_us)
            active.check()
        with self._lock:
            self._used.add(name)
        if services.emitter.wants(StepCompleted):
            self._emit(
                StepCompleted,
                name,
                index,
                output=result,
                duration=clock.monotonic() - started,
            )
        if active.stop_reason is not None:
            active.check()
        return result

    def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: Retry | None,
    ) -> Any:
        if retry is None:
            return fn(*args, **kwargs)
        failures = 0
        while True:
            try:
                return fn(*args, **kwargs)
            except retry.on:
                self._active.refuse_forked_child()
                failures += 1
                if failures >= retry.attempts:
                    raise
            self.sleep(retry.wait_s(failures))

    # -- what becomes of a step -------------------------------------------------------------

    def _failed(self, name: str, index: int, started_at_us: int, exc: BaseException) -> None:
        services, active = self._services, self._active
        error = ErrorInfo.from_exception(exc)
        with self._lock:
            self._indexes[name] = index
            self.failed_step = (name, exc)
        is_stored = self._patiently(
            stored.fail,
            active.key,
            active.attempt,
            index,
            name,
            services.codec.encode(attrs.asdict(error), UNTYPED, what=f"the error of step {name!r}"),
            started_at_us,
            services.clock.now_us(),
        )
        if not is_stored:
            self._learn_why_refused()
            self._cancelled(name, index, started_at_us)
            active.check()
        self._emit(StepFailed, name, index, error=error)

    def _cancelled(self, name: str, index: int, started_at_us: int) -> None:
        services, active = self._services, self._active
        with self._lock:
            self._indexes[name] = index
        self._patiently(
            stored.cancel,
            active.key,
            active.attempt,
            index,
            name,
            started_at_us,
            services.clock.now_us(),
        )
        self._emit(StepCancelled, name, index)

    def _learn_why_refused(self) -> None:
        """The database refused a write of ours: another attempt is current, or none."""
        state = self._services.database.read(runs.state_of, self._active.key)
        is_cancelled = state == ("cancelled", self._active.attempt)
        self._active.stop(RunCancelled if is_cancelled else OwnershipLost)

    def _patiently(self, operation: Callable[..., bool], *args: Any) -> bool:
        """Store something, trying again while the reason for a refusal may pass.

        A full disk or a database that somebody else keeps locked must not cost the work
        of a step: its result waits in memory until it can be stored or the engine stops.
        """
        services, active = self._services, self._active
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return services.database.write(operation, *args)
            except DatabaseError as exc:
                if not exc.is_transient:
                    raise
                tell_worker_error(services.emitter, exc, "storing a step", active.id)
            if services.clock.wait(active.stopped, pause_s):
                active.check()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _emit(self, cls: type[StepEvent], name: str, index: int, **fields: Any) -> None:
        emitter = self._services.emitter
        if emitter.wants(cls):
            emitter.emit(cls, **self._active.fields, step_name=name, step_index=index, **fields)


class PlainStep:
    """A step with options, typed by its function's annotation.

    .. versionadded:: 0.1.0
    """

    def __init__(self, step: StepContext, returns: Any, retry: Retry | None) -> None:
        self._step = step
        self._returns = returns
        self._retry = retry

    def run(self, name: str, fn: Callable[Ps, T], /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Like ``StepContext.run``, with these options."""
        result: T = self._step._run(name, fn, args, kwargs, self._returns, self._retry)  # noqa: SLF001 - the same class in two faces
        return result


class ReturningStep(Generic[U]):
    """A step with options, typed by ``returns=``.

    .. versionadded:: 0.1.0
    """

    def __init__(self, step: StepContext, returns: Any, retry: Retry | None) -> None:
        self._step = step
        self._returns = returns
        self._retry = retry

    def run(self, name: str, fn: Callable[Ps, object], /, *args: Ps.args, **kwargs: Ps.kwargs) -> U:
        """Like ``StepContext.run``, with these options."""
        result: U = self._step._run(name, fn, args, kwargs, self._returns, self._retry)  # noqa: SLF001 - the same class in two faces
        return result


def tell_worker_error(
    emitter: Emitter, exc: BaseException, context: str, run_id: str | None = None
) -> None:
    """Log an error of durably's own threads and tell it as ``worker:error``."""
    _log.warning("%s: %s", context, exc)
    emitter.emit(WorkerError, error=ErrorInfo.from_exception(exc), context=context, run_id=run_id)


_log = logging.getLogger("durably")
_NUMBERS: Final = frozenset({int, float})
_seconds = seconds


def _checked_progress(
    current: object, total: object, message: object
) -> tuple[float, float | None, str | None]:
    return (
        _number(current, "current"),
        None if total is None else _number(total, "total"),
        None if message is None else _message(message),
    )


def _number(value: object, what: str) -> float:
    if type(value) in _NUMBERS:
        return value  # type: ignore[return-value]  # exactly int or float
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise ValidationError(f"step.progress: {what} must be a number, not {value!r:.80}")
    if hasattr(value, "__index__"):
        return int(value)  # type: ignore[call-overload,no-any-return]  # a NumPy int, say
    return float(value)  # type: ignore[arg-type]  # a Decimal, a Fraction, a NumPy float


def _message(value: object) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"step.progress: message must be a str, not {value!r:.80}")
    return str(value)
