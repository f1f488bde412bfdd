"""Ids: unique, in order, and of the form of a ULID."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storekit import FakeClock

from durably._platform.ids import Ids

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LAST_US = 253_402_300_799_999_999  # the end of the year 9999, the last that a datetime can hold


def number_of(id_: str) -> int:
    """What an id stands for, read character by character."""
    number = 0
    for character in id_:
        number = 32 * number + ALPHABET.index(character)
    return number


def test_an_id_begins_with_its_millisecond() -> None:
    """The first ten characters are the milliseconds since 1970; the format's own example."""
    assert Ids(FakeClock(1_469_918_176_385_999)).new().startswith("01ARYZ6S41")


def test_the_rest_counts_on_from_what_the_kernel_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins at 79 bits of ``os.urandom``, so no two processes repeat each other's."""
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(1, count + 1)))
    first = int.from_bytes(bytes(range(1, 11)), "big") // 2 + 1
    clock = FakeClock(0)
    ids = Ids(clock)
    assert [number_of(ids.new()) for _ in range(3)] == [first, first + 1, first + 2]
    clock.advance(0.001)
    assert number_of(ids.new()) == 2**80 + first + 3


@given(st.lists(st.integers(-(10**6), LAST_US), min_size=1, max_size=20))
def test_ids_sort_in_the_order_in_which_they_were_made(readings: list[int]) -> None:
    """Whatever the clock does in between: stand still, go on, be set back."""
    clock = FakeClock()
    ids = Ids(clock)
    made = []
    for clock.us in readings:
        made += [ids.new(), ids.new()]

    assert made == sorted(set(made))
    assert all(re.fullmatch(f"[0-7][{ALPHABET}]{{25}}", id_) for id_ in made)
    assert [number_of(id_) for id_ in made] == sorted(number_of(id_) for id_ in made)


@pytest.mark.parametrize("drawn", [b"\xff" * 10, b"\x00" * 7 + b"\x1f\xff\xfd"])
def test_counting_on_carries(drawn: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last number of a place comes the next place."""
    monkeypatch.setattr(os, "urandom", lambda _: drawn)
    ids = Ids(FakeClock())
    first, second = ids.new(), ids.new()
    assert number_of(second) == number_of(first) + 1
    assert second > first


def test_two_makers_share_no_ids() -> None:
    """Engines, in one process or in several, make different ids in the same millisecond."""
    clock = FakeClock()
    one, other = Ids(clock), Ids(clock)
    assert len({maker.new() for maker in (one, other) for _ in range(100)}) == 200


def test_threads_share_no_ids() -> None:
    """Threads that make ids at once get different ones, each in its order."""
    ids = Ids(FakeClock())
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: [ids.new() for _ in range(500)], range(4)))
    assert len({id_ for each in made for id_ in each}) == 2000
    assert all(each == sorted(each) for each in made)
