"""Runs, as values that can be asked, and lists of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import attrs

from durably._platform.clock import from_datetime, moment
from durably._platform.displayable import displayable
from durably._platform.safe_repr import on_one_line
from durably._platform.values import Value, as_dict
from durably.models.asking import Asking, Progress, answered_by, engine_of
from durably.models.failures import ErrorInfo
from durably.models.later import may_be_read_later
from durably.rendering.bases import Columns, Listing, Shown, several

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

P = TypeVar("P")
R = TypeVar("R")

Disposition = Literal["created", "idempotent", "coalesced", "retried", "continued", "skipped"]
RunKind = Literal["job", "session"]
WaitKind = Literal["time", "answer", "run"]

# So many characters of a run's id tell it from the others that a person has seen lately.
_SHORT_ID: Final = 4
_LONGEST_KEY: Final = 80
_LONGEST_ERROR: Final = 120


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
    .. versionchanged:: 0.2.0 Has ``WAITING``.
    """

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class WaitingFor(Value):
    """What a waiting run waits for.

    ``kind`` is ``"time"``, ``"answer"`` or ``"run"``; ``name`` is the step that waits, ``until``
    when the run goes on at the latest, ``run_id`` the run whose end it needs.

    .. versionadded:: 0.2.0
    """

    kind: WaitKind
    name: str | None
    until: datetime | None
    run_id: str | None


TERMINAL: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


_COLUMNS: Final[Columns] = (
    ("", "status", "status"),
    ("job", "name", "job_name"),
    ("key", "name", "idempotency_key"),
    ("steps", "number", "completed_steps"),
    ("started", "when", "started_at"),
    ("took", "lasted", "_times"),
    ("attempt", "number", "attempt"),
    ("output / error", "outcome", "_outcome"),
    ("id", "short_id", "id"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Run(Asking[R], Shown, Generic[P, R]):
    """One execution of a job, as it was when it was read.

    Runs compare and hash by ``id``: one that is read again later equals the earlier one, so that
    runs can be keys of a dict and members of a set.

    ``payload`` and ``output`` have the job's types where the job is registered in
    this engine, else they are JSON-like data; ``output`` is ``None`` until the run has
    completed. ``disposition`` says how a trigger was resolved and is ``None`` on a run that was
    read. ``kind`` is ``"job"``, or ``"session"`` for the run of a session, whose ``job_name`` is
    the session's name. A waiting run has no thread and no slot; ``waiting_for`` says for what it
    waits. ``parent_id`` is the run whose ``step.trigger`` has triggered it, and ``forked_from``
    that of the run with whose results ``fork`` has begun it, which may be deleted since.

    ``attempt`` is 0 before the first execution, and rises when one begins after a failure, a
    retry, or the death of the process; a run that was interrupted or has waited goes on with its
    attempt. ``failures`` is how many executions have failed since the last ``retry``. ``error`` is
    what has failed it, also while it is pending to be tried again.

    ``run_at`` is when a pending run may begin, ``None`` if it may at once. ``code_changed`` is true
    once an execution has used a result that an earlier version of a step's function had made.

    A run that came from an engine can be asked, as by ``run.result()`` and ``run.steps``; the
    engine answers, until it is closed. One that was copied, unpickled or made by hand is the value
    alone. ``repr()`` is one line, and a notebook shows a card.

    .. versionchanged:: 0.2.0 Has ``kind``, ``waiting_for``, ``parent_id``, ``run_at``, ``failures``
        and ``code_changed``, and can be asked. An interrupt no longer raises ``attempt``.

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
    waiting_for: WaitingFor | None = None
    run_at: datetime | None = None
    failures: int = 0
    parent_id: str | None = None
    forked_from: str | None = None
    code_changed: bool = False

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        name = displayable(self.job_name, _LONGEST_KEY)
        parts = [f"<Run {displayable(self.id, _LONGEST_KEY)} {name} {self.status}"]
        if self.waiting_for is not None:
            parts[0] += f" for {displayable(self._waits_for, _LONGEST_KEY)}"
        if self.run_at is not None:
            parts[0] += f" until {moment(from_datetime(self.run_at))}"
        if self.idempotency_key is not None:
            parts.append(f"key {displayable(self.idempotency_key, _LONGEST_KEY)!r}")
        parts.append(several(self.completed_steps, "step"))
        error = "" if self.error is None else f": {displayable(str(self.error), _LONGEST_ERROR)}"
        return f"{', '.join(parts)}{error}>"

    @property
    def is_terminal(self) -> bool:
        """Return whether the run has ended: completed, failed or cancelled.

        .. versionadded:: 0.1.0
        """
        return self.status in TERMINAL

    @property
    def is_active(self) -> bool:
        """Return whether the run is pending, running or waiting.

        .. versionadded:: 0.1.0
        """
        return not self.is_terminal

    @staticmethod
    def _listed(runs: list[Run[Any, Any]]) -> RunList[Any, Any]:
        """Return runs as their kind of list; for errors, which are below this module."""
        return RunList(runs)

    @property
    def duration(self) -> float | None:
        """Return the seconds from the first start to the end; ``None`` before, or without a start.

        .. versionadded:: 0.1.0
        """
        return duration_of(self.started_at, self.completed_at)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, with ``duration``.

        ``error`` and ``progress`` are dicts as well, times are ``datetime``s, and ``payload`` and
        ``output`` are what they are here.

        .. versionadded:: 0.2.0
        """
        return {**as_dict(self), "duration": self.duration}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row, as ``to_frame`` of a list of runs does.

        Raises:
            ImportError: pandas is not installed.

        .. versionadded:: 0.2.0
        """
        return RunList([self]).to_frame()

    def _repr_html_(self) -> str:
        from durably.rendering.tables import card  # noqa: PLC0415 - where first needed

        error, progress = self.error, self.progress
        heading: list[tuple[str, Any]] = [
            ("name", self.job_name),
            ("status", self.status),
            ("id", self.id),
        ]
        if progress is not None:
            heading.append(("bar", (progress.current, progress.total, self.status)))
        fields = [
            ("key", "name", self.idempotency_key),
            ("payload", "wide_code", self.payload),
            ("output", "wide_code", self.output),
            ("error", "message", error),
            ("", "lines", None if error is None else error.traceback or None),
            ("progress", "message", None if progress is None else progress.message),
            ("steps", "name", self._done),
            ("waits for", "message", self._waits_for or None),
            ("until", "when", None if self.waiting_for is None else self.waiting_for.until),
            ("due" if error is None else "tried again", "when", self.run_at),
            ("created", "when", self.created_at if self.started_at is None else None),
            ("started", "when", self.started_at),
            ("took", "lasted", None if self.started_at is None else self._times),
            ("labels", "wide_code", self.labels or None),
            ("concurrency key", "name", self.concurrency_key),
            ("forked from", "name", self.forked_from),
        ]
        return card(heading, fields)

    @property
    def _waits_for(self) -> str:
        wait = self.waiting_for
        if wait is None:
            return ""
        if wait.kind == "run":
            return f"run {wait.run_id}"
        return f"{'an answer to' if wait.kind == 'answer' else 'the time of'} {wait.name!r}"

    @property
    def _done(self) -> str:
        attempt = f", attempt {self.attempt}" if self.attempt else ""
        return f"{self.completed_steps:,} done{attempt}"

    @property
    def _times(self) -> tuple[datetime | None, datetime | None]:
        # What is pending again does not go on; nothing says since when.
        if self.is_active and self.status is not RunStatus.RUNNING:
            return None, None
        return self.started_at, self.completed_at

    @property
    def _outcome(self) -> tuple[object, Any]:
        from durably.models.records import shown_output  # noqa: PLC0415 - where first needed

        if self.waiting_for is not None:
            return f"waits for {self._waits_for}", None
        if self.run_at is not None and self.error is not None:
            return f"tried again at {moment(from_datetime(self.run_at))}: {self.error}", None
        if self.error is None and self.is_active and self.progress is not None:
            current, total = self.progress.current, self.progress.total
            far = f"{current}" if total is None else f"{current} of {total}"
            return f"{far} {self.progress.message or ''}".rstrip(), None
        return self.error, shown_output(self)


may_be_read_later(Run, "payload", "output")


class RunList(Listing[Run[P, R]], Generic[P, R]):
    """Runs. A slice is a ``RunList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = Run, "run", _COLUMNS
    _more = ("duration",)

    def _as_dict(self, record: Run[P, R]) -> dict[str, Any]:
        return record.to_dict()


def evolved(run: Run[P, R], **changes: Any) -> Run[P, R]:
    """Return *run* with changed attributes, which the same engine answers for."""
    return answered_by(attrs.evolve(run, **changes), engine_of(run))


def duration_of(started: datetime | None, completed: datetime | None) -> float | None:
    """Return the seconds between two instants of the wall clock, never negative."""
    if started is None or completed is None:
        return None
    # The wall clock may have been set back in between.
    return max(0.0, (completed - started).total_seconds())
