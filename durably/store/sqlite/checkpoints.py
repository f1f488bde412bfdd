"""The checkpoints of runs in one database: each verb of ``store.api.Checkpoints``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from durably.store.rows import RunKey
from durably.store.sqlite.blobs.filing import LARGE, Filing
from durably.store.sqlite.sql import codes, inputs, items, queries, steps, waits
from durably.store.sqlite.verbs import Answers, reads, writes

if TYPE_CHECKING:
    from durably.store.item_rows import LayeredItem, MapState, NewItem
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.read_only import ReadOnlyFile

# Where the output and the fingerprint are in the rows of steps and items.
_STEP_OUTPUT: Final = 4
_STEP_CODE: Final = 7
_ITEM_OUTPUT: Final = 2


class SqliteCheckpoints(Answers):
    """The checkpoints of runs in one database; see ``store.api.Checkpoints`` for each verb."""

    find = reads(steps.find)
    window = reads(steps.window)
    find_layered = reads(steps.find_layered)
    window_layered = reads(steps.window_layered)
    newest_layer = reads(steps.newest_layer)
    fail = writes(steps.fail)
    cancel = writes(steps.cancel)
    state = reads(queries.state_of)
    find_map = reads(items.find_map)
    held_items = reads(items.held)
    count_items = reads(items.count)
    item_window = reads(items.window)
    item_window_layered = reads(items.window_layered)
    find_item_layered = reads(items.find_layered)
    item_codes = reads(items.codes)
    find_item = reads(items.find)
    item_at = reads(items.at)
    open_wait = writes(waits.open_wait)
    find_wait = reads(waits.find)
    note_check = writes(waits.note_check)
    close_wait = writes(waits.close_wait)
    find_run = reads(queries.find)
    note_code_changed = writes(codes.note_changed)
    note_inputs = writes(inputs.note)
    note_item_inputs = writes(inputs.note_items)
    note_items = writes(inputs.note_map)
    last_code = reads(codes.last)
    stored_at = reads(codes.stored_at)
    origin = reads(codes.origin)
    unused_steps = reads(codes.unused)

    def __init__(self, database: Database | ReadOnlyFile, filing: Filing) -> None:
        super().__init__(database, filing)
        # The names of fingerprints that are in no row yet, and those that this process has stored.
        self._unnamed: dict[int, str] = {}
        self._named: set[tuple[int, str]] = set()

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
        code: int | None,
        outer: int | None,
    ) -> bool:
        """Store a step's result; return ``False`` if this claim is not the current one."""
        if code in self._unnamed or type(output) is not str or len(output) > LARGE:
            return self._save(
                *(run_pk, fence, index, name, output, started_at_us, completed_at_us, code, outer)
            )
        # Each step calls this, and would pay a hundredth of its time for packing the arguments.
        return self.database.write(
            steps.complete,
            run_pk,
            fence,
            index,
            name,
            output,
            started_at_us,
            completed_at_us,
            code,
            outer,
        )

    def save_calls(self, *row: Any) -> bool:
        """Store the result of a step that was called several times, or has noted something."""
        return self._save(*row, operation=steps.complete_calls)

    def save_layered(self, *row: Any) -> bool:
        """Store a step's result in the place of one that is out of date, or of none."""
        is_current = self._save(*row, operation=steps.complete_layered)
        self._remove_replaced_files()
        return is_current

    def _save(self, *row: Any, operation: Any = steps.complete) -> bool:
        """Store a step's result whose code has no name yet, or which may be a file."""
        run_pk, output, named = row[0], row[_STEP_OUTPUT], self._naming(row[_STEP_CODE])
        before: tuple[Any, ...] = () if named is None else (*named, operation)
        operation = operation if named is None else codes.named
        if not self.filing.refers(output):
            is_current = self.database.write(operation, *before, *row)
        else:
            is_current = self.filing.write(
                operation,
                [output],
                lambda stored: (*before, *row[:_STEP_OUTPUT], *stored, *row[_STEP_OUTPUT + 1 :]),
                lambda is_stored, _: [run_pk if is_stored else None],
                part="step",
            )
        return self._note_named(named, is_current=is_current)

    def name_code(self, code: int, name: str) -> None:
        """Store the name of the function with that fingerprint with its first result."""
        if (code, name) not in self._named:
            self._unnamed[code] = name

    def _naming(self, code: int | None) -> tuple[int, str] | None:
        """Return a fingerprint and its name, if that is not stored yet."""
        name = None if code is None else self._unnamed.get(code)
        return None if code is None or name is None else (code, name)

    def _note_named(self, named: tuple[int, str] | None, *, is_current: bool) -> bool:
        """Note that a name is stored; return *is_current*."""
        if named is not None:
            self._named.add(named)
            self._unnamed.pop(named[0], None)
        return is_current

    def save_items(
        self, run_pk: RunKey, fence: int, state: MapState, rows: Sequence[NewItem | LayeredItem]
    ) -> bool:
        """Store items and the state of their map; return ``False`` if this claim is not current."""
        named = self._naming(state.code)
        before: tuple[Any, ...] = () if named is None else (*named, items.save)
        operation: Any = items.save if named is None else codes.named
        if not any(self.filing.refers(row[_ITEM_OUTPUT]) for row in rows):
            is_current = self.database.write(operation, *before, *(run_pk, fence, state, rows))
        else:

            def rebuild(stored: list[Any]) -> tuple[Any, ...]:
                replaced = [
                    (*row[:_ITEM_OUTPUT], output, *row[_ITEM_OUTPUT + 1 :])
                    for row, output in zip(rows, stored, strict=True)
                ]
                return *before, run_pk, fence, state, replaced

            is_current = self.filing.write(
                operation,
                [row[_ITEM_OUTPUT] for row in rows],
                rebuild,
                lambda is_stored, stored: [run_pk if is_stored else None] * len(stored),
                part="step",
            )
        if state.layer is not None and state.status is not None:
            self._remove_replaced_files()  # the end of a map drops what its items have replaced
        return self._note_named(named, is_current=is_current)

    def discard_answer(self, run_pk: RunKey, fence: int, name: str) -> bool:
        """Remove an answer; return whether this claim may."""
        is_removed = self.database.write(waits.discard_answer, run_pk, fence, name)
        if is_removed:
            self._remove_replaced_files()
        return is_removed

    def _remove_replaced_files(self) -> None:
        """Remove the files of results that others have replaced, if there is any file."""
        if self.filing.has_folder:
            self.remove_dropped_files()
