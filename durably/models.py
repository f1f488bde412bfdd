"""Runs, steps, log lines and their parts, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, Literal, TypeVar

import attrs

from durably._platform.nesting import is_too_deep
from durably._platform.safe_repr import full_name, on_one_line, safe_repr, safe_str, too_deep
from durably._platform.signals import raise_if_signal
from durably._platform.tracebacks import format_exception, users_traceback
from durably.values import Value

P = TypeVar("P")
R = TypeVar("R")

Disposition = Literal["created", "idempotent", "coalesced", "retried", "continued", "skipped"]
RunKind = Literal["job", "session"]
StepStatus = Literal["completed", "failed", "cancelled"]
ItemStatus = Literal["completed", "failed"]
AttemptOutcome = Literal[
    "running", "completed", "failed", "cancelled", "interrupted", "suspended", "died", "hung"
]
LogLevel = Literal["debug", "info", "warning", "error"]

# A longer traceback or message keeps only its two ends: people read it, and a job that fails in a
# loop must not fill the file.
_LONGEST_TEXT: Final = 64 * 1024
_MOST_NOTES: Final = 100
# So many characters of a run's id tell it from the others that a person has seen lately.
_SHORT_ID: Final = 4
_LONGEST_KEY: Final = 80


def short_name(run_id: str, job_name: str | None, key: str | None) -> str:
    """Return how a line for people names a run: the end of its id, its job, its key if it has one.

    Args:
        job_name: ``None`` to leave it out.
    """
    parts = [f"…{run_id[-_SHORT_ID:]}"]
    parts += [on_one_line(part, _LONGEST_KEY) for part in (job_name, key) if part is not None]
    return " ".join(parts)


class RunStatus(StrEnum):
    """The state of a run.

    .. versionadded:: 0.1.0
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


@attrs.frozen(eq=False, repr=False)
class Progress(Value):
    """How far a run is, in units that the job chooses.

    .. versionadded:: 0.1.0
    """

    current: float
    total: float | None = None
    message: str | None = None


def _as_tuple(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(notes)


@attrs.frozen(eq=False, repr=False)
class ErrorInfo(Value):
    """An exception as it was recorded; ``str()`` gives ``type: message``.

    ``type`` is ``ValueError`` for builtins, ``package.module.Qualified.Name`` for others.
    ``traceback`` is what Python prints, with the frames of your code alone; durably's own are there
    only if durably is at fault. ``notes`` are those that were added to the exception by
    ``add_note``.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        ``notes``
    """

    type: str
    message: str
    traceback: str = attrs.field(repr=False)
    notes: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple, repr=False)
    # Of a run: the step that has failed it.
    _failed_step: str | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def stored_error(error: ErrorInfo) -> dict[str, Any]:
    """Return an error as it is stored, as JSON-like data."""
    text = {"type": error.type, "message": error.message, "traceback": error.traceback}
    return {**text, "notes": list(error.notes)} if error.notes else text


def error_info(exc: BaseException) -> ErrorInfo:
    """Return *exc* as it is recorded, whatever its ``str()`` does."""
    return ErrorInfo(
        full_name(type(exc)), _shortened(_message(exc)), traceback_of(exc), _notes_of(exc)
    )


def _message(exc: BaseException) -> str:
    try:
        message = too_deep(exc) if is_too_deep(exc) else str(exc)
        return str.__str__(message)  # no subclass of a user's
    except BaseException as raised:  # noqa: BLE001 - a user's __str__ may raise anything
        raise_if_signal(raised)
        return f"<unprintable {type(exc).__qualname__}>"


def _notes_of(exc: BaseException) -> tuple[str, ...]:
    """Return the notes of *exc*; anything may be among them."""
    notes = vars(exc).get("__notes__", ())
    if not isinstance(notes, list | tuple):
        notes = (notes,)
    return tuple(_shortened(safe_str(note)) for note in notes[:_MOST_NOTES])


def traceback_of(exc: BaseException) -> str:
    """Return the traceback of *exc* and of its causes, as Python prints it.

    It shows the user's frames alone, unless durably is at fault. If Python cannot format it, return
    a line that says so.
    """
    try:
        return _shortened(format_exception(printable(exc)))
    except BaseException as raised:  # noqa: BLE001 - a user's __str__ may raise anything
        raise_if_signal(raised)
        return f"<the traceback of {type(exc).__qualname__} could not be formatted>"


def printable(exc: BaseException) -> BaseException:
    """Return *exc*, or if it is nested too deeply to print, a short error with its traceback.

    A logger that prints an exception also prints its causes.
    """
    if _is_printable(exc):
        return exc
    return RuntimeError(too_deep(exc)).with_traceback(users_traceback(exc))


def _is_printable(exc: BaseException) -> bool:
    """Return whether neither *exc* nor any of its causes is nested too deeply to be printed."""
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if is_too_deep(each):
            return False
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return True


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Run(Value, Generic[P, R]):
    """One execution of a job, as it was when it was read.

    Runs compare and hash by ``id``: one that is read again later equals the earlier one, so that
    runs can be keys of a dict and members of a set.

    ``payload`` and ``output`` have the job's types where the job is registered in
    this engine, else they are JSON-like data; ``output`` is ``None`` until the run has
    completed. ``attempt`` counts claims, 0 before the first one. ``disposition`` says how a
    trigger was resolved and is ``None`` on a run that was read. ``kind`` is ``"job"``, or
    ``"session"`` for the run of a session, whose ``job_name`` is the session's name.

    .. versionchanged:: 0.2.0 Has ``kind``.

    .. versionadded:: 0.1.0
    """

    id: str
    job_name: str
    status: RunStatus
    payload: P = attrs.field(repr=False)
    output: R = attrs.field(repr=False)
    error: ErrorInfo | None
    progress: Progress | None
    labels: dict[str, str]
    idempotency_key: str | None
    concurrency_key: str | None
    attempt: int
    completed_steps: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    heartbeat_at: datetime | None
    disposition: Disposition | None = None
    kind: RunKind = "job"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def is_terminal(self) -> bool:
        """Return whether the run has ended: completed, failed or cancelled.

        .. versionadded:: 0.1.0
        """
        return self.status in TERMINAL

    @property
    def is_active(self) -> bool:
        """Return whether the run is pending or running.

        .. versionadded:: 0.1.0
        """
        return not self.is_terminal

    @property
    def duration(self) -> float | None:
        """Seconds from the first start to the end; ``None`` until then, or if it never started.

        .. versionadded:: 0.1.0
        """
        return duration_of(self.started_at, self.completed_at)


def duration_of(started: datetime | None, completed: datetime | None) -> float | None:
    """Return the seconds between two instants of the wall clock, never negative."""
    if started is None or completed is None:
        return None
    # The wall clock may have been set back in between.
    return max(0.0, (completed - started).total_seconds())


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepRecord(Value):
    """The stored record of one step; ``output`` is JSON-like data.

    ``index`` counts from 0. ``attempt`` is the run's attempt that stored the record. The times are
    those of the step's newest execution. A map is one step; ``items`` counts its items, and is
    ``None`` for other steps.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        ``items``
    """

    name: str
    index: int
    status: StepStatus
    output: Any = attrs.field(repr=False)
    error: ErrorInfo | None
    started_at: datetime
    completed_at: datetime
    attempt: int
    items: ItemCounts | None = None


@attrs.frozen(eq=False, repr=False)
class ItemCounts(Value):
    """How many items of a map have a result, how many of these are from checkpoints, and so on.

    They are those of the map's newest execution. ``done`` includes ``reused``; ``total`` is
    ``None`` where it is not known.

    .. versionadded:: 0.2.0
    """

    done: int
    failed: int
    reused: int
    total: int | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ItemRecord(Value):
    """The stored record of one item of a map.

    ``key`` is the item's position in a map without keys. ``index`` counts from 0, in about the
    order of the items. ``output`` is JSON-like data where the record is read from the database, has
    the type of the map's results where a map returns it, and is ``None`` if the item has failed.
    ``attempts`` counts how often the item was executed, over all launches; the times are those of
    the newest of them.

    .. versionadded:: 0.2.0
    """

    key: str | int
    index: int
    status: ItemStatus
    output: Any = attrs.field(repr=False)
    error: ErrorInfo | None
    attempts: int
    started_at: datetime
    completed_at: datetime


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Attempt(Value):
    """One execution of a run: by which process, from when to when, and how it has ended.

    ``attempt`` is the run's ``attempt`` then. ``outcome`` is ``"running"`` while it is executed,
    ``"completed"``, ``"failed"`` or ``"cancelled"`` as the run, ``"interrupted"`` if the run was
    put back to pending, ``"died"`` if its process was found dead and ``"hung"`` if it did not
    answer. ``error`` is that of an execution that has failed. ``ended_at`` is ``None`` until it has
    ended; of a process that has died it is when that was noticed. ``started_at``, ``host`` and
    ``pid`` may be ``None`` for what an earlier version of durably has executed.

    .. versionadded:: 0.2.0
    """

    run_id: str
    attempt: int
    outcome: AttemptOutcome
    host: str | None
    pid: int | None
    started_at: datetime | None
    ended_at: datetime | None
    error: ErrorInfo | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LogEntry(Value):
    """One structured log line of a run; ``step_name`` is ``None`` outside of steps.

    ``str()`` gives one line: ``2026-11-28 12:00:00.000+00:00 INFO [read] done rows=3``.

    .. versionadded:: 0.1.0
    """

    level: LogLevel
    message: str
    data: dict[str, Any]
    step_name: str | None
    created_at: datetime

    def __str__(self) -> str:
        step = "" if self.step_name is None else f"[{self.step_name}] "
        data = "".join(f" {key}={safe_repr(value)}" for key, value in self.data.items())
        when = self.created_at.isoformat(" ", "milliseconds")
        line = f"{when} {self.level.upper()} {step}{self.message}{data}"
        return on_one_line(line)
