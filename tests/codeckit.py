"""The types and values that the tests of the codec share."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
import pathlib
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypeVar,
)
from zoneinfo import ZoneInfo

from attrs import define, field, validators
from typing_extensions import TypeAliasType, TypedDict

T = TypeVar("T")


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Plain(enum.Enum):
    PAIR = (1, 2)
    NOTHING = None
    TEXT = "text"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@define
class Row:
    email: str
    age: int = field(default=1, validator=validators.gt(0))


@define
class Import:
    rows: list[Row]
    when: dt.datetime | None = None
    tags: Mapping[str, Row] = {}


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")


class Options(TypedDict):
    name: str
    retries: NotRequired[int]


class Loose(TypedDict, total=False):
    name: str


class Pair(NamedTuple):
    first: int
    second: str = "?"


Untyped2 = collections.namedtuple("Untyped2", "a b")  # noqa: PYI024


@define
class Private:
    _secret: int
    renamed: int = field(alias="other")


@define
class Box(Generic[T]):
    item: T


@define
class IntBox(Box[int]):
    more: str = ""


@define
class Shelf(Generic[T]):
    items: list[T]
    best: T | None = None


class Clashing(enum.Enum):
    A = (1, 2)
    B = [1, 2]  # noqa: RUF012 - a value, not a default


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | int | None")


Names = TypeAliasType("Names", list[T], type_params=(T,))


@define
class Tree:
    name: str
    children: list[Tree] = field(factory=list)
    parent: Tree | None = None


@define
class Cat:
    meow: int


@define
class Dog:
    bark: int
    loud: bool = False


@define
class Puppy(Dog):
    age: int = 0


@define
class WithFinal:
    x: Final[int] = 3
    y: Final = 4
    z: Any = None


@define
class NoAnnotations:
    u = field(default=1)


UserId = NewType("UserId", int)


class IntSubclass(int):
    pass


class StrSubclass(str):
    __slots__ = ()


class FloatSubclass(float):
    pass


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)

    def __repr__(self) -> str:
        return f"Money({self.cents})"


@define
class Invoice:
    total: Money
    note: str = ""


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal, of one type, one fold and one zone; NaN is NaN."""
    if getattr(a, "fold", 0) != getattr(b, "fold", 0):
        return False
    if repr(getattr(a, "tzinfo", None)) != repr(getattr(b, "tzinfo", None)):
        return False
    if isinstance(a, Decimal):  # a signalling NaN cannot be compared
        return type(a) is type(b) and repr(a) == repr(b)
    return type(a) is type(b) and (a == b or repr(a) == repr(b))


UTC = dt.UTC
PARIS = ZoneInfo("Europe/Paris")


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (type(None), None),
    (int, 3),
    (int, 10**5000),
    (int, -(10**5000) - 7),
    (float, 1.5),
    (float, math.nan),
    (float, math.inf),
    (float, -0.0),
    (bool, True),
    (str, "é\x00 \ud800"),
    (str, "\ud83d\ude00"),
    (str, "\U0001f600"),
    (list, [1, "a"]),
    (list[int], [1, 2]),
    (Sequence[int], [1, 2]),
    (typing.Iterable[int], [1]),
    (tuple, (1, "a")),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (tuple[()], ()),
    (set[str], {"b", "a"}),
    (frozenset[int], frozenset({1, 2})),
    (collections.abc.Set[int], frozenset({1})),
    (collections.deque[int], collections.deque([1, 2])),
    (dict, {"a": 1}),
    (dict[str, int], {"a": 1}),
    (dict[int, str], {1: "a", 10**5000: "b"}),
    (dict[float, str], {1.0: "a", math.inf: "b"}),
    (dict[bool, str], {True: "a", False: "b"}),
    (dict[int | str, str], {1: "a", "1": "b"}),
    (dict[dt.date, list[int]], {dt.date(2026, 1, 2): [1]}),
    (dict[tuple[int, str], int], {(1, "a"): 2}),
    (dict[Level, int], {Level.LOW: 1}),
    (dict[Color, int], {Color.RED: 1}),
    (dict[Color | str, int], {Color.RED: 1, "blue": 2}),
    (Mapping[str, float], {"a": math.nan}),
    (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
    (collections.Counter[str], collections.Counter("aab")),
    (collections.defaultdict[str, list[int]], collections.defaultdict(list, a=[1])),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901)),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=UTC)),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, seconds=7)))),
    (dt.date, dt.date(2026, 1, 2)),
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, fold=1)),
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=UTC)),
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=PARIS)),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=ZoneInfo("UTC"))),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET"))),
    (dt.datetime, dt.datetime(2026, 1, 2, fold=1, tzinfo=dt.timezone(-dt.timedelta(1) / 3, ""))),
    (dt.time, dt.time(2, 30, fold=1, tzinfo=PARIS)),
    (dt.time, dt.time(2, 30, tzinfo=ZoneInfo("Etc/GMT+3"))),
    (dt.time, dt.time(2, 30, tzinfo=dt.timezone(dt.timedelta(hours=1), "a];fold=1;name=b\n"))),
    (dict[dt.datetime, int], {dt.datetime(2026, 1, 2, tzinfo=PARIS): 1}),
    (set[dt.time], {dt.time(1, tzinfo=PARIS), dt.time(1)}),
    (dt.datetime | str | None, dt.datetime(2026, 1, 2, tzinfo=PARIS)),
    (dt.time, dt.time(2, 30, fold=1)),
    (dt.time, dt.time(1, 2, 3, 4)),
    (dt.time, dt.time(1, 2, tzinfo=UTC)),
    (dt.timedelta, dt.timedelta(days=-1, seconds=3)),
    (dt.timedelta, dt.timedelta(seconds=0.5)),
    (dt.timedelta, dt.timedelta(days=999_999_999, microseconds=1)),
    (dt.timedelta, -dt.timedelta(days=999_999_998, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("NaN")),
    (Decimal, Decimal("-Infinity")),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"ab")),
    (pathlib.Path, pathlib.Path("a/b")),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("/a")),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (Plain, Plain.PAIR),
    (Plain, Plain.NOTHING),
    (Permission, Permission.READ | Permission.WRITE),
    (Literal["a", 1, None], 1),  # noqa: PYI061 - None within it is the case
    (Literal[Color.RED, 3], Color.RED),
    (int | str, "1"),
    (int | str, 1),
    (int | float, 1),
    (float | int, 1),
    (int | float, 1.0),
    (list[int] | None, None),
    (list[int] | None, [1]),
    (list[int] | tuple[int, ...], (1,)),
    (list[int] | set[int], {1}),
    (dt.datetime | str, dt.datetime(2026, 1, 2)),
    (dt.datetime | str, "2026-01-02T00:00:00"),
    (dt.date | dt.datetime, dt.datetime(2026, 1, 2)),
    (uuid.UUID | bytes | str, str(uuid.UUID(int=7))),
    (uuid.UUID | bytes | str, b"abc"),
    (Color | str, Color.RED),
    (Color | str, "red"),
    (Level | int, 1),
    (Level | int, Level.LOW),
    (Cat | Dog, Dog(1, loud=True)),
    (Cat | Dog | None, None),
    (Dog | Puppy, Puppy(1)),
    (Puppy | Dog, Dog(1)),
    (Dog | dict[str, Any], {"bark": 1}),
    (Dog | dict[str, Any], Dog(1)),
    (dict[str, Any] | int, {"$union": "int", "value": 3}),
    (list[Cat | Dog], [Cat(1), Dog(2)]),
    (Any, {"a": [1, None]}),
    (object, [1]),
    (UserId, 3),
    (Annotated[int, "meta"], 3),
    (Annotated[int, ["not hashable"]], 3),
    (Final[int], 3),
    (IntSubclass, IntSubclass(3)),
    (StrSubclass, StrSubclass("a")),
    (FloatSubclass, FloatSubclass(1.5)),
    (Row, Row("a", 3)),
    (Import, Import([Row("a")], dt.datetime(2026, 1, 2), {"x": Row("b")})),
    (Point, Point(1, 2.0)),
    (Options, {"name": "a"}),
    (Options, {"name": "a", "retries": 3}),
    (Loose, {}),
    (Pair, Pair(1, "b")),
    (Untyped2, Untyped2(1, "a")),
    (Private, Private(1, other=2)),
    (Box[int], Box(3)),
    (Box[list[dt.date]], Box([dt.date(2026, 1, 2)])),
    (Box, Box({"a": 1})),
    (IntBox, IntBox(3, "a")),
    (Shelf[dt.date], Shelf([dt.date(2026, 1, 2)], dt.date(2026, 1, 3))),
    (Names[dt.date], [dt.date(2026, 1, 2)]),
    (Clashing, Clashing.A),
    (list[Names[int] | None], [[1], None]),
    (Any | int, 3),
    (Any | float, 3),
    (int | IntSubclass, IntSubclass(3)),
    (dict[bytes | Level, int], {b"a": 1, Level.LOW: 2}),
    (Literal["a"] | int, "a"),
    (Tree, Tree("a", [Tree("b", parent=Tree("c"))])),
    (WithFinal, WithFinal(x=1, y=2, z={"a": 1})),
    (NoAnnotations, NoAnnotations([1])),
]


def changed(value: Any, **attributes: Any) -> Any:
    for name, item in attributes.items():
        object.__setattr__(value, name, item)
    return value


class LiarStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "lie"


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(None)
    for _ in range(depth - 1):
        value = wrap(value)
    return value
