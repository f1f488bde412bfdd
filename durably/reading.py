"""From rows to what users see: runs, steps and log lines with the job's types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from durably.clock import to_datetime
from durably.codec import UNTYPED, Codec
from durably.codec.text import dump, load
from durably.errors import ValidationError
from durably.jobs import Registry, output_type, payload_type
from durably.models import (
    Disposition,
    ErrorInfo,
    LogEntry,
    Progress,
    Run,
    RunStatus,
    StepRecord,
)
from durably.shown import shown, type_name
from durably.store import logs, lookups, steps
from durably.store.database import Database
from durably.store.logs import LogRow
from durably.store.lookups import Filters, RunRow

StatusFilter = RunStatus | str | Iterable[RunStatus | str] | None
NameFilter = str | Iterable[str] | None


def labels_of(row: RunRow) -> dict[str, str]:
    """The labels of a stored run."""
    # Most runs have none.
    labels: dict[str, str] = {} if row.labels == "{}" else load(row.labels)
    return labels


class Reader:
    """Reads runs and what belongs to them. Usable from any thread."""

    def __init__(self, database: Database, codec: Codec, registry: Registry) -> None:
        self._database = database
        self._codec = codec
        self._registry = registry

    def run_of(self, row: RunRow, disposition: Disposition | None = None) -> Run[Any, Any]:
        """*row* as users see it."""
        job = self._registry.get(row.job_name)
        of_payload = UNTYPED if job is None else payload_type(job)
        of_output = UNTYPED if job is None else output_type(job)
        return Run(
            id=row.id,
            job_name=row.job_name,
            status=RunStatus(row.status),
            payload=self._value(row.payload, of_payload, f"the payload of run {row.id}"),
            output=None
            if row.output is None
            else self._value(row.output, of_output, f"the output of run {row.id}"),
            error=self.error_of(row.error),
            progress=self.progress_of(row.progress),
            labels=labels_of(row),
            idempotency_key=row.idempotency_key,
            concurrency_key=row.concurrency_key,
            attempt=row.attempt,
            completed_steps=row.completed_steps,
            created_at=to_datetime(row.created_at_us),
            started_at=None if row.started_at_us is None else to_datetime(row.started_at_us),
            completed_at=None if row.completed_at_us is None else to_datetime(row.completed_at_us),
            updated_at=to_datetime(row.updated_at_us),
            heartbeat_at=None if row.heartbeat_at_us is None else to_datetime(row.heartbeat_at_us),
            disposition=disposition,
        )

    def created(self, row: RunRow, payload: Any, created_at: datetime) -> Run[Any, Any]:
        """The run that a trigger has just made, of whose row nothing needs to be read.

        Args:
            payload: as it would be read from the row.
            created_at: likewise.
        """
        return Run(
            id=row.id,
            job_name=row.job_name,
            status=RunStatus.PENDING,
            payload=payload,
            output=None,
            error=None,
            progress=None,
            labels=labels_of(row),
            idempotency_key=row.idempotency_key,
            concurrency_key=row.concurrency_key,
            attempt=0,
            completed_steps=0,
            created_at=created_at,
            started_at=None,
            completed_at=None,
            updated_at=created_at,
            heartbeat_at=None,
            disposition="created",
        )

    def _value(self, text: str, type_: Any, what: str) -> Any:
        try:
            return self._codec.decode(text, type_, what=what)
        except ValidationError:
            # Stored under an older type of the job. Reading must not fail for that; the
            # data is shown as it is.
            return self._codec.load_json(text)

    def error_of(self, text: str | None) -> ErrorInfo | None:
        """A stored error."""
        if text is None:
            return None
        fields = self._codec.load_json(text)
        fields.pop("failed_step", None)
        return ErrorInfo(**fields)

    def failed_step_of(self, run_id: str) -> str | None:
        """The step that the run failed in, as its ``run:fail`` told; ``None`` if there is none."""
        text = self._database.read(lookups.get, run_id).error
        return None if text is None else self._codec.load_json(text).get("failed_step")

    def progress_of(self, text: str | None) -> Progress | None:
        """A stored progress."""
        return None if text is None else Progress(**self._codec.load_json(text))

    def get(self, run_id: str) -> Run[Any, Any]:
        """The run; raises ``NotFoundError``."""
        return self.run_of(self._database.read(lookups.get, run_id))

    def find(self, run_id: str) -> Run[Any, Any] | None:
        """The run, if there is one."""
        row = self._database.read(lookups.find, run_id)
        return None if row is None else self.run_of(row)

    def find_many(self, filters: Filters, limit: int | None, offset: int) -> list[Run[Any, Any]]:
        """The runs that fit, newest first."""
        limit = None if limit is None else _count(limit, "limit")
        rows = self._database.read(lookups.find_many, filters, limit, _count(offset, "offset"))
        return [self.run_of(row) for row in rows]

    def count(self, filters: Filters) -> int:
        """How many runs fit."""
        return self._database.read(lookups.count, filters)

    def steps_of(self, run_id: str) -> list[StepRecord]:
        """What is stored of the run's steps; raises ``NotFoundError``."""
        self._database.read(lookups.get, run_id)
        return [
            StepRecord(
                name=row.name,
                index=row.step_index,
                status=row.status,  # type: ignore[arg-type]  # the schema allows no other
                output=None if row.output is None else self._codec.load_json(row.output),
                error=self.error_of(row.error),
                started_at=to_datetime(row.started_at_us),
                completed_at=to_datetime(row.completed_at_us),
                attempt=row.attempt,
            )
            for row in self._database.read(steps.of_run, run_id)
        ]

    def logs_of(self, run_id: str) -> list[LogEntry]:
        """The persisted log lines of the run; raises ``NotFoundError``."""
        self._database.read(lookups.get, run_id)
        return [self.entry_of(row) for row in self._database.read(logs.of_run, run_id)]

    def entry_of(self, row: LogRow) -> LogEntry:
        """A stored log line."""
        return LogEntry(
            level=row.level,  # type: ignore[arg-type]  # the schema allows no other
            message=self._codec.load_json(row.message),
            data=self._codec.load_json(row.data),
            step_name=row.step_name,
            created_at=to_datetime(row.created_at_us),
        )


def filters(
    status: StatusFilter = None, job_name: NameFilter = None, labels: dict[str, str] | None = None
) -> Filters:
    """What the arguments of ``get_runs`` ask for, checked."""
    statuses = None
    if status is not None:
        wanted = [status] if isinstance(status, str) else several(status, "status")
        statuses = dump([_status(each) for each in wanted])
    jobs = None
    if job_name is not None:
        names = [job_name] if isinstance(job_name, str) else several(job_name, "job_name")
        jobs = dump([_text(name, "job_name") for name in names])
    wanted_labels = None
    if labels is not None:
        if not isinstance(labels, dict):
            raise ValidationError(f"labels must be a dict of str to str, not {type_name(labels)}")
        wanted_labels = dump(
            {_text(key, "labels"): _text(value, "labels") for key, value in labels.items()}
        )
    return Filters(statuses, jobs, wanted_labels)


def several(items: Any, what: str) -> list[Any]:
    """*items* as a list.

    Raises:
        ValidationError: it is one thing, such as text or a mapping; the message begins with *what*.
    """
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise ValidationError(f"{what} must be several, such as a list, not {type_name(items)}")
    return list(items)


def _status(value: object) -> str:
    # Anything but text is refused before the enum shows it, in words of its own.
    with suppress(ValueError):
        if isinstance(value, str):
            return RunStatus(value).value
    raise ValidationError(f"unknown status {shown(value)}; known are {', '.join(RunStatus)}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"{what} must hold str, not {type_name(value)}")
    return value


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValidationError(f"{what} must be an int that is not negative, not {shown(value)}")
    return value


def run_id_of(run: Run[Any, Any] | str) -> str:
    """The id of what a user handed in, a ``Run`` or an id."""
    if isinstance(run, Run):
        return run.id
    if isinstance(run, str):
        # An id that cannot be stored is no run's; neither is one in quotes.
        return run if run.isascii() else ascii(run)
    raise ValidationError(f"a run must be a Run or its id, not {type_name(run)}")
