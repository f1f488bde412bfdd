"""Which results of a map are out of date, under ``on_change="redo"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durably._platform.fingerprints import is_other
from durably.execution.loops.source import hash_like, wide_hash_of

if TYPE_CHECKING:
    from durably.store.api import Checkpoints
    from durably.store.item_rows import LayeredItemRow, MapRow


class OutdatedItems:
    """Find the results of a map that must not be used.

    Args:
        found: what is stored of the map; ``None`` for nothing.
        code: the fingerprint of its function.
        inputs: a hash of what all of its results depend on beside that.
        base: the highest layer of what comes before the map.
        checkpoints: has the verbs that *note* calls.
        note: stores something of the map that was found: called with a verb and its last arguments.
    """

    def __init__(
        self,
        found: MapRow | None,
        code: int | None,
        inputs: int,
        base: int,
        checkpoints: Checkpoints,
        note: Callable[..., None],
    ) -> None:
        self._found = found
        self._map_code = None if found is None else found.code
        self._old_layer = 0 if found is None else found.old_layer
        self._code = code
        self.inputs = inputs
        self._base = base
        self._checkpoints = checkpoints
        self._note = note
        # The index and a hash of each item that is used and of whose result nothing is known yet.
        self._unknown: list[tuple[int, int | None]] = []

    def note_used(self) -> None:
        """Store what the results are taken to be made of that were used since the last call."""
        found, self._unknown = self._unknown, []
        if found:
            self._note(self._checkpoints.note_item_inputs, self.inputs, found)

    def has_others(self, items: int) -> bool:
        """Return whether the map had other items when it completed, by a hash of which it has."""
        return self._found is not None and self._found.items not in (None, items)

    def note_items(self, items: int) -> None:
        """Store which items the map has, if that is not known."""
        if self._found is not None and self._found.items is None:
            self._note(self._checkpoints.note_items, items)

    def has(self, row: LayeredItemRow, item: Any) -> bool:
        """Return whether a stored result is out of date for an item as it is now."""
        code, layer, inputs, is_manual = row[8:]
        if is_manual:
            return False
        has_other_inputs = inputs is not None and inputs != self.inputs
        if has_other_inputs or (self._old_layer if layer is None else layer) < self._base:
            return True
        if is_other(self._map_code if code is None else code, self._code):
            return True
        stored = row[5]
        if stored is not None and hash_like(stored, item) != stored:
            return True
        if inputs is None:
            self._unknown.append((row[0], wide_hash_of(item) if stored is None else stored))
        return False
