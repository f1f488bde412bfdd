"""The records of steps, items and log lines, as plain values, and lists of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal

import attrs

from durably._platform.safe_repr import on_one_line, safe_repr
from durably._platform.values import Value
from durably.errors import DatabaseError
from durably.models.failures import ErrorInfo
from durably.models.later import may_be_read_later
from durably.rendering.bases import Columns, Listing, Shown

StepStatus = Literal["completed", "failed", "cancelled"]
ItemStatus = Literal["completed", "failed"]
AttemptOutcome = Literal[
    "running", "completed", "failed", "cancelled", "interrupted", "suspended", "died", "hung"
]
LogLevel = Literal["debug", "info", "warning", "error"]


def shown_output(record: Any) -> Any:
    """Return the output of a record for a table, which says so if its file cannot be read."""
    try:
        return record.output
    except DatabaseError as exc:
        return f"<{str(exc).partition(';')[0]}>"


class Record(Value, Shown):
    """Base of records. A notebook shows one as a card of what the table of its list shows."""

    __slots__ = ()

    # Those of its list. The ones without a title are its heading, the last of them first.
    _columns: ClassVar[Columns]

    def _repr_html_(self) -> str:
        from durably.rendering.tables import card  # noqa: PLC0415 - where first needed

        fields = [(title, kind, getattr(self, name)) for title, kind, name in self._columns]
        heading = [(kind, value) for title, kind, value in fields if not title]
        return card(heading[::-1], [field for field in fields if field[0]])


_STEP_COLUMNS: Final = (
    ("#", "number", "index"),
    ("", "status", "status"),
    ("step", "name", "name"),
    ("took", "lasted", "_times"),
    ("attempts", "number", "attempts"),
    ("output / error", "outcome", "_outcome"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepRecord(Record):
    """The stored record of one step; ``output`` is JSON-like data.

    ``index`` counts from 0. ``attempt`` is the run's attempt that stored the record. The times are
    those of the step's newest execution. A map is one step; ``items`` counts its items, and is
    ``None`` for other steps. ``is_manual`` says that the result was set by hand, at
    ``completed_at``.

    ``attempts`` is how often the step's function was called, also where the process died in it;
    for a map, how many executions of the run have stored items. ``notes`` has a dict for each call
    of the function in which ``step.note`` was called, in order.

    .. versionadded:: 0.1.0
    .. versionchanged:: 0.2.0
        ``items``, ``is_manual``, ``attempts``, ``notes``
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
    is_manual: bool = False
    attempts: int = 1
    notes: list[dict[str, Any]] = attrs.field(factory=list, repr=False)

    _columns = (*_STEP_COLUMNS, ("notes", "outcome", "_notes"))

    @property
    def _times(self) -> tuple[datetime, datetime]:
        return self.started_at, self.completed_at

    @property
    def _outcome(self) -> tuple[object, Any]:
        return self.error or self.items, shown_output(self)

    @property
    def _notes(self) -> tuple[None, Any] | None:
        return (None, self.notes) if self.notes else None


may_be_read_later(StepRecord, "output")


@attrs.frozen(eq=False, repr=False)
class ItemCounts(Value):
    """How many items of a map have a result, how many of these are from checkpoints, and so on.

    They are those of the map's newest execution. ``done`` includes ``reused``; ``total`` is
    ``None`` where it is not known. ``str()`` gives ``490 of 500 items, 151 from checkpoints``.

    .. versionadded:: 0.2.0
    """

    done: int
    failed: int
    reused: int
    total: int | None

    def __str__(self) -> str:
        of_total = "" if self.total is None else f" of {self.total:,}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        reused = f", {self.reused:,} from checkpoints" if self.reused else ""
        return f"{self.done:,}{of_total} items{failed}{reused}"


_ITEM_COLUMNS: Final = (
    ("#", "number", "index"),
    ("", "status", "status"),
    ("item", "name", "key"),
    ("took", "lasted", "_times"),
    ("attempts", "number", "attempts"),
    ("output / error", "outcome", "_outcome"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ItemRecord(Record):
    """The stored record of one item of a map.

    ``key`` is the item's position in a map without keys. ``index`` counts from 0, in about the
    order of the items. ``output`` is JSON-like data where the record is read from the database, has
    the type of the map's results where a map returns it, and is ``None`` if the item has failed.
    ``attempts`` counts how often the item was executed, over all launches; the times are those of
    the newest of them. ``is_manual`` says that the result was set by hand, at ``completed_at``.

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
    is_manual: bool = False

    _columns = _ITEM_COLUMNS

    @property
    def _times(self) -> tuple[datetime, datetime]:
        return self.started_at, self.completed_at

    @property
    def _outcome(self) -> tuple[object, Any]:
        return self.error, shown_output(self)


may_be_read_later(ItemRecord, "output")

_ATTEMPT_COLUMNS: Final = (
    ("#", "number", "attempt"),
    ("", "status", "outcome"),
    ("started", "when", "started_at"),
    ("took", "lasted", "_times"),
    ("steps", "number", "steps_completed"),
    ("reused", "number", "steps_reused"),
    ("host", "name", "host"),
    ("process", "name", "pid"),
    ("error", "message", "error"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Attempt(Record):
    """One execution of a run: by which process, from when to when, and how it has ended.

    ``attempt`` is the run's ``attempt`` then, which several executions share if the run was
    interrupted or has waited. ``outcome`` is ``"running"`` while it is executed, ``"completed"``,
    ``"failed"`` or ``"cancelled"`` as the run, ``"interrupted"`` if the run was put back to
    pending, ``"suspended"`` if it began to wait, ``"died"`` if its process was found dead and
    ``"hung"`` if it did not answer. ``error`` is that of an execution that has failed. ``ended_at``
    is ``None`` until it has ended; of a process that has died it is when that was noticed.
    ``started_at``, ``host`` and ``pid`` may be ``None`` for what an earlier version of durably has
    executed.

    ``steps_completed`` is how many steps the execution has executed to their end, and
    ``steps_reused`` how many returned from their checkpoints. They are ``None`` where that is not
    known: for an earlier version's executions, and ``steps_reused`` also until the end, and if the
    process died before it began a step.

    ``unused_steps`` are the names of stored steps that an execution which has completed the run did
    not use, since they were renamed or removed; the first 1000 of them.

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
    steps_completed: int | None = None
    steps_reused: int | None = None
    unused_steps: tuple[str, ...] = ()

    _columns = _ATTEMPT_COLUMNS

    @property
    def _times(self) -> tuple[datetime | None, datetime | None]:
        is_over = self.ended_at is not None or self.outcome == "running"
        return self.started_at if is_over else None, self.ended_at


_LOG_COLUMNS: Final = (
    ("time", "when", "created_at"),
    ("", "status", "level"),
    ("step", "name", "step_name"),
    ("message", "message", "message"),
    ("data", "outcome", "_data"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LogEntry(Record):
    """One structured log line of a run; ``step_name`` is ``None`` outside of steps.

    ``str()`` gives one line: ``2026-11-28 12:00:00.000+00:00 INFO [read] done rows=3``.

    .. versionadded:: 0.1.0
    """

    level: LogLevel
    message: str
    data: dict[str, Any]
    step_name: str | None
    created_at: datetime

    _columns = _LOG_COLUMNS

    def __str__(self) -> str:
        step = "" if self.step_name is None else f"[{self.step_name}] "
        data = "".join(f" {key}={safe_repr(value)}" for key, value in self.data.items())
        when = self.created_at.isoformat(" ", "milliseconds")
        line = f"{when} {self.level.upper()} {step}{self.message}{data}"
        return on_one_line(line)

    @property
    def _data(self) -> tuple[None, dict[str, Any] | None]:
        return None, self.data or None


class StepList(Listing[StepRecord]):
    """Steps of a run, in the order of their index. A slice is a ``StepList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = StepRecord, "step", _STEP_COLUMNS


class ItemList(Listing[ItemRecord]):
    """Items of a map, in the order of their index. A slice is an ``ItemList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = ItemRecord, "item", _ITEM_COLUMNS


class AttemptList(Listing[Attempt]):
    """Attempts of a run, the first one first. A slice is an ``AttemptList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = Attempt, "attempt", _ATTEMPT_COLUMNS
    _counted = "outcome"


class LogList(Listing[LogEntry]):
    """Log lines of a run, oldest first. A slice is a ``LogList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = LogEntry, "log line", _LOG_COLUMNS
    _counted = "level"
