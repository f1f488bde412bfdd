"""What durably hands out compares, hashes and shows itself as attrs would have made it."""

from __future__ import annotations

import copy
import pickle
from math import nan
from typing import Any

import attrs
import pytest

import durably
from durably._platform.values import Value
from durably.events import EVENT_TYPES, Event


@attrs.frozen(eq=False, repr=False)
class Ours:
    """Written with the base."""

    @attrs.frozen(eq=False, repr=False)
    class Pair(Value):
        """Two fields that count, and one that does not."""

        first: Any
        second: Any = None
        hidden: int = attrs.field(default=0, repr=False, eq=False)

    class Child(Pair):
        """A class without fields of its own."""

        __slots__ = ()


@attrs.frozen
class Theirs:
    """Written by attrs."""

    @attrs.frozen
    class Pair:
        """The same."""

        first: Any
        second: Any = None
        hidden: int = attrs.field(default=0, repr=False, eq=False)

    class Child(Pair):
        """The same."""

        __slots__ = ()


ARGUMENTS = [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1.0, 2), ("a", None), ([1], {}), (nan,), (nan,)]


@pytest.mark.parametrize("kind", ["Pair", "Child"])
def test_values_are_what_attrs_makes_of_such_classes(kind: str) -> None:
    """``==``, ``!=``, ``hash``, ``repr`` and ``dir`` are the same for every pair of values."""
    ours, theirs = getattr(Ours, kind), getattr(Theirs, kind)
    for left in ARGUMENTS:
        assert repr(ours(*left)) == repr(theirs(*left)).replace("Theirs", "Ours")
        for right in ARGUMENTS:
            same = theirs(*left) == theirs(*right)
            assert (ours(*left) == ours(*right), ours(*left) != ours(*right)) == (same, not same)
            if same and isinstance(left[0], int | float | str):
                assert hash(ours(*left)) == hash(ours(*right))
    assert {name for name in dir(ours) if not name.startswith("_")} == {"first", "second", "hidden"}


def test_values_of_different_classes_differ() -> None:
    """A class is equal to itself alone, not to one it derives from, nor to what is no value."""
    assert Ours.Pair(1) != Ours.Child(1)
    assert Ours.Pair(1) != (1, None)
    assert Ours.Pair(1).__eq__(1) is NotImplemented


def test_a_value_with_unhashable_fields_has_no_hash() -> None:
    """A list in a field makes it unhashable, as it does a tuple."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours.Pair([1]))


def test_a_value_that_holds_itself_can_be_shown() -> None:
    """``repr`` ends."""
    inside: list[Any] = []
    value = Ours.Pair(inside)
    inside.append(value)
    assert repr(value) == "Ours.Pair(first=[...], second=None)"


def test_a_class_made_in_a_function_is_shown_by_its_own_name() -> None:
    """The name of the function is left out."""

    @attrs.frozen(eq=False, repr=False)
    class Local(Value):
        one: int

    assert repr(Local(1)) == "Local(one=1)"


@pytest.mark.parametrize("cls", [*EVENT_TYPES.values(), Event], ids=lambda cls: cls.__name__)
def test_events_are_frozen_attrs_classes(cls: type[Event]) -> None:
    """Each can be read by attrs, not be changed, and be copied, pickled and compared."""
    fields = attrs.fields(cls)
    event = cls(**{field.name: f"the {field.name}" for field in fields})

    assert [field.name for field in fields][:2] == ["timestamp", "sequence"]
    assert attrs.asdict(event) == {field.name: f"the {field.name}" for field in fields}
    for name in ("sequence", "type", "more"):
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(event, name, 1)
    assert not hasattr(event, "__dict__")
    assert event == copy.copy(event) == pickle.loads(pickle.dumps(event)) == attrs.evolve(event)
    assert event != attrs.evolve(event, sequence=2)
    assert {event, copy.copy(event)} == {event}
    assert repr(event).startswith(f"{cls.__name__}(timestamp='the timestamp', sequence=")


def test_a_payload_is_not_shown() -> None:
    """What may be large or secret stays out of ``repr``."""
    event = EVENT_TYPES["run:trigger"](
        timestamp=1, sequence=2, run_id="r", job_name="j", labels={}, payload="secret"
    )
    expected = "RunTriggered(timestamp=1, sequence=2, run_id='r', job_name='j', labels={})"
    assert repr(event) == expected
    assert repr(durably.Progress(1)) == "Progress(current=1, total=None, message=None)"
