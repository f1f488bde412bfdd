"""Make runs, steps and log lines for users from rows, with the job's types."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from durably._platform.clock import to_datetime
from durably.client.arguments import AnyRun, NameFilter, StatusFilter, run_id_of
from durably.client.unreadable import UNREADABLE, checked, raise_defect, readable
from durably.codec import UNTYPED, Codec
from durably.codec.json_text import dump, load
from durably.errors import DatabaseError, SerializationError, ValidationError
from durably.execution.unseen_failures import see
from durably.jobs import Job, output_type, payload_type
from durably.jobs.registry import JobRegistry
from durably.models import (
    Disposition,
    ErrorInfo,
    Progress,
    Run,
    RunEngine,
    RunKind,
    RunList,
    RunStatus,
    WaitingFor,
    answered_by,
)
from durably.models.later import Later
from durably.settings import count
from durably.store import defects
from durably.store.rows import RunRow

if TYPE_CHECKING:
    from durably.client.overview import Overview
    from durably.models.records import LogList, StepList, StepRecord
    from durably.store.api import Store
    from durably.store.read_rows import StepRow


def labels_of(row: RunRow) -> dict[str, str]:
    """Return the labels of a stored run; none if they cannot be read."""
    # Most runs have none.
    if row.labels == "{}":
        return {}
    try:
        labels: dict[str, str] = load(row.labels)
    except (ValueError, RecursionError):
        return {}
    return labels if defects.is_labels(labels) else {}


def _waiting_for(row: RunRow) -> WaitingFor | None:
    if row.waits_for is None:
        return None
    return WaitingFor(
        kind=row.waits_for,  # type: ignore[arg-type]  # the schema allows no other
        name=row.wait_name,
        until=None if row.run_at_us is None else to_datetime(row.run_at_us),
        run_id=row.waits_for_id,
    )


def _run_at(row: RunRow) -> datetime | None:
    is_later = row.status == "pending" and row.run_at_us is not None
    return to_datetime(row.run_at_us or 0) if is_later else None


class Reader:
    """Read runs, their steps and their log lines. Usable from any thread."""

    def __init__(self, store: Store, codec: Codec, registry: JobRegistry) -> None:
        self._store = store
        self._codec = codec
        self._registry = registry
        # What answers for the runs that are read; the client that uses the reader sets it.
        self.answers: RunEngine | None = None

    def run_of(
        self, row: RunRow, disposition: Disposition | None = None, *, is_listed: bool = False
    ) -> Run[Any, Any]:
        """Return the ``Run`` of *row*.

        Raises:
            DatabaseError: the row contains what durably never writes.
        """
        try:
            return answered_by(self._run_of(row, disposition, is_listed=is_listed), self.answers)
        except UNREADABLE as exc:
            raise_defect(exc, f"run {row.id!a:.80}", defects.of_run(row._asdict()))

    def _run_of(
        self, row: RunRow, disposition: Disposition | None, *, is_listed: bool
    ) -> Run[Any, Any]:
        # A session has no job, whatever job has its name.
        job = self._registry.get(row.job_name) if row.kind == "job" else None
        of_payload = UNTYPED if job is None else payload_type(job)
        of_output = UNTYPED if job is None else output_type(job)
        return Run(
            id=row.id,
            job_name=row.job_name,
            status=RunStatus(row.status),
            payload=self._value(
                row.payload, of_payload, f"the payload of run {row.id}", is_listed=is_listed
            ),
            output=None
            if row.output is None
            else self._value(
                row.output, of_output, f"the output of run {row.id}", is_listed=is_listed
            ),
            error=self.error_of(row.error or row.last_error, row.first_step),
            progress=self.progress_of(row.progress),
            labels={} if row.labels == "{}" else checked(row.labels, defects.is_labels),
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
            kind=row.kind,
            waiting_for=_waiting_for(row),
            run_at=_run_at(row),
            failures=row.failures,
            parent_id=row.parent_id,
            forked_from=row.forked_from,
            code_changed=bool(row.code_changed),
        )

    def job_of(self, name: str) -> Job[Any, Any] | None:
        """Return the job of that name that is registered here, ``None`` if there is none."""
        return self._registry.get(name)

    def created(self, row: RunRow, payload: Any, created_at: datetime) -> Run[Any, Any]:
        """Return the run that a trigger has just stored, without reading its row.

        Args:
            payload: as it would be read from the row.
            created_at: likewise.
        """
        run: AnyRun = Run(
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
            run_at=_run_at(row),
        )
        return answered_by(run, self.answers)

    def listed(self, row: RunRow) -> Run[Any, Any]:
        """Return the ``Run`` of a row of a list; what is in a file is read when it is asked for.

        Raises:
            DatabaseError: as ``run_of`` does.
        """
        return self.run_of(row, is_listed=True)

    def _value(self, text: str, type_: Any, what: str, *, is_listed: bool) -> Any:
        if is_listed and self._codec.is_in_file(text):
            return Later(lambda: self._value(text, type_, what, is_listed=False))
        try:
            return self._codec.decode(text, type_, what=what)
        except (ValidationError, SerializationError):
            # It was stored under an older type of the job, or its class is not loaded here. Reading
            # must not fail for that, so the data is returned as it is.
            return self._codec.load_json(text)

    def output_of(self, text: str, what: str) -> Any:
        """Return the output of a step or an item of a list, as JSON-like data."""
        if self._codec.is_in_file(text):
            return Later(lambda: self._codec.load_json(text, what))
        return self._codec.load_json(text, what)

    def error_of(self, text: str | None, first_step: str | None = None) -> ErrorInfo | None:
        """Return a stored error; of a run, with its first step that has a result."""
        if text is None:
            return None
        if first_step is not None:
            first_step = bytes.fromhex(first_step).decode(errors="backslashreplace")
        return ErrorInfo(**checked(text, defects.is_error), first_step=first_step)

    def failed_step_of(self, run_id: str) -> str | None:
        """Return the step that the run failed in, as in its ``run:fail``; ``None`` for none."""
        text = self._store.get_run(run_id).error
        return None if text is None else self._codec.load_json(text).get("failed_step")

    def unused_steps_of(self, run_id: str) -> tuple[str, ...]:
        """Return the stored steps that the newest execution of a run has not used."""
        attempts = self._store.attempts_of(run_id)
        return self.names_of(attempts[-1].unused_steps) if attempts else ()

    def names_of(self, text: str | None) -> tuple[str, ...]:
        """Return a stored list of names.

        Raises:
            ValueError: it is not one.
        """
        return () if text is None else tuple(checked(text, defects.is_names))

    def progress_of(self, text: str | None) -> Progress | None:
        """Return a stored progress.

        Raises:
            ValueError: it is not a progress.
        """
        return None if text is None else Progress(**checked(text, defects.is_progress))

    def get(self, run_id: str) -> Run[Any, Any]:
        """Return the run; raise ``NotFoundError`` if there is none."""
        return self.run_of(self._store.get_run(run_id))

    def get_ended(self, run_ids: Iterable[str]) -> tuple[list[Run[Any, Any]], list[str]]:
        """Return those of the runs that have ended, and the ids of those that cannot be read.

        Raises:
            NotFoundError: there is no such run.
        """
        ended: list[Run[Any, Any]] = []
        unreadable: list[str] = []
        for run_id in run_ids:
            try:
                run = self.get(run_id)
            except DatabaseError as exc:
                if not exc.is_of_row:
                    raise
                defects.note(str(exc))
                unreadable.append(run_id)
            else:
                ended += [run] if run.is_terminal else []
        defects.log_noted()
        return ended, unreadable

    def read(self, run_id: str) -> Run[Any, Any] | None:
        """Return the run, which nobody sees by that, ``None`` if there is none."""
        row = self._store.find_run(run_id)
        return None if row is None else self.run_of(row)

    def find(self, run: Run[Any, Any] | str, job_name: str | None = None) -> Run[Any, Any] | None:
        """Return the run for a caller to see, ``None`` if there is none of that job."""
        row = self._store.find_run(run_id_of(run))
        if row is None or (job_name is not None and (row.job_name, row.kind) != (job_name, "job")):
            return None
        found = self.run_of(row)
        see(found)
        return found

    def require(self, run: Run[Any, Any] | str) -> Run[Any, Any]:
        """Return the run for a caller to see.

        Raises:
            NotFoundError: there is none.
        """
        found = self.get(run_id_of(run))
        see(found)
        return found

    def find_many(
        self,
        status: StatusFilter,
        job_name: NameFilter,
        labels: dict[str, str] | None,
        limit: int | None,
        offset: int,
        kind: RunKind | None = None,
        since_us: int | None = None,
        parent: AnyRun | str | None = None,
        *,
        values: bool = True,
    ) -> RunList[Any, Any]:
        """Return the runs that match for a caller to see, the newest first.

        Those that cannot be read are left out.

        Args:
            values: whether payloads and outputs are read, which may be large files; else they are
                ``None``.
        """
        from durably.client.filters import filters_of  # noqa: PLC0415 - where first needed

        wanted = filters_of(status, job_name, labels)._replace(
            kind=kind,
            since_us=since_us,
            parent=None if parent is None else run_id_of(parent),
        )
        limit = None if limit is None else count(limit, "limit")
        rows = self._store.find_runs(wanted, limit, count(offset, "offset"))
        if not values:
            rows = [row._replace(payload="null", output=None) for row in rows]
        found = RunList(readable(self.listed, rows))
        for run in found:
            see(run)
        return found

    def count(
        self, status: StatusFilter, job_name: NameFilter, labels: dict[str, str] | None
    ) -> int:
        """Return how many runs match."""
        from durably.client.filters import filters_of  # noqa: PLC0415 - where first needed

        return self._store.count_runs(filters_of(status, job_name, labels))

    def overview(self, job_name: str | None = None) -> Overview:
        """Return how many runs there are of each job and status, or of that job alone."""
        from durably.client.overview import Overview  # noqa: PLC0415 - where first needed
        from durably.store.read_rows import Filters  # noqa: PLC0415 - where first needed

        filters = Filters() if job_name is None else Filters(jobs=dump([job_name]), kind="job")
        return Overview.of(self._store, filters)

    def steps_of(self, run: Run[Any, Any] | str) -> StepList:
        """Return the records of the run's steps; those that cannot be read are left out.

        Raises:
            NotFoundError: there is no such run.
            DatabaseError: the run cannot be read.
        """
        from durably.models.records import StepList  # noqa: PLC0415 - where first needed

        run_id = run_id_of(run)
        self._store.get_run(run_id)
        rows = self._store.steps_of(run_id)
        return StepList(readable(lambda row: self._step_of(row, run_id), rows))

    def _step_of(self, row: StepRow, run_id: str) -> StepRecord:
        from durably.models.records import (  # noqa: PLC0415 - where first needed
            ItemCounts,
            StepRecord,
        )

        what = f"step {row.name!a:.80} of run {run_id!a:.80}"
        try:
            return StepRecord(
                name=row.name,
                index=row.step_index,
                status=row.status,  # type: ignore[arg-type]  # the schema allows no other
                output=None if row.output is None else self.output_of(row.output, what),
                error=self.error_of(row.error),
                started_at=to_datetime(row.started_at_us),
                completed_at=to_datetime(row.completed_at_us),
                attempt=row.attempt,
                items=None if row.counts is None else ItemCounts(*row.counts),
                is_manual=bool(row.is_manual),
                attempts=row.attempts,
                notes=[] if row.notes is None else self._codec.load_json(row.notes, what),
            )
        except UNREADABLE as exc:
            raise_defect(exc, what, defects.of_step(row._asdict()))

    def logs_of(self, run: Run[Any, Any] | str) -> LogList:
        """Return the persisted log lines of the run; those that cannot be read are left out.

        Raises:
            NotFoundError: there is no such run.
            DatabaseError: the run cannot be read.
        """
        from durably.client.log_entries import entries_of  # noqa: PLC0415 - where first needed
        from durably.models.records import LogList  # noqa: PLC0415 - where first needed

        run_id = run_id_of(run)
        self._store.get_run(run_id)
        return LogList(entries_of(self._store.log_lines_of(run_id), run_id))
