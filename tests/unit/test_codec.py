"""What is accepted, how it is stored, and that it comes back."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import gc
import json
import math
import pathlib
import sys
import threading
import typing
import uuid
import weakref
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

import attrs
import cattrs
import pytest
from attrs import define, field, validators
from cattrs.preconf.json import make_converter
from cattrs.strategies import configure_tagged_union
from typing_extensions import TypeAliasType, TypedDict

from durably.codec import (
    MAX_DEPTH,
    UNTYPED,
    Codec,
    messages,
    resolve_annotations,
    return_type_of,
)
from durably.codec import text as text_module
from durably.errors import SerializationError, ValidationError

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


@pytest.fixture
def codec() -> Codec:
    return Codec()


@pytest.fixture
def money_codec() -> Codec:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: f"{m.cents}c")
    converter.register_structure_hook(Money, lambda v, _: Money(int(v.removesuffix("c"))))
    return Codec(converter)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, of one type and one fold; NaN is NaN."""
    if getattr(a, "fold", 0) != getattr(b, "fold", 0):
        return False
    return type(a) is type(b) and (a == b or repr(a) == repr(b))


# --- Typed values ---------------------------------------------------------------------------

UTC = dt.UTC


def short(value: Any) -> str:
    return messages.show(value)[:40].encode("ascii", "backslashreplace").decode()


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
    (Literal["a"] | int, "a"),
    (Tree, Tree("a", [Tree("b", parent=Tree("c"))])),
    (WithFinal, WithFinal(x=1, y=2, z={"a": 1})),
    (NoAnnotations, NoAnnotations([1])),
]


@pytest.mark.parametrize(("type_", "value"), ROUND_TRIPS, ids=short)
def test_a_value_comes_back_as_it_was_under_its_type(codec: Codec, type_: Any, value: Any) -> None:
    """What is encoded is ASCII text, and decodes to an equal value of the same type."""
    text, decoded = codec.encode_and_decode(value, type_, what="step 'a'")

    assert same(decoded, value)
    assert same(codec.decode(text, type_, what="step 'a'"), value)
    assert codec.encode(value, type_, what="step 'a'") == text
    assert text.isascii()


@pytest.mark.parametrize(("type_", "value"), ROUND_TRIPS, ids=short)
def test_an_instance_is_a_valid_payload(codec: Codec, type_: Any, value: Any) -> None:
    """A value of the type validates, to an equal value; so does its decoded JSON."""
    assert same(codec.structure(value, type_, what="payload"), value)


@pytest.mark.parametrize(
    ("type_", "data", "value"),
    [
        (float, 3, 3.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (list[int], (1, 2), [1, 2]),
        (set[str], ["a", "b"], {"a", "b"}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (dict[int | str, str], {"a": "b"}, {"a": "b"}),
        (dict[dt.date, int], {"2026-01-02": 1}, {dt.date(2026, 1, 2): 1}),
        (dt.datetime, "2026-01-02T03:04:05Z", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (dt.timedelta, 1.5, dt.timedelta(seconds=1.5)),
        (dt.timedelta, "-1.5", -dt.timedelta(seconds=1.5)),
        (dt.datetime | str, "2026-01-02", "2026-01-02"),
        (bytes, "YWI=", b"ab"),
        (Level, 2, Level.HIGH),
        (Row, {"email": "a"}, Row("a")),
        (Row, collections.UserDict(email="a"), Row("a")),
        (
            Import,
            {"rows": [Row("a")], "when": dt.datetime(2026, 1, 2)},
            Import([Row("a")], dt.datetime(2026, 1, 2)),
        ),
        (
            Import,
            {"rows": [{"email": "a"}], "tags": {"x": Row("b")}},
            Import([Row("a")], None, {"x": Row("b")}),
        ),
        (Cat | Dog, {"bark": 1}, Dog(1)),
        (Dog | Puppy | None, {"bark": 1, "age": 2}, Puppy(1, age=2)),
        (list[Cat | Dog], [{"bark": 1}, Cat(2)], [Dog(1), Cat(2)]),
        (Box[dt.date] | int, {"item": "2026-01-02"}, Box(dt.date(2026, 1, 2))),
        (Options, {"name": "a"}, {"name": "a"}),
        (Pair, [1, "b"], Pair(1, "b")),
        (Private, {"_secret": 1, "renamed": 2}, Private(1, other=2)),
    ],
)
def test_data_structures_into_the_type(codec: Codec, type_: Any, data: Any, value: Any) -> None:
    """A payload may be the JSON-like data of the type, with instances among it."""
    assert same(codec.structure(data, type_, what="payload"), value)


@pytest.mark.parametrize(
    ("type_", "data", "path"),
    [
        (int, "1", "$"),
        (int, True, "$"),
        (int, 1.0, "$"),
        (int, Level.LOW, "$"),
        (str, 1, "$"),
        (str, Color.RED, "$"),
        (bool, 1, "$"),
        (float, "1", "$"),
        (float, True, "$"),
        (float, 10**400, "$"),
        (float, 2**53 + 1, "$"),
        (None, 0, "$"),
        (list[int], {1, 2}, "$"),
        (list[int], "ab", "$"),
        (list[int], [1, "2", None], "$[1]"),
        (tuple[int, str], [1], "$"),
        (tuple[int, str], [1, 2], "$[1]"),
        (tuple[int, str], "ab", "$"),
        (set[int], [1, "a"], "$[1]"),
        (set[int], "ab", "$"),
        (set[Any], [[]], "$[0]"),
        (dict[int, str], {"a": "b"}, "$.a"),
        (dict[int, str], {1: "a", "1": "b"}, "$"),
        (dict[float, str], {"1.0": "a", "1": "b"}, "$"),
        (dict[str, int], {1: 1}, "$[1]"),
        (dict[str, int], {"a b": "x"}, "$['a b']"),
        (dict[str, int], [1], "$"),
        (dt.datetime, "2026-01-02", "$"),
        (dt.datetime, "yesterday", "$"),
        (dt.datetime, 3, "$"),
        (dt.date, dt.datetime(2026, 1, 2), "$"),
        (dt.timedelta, "1h", "$"),
        (dt.timedelta, math.nan, "$"),
        (dt.timedelta, True, "$"),
        (uuid.UUID, "x", "$"),
        (Decimal, "x", "$"),
        (Decimal, 1.5, "$"),
        (bytes, "é", "$"),
        (bytes, "a", "$"),
        (pathlib.Path, 3, "$"),
        (Color, "green", "$"),
        (Level, True, "$"),
        (Level, 3, "$"),
        (Permission, 64, "$"),
        (Literal[1], True, "$"),
        (Literal["a"], "b", "$"),
        (Literal["a"], ["a"], "$"),
        (int | str, 1.0, "$"),
        (int | str, True, "$"),
        (list[int] | None, ["a"], "$[0]"),
        (dt.datetime | int, "x", "$"),
        (Cat | Dog, {"bark": "x"}, "$.bark"),
        (Cat | Dog, {"bork": 1}, "$.bork"),
        (Cat | Dog, 3, "$"),
        (Row, [], "$"),
        (Row, Cat(1), "$"),
        (Row, {}, "$.email"),
        (Row, {"email": "a", "emial": 1}, "$.emial"),
        (Row, {"email": "a", 3: 1}, "$[3]"),
        (Row, {"email": "a", "age": 0}, "$.age"),
        (Dog, Puppy(1), "$"),
        (Point, {"x": -1}, "$"),
        (Point, {"x": 1, "z": 1}, "$.z"),
        (Options, {"retries": 1}, "$.name"),
        (Options, {"name": "a", "b": 1}, "$.b"),
        (Options, {"name": 1}, "$.name"),
        (Options, 3, "$"),
        (Pair, [1], "$"),
        (Pair, 3, "$"),
        (Import, {"rows": [{"email": "a"}, {}, {"email": 3}]}, "$.rows[2].email"),
        (Import, {"rows": [], "tags": {"k": {"email": 1}}}, "$.tags.k.email"),
        (
            Tree,
            {"name": "a", "children": [{"name": "b", "children": [3]}]},
            "$.children[0].children[0]",
        ),
        (IntBox, {"item": "a"}, "$.item"),
        (WithFinal, {"y": "a"}, "$.y"),
        (WithFinal, {"z": {"a": {1}}}, "$.z.a"),
        (IntSubclass, "a", "$"),
        (Any, {"a": [dt.date(2026, 1, 2)]}, "$.a[0]"),
        (UNTYPED, {"a": {1: 2}}, "$.a[1]"),
        (UNTYPED, [Color.RED], "$[0]"),
    ],
    ids=short,
)
def test_what_does_not_fit_is_named_by_its_path(
    codec: Codec, type_: Any, data: Any, path: str
) -> None:
    """Nothing is coerced; the error begins with what was validated and names the path."""
    with pytest.raises(ValidationError) as caught:
        codec.structure(data, type_, what="payload of job 'a'")

    message = str(caught.value)
    assert message.startswith("payload of job 'a': $")
    assert f"{path}: " in message


def test_all_bad_paths_are_in_one_error(codec: Codec) -> None:
    """One error names every bad path, and what was expected and found there."""
    data = {
        "rows": [{"email": 1}, {"age": "x"}, {"email": "a", "age": -1, "zz": 0}, 3],
        "tags": {"k": None},
        "more": 1,
    }

    with pytest.raises(ValidationError) as caught:
        codec.structure(data, Import, what="payload")

    message = str(caught.value)
    for part in (
        "$.rows[0].email: expected str, found int",
        "$.rows[1].email: required, but missing",
        "$.rows[1].age: expected int, found str",
        "$.rows[2].zz: unknown key",
        "$.rows[3]: expected Row, found int",
        "$.tags.k: expected Row, found None",
        "$.more: unknown key",
    ):
        assert part in message


def test_all_problems_of_json_like_data_are_in_one_error(codec: Codec) -> None:
    """JSON-like data is checked everywhere too."""
    with pytest.raises(ValidationError) as caught:
        codec.structure({"a": {1}, "b": [b"", {2: 3}], "c": (1, Pair(1))}, UNTYPED, what="payload")

    for path in ("$.a: ", "$.b[0]: ", "$.b[1][2]: ", "$.c[1]: "):
        assert path in str(caught.value)


def test_each_failing_validator_is_named_by_its_field(codec: Codec) -> None:
    """attrs validators run, all of them, and their texts are reported at the fields."""

    @define
    class Checked:
        a: int = field(validator=validators.gt(0))
        b: str = field(validator=validators.instance_of(str), converter=str.strip)
        c: int = field(factory=lambda: -1, validator=validators.ge(0))
        d: int = field(default=attrs.Factory(lambda self: self.a, takes_self=True))
        e: int = field(
            default=0, converter=attrs.Converter(lambda v, _self: v + 1, takes_self=True)
        )

        @d.validator
        def _check(self, _: object, value: int) -> None:
            if value == self.a:
                raise ValueError("d is a")

    with pytest.raises(ValidationError) as caught:
        codec.structure({"a": 0, "b": " x "}, Checked, what="payload")

    message = str(caught.value)
    assert "$.a: ValueError: 'a' must be > 0: 0" in message
    assert "$.c: ValueError: 'c' must be >= 0: -1" in message
    assert "$.d: ValueError: d is a" in message
    assert "$.b" not in message


def test_what_fails_beside_validators_is_reported_for_the_whole_object(codec: Codec) -> None:
    """A failing converter or __attrs_post_init__ has no field of its own."""

    @define
    class Converted:
        a: int = field(default=1, validator=validators.gt(0), converter=lambda v: 10 // v)

    @define
    class Checked:
        a: int = field(validator=validators.gt(0))

        def __attrs_post_init__(self) -> None:
            raise ValueError("never right")

    with pytest.raises(ValidationError, match=r"payload: \$: ZeroDivisionError"):
        codec.structure({"a": 0}, Converted, what="payload")
    with pytest.raises(ValidationError, match=r"payload: \$: ValueError: never right"):
        codec.structure({"a": 1}, Checked, what="payload")


def test_a_validated_payload_shares_nothing_with_the_callers(codec: Codec) -> None:
    """Changing the object afterwards does not change what was validated."""
    original = Import([Row("a")])
    validated = codec.structure(original, Import, what="payload")
    original.rows[0].email = "b"
    data = {"a": [1]}
    loose = codec.structure(data, UNTYPED, what="payload")
    data["a"].append(2)

    assert validated.rows[0].email == "a"
    assert loose == {"a": [1]}


def test_class_names_within_functions_resolve(codec: Codec) -> None:
    """A class defined in a function may name itself."""

    @define
    class Node:
        next: Node | None = None

    assert codec.encode_and_decode(Node(Node()), Node, what="w")[1] == Node(Node())


# --- What has no faithful form --------------------------------------------------------------


@define
class Doubling:
    x: int = field(converter=lambda v: v * 2)


@define
class Hidden:
    x: int
    count: int = field(init=False, default=0)


@define
class Derived:
    x: int
    twice: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.twice = 2 * self.x


@define
class Locked:
    lock: threading.Lock = field(init=False, factory=threading.Lock)


@dataclasses.dataclass
class NeedsMore:
    x: int
    more: dataclasses.InitVar[int]


class LiarStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "lie"


def changed(value: Any, **attributes: Any) -> Any:
    for name, item in attributes.items():
        object.__setattr__(value, name, item)
    return value


def unset(cls: type) -> Any:
    return cls.__new__(cls)


def generator() -> Any:
    yield 1


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        (int, "1", "$: expected int, found str"),
        (int, True, "expected int, found bool"),
        (str, Color.RED, "expected str"),
        (bool, 1, "expected bool"),
        (float, 2**53 + 1, "expected float"),
        (float, Level.LOW, "expected float"),
        (list[int], [1, "2"], "$[1]: expected int"),
        (list[int], (1,), "expected list[int], found tuple"),
        (tuple[int, ...], [1], "expected tuple[int, ...], found list"),
        (tuple[int, str], (1,), "2 items"),
        (tuple[int, str], (1, 2), "$[1]: expected str"),
        (set[int], [1], "expected set[int]"),
        (set[int], {"a"}, "$[0]: expected int"),
        (dict[str, int], {"a": "b"}, "$.a: expected int"),
        (dict[str, int], {1: 2}, "$[1]: expected str"),
        (dict[str, int], [], "expected dict[str, int]"),
        (collections.OrderedDict[str, int], {}, "expected OrderedDict[str, int]"),
        (collections.defaultdict[str, int], collections.defaultdict(list), "expected defaultdict"),
        (collections.deque[int], collections.deque([1], maxlen=3), "maxlen"),
        (Literal[1], True, "expected one of"),
        (Literal[1], [], "expected one of"),
        (Literal[Color.RED, "red"], "red", "is stored like"),
        (Color, "red", "expected Color"),
        (int | str, 1.5, "expected int | str"),
        (int | None, "a", "expected int, found str"),
        (list[int] | None, ["a"], "$[0]: expected int"),
        (Dog, Puppy(1), "subclass Puppy"),
        (Row, {"email": "a"}, "expected Row, found dict"),
        (Row, changed(Row("a"), age="x"), "$.age: expected int"),
        (Row, unset(Row), "$.email: AttributeError"),
        (Row, changed(Row("a"), age=-1), "$.age: ValueError"),
        (Doubling, Doubling(1), "$.x: would come back as another int"),
        (list[Doubling], [Doubling(0), Doubling(1)], "$[1].x: would come back"),
        (Hidden, changed(Hidden(1), count=2), "$.count: would come back as another int"),
        (Locked, Locked(), "lock"),
        (NeedsMore, NeedsMore(1, 2), "more"),
        (Options, {"name": "a", "x": 1}, "$.x: unknown key"),
        (Options, {}, "$.name: required"),
        (Options, {"name": 1}, "$.name: expected str"),
        (Options, [], "expected Options"),
        (Pair, (1, "a"), "expected Pair"),
        (dt.datetime, dt.date(2026, 1, 2), "expected datetime"),
        (dt.time, dt.time(1, tzinfo=ZoneInfo("Europe/Paris")), "UTC offset"),
        (IntSubclass, 3, "expected IntSubclass"),
        (Clashing, Clashing.B, "is stored like <Clashing.A"),
        (Shelf[int], Shelf([1, "a"]), "$.items[1]: expected int"),
        (dict[StrSubclass | str, int], {"a": 1, LiarStr("b"): "x"}, "$['\"b\"']: expected int"),
        (IntSubclass, changed(IntSubclass(3), note="x"), "would come back"),
        (WithFinal, WithFinal(z={1}), "$.z: set has no stored form without a type"),
        (Callable[[], int], print, "is not a type that can be stored"),
        (UNTYPED, dt.date(2026, 1, 2), "annotate the function's return type, or pass returns="),
        (UNTYPED, {1}, "annotate the function's return type"),
        (UNTYPED, b"", "annotate the function's return type"),
        (UNTYPED, Row("a"), "annotate the function's return type"),
        (UNTYPED, Pair(1), "annotate the function's return type"),
        (UNTYPED, pathlib.Path("a"), "annotate the function's return type"),
        (UNTYPED, Color.RED, "enum member"),
        (UNTYPED, Level.LOW, "enum member"),
        (UNTYPED, {"a": [{"b": Level.LOW}]}, "$.a[0].b: enum member"),
        (UNTYPED, {Color.RED: 1}, "enum member"),
        (UNTYPED, {1: 2}, "a key is int and not str"),
        (UNTYPED, [generator()], "$[0]: generator has no stored form; return a list"),
        (UNTYPED, print, "return data, not code"),
        (UNTYPED, int, "return data, not code"),
        (UNTYPED, Money(1), "converter="),
        (UNTYPED, 1j, "converter="),
    ],
    ids=short,
)
def test_what_would_not_come_back_is_refused(
    codec: Codec, type_: Any, value: Any, says: str
) -> None:
    """A value without a faithful form under its type is refused, with the place and the reason."""
    with pytest.raises(SerializationError) as caught:
        codec.encode_and_decode(value, type_, what="step 'a'")
    with pytest.raises(SerializationError):
        codec.encode(value, type_, what="step 'a'")

    assert str(caught.value).startswith("step 'a': ")
    assert says in str(caught.value)


def test_an_unawaited_coroutine_is_refused(codec: Codec) -> None:
    """The result of calling an async function is not data."""
    coro = coroutine()
    with pytest.raises(SerializationError, match="coroutine has no stored form"):
        codec.encode(coro, UNTYPED, what="step 'a'")
    coro.close()


@pytest.mark.parametrize("value", [changed(Hidden(1), count=2), Doubling(1)])
def test_a_payload_that_would_change_is_refused(codec: Codec, value: Any) -> None:
    """An instance whose class would not rebuild it is no valid payload."""
    with pytest.raises(ValidationError, match="would come back"):
        codec.structure(value, type(value), what="payload")


def test_fields_that_init_derives_come_back(codec: Codec) -> None:
    """init=False fields are not stored, but compared."""
    text, value = codec.encode_and_decode(Derived(3), Derived, what="w")

    assert text == '{"x":3}'
    assert value.twice == 6
    with pytest.raises(ValidationError, match=r"\$\.twice: unknown key"):
        codec.structure({"x": 1, "twice": 3}, Derived, what="payload")


def test_subclasses_of_plain_types_come_back_plain(codec: Codec) -> None:
    """Also where the annotation is the plain type."""
    value = [IntSubclass(3), LiarStr("a")]
    decoded = codec.encode_and_decode(value, list[int | str], what="w")[1]
    assert decoded == [3, "a"]
    assert [type(item) for item in decoded] == [int, str]


def test_an_int_for_a_float_comes_back_as_float(codec: Codec) -> None:
    """An int is accepted where a float is asked for."""
    assert same(codec.encode_and_decode(3, float, what="w"), ("3.0", 3.0))


def test_a_named_timezone_comes_back_as_its_offset(codec: Codec) -> None:
    """The instant is equal, also within the hour that exists twice."""
    for fold in (0, 1):
        value = dt.datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Paris"))
        decoded = codec.encode_and_decode(value, dt.datetime, what="w")[1]
        assert decoded.astimezone(UTC) == value.astimezone(UTC)
        assert decoded.utcoffset() == value.utcoffset()


def test_a_timezone_without_an_offset_is_refused(codec: Codec) -> None:
    """A tzinfo that knows no offset would be lost."""

    class Nowhere(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> None:
            return None

    with pytest.raises(SerializationError, match="no UTC offset"):
        codec.encode(dt.datetime(2026, 1, 2, tzinfo=Nowhere()), dt.datetime, what="w")


# --- JSON-like values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        ((1, (2,)), [1, [2]]),
        (IntSubclass(3), 3),
        (FloatSubclass(1.5), 1.5),
        (LiarStr("a"), "a"),
        ({LiarStr("k"): [IntSubclass(1)]}, {"k": [1]}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (10**5000, 10**5000),
        ({"a": [-(10**20000) + 1, "\ud800\udc00"]}, {"a": [-(10**20000) + 1, "\ud800\udc00"]}),
        (
            ["\ud800\x00\x00\udc00\ud800", None, True, 1.5],
            ["\ud800\x00\x00\udc00\ud800", None, True, 1.5],
        ),
        ({"\ud800\udc00": "\\ud800"}, {"\ud800\udc00": "\\ud800"}),
    ],
    ids=short,
)
def test_json_like_values_come_back_plain(codec: Codec, value: Any, comes_back: Any) -> None:
    """Subclasses and tuples come back as the plain types; big ints and any str as they were."""
    limit = sys.get_int_max_str_digits()
    text, decoded = codec.encode_and_decode(value, UNTYPED, what="w")

    assert decoded == comes_back
    assert type(decoded) is type(comes_back)
    assert codec.load_json(text) == comes_back
    assert codec.structure(value, UNTYPED, what="w") == comes_back
    assert text.isascii()
    assert sys.get_int_max_str_digits() == limit


def test_digits_of_huge_integers_are_right() -> None:
    """Writing and reading huge integers agrees with Python's own conversion."""
    numbers = [0, 1, -1, 10**600, 10**600 - 1, 7**1000, 10**1200 + 5, -(3**8000)]
    assert [text_module.to_digits(n) for n in numbers] == [str(n) for n in numbers]
    assert [text_module.from_digits(str(n)) for n in numbers] == numbers


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(None)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


def circular_list() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def circular_dict() -> Any:
    value: dict[str, Any] = {}
    value["a"] = value["b"] = value
    return value


def circular_tree() -> Tree:
    tree = Tree("a")
    tree.children = [tree, tree]
    return tree


TOO_DEEP: list[tuple[Any, Any]] = [
    (UNTYPED, circular_list()),
    (UNTYPED, circular_dict()),
    (UNTYPED, nested(MAX_DEPTH + 1, lambda v: [v])),
    (UNTYPED, nested(100_000, lambda v: [v])),
    (UNTYPED, nested(100_000, lambda v: {"a": v})),
    (list[Any], circular_list()),
    (dict[str, Any], circular_dict()),
    (Box[Any], Box(circular_list())),
    (Tree, circular_tree()),
    (Tree, nested(5000, lambda v: Tree("a", parent=v))),
    (Tree | Row, circular_tree()),
    (tuple[Any, Any], tuple(circular_list())),
    (set[Any] | None, nested(5000, lambda v: frozenset({v}))),
]


@pytest.mark.parametrize(("type_", "value"), TOO_DEEP, ids=lambda v: type(v).__name__)
def test_what_is_too_deep_or_circular_is_refused(codec: Codec, type_: Any, value: Any) -> None:
    """Never a RecursionError, and in no time."""
    with pytest.raises(SerializationError):
        codec.encode_and_decode(value, type_, what="step 'a'")
    with pytest.raises(ValidationError):
        codec.structure(value, type_, what="payload")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (UNTYPED, nested(MAX_DEPTH, lambda v: [v])),
        (UNTYPED, nested(MAX_DEPTH, lambda v: {"a": v})),
        (Tree, nested(MAX_DEPTH // 2, lambda v: Tree("a", parent=v))),
        (Tree, nested(MAX_DEPTH // 2 - 1, lambda v: Tree("a", [v] if v else []))),
    ],
)
def test_the_limit_itself_works_in_a_deep_stack_or_is_refused(
    codec: Codec, type_: Any, value: Any
) -> None:
    """Near the limit, the caller's own stack may lead to the typed errors and to no other."""

    def at(depth: int) -> Any:
        if depth:
            return at(depth - 1)
        try:
            return codec.encode_and_decode(value, type_, what="w")[1]
        except SerializationError:
            return None

    assert repr(at(0)) == repr(value)
    results = [at(depth) for depth in range(0, sys.getrecursionlimit() - 200, 25)]
    assert results[0] is not None


def test_a_recursive_union_takes_no_exponential_time(codec: Codec) -> None:
    """Members are told apart by their keys and literals before going deeper."""
    value: Any = Leaf(1)
    for index in range(60):
        value = Add(value, Leaf(1)) if index % 2 else Mul(value, Leaf(1))
    text, decoded = codec.encode_and_decode(value, Add | Mul | Leaf, what="w")

    assert decoded == value
    with pytest.raises(ValidationError):
        codec.decode(text.replace('{"number":1}', '{"number":"x"}'), Add | Mul | Leaf, what="w")


@define
class Leaf:
    number: int


@define
class Add:
    left: Add | Mul | Leaf
    right: Add | Mul | Leaf
    op: Literal["+"] = "+"


@define
class Mul:
    left: Add | Mul | Leaf
    right: Add | Mul | Leaf
    op: Literal["*"] = "*"


# --- Text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nope"])
def test_text_that_is_not_json_is_refused(codec: Codec, text: str) -> None:
    """What is not JSON is a ValidationError that says what was read."""
    with pytest.raises(ValidationError, match="^stored data: "):
        codec.load_json(text)
    with pytest.raises(ValidationError, match="^payload: "):
        codec.decode(text, Row, what="payload")


def test_text_of_an_older_type_is_refused_with_paths(codec: Codec) -> None:
    """Stored text that no longer fits its type says where."""
    with pytest.raises(ValidationError, match=r"^output of run 1: \$\.emial: unknown key"):
        codec.decode('{"email":"a","emial":3}', Row, what="output of run 1")
    with pytest.raises(ValidationError, match=r"^output: Money is not a type that can be stored"):
        codec.decode("1", Money, what="output")


def test_stored_text_is_compact_and_sorted_where_order_means_nothing(codec: Codec) -> None:
    """Sets are stored in the order of their items' text."""
    assert codec.encode({"c", "a", "b"}, set[str], what="w") == '["a","b","c"]'
    assert codec.encode({"b": 1, "a": [1, 2]}, UNTYPED, what="w") == '{"b":1,"a":[1,2]}'


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class BadStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", [BadRepr(), "x" * 10**6, [0] * 10**6, {"a" * 10**6: 1}, 10**10**5], ids=short
)
def test_errors_stay_short(codec: Codec, value: Any) -> None:
    """However large the value is, and also if it has no repr."""
    with pytest.raises(ValidationError) as caught:
        codec.structure({"email": value}, Row, what="payload") if value != "x" * 10**6 else (
            codec.structure({"email": "a", "age": value}, Row, what="payload")
        )
    assert len(str(caught.value)) < 400

    with pytest.raises(ValidationError) as caught:
        codec.structure({"email": 1, "x" * 10**6: 1}, Row, what="payload")
    assert len(str(caught.value)) < 400


@define
class ManyCases:
    cases: list[tuple[Row | int, Money2 | str]]


@define
class Money2:
    cents: int


@define
class MoneyBag(Generic[T]):
    inside: dict[str, T]


def test_nested_shapes_report_the_path_of_the_nearest_member(codec: Codec) -> None:
    """Of several classes the one that fits best says what is wrong, under the full path."""
    with pytest.raises(ValidationError) as caught:
        codec.structure(
            {"cases": [[{"email": 3}, "a"], [1.5, {"cents": "x"}]]}, ManyCases, what="p"
        )

    message = str(caught.value)
    assert "$.cases[0][0].email: expected str, found int" in message
    assert "$.cases[1][0]: expected Row | int, found float" in message
    assert "$.cases[1][1].cents: expected int, found str" in message
    assert codec.structure({"inside": {"a": 1}}, MoneyBag[int], what="p") == MoneyBag({"a": 1})


def test_two_keys_with_one_stored_form_are_refused(codec: Codec) -> None:
    """No entry of a dict is lost silently."""
    value = {dt.datetime(2026, 1, 2, tzinfo=UTC): 1, float("nan"): 2, float("nan"): 3}
    with pytest.raises(SerializationError, match="two keys have the same stored form"):
        codec.encode(value, dict[float | dt.datetime, int], what="w")


def test_a_key_that_is_json_text_of_another_type_is_taken_as_it_is(codec: Codec) -> None:
    """Data from outside may have keys that look like numbers."""
    assert codec.structure({"1": "a"}, dict[dt.date | str, str], what="p") == {"1": "a"}


def test_very_many_problems_are_counted(codec: Codec) -> None:
    """After a thousand problems the rest is a number."""
    with pytest.raises(ValidationError, match=r"\$\[999\]: .*; and 500 more$"):
        codec.structure(["x"] * 1500, list[int], what="payload")


# --- Types that cannot be stored ------------------------------------------------------------


@define
class Unsupported:
    good: int
    bad: list[Money]


@define
class Unresolvable:
    x: Missing  # noqa: F821


class Objects(enum.Enum):
    A = object()


@pytest.mark.parametrize(
    "type_",
    [
        print,
        Money,
        Unsupported,
        Unresolvable,
        Objects,
        Callable[[], int],
        type[int],
        list[Money],
        int | Money,
        dict[str, Money],
        Literal[b"x"],
        Literal,
        [int],
        "int",
        complex,
        pathlib.WindowsPath if sys.platform != "win32" else pathlib.PosixPath,
    ],
)
def test_types_without_a_form_are_refused_by_name(codec: Codec, type_: Any) -> None:
    """check_type refuses at definition what nothing could be structured into."""
    with pytest.raises(ValidationError, match=r"^input of job 'a': "):
        codec.check_type(type_, "input of job 'a'")
    with pytest.raises(ValidationError, match="^payload: "):
        codec.structure(3, type_, what="payload")
    with pytest.raises(SerializationError, match="^step: "):
        codec.encode(object(), type_, what="step")


def test_the_unsupported_field_is_named(codec: Codec) -> None:
    """The error about a class says which field it is."""
    with pytest.raises(ValidationError, match="field bad of Unsupported: Money is not a type"):
        codec.check_type(Unsupported, "input of job 'a'")


@pytest.mark.parametrize("type_", [type_ for type_, _ in ROUND_TRIPS], ids=repr)
def test_supported_types_pass_the_check(codec: Codec, type_: Any) -> None:
    """check_type is silent about what can be stored."""
    codec.check_type(type_, "input")


# --- The user's converter -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Money, Money(3)),
        (list[Money], [Money(3)]),
        (dict[str, Money | None], {"a": Money(3), "b": None}),
        (dict[Money, int], {Money(3): 1}),
        (Invoice, Invoice(Money(3))),
        (tuple[Money, ...], (Money(1), Money(2))),
        (Money | str, "3c"),
        (Money | str, Money(3)),
    ],
)
def test_hooks_of_the_user_work_everywhere(money_codec: Codec, type_: Any, value: Any) -> None:
    """A type with hooks in the converter is stored, also as a field, an item or a key."""
    money_codec.check_type(type_, "input")
    assert money_codec.encode_and_decode(value, type_, what="w")[1] == value
    assert money_codec.structure(value, type_, what="payload") == value


def test_hooks_of_the_user_see_data_and_never_instances(money_codec: Codec) -> None:
    """A mapping may hold an instance of the user's type."""
    assert money_codec.structure({"total": Money(3)}, Invoice, what="p") == Invoice(Money(3))
    assert money_codec.structure({"total": "3c"}, Invoice, what="p") == Invoice(Money(3))


def test_a_converter_is_not_changed_and_does_not_loosen() -> None:
    """Looseness about Python's own types stays out, and the converter is left as it was."""
    converter = cattrs.Converter(prefer_attrib_converters=True)
    converter.register_structure_hook(int, lambda v, _: int(v))
    converter.register_structure_hook(dt.datetime, lambda v, _: dt.datetime.fromtimestamp(v, UTC))
    converter.register_structure_hook_func(
        lambda t: t == list[int], lambda v, _: [int(i) for i in v]
    )
    codec = Codec(converter)

    for type_, data in (
        (int, "1"),
        (Row, {"email": "a", "age": "1"}),
        (dt.datetime, 3),
        (list[int], ["1"]),
    ):
        with pytest.raises(ValidationError):
            codec.structure(data, type_, what="payload")
    assert codec.structure({"email": "a"}, Row, what="p") == Row("a")
    assert converter.structure("1", int) == 1
    assert converter.structure({"email": "a", "zz": 1}, Row) == Row("a")
    assert codec.encode_and_decode(Color.RED, Color, what="w")[1] is Color.RED


def test_json_converters_of_cattrs_are_made_strict() -> None:
    """A preconfigured converter passes no union of plain types through."""
    codec = Codec(make_converter())

    assert codec.encode_and_decode(b"ab", bytes, what="w") == ('"YWI="', b"ab")
    assert codec.encode_and_decode(Color.RED, Color, what="w")[1] is Color.RED
    with pytest.raises(ValidationError):
        codec.structure(True, int | str, what="p")


def test_unions_with_hooks_of_the_user() -> None:
    """Tagged unions, as cattrs' strategy registers them, are kept."""
    converter = cattrs.Converter()
    configure_tagged_union(Cat | Dog, converter)
    codec = Codec(converter)
    text, value = codec.encode_and_decode([Dog(1)], list[Cat | Dog], what="w")

    assert json.loads(text)[0]["_type"] == "Dog"
    assert value == [Dog(1)]


def test_aliases_and_overrides_of_cattrs_are_respected() -> None:
    """use_alias and Annotated overrides name the keys in both directions."""

    @define
    class Renamed:
        _a: int
        b: Annotated[int, cattrs.override(rename="B")]
        c: Annotated[int, cattrs.override(omit=True)] = 3

    codec = Codec(cattrs.Converter(use_alias=True))
    codec2 = Codec()

    assert codec.encode_and_decode(Renamed(1, 2), Renamed, what="w") == (
        '{"a":1,"B":2}',
        Renamed(1, 2),
    )
    assert codec2.encode(Renamed(1, 2), Renamed, what="w") == '{"_a":1,"B":2}'
    with pytest.raises(SerializationError, match=r"\$\.c: would come back"):
        codec2.encode(Renamed(1, 2, 4), Renamed, what="w")


def test_fields_may_have_the_names_of_cattrs_parameters(codec: Codec) -> None:
    """No name of a field collides with what generates its code."""

    @define
    class Odd:
        cl: int
        converter: int
        attrs: int
        typevar_map: int
        self_: int = 1

    assert codec.encode_and_decode(Odd(1, 2, 3, 4), Odd, what="w")[1] == Odd(1, 2, 3, 4)


@pytest.mark.parametrize("bad", [cattrs.BaseConverter(), 3, cattrs.Converter])
def test_what_is_no_converter_is_refused(bad: Any) -> None:
    """The option is named."""
    with pytest.raises(ValidationError, match=r"^converter: expected a cattrs\.Converter"):
        Codec(bad)


def failing(error: BaseException) -> Callable[..., Any]:
    def hook(*_: object) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyError("total"), BadStrError(), ExceptionGroup("g", [OSError()])]
)
def test_a_failing_hook_is_named_by_its_path(error: Exception) -> None:
    """Whatever Exception a hook raises becomes the typed error with the path."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, failing(error))
    converter.register_unstructure_hook(Money, failing(error))
    codec = Codec(converter)

    with pytest.raises(ValidationError, match=rf"^p: \$\.total: {type(error).__name__}"):
        codec.structure({"total": "3"}, Invoice, what="p")
    with pytest.raises(
        SerializationError, match=r"^w: \$\.total: the unstructure hook for Money failed"
    ):
        codec.encode(Invoice(Money(3)), Invoice, what="w")


def test_a_base_exception_of_a_hook_passes() -> None:
    """Ctrl-C is not taken for a validation error."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, failing(KeyboardInterrupt()))
    converter.register_unstructure_hook(Money, failing(KeyboardInterrupt()))
    codec = Codec(converter)

    with pytest.raises(KeyboardInterrupt):
        codec.structure({"total": "3"}, Invoice, what="p")
    with pytest.raises(KeyboardInterrupt):
        codec.encode(Invoice(Money(3)), Invoice, what="w")


def test_half_a_pair_of_hooks_is_refused() -> None:
    """A type needs both hooks; the missing one is named."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Money, lambda v, _: Money(v))
    with pytest.raises(ValidationError, match="no unstructure hook"):
        Codec(converter).check_type(Money, "input")

    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: m.cents)
    with pytest.raises(ValidationError, match="no structure hook"):
        Codec(converter).check_type(Money, "input")


def test_one_hook_for_a_class_is_completed() -> None:
    """Where only one direction is the user's, the other one is the class's own."""
    converter = cattrs.Converter()
    converter.register_structure_hook(Cat, lambda v, _: Cat(v["meow"]))
    converter.register_unstructure_hook(Dog, lambda d: {"bark": d.bark, "loud": d.loud})
    codec = Codec(converter)

    assert codec.encode_and_decode(Cat(1), Cat, what="w")[1] == Cat(1)
    assert codec.encode_and_decode(Dog(1), Dog, what="w")[1] == Dog(1)


def test_what_a_hook_returns_must_be_json_like_and_faithful() -> None:
    """An unstructure hook gives data, and the structure hook undoes it."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: {m.cents} if m.cents < 0 else m.cents)
    converter.register_structure_hook(Money, lambda v, _: Money(abs(v - 1)))
    codec = Codec(converter)

    with pytest.raises(SerializationError, match="set has no stored form"):
        codec.encode(Money(-1), Money, what="w")
    with pytest.raises(SerializationError, match="would come back as another Money"):
        codec.encode(Money(3), Money, what="w")
    with pytest.raises(SerializationError, match="expected Money, found int"):
        codec.encode(3, Money, what="w")


def test_a_failing_hook_factory_is_reported() -> None:
    """A factory that raises makes the type unsupported."""
    converter = cattrs.Converter()
    converter.register_structure_hook_factory(lambda t: t is Money, failing(RuntimeError("x")))
    with pytest.raises(ValidationError, match="hook factory of the converter failed: RuntimeError"):
        Codec(converter).check_type(Money, "input")


def test_factories_of_the_user_get_strict_hooks_inside() -> None:
    """A hook factory that asks the converter for the hooks of fields gets the strict ones."""
    converter = cattrs.Converter()

    @converter.register_structure_hook_factory(lambda t: t is Invoice)
    def structure_invoice(_: Any, inner: cattrs.Converter) -> Any:
        hook = inner.get_structure_hook(int)
        return lambda v, t: Invoice(Money(hook(v["cents"], int)))

    @converter.register_unstructure_hook_factory(lambda t: t is Invoice)
    def unstructure_invoice(_: Any, inner: cattrs.Converter) -> Any:
        hook = inner.get_unstructure_hook(int)
        return lambda i: {"cents": hook(i.total.cents)}

    codec = Codec(converter)

    assert codec.encode_and_decode(Invoice(Money(3)), Invoice, what="w")[1] == Invoice(Money(3))
    with pytest.raises(ValidationError, match="expected int, found str"):
        codec.structure({"cents": "3"}, Invoice, what="p")
    with pytest.raises(SerializationError, match="expected int, found str"):
        codec.encode(Invoice(Money("3")), Invoice, what="w")  # type: ignore[arg-type] # on purpose


# --- Caches and threads ---------------------------------------------------------------------


def test_equal_types_in_another_order_are_kept_apart(codec: Codec) -> None:
    """A | B equals B | A in Python, but each has its own order of preference."""
    first = codec.structure({"bark": 1}, Dog | Puppy, what="p")
    second = codec.structure({"bark": 1}, Puppy | Dog, what="p")

    assert type(first) is Dog
    assert type(second) is Puppy
    assert codec._forms.of(list[int]) is codec._forms.of(list[int])


def test_threads_may_compile_the_same_type_at_once(codec: Codec) -> None:
    """No thread sees a type that another one has not finished compiling."""
    barrier = threading.Barrier(8)
    results: list[Any] = []

    def work() -> None:
        barrier.wait(10)
        results.append(codec.encode_and_decode(Tree("a", [Tree("b")]), Tree, what="w")[1])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [Tree("a", [Tree("b")])] * 8


# --- Annotations ----------------------------------------------------------------------------


def returns_row() -> Row: ...  # type: ignore[empty-body] # never called


def returns_list() -> list[Row]: ...  # type: ignore[empty-body] # never called


def returns_none() -> None: ...


def returns_any() -> Any: ...


def returns_object() -> object: ...


def returns_variable(value: T) -> T:
    return value


def returns_missing() -> Missing: ...  # type: ignore[name-defined] # noqa: F821


def returns_nothing(): ...  # type: ignore[no-untyped-def]


def returns_annotated() -> Annotated[int, ["x"]]: ...  # type: ignore[empty-body] # never called


@functools.wraps(returns_list)
def wrapped(*args: Any) -> Any: ...


@functools.cache
def cached() -> list[Row]: ...  # type: ignore[empty-body] # never called


class Worker:
    def method(self) -> list[int]: ...  # type: ignore[empty-body] # never called

    @staticmethod
    def static() -> set[int]: ...  # type: ignore[empty-body] # never called

    @classmethod
    def of_class(cls) -> dict[str, int]: ...  # type: ignore[empty-body] # never called

    def itself(self) -> typing.Self: ...

    def __call__(self) -> tuple[int, ...]: ...  # type: ignore[empty-body] # never called


class Slotted:
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment] # on purpose

    def __call__(self) -> tuple[int, ...]: ...  # type: ignore[empty-body] # never called


@pytest.mark.parametrize(
    ("fn", "type_"),
    [
        (returns_row, Row),
        (returns_list, list[Row]),
        (returns_none, type(None)),
        (returns_any, UNTYPED),
        (returns_object, UNTYPED),
        (returns_variable, UNTYPED),
        (returns_missing, UNTYPED),
        (returns_nothing, UNTYPED),
        (returns_annotated, Annotated[int, ["x"]]),
        (lambda: 3, UNTYPED),
        (wrapped, list[Row]),
        (cached, list[Row]),
        (functools.partial(functools.partial(returns_variable, 1)), UNTYPED),
        (functools.partial(returns_row), Row),
        (Worker().method, list[int]),
        (Worker.static, set[int]),
        (Worker.of_class, dict[str, int]),
        (Worker().itself, UNTYPED),
        (Worker(), tuple[int, ...]),
        (Slotted(), tuple[int, ...]),
        (Worker, Worker),
        (Row, Row),
        (int, int),
        (object, UNTYPED),
        (list[int], list[int]),
        (len, UNTYPED),
        ([].append, UNTYPED),
        (print, UNTYPED),
    ],
)
def test_the_return_type_of_callables(fn: Any, type_: Any) -> None:
    """The annotation, resolved; or UNTYPED where there is none that says something."""
    assert return_type_of(fn) == type_
    assert return_type_of(fn) == type_


def test_classes_of_the_enclosing_function_are_found() -> None:
    """A string annotation may name what the function closes over."""

    @define
    class Local:
        x: int

    def make() -> list[Local]:
        return [Local(unbound)]

    assert return_type_of(make) == list[Local]
    assert resolve_annotations(make) == {"return": list[Local]}
    unbound = 3
    assert make() == [Local(unbound)]


def test_functions_are_not_kept_alive() -> None:
    """The cache of return types holds functions weakly."""

    def make() -> list[int]: ...  # type: ignore[empty-body] # never called

    return_type_of(make)
    ref = weakref.ref(make)
    del make
    gc.collect()
    assert ref() is None


def test_resolved_annotations() -> None:
    """All annotations of a function, with strings resolved and extras kept."""

    def fn(step: int, payload: Annotated[Row, "x"]) -> None: ...

    assert resolve_annotations(fn) == {
        "step": int,
        "payload": Annotated[Row, "x"],
        "return": type(None),
    }
    assert resolve_annotations(len) == {}


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    """The error says which parameter, of which function, and what is missing."""

    def fn(payload: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(ValidationError, match=r"'Missing' of parameter 'payload' of .*fn cannot"):
        resolve_annotations(fn)
    with pytest.raises(ValidationError, match="of the return value of returns_missing"):
        resolve_annotations(returns_missing)


def test_the_sentinel_has_a_name() -> None:
    """UNTYPED shows itself in reprs."""
    assert repr(UNTYPED) == "UNTYPED"
