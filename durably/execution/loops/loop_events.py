"""What a map says of itself while it is executed: its events, and the progress of its run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from durably._platform.tracebacks import stacklevel
from durably.errors import ItemsChangedWarning
from durably.execution.code_changes import CodeChanges
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import EventType
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.record import MapRecord
from durably.execution.loops.tasks import Reused, Task
from durably.execution.services import Services
from durably.execution.step_recorder import StepRecorder

if TYPE_CHECKING:
    from durably.store.item_rows import MapRow


class LoopEvents:
    """The events of one execution of a map."""

    def __init__(
        self,
        options: LoopOptions,
        run: CurrentRun,
        services: Services,
        record: MapRecord,
        recorder: StepRecorder,
    ) -> None:
        self._options = options
        self._run = run
        self._services = services
        self._record = record
        self._recorder = recorder

    def emit(self, type_: EventType, **fields: Any) -> None:
        """Emit an event of the map."""
        self._recorder.emit(type_, self._record.name, self._record.step_index, **fields)

    def item(self, task: Task) -> None:
        """Emit that an item has ended."""
        if task.text is None:
            self.emit("item:fail", item_key=task.key, error=task.error_info)
        elif self._services.emitter.wants("item:complete"):
            output = self._services.codec.decode(
                # Decoded again: what the job does to its value must not show in the event.
                task.text,
                self._options.result_type,
                what="the result of item",
                name=str(task.key),
            )
            duration = max(0, task.completed_at_us - task.started_at_us) / 1e6
            self.emit("item:complete", item_key=task.key, output=output, duration=duration)

    def warn_of_code(
        self, reused: Reused, found: MapRow, code: int | None, changes: CodeChanges
    ) -> None:
        """Warn if other code than that with the fingerprint *code* has made results that are used.

        Args:
            found: the map that they are of.
        """
        codes = {found.code}
        if found.has_codes:
            indexes = [row[0] for row in reused.rows]
            own = self._recorder.read(
                self._services.checkpoints.item_codes, found.map, min(indexes), max(indexes)
            )
            codes = {own.get(index, found.code) for index in indexes}
        warns = self._options.on_change == "warn"
        for other in codes - {code}:
            changes.used(self._record.name, self._options.fn, other, several=True, warns=warns)

    def progress(self) -> None:
        """Report how far the map is as the progress of the run, unless the job reports its own."""
        run, record = self._run, self._record
        if run.has_own_progress or run.is_over:
            return
        said = [
            f"{count:,} {word}"
            for count, word in ((record.failed, "failed"), (record.reused, "from checkpoints"))
            if count
        ]
        run.progress = (record.done, record.total, ", ".join(said) or None)
        if not run.has_new_progress:
            run.has_new_progress = True
            self._services.buffers.progressed(run)

    def warn_of_changes(self, changed: int) -> None:
        """Warn if so many results belong to other items than those that came now."""
        if changed and self._options.on_change == "warn":
            warnings.warn(
                f"{self._options.what}: other items than before are at {changed:,} positions that "
                "have results, which are used; pass key= to tell the items apart",
                ItemsChangedWarning,
                stacklevel=stacklevel(),
            )
