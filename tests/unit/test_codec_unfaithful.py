"""What would not come back as it was is refused when it is stored."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import pathlib
import threading
from collections.abc import Callable
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from attrs import define, field
from codeckit import (
    UTC,
    Clashing,
    Color,
    Dog,
    IntSubclass,
    Level,
    LiarStr,
    Money,
    Options,
    Pair,
    Puppy,
    Row,
    Shelf,
    StrSubclass,
    WithFinal,
    changed,
)
from naming import plainly

from durably.codec import UNTYPED, Codec
from durably.errors import SerializationError, ValidationError


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
    ids=plainly,
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


def test_a_timezone_without_an_offset_is_refused(codec: Codec) -> None:
    """A tzinfo that knows no offset would be lost."""

    class Nowhere(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> None:
            return None

    with pytest.raises(SerializationError, match="no UTC offset"):
        codec.encode(dt.datetime(2026, 1, 2, tzinfo=Nowhere()), dt.datetime, what="w")


def test_two_keys_with_one_stored_form_are_refused(codec: Codec) -> None:
    """No entry of a dict is lost silently."""
    value = {dt.datetime(2026, 1, 2, tzinfo=UTC): 1, float("nan"): 2, float("nan"): 3}
    with pytest.raises(SerializationError, match="two keys have the same stored form"):
        codec.encode(value, dict[float | dt.datetime, int], what="w")


def test_fields_that_init_derives_come_back(codec: Codec) -> None:
    """init=False fields are not stored, but compared."""
    text, value = codec.encode_and_decode(Derived(3), Derived, what="w")

    assert text == '{"x":3}'
    assert value.twice == 6
    with pytest.raises(ValidationError, match=r"\$\.twice: unknown key"):
        codec.structure({"x": 1, "twice": 3}, Derived, what="payload")
