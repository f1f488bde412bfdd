"""What a person changes in one database: each verb of ``store.by_hand.ByHand``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from durably.store.rows import RunRow
from durably.store.sqlite.verbs import OnDatabase

if TYPE_CHECKING:
    from durably.store.item_rows import Key


class ByHand(OnDatabase):
    """The part of a store by which a person changes results; see ``store.by_hand.ByHand``."""

    def redo(
        self, run_id: str, from_step: str | None, only: str | None, now_us: int
    ) -> tuple[RunRow, list[RunRow]]:
        """Forget results of a run, make it pending; return it, and what is cancelled for that."""
        from durably.store.sqlite.sql import redo as redoing  # noqa: PLC0415 - where first needed

        result = self.database.write(redoing.redo, run_id, from_step, only, now_us)
        self.remove_dropped_files()
        return result

    def fork(
        self,
        run_id: str,
        from_step: str | None,
        new_id: str,
        payload: str | None,
        key: str | None,
        now_us: int,
    ) -> RunRow:
        """Store a new run with copies of the results of another one; return it."""
        from durably.store.sqlite.sql import forks  # noqa: PLC0415 - where first needed

        if payload is None or not self.filing.refers(payload):
            arguments = run_id, from_step, new_id, payload, key, now_us
            return self.database.write(forks.fork, *arguments)
        return self.filing.write(
            forks.fork,
            [payload],
            lambda stored: (run_id, from_step, new_id, *stored, key, now_us),
            lambda row, _: [row.run],
            part="run",
        )

    def set_step(self, run_id: str, name: str, output: str, now_us: int) -> RunRow:
        """Set the result of a step; return its run."""
        from durably.store.sqlite.sql import manual  # noqa: PLC0415 - where first needed

        if not self.filing.refers(output):
            row = self.database.write(manual.set_step, run_id, name, output, now_us)
        else:
            row = self.filing.write(
                manual.set_step,
                [output],
                lambda stored: (run_id, name, *stored, now_us),
                lambda row, _: [row.run],
                part="step",
            )
        self.remove_dropped_files()
        return row

    def set_item(self, run_id: str, name: str, key: Key, output: str, now_us: int) -> RunRow:
        """Set the result of an item of a map; return its run."""
        from durably.store.sqlite.sql import manual  # noqa: PLC0415 - where first needed

        if not self.filing.refers(output):
            row = self.database.write(manual.set_item, run_id, name, key, output, now_us)
        else:
            row = self.filing.write(
                manual.set_item,
                [output],
                lambda stored: (run_id, name, key, *stored, now_us),
                lambda row, _: [row.run],
                part="step",
            )
        self.remove_dropped_files()
        return row

    def retry_items(
        self, run_id: str, fence: int, tried: Mapping[str, Sequence[int]], now_us: int
    ) -> list[RunRow]:
        """Retry a run; of its maps only these failed items are tried again."""
        from durably.store.sqlite.sql import held  # noqa: PLC0415 - where first needed

        return self.database.write(held.retry_items, run_id, fence, tried, now_us)
