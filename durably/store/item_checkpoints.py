"""The part of the store's door that a map needs: its items, each a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from durably.store.rows import RunKey

if TYPE_CHECKING:
    from durably.store.item_rows import (
        ItemRow,
        ItemWindow,
        Key,
        LayeredItem,
        MapRow,
        MapState,
        NewItem,
    )


class ItemCheckpoints(Protocol):
    """The items of maps. Usable from any thread."""

    def save_items(
        self, run_pk: RunKey, fence: int, state: MapState, items: Sequence[NewItem | LayeredItem]
    ) -> bool:
        """Store items of a map, completed and failed ones, and how far or how the map is.

        A failed item is replaced by a later result; a completed one is final, except that items
        with a layer replace those of a lower one, in a state that has that layer. Return
        ``False``, and store nothing, if this claim is not the current one.
        """

    def find_map(self, run_pk: RunKey, name: str) -> MapRow | None:
        """Return the map of that name, ``None`` if nothing of it is stored."""

    def held_items(self, map_pk: int) -> dict[int, str]:
        """Return the errors of the failed items that are not tried again now, by index."""

    def count_items(self, run_pk: RunKey, name: str) -> tuple[int, int] | None:
        """Return how many items of a map have a result, and how many have failed.

        Return ``None`` if nothing of it is stored.
        """

    def item_window(self, map_pk: int, first_index: int) -> ItemWindow:
        """Return the items of a map from *first_index* on, as many as one window holds."""

    def item_window_layered(self, map_pk: int, first_index: int) -> ItemWindow:
        """Return what ``item_window`` does, and what says which results are out of date."""

    def find_item_layered(self, map_pk: int, key: Key) -> ItemRow | None:
        """Return what ``find_item`` does, and what says whether the result is out of date."""

    def item_codes(self, map_pk: int, first_index: int, last_index: int) -> dict[int, int]:
        """Return the fingerprints of the items that have one of their own, by index."""

    def find_item(self, map_pk: int, key: Key) -> ItemRow | None:
        """Return the item with that key, ``None`` if there is none."""

    def item_at(self, map_pk: int, index: int) -> ItemRow | None:
        """Return the item at that index, ``None`` if there is none."""
