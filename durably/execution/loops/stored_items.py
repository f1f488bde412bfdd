"""The items of a map that were stored before, and which of them this execution has used."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from durably.errors import ValidationError
from durably.execution.checkpoints import Names
from durably.store.bounds import MOST_ITEMS

if TYPE_CHECKING:
    from durably.store.item_checkpoints import ItemCheckpoints
    from durably.store.item_rows import ItemRow, Key, MapRow

Read = Callable[..., Any]

_UNUSED: Final = 0


def same_key(what: str, key: Key, first: int, second: int) -> ValidationError:
    """Return the error for two items with one key."""
    return ValidationError(
        f"{what}: the items at positions {first} and {second} have the same key {key!r:.80}; "
        "key= must return another one for each item"
    )


class StoredItems:
    """Read the items of a map window by window, by key or by position.

    Memory is bounded: a window, and a number for each item that has a key. Used by one thread.

    Args:
        found: what is stored of the map; ``None`` for nothing.
        read: calls a query, and tries again while a failure may pass.
        map_number: reads the number of the map, for one that was not stored before.
        is_layered: whether rows have what says if they are out of date.
        what: begins messages.
    """

    def __init__(
        self,
        checkpoints: ItemCheckpoints,
        found: MapRow | None,
        read: Read,
        *,
        is_keyed: bool,
        map_number: Callable[[], int | None],
        what: str,
        is_layered: bool = False,
    ) -> None:
        self._map_number = map_number
        self._what = what
        self._find_item = checkpoints.find_item
        self._item_window = checkpoints.item_window
        if is_layered:
            self._find_item = checkpoints.find_item_layered
            self._item_window = checkpoints.item_window_layered
        self._item_at = checkpoints.item_at
        self._read = read
        self._is_keyed = is_keyed
        self._map_pk = None if found is None else found.map
        # The errors of the failed items that are not tried again now, by index.
        self.held: dict[int, str] = {}
        if found is not None and found.has_held:
            self.held = read(checkpoints.held_items, found.map)
        self.highest = -1 if found is None else found.highest_index
        # Of the window that was read last: rows by key or index, and which indexes it covers.
        self._window: dict[Key, ItemRow] = {}
        self._indexes: set[int] = set()
        self._covered = range(0)
        self._next_index: int | None = None if self.highest < 0 else 0
        self._has_skipped = False
        # The next index that no item has, if that of its position is taken.
        self._free = self.highest + 1
        # With keys: the position, plus 1, at which each index was used; and the keys that this
        # execution has begun, those that are not stored yet apart.
        self._used = array("I")
        self._begun = Names()
        self._unstored: dict[Key, int] = {}

    def find_at(self, position: int) -> ItemRow | None:
        """Return the item that is stored for a position, in a map without keys."""
        if position > self.highest:
            return None
        if position not in self._covered:
            self._advance(position)
        return self._window.pop(position, None)

    def results_from(self, position: int, most: int) -> list[ItemRow]:
        """Return the results that are stored for a position and for those that follow it.

        They end, in a map without keys, where none is stored or its window ends.
        """
        if position > self.highest:
            return []
        if position not in self._covered:
            self._advance(position)
        window = self._window
        rows: list[ItemRow] = []
        for index in range(position, position + most):
            row = window.get(index)
            if row is None or row[2] is None:
                break  # nothing is stored for it, or it has failed
            rows.append(row)
        return rows

    def results_of(self, keys: Sequence[Key], position: int) -> list[ItemRow]:
        """Return the results of the first keys, from *position* on, and note that they are used.

        They end where a key has none in the window that was read last.
        """
        window = self._window
        rows: list[ItemRow] = []
        for used_at, key in enumerate(keys, position + 1):
            row = window.get(key)
            if row is None or row[2] is None:
                break
            del window[key]
            self._used[row[0]] = used_at
            rows.append(row)
        self._begun.update(keys[: len(rows)])
        return rows

    def find(self, key: Key, position: int) -> ItemRow | None:
        """Return the item that is stored under a key, and note that it is used at *position*.

        Raises:
            ValidationError: this execution has used the key before.
        """
        row = self._window.pop(key, None)
        if row is None and self._map_pk is not None and self._next_index is not None:
            row = self._next_window(key)
        if row is None:
            self._refuse_second_use(key, position)
            if self._has_skipped and self._next_index is None:
                row = self._look_up(key)
        if row is not None:
            self._note(row[0], key, position)
        return row

    def _next_window(self, key: Key) -> ItemRow | None:
        """Read on if *key* is not in the window: most maps use their items in the stored order."""
        if not self._window:
            assert self._next_index is not None  # noqa: S101 - the caller checks
            self._advance(self._next_index)
            row = self._window.pop(key, None)
            if row is not None:
                return row
        row = self._look_up(key)
        if row is not None and self._next_index is not None and row[0] >= self._next_index:
            self._advance(row[0])
            self._window.pop(key, None)
        return row

    def _look_up(self, key: Key) -> ItemRow | None:
        row: ItemRow | None = self._read(self._find_item, self._map_pk, key)
        if row is None or row[0] > self.highest:
            return None  # stored by this execution, which knows it
        used = self._used_at(row[0])
        return None if used != _UNUSED else row

    def _refuse_second_use(self, key: Key, position: int) -> None:
        first = self._unstored.get(key)
        if first is None and key in self._begun:
            # Perhaps: so many keys are kept in a bounded amount of memory.
            map_pk = self._map_pk or self._map_number()
            row = map_pk and self._read(self._find_item, map_pk, key)
            used = _UNUSED if not row else self._used_at(row[0])
            first = None if used == _UNUSED else used - 1
        if first is not None:
            raise same_key(self._what, key, first, position)

    def _used_at(self, index: int) -> int:
        return self._used[index] if index < len(self._used) else _UNUSED

    def _note(self, index: int, key: Key, position: int) -> None:
        self._make_room(index + 1)
        self._used[index] = position + 1
        self._begun.add(key)

    def _make_room(self, count: int) -> None:
        missing = count - len(self._used)
        if missing > 0:
            self._used.extend([_UNUSED] * max(64, missing))

    def place(self, key: Key, position: int) -> int:
        """Return the index for an item that is not stored: its position if no item has that."""
        if position >= MOST_ITEMS:
            raise ValidationError(
                f"a map can have {MOST_ITEMS:,} items; make the items larger, or use several maps"
            )
        if not self._is_keyed:
            return position
        is_free = (
            position >= self._free if position > self.highest else not self._is_taken(position)
        )
        index = position if is_free else self._free
        self._free = max(self._free, index + 1)
        self._note(index, key, position)
        self._unstored[key] = position
        return index

    def note_stored(self, key: Key) -> None:
        """Note that an item is stored now, or was given up."""
        self._unstored.pop(key, None)

    def _is_taken(self, index: int) -> bool:
        if self._used_at(index) != _UNUSED or index in self._indexes:
            return True
        if index in self._covered:
            return False
        return self._read(self._item_at, self._map_pk, index) is not None

    def _advance(self, first_index: int) -> None:
        if self._window or first_index != self._next_index:
            self._has_skipped = True
        window = self._read(self._item_window, self._map_pk, first_index)
        rows = [row for row in window.items if row[0] <= self.highest]
        end = self.highest + 1 if window.next_index is None else window.next_index
        self._covered = range(first_index, end)
        if self._is_keyed:
            self._make_room(end)
            self._indexes = {row[0] for row in rows}
            self._window = {
                row[1]: row
                for row in rows
                if row[1] is not None and self._used_at(row[0]) == _UNUSED
            }
        else:
            self._window = {row[0]: row for row in rows}
        self._next_index = window.next_index if end <= self.highest else None
