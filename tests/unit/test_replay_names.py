"""What a resume remembers of names: exact while they are few, never more than a bound."""

from __future__ import annotations

import sys

import pytest

from durably.execution import checkpoints as replay
from durably.execution.checkpoints import Names


def name(number: int) -> str:
    return f"step-{number}"


@pytest.mark.parametrize("count", [0, 1, replay.EXACT_NAMES])
def test_few_names_are_known_exactly(count: int) -> None:
    """What was not added is not there."""
    names = Names()
    names.update(name(number) for number in range(count))
    assert all(name(number) in names for number in range(count))
    assert not any(name(number) in names for number in range(count, count + 1000))


@pytest.mark.parametrize("at_once", [False, True])
def test_what_was_added_is_always_found(at_once: bool) -> None:
    """However many there are, and however they were added."""
    count = replay.EXACT_NAMES + 3000
    names = Names()
    if at_once:
        names.update(map(name, range(count)))
    else:
        for number in range(count):
            names.add(name(number))
    assert all(name(number) in names for number in range(count))


def test_of_many_names_few_are_mistaken() -> None:
    """Each mistake costs a read of the database."""
    names = Names()
    names.update(map(name, range(100_000)))
    mistaken = sum(name(number) in names for number in range(100_000, 110_000))
    assert mistaken < 300


def test_memory_does_not_grow_with_them() -> None:
    """A hundred thousand more cost nothing more, and of few nothing is kept but themselves."""
    names = Names()
    names.update(map(name, range(replay.EXACT_NAMES)))
    assert not names._bits
    names.add("one more")
    before = sys.getsizeof(names._bits)
    for number in range(100_000):
        names.add(name(number))
        assert len(names._newest) <= replay.EXACT_NAMES
    assert sys.getsizeof(names._bits) == before
