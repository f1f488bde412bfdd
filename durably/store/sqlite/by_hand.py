"""What a person changes in one database: each verb of ``store.by_hand.ByHand``."""

from __future__ import annotations

from durably.store.rows import RunRow
from durably.store.sqlite.sql import redo as redoing
from durably.store.sqlite.verbs import OnDatabase


class ByHand(OnDatabase):
    """The part of a store by which a person changes results; see ``store.by_hand.ByHand``."""

    def redo(
        self, run_id: str, from_step: str | None, only: str | None, now_us: int
    ) -> tuple[RunRow, list[RunRow]]:
        """Forget results of a run, make it pending; return it, and what is cancelled for that."""
        result = self.database.write(redoing.redo, run_id, from_step, only, now_us)
        self.remove_dropped_files()
        return result
