"""The stored items of a map are found in whatever order they are asked for, each once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durably.errors import ValidationError
from durably.execution import checkpoints
from durably.execution.loops.stored_items import StoredItems
from durably.store.item_rows import ItemRow, ItemWindow, Key, MapRow


class Table:
    """The items of one map, as the store answers for them; windows are of three rows."""

    def __init__(self, rows: list[ItemRow]) -> None:
        self.rows = {row[0]: row for row in rows}
        self.queries = 0

    def item_window(self, _: int, first_index: int) -> ItemWindow:
        self.queries += 1
        found = [self.rows[n] for n in sorted(self.rows) if n >= first_index][:3]
        return ItemWindow(found, found[-1][0] + 1 if len(found) == 3 else None)

    def find_item(self, _: int, key: Key) -> ItemRow | None:
        self.queries += 1
        return next((row for row in self.rows.values() if row[1] == key), None)

    def item_at(self, _: int, index: int) -> ItemRow | None:
        self.queries += 1
        return self.rows.get(index)


def row(index: int, key: Key | None) -> ItemRow:
    return (index, key, f"{index}", None, 1, None, 1, 2)


def opened(table: Table, *, is_keyed: bool = True) -> StoredItems:
    found = MapRow(1, 0, is_keyed, None, max(table.rows)) if table.rows else None
    return StoredItems(
        table,  # type: ignore[arg-type]  # what is asked of it
        found,
        lambda query, *args: query(*args),
        is_keyed=is_keyed,
        map_number=lambda: 1,
        what="m",
    )


@settings(max_examples=400, deadline=None)
@given(
    indexes=st.sets(st.integers(0, 25), max_size=14),
    asked=st.lists(st.integers(0, 30), max_size=40),
    names=st.randoms(use_true_random=False),
)
def test_each_key_is_found_once_and_new_ones_get_free_places(
    indexes: set[int], asked: list[int], names: random.Random
) -> None:
    """Whatever is stored and in whatever order it is used, against a plain dict."""
    keys = names.sample(range(31), len(indexes))
    stored = {f"k{key}": index for key, index in zip(keys, sorted(indexes), strict=True)}
    table = Table([row(index, key) for key, index in stored.items()])
    items = opened(table)
    used: dict[str, int] = {}
    places = set(indexes)
    known = 0  # for how many of the positions the result was returned with those before
    for position, number in enumerate(asked):
        key = f"k{number}"
        if known == 0:
            following = [f"k{each}" for each in asked[position:]][: names.choice([0, 2, 9])]
            together = items.results_of(following, position)
            known = len(together)
            assert together == [row(stored[each], each) for each in following[:known]]
        if known:
            assert key not in used
            used[key] = position
            known -= 1
            continue
        if key in used:
            with pytest.raises(ValidationError, match=f"positions {used[key]} and {position} "):
                items.find(key, position)
            return
        found = items.find(key, position)
        used[key] = position
        if key in stored:
            assert found == row(stored[key], key)
            continue
        assert found is None
        place = items.place(key, position)
        assert place not in places
        if position not in places:
            assert place == position or place > max(places, default=-1)
        places.add(place)
        if position % 3:  # some are stored at once, others later
            table.rows[place] = row(place, key)
            items.note_stored(key)


@settings(max_examples=200, deadline=None)
@given(indexes=st.sets(st.integers(0, 40), max_size=30))
def test_positions_are_found_in_order(indexes: set[int]) -> None:
    """Those that are stored, and no others, with a query for each window."""
    table = Table([row(index, None) for index in indexes])
    items = opened(table, is_keyed=False)
    for position in range(45):
        together = items.results_from(position, 7)
        assert together == [row(position + n, None) for n in range(len(together))]
        assert len(together) <= 7
        assert {each[0] for each in together} <= indexes
        found = items.find_at(position)
        assert (found is None) == (not together)
        assert found == (row(position, None) if position in indexes else None)
        if found is None:
            assert items.place(position, position) == position
    assert table.queries <= 1 + len(indexes) / 3 + 45 / 3


def test_what_was_begun_is_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may have been used before is searched for, and one that was not is executed."""
    monkeypatch.setattr(checkpoints, "EXACT_NAMES", 3)
    monkeypatch.setattr(checkpoints, "_FILTER_BITS", 8)
    table = Table([])
    items = opened(table)
    for position in range(40):
        assert items.find(position * 3, position) is None
        index = items.place(position * 3, position)
        table.rows[index] = row(index, position * 3)
        items.note_stored(position * 3)
    assert table.queries > 10
    with pytest.raises(ValidationError, match="positions 39 and 40"):
        items.find(117, 40)
