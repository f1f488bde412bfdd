"""What ``step.run`` returns is what it returns on a resume, type for type."""

from __future__ import annotations

import enum
import functools
import math
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import attrs
import pytest
from engines import again, engine, execute

import durably


@attrs.define
class Point:
    x: int
    y: float = 0.5
    tags: set[str] = attrs.field(factory=set)


@dataclass
class Pair:
    left: Point
    right: Point | None


class Row(NamedTuple):
    id: int
    at: datetime


class Address(TypedDict, total=False):
    street: str


class Color(enum.Enum):
    RED = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Ratio(float):
    pass


NOW = datetime(2026, 11, 22, 1, 2, 3, 4, tzinfo=UTC)


def shape(value: Any) -> Any:
    """The value with the type of each part, so that 1 is not True and NaN is NaN."""
    if isinstance(value, dict):
        return (type(value), [(shape(k), shape(v)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [shape(each) for each in value])
    if attrs.has(type(value)):
        return (type(value), shape(attrs.asdict(value, recurse=False)))
    if isinstance(value, float):
        return (float, repr(value))
    return (type(value), value)


def both(folder: Path, fn: Any, returns: Any = None) -> tuple[Any, Any]:
    """What a step of *fn* returns at first, and from its checkpoint in another engine."""
    (found,) = both_of_each(folder, [(fn, returns)])
    return found


def both_of_each(folder: Path, calls: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The same of several, each a function and the type that it is said to return."""
    returned: list[list[Any]] = []

    def job(step):
        returned.append([])
        for number, (fn, returns) in enumerate(calls):
            runner = step if returns is None else step.options(returns=returns)
            returned[-1].append(runner.run(f"s{number}", fn))
        if step.attempt == 1:
            raise ValueError("resume")

    with engine(folder, job) as app:
        run = execute(app)
        assert run.error.type == "ValueError", run.error
    with engine(folder, job) as app:
        run = again(app, run)
        assert run.status == "completed", run.error
    first, resumed = returned
    return list(zip(first, resumed, strict=True))


JSON_LIKE = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    -0.0,
    1e300,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    2**53 + 1,
    -(10**5000),
    "",
    "null",
    "é\x00\n 日本 🎉",
    "\ud800",
    "\ud83d" + "\ude00",
    "😀",
    " leading",
    [],
    {},
    [1, [2, {"a": None, "": [math.nan]}]],
    {"b": 1, "a": 2, "\ud800": 3},
]


def test_json_like_results_come_back_as_they_were(tmp_path):
    """Without annotation JSON-like data comes back, NaN, big integers and any text included."""
    found = both_of_each(tmp_path, [(lambda value=value: value, None) for value in JSON_LIKE])
    for value, (first, resumed) in zip(JSON_LIKE, found, strict=True):
        assert shape(first) == shape(value)
        assert shape(resumed) == shape(value)


TYPED = [
    (Point, Point(1, 2.0, {"a"})),
    (Pair, Pair(Point(1), None)),
    (Row, Row(1, NOW)),
    (Address, {"street": "Main"}),
    (Color, Color.RED),
    (Mode, Mode.FAST),
    (Level, Level.HIGH),
    (datetime, NOW),
    (date, date(2026, 1, 2)),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (Path, Path("a/b")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[date, Point], {date(2026, 1, 1): Point(1)}),
    (list[Point | None], [Point(1), None]),
    (int | str, "1"),
    (int | str, 1),
    (float, 1.0),
    (Any, [1, None]),
]


@pytest.mark.parametrize("is_annotated", [True, False])
def test_typed_results_come_back_as_they_were(tmp_path, is_annotated):
    """A result comes back with the type that ``returns=`` or the annotation says."""

    def annotated(type_, value):
        def fn():
            return value

        fn.__annotations__["return"] = type_
        return fn, None

    def said(type_, value):
        return (lambda: value), type_

    calls = [(annotated if is_annotated else said)(type_, value) for type_, value in TYPED]
    found = both_of_each(tmp_path, calls)
    for (_, value), (first, resumed) in zip(TYPED, found, strict=True):
        assert shape(first) == shape(resumed) == shape(value)


def test_returns_wins_over_the_annotation(tmp_path):
    """``returns=`` says the type where the function is annotated wrongly."""

    def wrong() -> int:
        return (1, "a")

    first, resumed = both(tmp_path, wrong, tuple[int, str])
    assert first == resumed == (1, "a")


class Reader:
    def __call__(self) -> tuple[int, int]:
        return (1, 2)

    def method(self) -> tuple[int, int]:
        return (1, 2)

    @classmethod
    def of_class(cls) -> tuple[int, int]:
        return (1, 2)

    @staticmethod
    def static(a: int, b: int = 2) -> tuple[int, int]:
        return (a, b)


def plain() -> tuple[int, int]:
    return (1, 2)


@functools.wraps(plain)
def wrapped(*args, **kwargs):
    return plain(*args, **kwargs)


@pytest.mark.parametrize(
    "fn",
    [
        Reader(),
        Reader().method,
        Reader.of_class,
        functools.partial(Reader.static, 1),
        wrapped,
        functools.lru_cache(plain),
    ],
    ids=["object", "method", "classmethod", "partial", "wrapped", "cached"],
)
def test_the_annotation_of_any_callable_is_used(tmp_path, fn):
    """Methods, partials, wrapped functions and callable objects have a return annotation too."""
    first, resumed = both(tmp_path, fn)
    assert first == resumed == (1, 2)
    assert type(resumed) is tuple


def test_a_class_is_the_type_of_what_it_makes(tmp_path):
    """A class as a step's function returns an instance of itself."""
    first, resumed = both(tmp_path, functools.partial(Point, 3))
    assert first == resumed == Point(3)


def test_what_json_does_not_know_comes_back_without_an_annotation(tmp_path):
    """As it was, at once and on a resume, wherever it is inside the result."""
    value = {
        "a": (1, (2, {3})),
        NOW: [b"x", Decimal(1), Point(1), Pair(Point(1), None)],
        None: {"$": Path("x")},
        (Color.RED, Mode.FAST): Level.HIGH,
    }
    first, resumed = both(tmp_path, lambda: value)
    assert shape(first) == shape(resumed) == shape(value)
    assert first == resumed == value


@pytest.mark.parametrize(
    ("value", "expected"), [(Text("a"), "a"), (Number(3), 3), (Ratio(0.5), 0.5)]
)
def test_subclasses_come_back_as_the_plain_type(tmp_path, value, expected):
    """Subclasses of ``str``, ``int`` and ``float`` come back as the plain type, now and later."""
    first, resumed = both(tmp_path, lambda: [value])
    assert shape(first) == shape(resumed) == shape([expected])


def test_a_result_shares_nothing_with_what_the_function_kept(tmp_path):
    """The value is decoded from the checkpoint: later changes of the original do not show."""
    kept = [1]

    def job(step):
        result = step.run("s", lambda: kept)
        kept.append(2)
        return result

    with engine(tmp_path, job) as app:
        assert execute(app).output == [1]


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> Any:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 1,
        circular(),
        deep(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_faithful_form_is_rejected(tmp_path, value):
    """An unannotated result that would come back as something else is a SerializationError."""

    def job(step):
        with pytest.raises(durably.SerializationError) as caught:
            step.run("s", lambda: value)
        assert isinstance(caught.value, TypeError)
        assert "'s'" in str(caught.value)
        return True

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output is True, run.error
        assert [s.status for s in app.get_steps(run)] == ["failed"]


def test_a_result_that_does_not_fit_its_annotation_is_rejected(tmp_path):
    """A function that returns something else than it says fails its step."""

    def wrong() -> int:
        return "1"

    def job(step):
        step.run("s", wrong)

    with engine(tmp_path, job) as app:
        assert execute(app).error.type == "durably.SerializationError"


def test_a_duplicate_is_decoded_with_its_own_type(tmp_path):
    """Each use of a name says its own type; what is stored is one and the same."""

    def job(step):
        step.options(returns=tuple[int, int]).run("s", lambda: (1, 2))
        with pytest.warns(durably.DuplicateStepWarning):
            return step.run("s", lambda: None)

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        assert execute(app).output == [1, 2]
