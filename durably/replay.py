"""Replay: the checkpoints that a run had when it was claimed."""

from __future__ import annotations

from durably.store import steps as stored
from durably.store.database import Database
from durably.store.steps import Checkpoint


class Replay:
    """The checkpoints that a run had when it was claimed, read in windows."""

    def __init__(self, database: Database, run: int, *, is_first_attempt: bool) -> None:
        self._database = database
        self._run = run
        self._window: dict[str, Checkpoint] = {}
        self._next_index: int | None = None if is_first_attempt else 0
        # Whether a window was left before all of it was handed out, or never entered.
        self._has_skipped = False
        self.next_free_index = 0
        if not is_first_attempt:
            self.next_free_index = database.read(stored.highest_index, run) + 1
            self._advance(0)

    def _advance(self, first_index: int) -> None:
        if self._window or first_index != self._next_index:
            self._has_skipped = True
        window = self._database.read(stored.window, self._run, first_index)
        self._window = {each.name: each for each in window.checkpoints}
        self._next_index = window.next_index

    def take(self, name: str) -> Checkpoint | None:
        """What was stored under *name* before this execution; each is handed out once."""
        found = self._window.pop(name, None)
        if found is not None or (self._next_index is None and not self._has_skipped):
            return found
        # Not in this window: ask for the one name, and read on from there. A job that
        # replays in its old order asks once a window; one in another order, once a name.
        found = self._database.read(stored.find, self._run, name)
        next_index = self._next_index
        if found is not None and next_index is not None and found.step_index >= next_index:
            self._advance(found.step_index)
            self._window.pop(name, None)
        return found
