"""How many items of a map travel together."""

from __future__ import annotations

import itertools

import pytest

from durably.execution.loops.outside import CHUNK_S, MOST_IN_CHUNK, ChunkSize


def grown(item_s: float, *, fixed: int | None = None, most: int = MOST_IN_CHUNK) -> list[int]:
    """The sizes of the first twelve chunks, of items that take so long each."""
    size = ChunkSize(fixed, most)
    sizes = []
    for _ in range(12):
        sizes.append(size.items)
        size.note(size.items, size.items * item_s)
    return sizes


@pytest.mark.parametrize(
    ("item_s", "last"), [(1e-6, 256), (0.0, 256), (0.001, 50), (0.004, 12), (0.03, 1), (60.0, 1)]
)
def test_chunks_double_up_to_50_ms_of_work_and_256_items(item_s: float, last: int) -> None:
    """One item travels first: nothing is known of it."""
    sizes = grown(item_s)
    assert sizes[0] == 1
    assert sizes[-1] == last
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
    assert all(size * item_s <= CHUNK_S for size in sizes[1:] if size > 1)
    assert sizes == sorted(sizes)


def test_no_more_travel_together_than_may_be_uncommitted() -> None:
    """A crash repeats at most so many."""
    assert grown(1e-6, most=10)[-1] == 10


def test_a_given_number_stays() -> None:
    """Whatever is measured, and whatever the executor suggests."""
    assert set(grown(60.0, fixed=7)) == {7}
    size = ChunkSize(7)
    size.fix(1)
    assert size.items == 7


def test_in_this_process_items_do_not_travel_together() -> None:
    """The number that the executor suggests stays, too."""
    size = ChunkSize(None)
    size.fix(1)
    size.note(1, 1e-6)
    assert size.items == 1


def test_chunks_shrink_at_once_where_items_take_longer() -> None:
    """They grow again slowly; a chunk of which nothing has ended says nothing."""
    size = ChunkSize(None)
    for _ in range(10):
        size.note(size.items, size.items * 1e-4)
    assert size.items == 256
    size.note(0, 5.0)
    assert (size.items, size.is_quick) == (256, True)
    size.note(256, 256 * 0.02)
    assert (size.items, size.is_quick) == (2, False)
    size.note(2, 2e-4)
    assert size.items == 4
