"""The comparison of a value with what its data gives: the first difference is named."""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import attrs
import pytest

from durably.codec.messages import Problem, Unsupported
from durably.codec.roundtrip import compare


class Color(enum.Enum):
    RED = 1


@attrs.define
class Point:
    x: Any
    y: Any = 0


@dataclass
class Line:
    start: Point
    end: Point


class Pair(NamedTuple):
    left: Any
    right: Any


class Opaque:
    """Has no fields, and equals what has the same number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        if self.number < 0:
            raise ValueError("compared")
        return isinstance(other, Opaque) and self.number == other.number

    __hash__ = None  # type: ignore[assignment]  # it is not needed


class Named(str):
    __slots__ = ("__dict__",)


def named(text: str, **attributes: object) -> Named:
    made = Named(text)
    vars(made).update(attributes)
    return made


def no_codec(cls: type) -> Any:
    raise Unsupported("in these tests fields and == decide")


def difference(before: Any, after: Any) -> str | None:
    """Where the values differ and how, ``None`` if they do not."""
    try:
        compare(before, after, no_codec)
    except Problem as problem:
        return f"{problem.path}: {problem.text}"
    return None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, (2,)), [1, [2]]),
        (3, 3.0),
        (math.nan, math.nan),
        ([math.nan, True], [math.nan, True]),
        ({1, 2}, frozenset({1, 2})),
        (named("a"), "a"),
        (named("a", n=1), named("a", n=1)),
        (deque([1]), deque([1])),
        (Line(Point(1), Point(2.5, None)), Line(Point(1), Point(2.5, None))),
        (Pair([1], 2), Pair([1], 2)),
        (Color.RED, Color.RED),
        (Opaque(1), Opaque(1)),
        ({(1, frozenset({2}))}, {(1, frozenset({2}))}),
    ],
)
def test_what_comes_back_as_it_was_is_accepted(before: Any, after: Any) -> None:
    """A plain value of the same content is accepted at every place, too."""
    assert difference(before, after) is None


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (1, 2, ": would come back as another int"),
        (1, True, ": would come back as bool, not as int"),
        (1.0, 1, ": would come back as int, not as float"),
        (Color.RED, 1, ": would come back as int, not as Color"),
        ({1}, [1], ": would come back as list, not as set"),
        ([1], {1}, ": would come back as set, not as list"),
        (Pair(1, 2), [1, 2], ": would come back as list, not as Pair"),
        ([1, 2], [1], ": would come back as another list"),
        ({"a": [1, {"b c": 2}]}, {"a": [1, {"b c": 3}]}, ".a[1][1]['b c'][1]: would come back as"),
        (Line(Point(1), Point(2)), Line(Point(1), Point(3)), ".end.x: would come back as another"),
        ({1, 2}, {1, 3}, "[...]: would come back as"),
        (named("a", n=1), named("a", n=2), ".n"),
        (named("a", n=1), named("a"), ": would come back as"),
        (Opaque(1), Opaque(2), ": would come back as another Opaque"),
        (Opaque(-1), Opaque(-1), ": would come back as another Opaque"),
        (Pair(1, [2]), Pair(1, [3]), "[1][0]: would come back as another int"),
    ],
)
def test_the_first_difference_is_named(before: Any, after: Any, found: str) -> None:
    """The message has the path of its place."""
    said = difference(before, after)
    assert said is not None
    assert found in said


def redefined(name: str, bases: tuple[type, ...] = (), **members: Any) -> Any:
    return type(name, bases, {"__module__": "cells", "__qualname__": name, **members})


def test_a_class_that_was_defined_again_is_compared_by_its_fields() -> None:
    """Fields that one of both has no more, or not yet, are left to their defaults."""
    older = attrs.make_class("P", {"x": attrs.field()}, class_body={"__module__": "cells"})
    newer = attrs.make_class(
        "P", {"x": attrs.field(), "y": attrs.field(default=0)}, class_body={"__module__": "cells"}
    )
    assert difference(older(1), newer(1)) is None
    assert difference([older(1)], [newer(2)]) == "[0].x: would come back as another int"
    first, second = (NamedTuple("T", [("a", int), ("b", int)]) for _ in range(2))
    for cls in (first, second):
        cls.__module__ = "cells"
    assert difference(first(1, 2), second(1, 2)) is None
    assert difference(first(1, 2), second(1, 3)) == ".b: would come back as another int"


def test_another_class_of_the_same_name_is_said_to_be_one() -> None:
    """Such as two versions of an enum whose members are compared by their value."""
    here = enum.IntEnum("Level", {"LOW": 1}, module="a")
    there = enum.IntEnum("Level", {"LOW": 1}, module="b")
    said = difference(here.LOW, there.LOW)
    assert said == ": would come back as another class of that name (b.Level, not a.Level)"
