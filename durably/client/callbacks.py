"""The callbacks of a wait: ``on_progress`` and ``on_log`` of one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from durably._platform.safe_repr import short_repr
from durably.client.arguments import OnLog, OnProgress
from durably.client.query import Reader, labels_of
from durably.errors import ValidationError
from durably.execution.emitter import Emitter
from durably.models import Progress
from durably.store import defects
from durably.store.rows import Brief, RunRow

if TYPE_CHECKING:
    from durably.events import Event, LogWritten
    from durably.models.records import LogEntry
    from durably.store.api import Store


class Callbacks:
    """Call *on_progress* and *on_log* with what is new of a run. Made for one waiting call.

    Log lines of this process are collected from the start, until ``close``; those of other
    processes are read from the database.

    Raises:
        ValidationError: one of them is not callable.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        emitter: Emitter,
        on_progress: OnProgress | None,
        on_log: OnLog | None,
    ) -> None:
        for callback, name in ((on_progress, "on_progress"), (on_log, "on_log")):
            if callback is not None and not callable(callback):
                raise ValidationError(f"{name} must be callable, not {short_repr(callback)}")
        self._store = store
        self._reader = reader
        self._emitter = emitter
        self._on_progress = on_progress
        self._on_log = on_log
        # Progress that is no news: as it was stored last, and as the caller has it already.
        self._stored: str | None = None
        self.known: Progress | None = None
        self._lines: deque[LogWritten] = deque()
        self._newest_line = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        if on_log is not None:
            self._unsubscribe = emitter.on("log:write", self._collect)
            self._newest_line = store.newest_log_line()

    def _collect(self, event: LogWritten) -> None:
        self._lines.append(event)
        self._store.changes.notify()

    def close(self) -> None:
        """Stop collecting log lines."""
        self._unsubscribe()

    def skip_progress(self, run_id: str) -> None:
        """Make the run's present progress no news."""
        if self._on_progress is not None:
            brief = self._store.brief(run_id)
            self._stored = None if brief is None else brief.progress

    def call(self, run_id: str, brief: Brief | RunRow, owners: Sequence[int]) -> None:
        """Call the callbacks with what is new.

        Args:
            owners: of this process: their log lines are collected, and not read.
        """
        if self._on_progress is not None and brief.progress != self._stored:
            self._stored = brief.progress
            progress = self._progress_of(run_id, brief)
            known, self.known = self.known, None
            if progress is not None and progress != known:
                self._call(run_id, self._on_progress, progress)
        if self._on_log is not None:
            from durably.client.log_entries import (  # noqa: PLC0415 - where first needed
                entries_of,
            )

            while self._lines:
                event = self._lines.popleft()
                if event.run_id == run_id:
                    self._call(run_id, self._on_log, _entry_of(event))
            for row in self._store.log_lines_of(
                run_id, after=self._newest_line, except_owners=owners
            ):
                self._newest_line = row.log
                for entry in entries_of([row], run_id):
                    self._call(run_id, self._on_log, entry)

    def _progress_of(self, run_id: str, brief: Brief | RunRow) -> Progress | None:
        try:
            return self._reader.progress_of(brief.progress)
        except (ValueError, RecursionError):
            # The wait continues: the run is still to end, and cannot be read then.
            defects.note(f"the progress of run {run_id!a:.80} is not valid, and is left out")
            defects.log_noted()
            return None

    def _call(self, run_id: str, callback: Callable[[Any], object], value: Any) -> None:
        # The run is read only for a callback that raises.
        self._emitter.call(callback, value, lambda: self._event_of(run_id, value))

    def _event_of(self, run_id: str, value: Progress | LogEntry) -> Event:
        """Return the event that a callback with *value* stands for."""
        row = self._store.find_run(run_id)
        fields: dict[str, Any] = {
            "run_id": run_id,
            "job_name": "" if row is None else row.job_name,
            "labels": {} if row is None else labels_of(row),
        }
        if isinstance(value, Progress):
            return self._emitter.make("run:progress", **fields, progress=value)
        return self._emitter.make(
            "log:write",
            **fields,
            level=value.level,
            message=value.message,
            data=value.data,
            step_name=value.step_name,
        )


def _entry_of(event: LogWritten) -> LogEntry:
    from durably.models.records import LogEntry  # noqa: PLC0415 - where first needed

    return LogEntry(
        level=event.level,
        message=event.message,
        data=event.data,
        step_name=event.step_name,
        created_at=event.timestamp,
    )
