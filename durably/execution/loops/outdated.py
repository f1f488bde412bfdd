"""Which results of a map are out of date, under ``on_change="redo"``."""

from __future__ import annotations

from typing import Any

from durably._platform.fingerprints import is_other
from durably.execution.loops.source import hash_like, wide_hash_of
from durably.store.item_rows import LayeredItemRow, MapRow


class OutdatedItems:
    """Find the results of a map that must not be used.

    Args:
        found: what is stored of the map; ``None`` for nothing.
        code: the fingerprint of its function.
        inputs: a hash of what all of its results depend on beside that.
        base: the highest layer of what comes before the map.
    """

    def __init__(self, found: MapRow | None, code: int | None, inputs: int, base: int) -> None:
        self._map_code = None if found is None else found.code
        self._old_layer = 0 if found is None else found.old_layer
        self._code = code
        self.inputs = inputs
        self._base = base

        # The index and a hash of each item that is used and of whose result nothing is known yet.
        self._unknown: list[tuple[int, int | None]] = []

    def unknown(self) -> list[tuple[int, int | None]]:
        """Return the items that were used since the last call whose inputs are not stored."""
        found, self._unknown = self._unknown, []
        return found

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
