"""Change runs that are stored: retry, cancel, adopt, retrigger, delete and purge."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs

from durably._platform.clock import Clock, from_datetime
from durably.client.arguments import AnyRun, run_id_of
from durably.client.query import Reader, labels_of
from durably.client.submit import Submitter
from durably.errors import ConflictError, DatabaseError, RunCancelled, ValidationError
from durably.execution.emitter import Emitter
from durably.execution.storing import report_worker_error
from durably.jobs.registry import JobRegistry, origins_of
from durably.settings import age, check_bool, count, seconds
from durably.store.rows import RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker
    from durably.store.api import Store

_SHRINK_PAGES: Final = 2000

# A duration before now, or an instant.
Age = timedelta | str | float | datetime


@attrs.frozen(eq=False, repr=False)
class Control:
    """Change runs, of whatever process. Usable from any thread."""

    _store: Store
    _emitter: Emitter
    _clock: Clock
    _registry: JobRegistry
    _reader: Reader
    _submitter: Submitter
    _worker: LocalWorker

    def retry(self, run: AnyRun | str) -> AnyRun:
        """Put a failed or cancelled run back to pending, and return it."""
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row, *children = self._store.retry(run_id, self._clock.now_us())
            self._store.changes.notify_dispatcher()
            for each in (row, *children):
                self._emitter.emit("run:retry", **fields_of(each))
        return self._reader.run_of(row)

    def adopt(self, run: AnyRun | str) -> AnyRun:
        """Make the registered job continue a pending run of other code, and return it."""
        run_id = run_id_of(run)
        row = self._store.get_run(run_id)
        _refuse_session(row, "adopted")
        job = self._registry.require(row.job_name)
        origin = next(iter(origins_of(job)), None)
        row = self._store.adopt(run_id, origin, self._clock.now_us())
        self._store.changes.notify_dispatcher()
        return self._reader.run_of(row)

    def retrigger(self, run: AnyRun | str) -> AnyRun:
        """Store a new run with the payload, labels and concurrency key of a terminal one."""
        row = self._store.get_run(run_id_of(run))
        _refuse_session(row, "triggered again")
        if row.completed_at_us is None:
            raise ConflictError(
                f"run {row.id} is {row.status} and cannot be triggered again: wait for its end"
            )
        return self._submitter.retrigger(row)

    def cancel(self, run: AnyRun | str) -> None:
        """Cancel a run and its children, and make their jobs stop that are executed here."""
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row, *children = self._store.cancel(run_id, self._clock.now_us())
            for each in (row, *children):
                self._worker.stop_run(each, RunCancelled)
            # If the run was pending, the next one with its concurrency key is claimable.
            self._store.changes.notify_dispatcher()
            for each in (row, *children):
                self._emitter.emit("run:cancel", **fields_of(each))

    def delete(self, run: AnyRun | str) -> None:
        """Delete a terminal run with everything that belongs to it."""
        run_id = run_id_of(run)
        with self._emitter.announcing(run_id):
            row = self._store.delete(run_id)
            self._store.changes.notify()
            self._emitter.emit("run:delete", **fields_of(row))

    def purge(self, older_than: Age, limit: int, *, keep_failed: bool) -> int:
        """Delete up to *limit* runs that ended before then, and return how many were deleted."""
        limit = count(limit, "limit")
        check_bool(keep_failed, "keep_failed")
        before_us = _instant_us(older_than, self._clock)
        deleted = self._store.purge(before_us, limit, keep_failed=keep_failed)
        if deleted:
            self._store.changes.notify()
            self._shrink()
        for row in deleted:
            self._emitter.emit("run:delete", **fields_of(row))
        return len(deleted)

    def _shrink(self) -> None:
        try:
            self._store.shrink(_SHRINK_PAGES)
        except DatabaseError as exc:
            # The runs are deleted all the same, and later runs use their space.
            report_worker_error(self._emitter, exc, "giving space back")


def _refuse_session(row: RunRow, verb: str) -> None:
    if row.kind == "session":
        raise ConflictError(
            f"run {row.id} is a session, which has no job, and cannot be {verb}: open it with "
            f"durably.session({row.job_name!r}, ...)"
        )


def fields_of(row: RunRow) -> dict[str, Any]:
    """Return the fields that each event of a run has."""
    return {"run_id": row.id, "job_name": row.job_name, "labels": labels_of(row)}


def _instant_us(older_than: object, clock: Clock) -> int:
    if isinstance(older_than, datetime):
        if older_than.utcoffset() is None:
            raise ValidationError("older_than must be an aware datetime; this one has no time zone")
        return from_datetime(older_than)
    if isinstance(older_than, str):
        older_than = age(older_than, "older_than")
    past_s = seconds(older_than, "older_than")
    if past_s < 0:
        raise ValidationError(f"older_than={older_than!r} must not be negative")
    # An instant before the epoch is before every run's end.
    return max(0, clock.now_us() - int(past_s * 1e6))
