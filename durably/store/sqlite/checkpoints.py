"""The checkpoints of runs in one database: each verb of ``store.api.Checkpoints``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durably.store.item_rows import ItemRow, MapState
from durably.store.rows import RunKey
from durably.store.sqlite.blobs.filing import LARGE
from durably.store.sqlite.sql import items, queries, steps, waits
from durably.store.sqlite.verbs import Answers, reads, writes

# Where the output is in the rows of steps and items.
_STEP_OUTPUT: Final = 4
_ITEM_OUTPUT: Final = 2


class SqliteCheckpoints(Answers):
    """The checkpoints of runs in one database; see ``store.api.Checkpoints`` for each verb."""

    find = reads(steps.find)
    window = reads(steps.window)
    fail = writes(steps.fail)
    cancel = writes(steps.cancel)
    state = reads(queries.state_of)
    find_map = reads(items.find_map)
    count_items = reads(items.count)
    item_window = reads(items.window)
    find_item = reads(items.find)
    item_at = reads(items.at)
    open_wait = writes(waits.open_wait)
    find_wait = reads(waits.find)
    note_check = writes(waits.note_check)
    close_wait = writes(waits.close_wait)
    discard_answer = writes(waits.discard_answer)
    find_run = reads(queries.find)

    @property
    def has_files(self) -> bool:
        """Return whether large results become files."""
        return self.filing.has_files

    def save(
        self,
        run_pk: RunKey,
        fence: int,
        index: int,
        name: str,
        output: str,
        started_at_us: int,
        completed_at_us: int,
    ) -> bool:
        """Store a step's result; return ``False`` if this claim is not the current one."""
        if type(output) is not str or (len(output) > LARGE and self.filing.has_files):
            return self.filing.write(
                steps.complete,
                [output],
                lambda stored: (
                    *(run_pk, fence, index, name, *stored),
                    *(started_at_us, completed_at_us),
                ),
                lambda is_stored, _: [run_pk if is_stored else None],
                part="step",
            )
        # Each step calls this, and would pay a hundredth of its time for packing the arguments.
        return self.database.write(
            steps.complete, run_pk, fence, index, name, output, started_at_us, completed_at_us
        )

    def save_calls(self, *row: Any) -> bool:
        """Store the result of a step whose function was called several times, or noted that."""
        if not self.filing.refers(row[_STEP_OUTPUT]):
            return self.database.write(steps.complete_calls, *row)
        return self.filing.write(
            steps.complete_calls,
            [row[_STEP_OUTPUT]],
            lambda stored: (*row[:_STEP_OUTPUT], *stored, *row[_STEP_OUTPUT + 1 :]),
            lambda is_stored, _: [row[0] if is_stored else None],
            part="step",
        )

    def save_many(self, new: Sequence[tuple[Any, ...]]) -> list[bool]:
        """Store the result of each step; return for each whether it took effect."""
        if not any(self.filing.refers(row[_STEP_OUTPUT]) for row in new):
            return self.database.write(steps.complete_all, new)
        # One by one: the files of one step are then referred to by its run alone.
        return [self.save(*row) for row in new]

    def save_items(
        self, run_pk: RunKey, fence: int, state: MapState, rows: Sequence[ItemRow]
    ) -> bool:
        """Store items and the state of their map; return ``False`` if this claim is not current."""
        if not any(self.filing.refers(row[_ITEM_OUTPUT]) for row in rows):
            return self.database.write(items.save, run_pk, fence, state, rows)

        def rebuild(stored: list[Any]) -> tuple[Any, ...]:
            replaced = [
                (*row[:_ITEM_OUTPUT], output, *row[_ITEM_OUTPUT + 1 :])
                for row, output in zip(rows, stored, strict=True)
            ]
            return run_pk, fence, state, replaced

        return self.filing.write(
            items.save,
            [row[_ITEM_OUTPUT] for row in rows],
            rebuild,
            lambda is_stored, stored: [run_pk if is_stored else None] * len(stored),
            part="step",
        )
