"""Events: what happened, as frozen values, and the emitter that notifies listeners.

The classes are named for what happened. ``app.on(RunFailed, listener)`` calls the listener with
each event of that class; a base class stands for all classes below it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

import attrs

from durably._platform.values import Value
from durably.models import ErrorInfo, Progress
from durably.models.records import LogLevel


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event(Value):
    """Something that happened, emitted after the change was committed.

    ``type`` names it, ``sequence`` rises strictly within one engine, ``timestamp`` is an
    aware UTC instant.

    .. versionadded:: 0.1.0
    """

    type: ClassVar[str] = ""

    timestamp: datetime
    sequence: int


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunEvent(Event):
    """An event of one run.

    .. versionadded:: 0.2.0
    """

    run_id: str
    job_name: str
    labels: dict[str, str]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunTriggered(RunEvent):
    """A run was created.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:trigger"
    payload: Any = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunCoalesced(RunEvent):
    """A trigger returned a run that was already pending, and created none.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:coalesced"
    skipped_payload: Any = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunStarted(RunEvent):
    """This engine has claimed the run and starts its job.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:start"
    payload: Any = attrs.field(repr=False)
    attempt: int


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunProgressed(RunEvent):
    """The job has reported progress; calls in quick succession may be thinned out.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:progress"
    progress: Progress


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunCompleted(RunEvent):
    """The job has returned and its output is stored.

    ``unused_steps`` are the names of steps that are stored and that the execution has not used, as
    after they were renamed or removed; the first 1000 of them.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:complete"
    output: Any = attrs.field(repr=False)
    duration: float
    unused_steps: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunFailed(RunEvent):
    """The job has raised.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:fail"
    error: ErrorInfo
    failed_step: str | None
    duration: float


class RunCancelled(RunEvent):
    """The run was cancelled through this engine.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "run:cancel"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunRetried(RunEvent):
    """A run was put back to pending, to be executed again: by a caller, or after a failure.

    After a failure ``error`` is that, and ``delay`` how many seconds the run waits; both are
    ``None`` if a caller has retried a failed or cancelled run.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:retry"
    error: ErrorInfo | None = None
    delay: float | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunRedone(RunEvent):
    """Results of a run were forgotten or set by hand.

    ``from_step`` and ``only`` are those of ``Durably.redo``; after it the run is pending. If
    ``is_manual``, the result of the step *only*, or of the item ``map[key]``, was set.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:redo"
    from_step: str | None
    only: str | None
    is_manual: bool


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunForked(RunEvent):
    """A run was created with copies of the results of another one, whose id is ``forked_from``.

    ``from_step`` is that of ``Durably.fork``. No ``RunTriggered`` is emitted for it.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:fork"
    forked_from: str
    from_step: str | None


class RunDeleted(RunEvent):
    """A terminal run was deleted with all that belongs to it.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "run:delete"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunRecovered(RunEvent):
    """The reaper put the run back to pending; ``reason`` is ``"dead"`` or ``"stale"``.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "run:recover"
    reason: str


class RunInterrupted(RunEvent):
    """This engine stopped the run at a step boundary and put it back to pending.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "run:interrupt"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepEvent(RunEvent):
    """An event of one step.

    .. versionadded:: 0.2.0
    """

    step_name: str
    step_index: int


class StepStarted(StepEvent):
    """The step's function is about to be called.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "step:start"


class StepSkipped(StepEvent):
    """The step returned the result in its checkpoint; its function was not called.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "step:skip"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepCompleted(StepEvent):
    """The step's result is stored; ``duration`` in seconds.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "step:complete"
    output: Any = attrs.field(repr=False)
    duration: float


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepFailed(StepEvent):
    """The step's function has raised, or its result has no stored form.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "step:fail"
    error: ErrorInfo


class StepCancelled(StepEvent):
    """The step ended after its run was cancelled or recovered by another owner.

    Its result is not stored.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()

    type: ClassVar[str] = "step:cancel"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ItemCompleted(StepEvent):
    """The result of an item of a map is stored; ``duration`` in seconds.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "item:complete"
    item_key: str | int
    output: Any = attrs.field(repr=False)
    duration: float


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ItemFailed(StepEvent):
    """The function of a map has raised for an item, which is not tried again in this execution.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "item:fail"
    item_key: str | int
    error: ErrorInfo


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LogWritten(RunEvent):
    """The job wrote a structured log line.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "log:write"
    level: LogLevel
    message: str
    data: dict[str, Any]
    step_name: str | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class WorkerError(Event):
    """Something in durably's own threads failed and will be tried again.

    .. versionadded:: 0.2.0
    """

    type: ClassVar[str] = "worker:error"
    error: ErrorInfo
    context: str
    run_id: str | None = None


EVENT_TYPES: Final[dict[str, type[Event]]] = {
    cls.type: cls
    for cls in (
        RunTriggered,
        RunCoalesced,
        RunStarted,
        RunProgressed,
        RunCompleted,
        RunFailed,
        RunCancelled,
        RunRetried,
        RunRedone,
        RunForked,
        RunDeleted,
        RunRecovered,
        RunInterrupted,
        StepStarted,
        StepSkipped,
        StepCompleted,
        StepFailed,
        StepCancelled,
        ItemCompleted,
        ItemFailed,
        LogWritten,
        WorkerError,
    )
}

__all__ = [
    "Event",
    "ItemCompleted",
    "ItemFailed",
    "LogWritten",
    "RunCancelled",
    "RunCoalesced",
    "RunCompleted",
    "RunDeleted",
    "RunEvent",
    "RunFailed",
    "RunForked",
    "RunInterrupted",
    "RunProgressed",
    "RunRecovered",
    "RunRedone",
    "RunRetried",
    "RunStarted",
    "RunTriggered",
    "StepCancelled",
    "StepCompleted",
    "StepEvent",
    "StepFailed",
    "StepSkipped",
    "StepStarted",
    "WorkerError",
]
