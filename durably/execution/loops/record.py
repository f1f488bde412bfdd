"""The record of a map: its items are stored here, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durably.codec import UNTYPED
from durably.errors import DatabaseError
from durably.execution.current_run import CurrentRun
from durably.execution.loops.tasks import Task
from durably.execution.services import Services
from durably.execution.storing import retry_transient
from durably.models import error_info, stored_error
from durably.store.item_rows import MapState


class MapRecord:
    """Store the items and the end of one map.

    One thread at a time stores, while the one that drives the map may count and read.

    Args:
        code: the fingerprint of its function, stored with its first items.
        item_code: likewise, for each item, unless it is what is stored of the map.
        outer: the index of the step that it is inside of.
        made: the layer of what is executed now and a hash of what the items are made of beside
            themselves and the code, if that is stored.

    Attributes:
        failed: how many items have failed in this execution.
        reused: how many came from checkpoints.
    """

    def __init__(
        self,
        run: CurrentRun,
        services: Services,
        *,
        name: str,
        step_index: int,
        is_keyed: bool,
        total: int | None,
        code: int | None,
        item_code: int | None,
        outer: int | None,
        made: tuple[int, int | None] | None,
    ) -> None:
        self._run = run
        self._services = services
        self.name = name
        self.step_index = step_index
        self._is_keyed = is_keyed
        self.total = total
        self._code = code
        self._item_code = item_code
        self._outer = outer
        self._made = made
        # Those that were executed are counted by the thread that stores them, and those from
        # checkpoints by the one that drives the map, at the same time.
        self._executed = 0
        self.failed = 0
        self.reused = 0
        self.started_at_us = services.clock.now_us()

    def save(self, tasks: Sequence[Task], **end: Any) -> bool:
        """Store items that have ended, and perhaps the end of the map, in one transaction.

        Return ``False``, and store nothing, if this claim is not the current one.

        Raises:
            StopRun: the database cannot be written, and the run is to stop.
            DatabaseError: it cannot be written, for a reason that does not pass.
        """
        completed = sum(task.text is not None for task in tasks)
        reused = self.reused
        executed, failed = self._executed + completed, self.failed + len(tasks) - completed
        state = MapState(
            step_index=self.step_index,
            name=self.name,
            is_keyed=self._is_keyed,
            done=executed + reused,
            failed=failed,
            reused=reused,
            total=self.total,
            started_at_us=self.started_at_us,
            code=self._code,
            outer=self._outer,
            layer=None if self._made is None else self._made[0],
            **end,
        )
        is_stored = retry_transient(
            self._services,
            self._run,
            "storing items",
            self._services.checkpoints.save_items,
            self._run.run_pk,
            self._run.fence,
            state,
            self._rows(tasks),
        )
        if is_stored:
            self._executed, self.failed = executed, failed
        return is_stored

    def _rows(self, tasks: Sequence[Task]) -> list[Any]:
        """Return items as they are stored. A result that is out of date stays if there is none."""
        is_keyed, code = self._is_keyed, self._item_code
        if self._made is None:
            return [task.row(is_keyed=is_keyed, code=code) for task in tasks]
        return [
            (*task.row(is_keyed=is_keyed, code=code), *self._made)
            for task in tasks
            if task.text is not None or not task.is_replacing
        ]

    @property
    def done(self) -> int:
        """Return how many items have a result, those from checkpoints included."""
        return self._executed + self.reused

    def reuse(self, count: int) -> None:
        """Count items that came from checkpoints."""
        self.reused += count

    def complete(self, tasks: Sequence[Task], items: int | None) -> bool:
        """Store that the map has completed, with its last items and a hash of which it has."""
        now_us = self._services.clock.now_us()
        return self.save(tasks, status="completed", completed_at_us=now_us, items=items)

    def fail(self, tasks: Sequence[Task], exc: BaseException) -> bool:
        """Store that the map has failed, with its last items."""
        error = self._services.codec.encode(
            stored_error(error_info(exc)), UNTYPED, what="the error of step", name=self.name
        )
        now_us = self._services.clock.now_us()
        return self.save(tasks, status="failed", error=error, completed_at_us=now_us)

    def cancel(self) -> bool:
        """Store that the map ended after its run was cancelled or recovered by another owner."""
        try:
            return self.save((), status="cancelled", completed_at_us=self._services.clock.now_us())
        except DatabaseError:
            return False
