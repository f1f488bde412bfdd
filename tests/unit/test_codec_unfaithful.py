"""What would not come back as it was is rejected when it is stored."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import inspect
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest
from attrs import define, field
from codeckit import (
    UTC,
    Box,
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
        (collections.defaultdict[str, int], collections.defaultdict(list), "is not int has no"),
        (collections.defaultdict, collections.defaultdict(list), "is not None has no stored form"),
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
        (IntSubclass, 3, "expected IntSubclass"),
        (Clashing, Clashing.B, "is stored like <Clashing.A"),
        (Shelf[int], Shelf([1, "a"]), "$.items[1]: expected int"),
        (dict[StrSubclass | str, int], {"a": 1, LiarStr("b"): "x"}, "$['\"b\"']: expected int"),
        (IntSubclass, changed(IntSubclass(3), note="x"), "would come back"),
        (WithFinal, WithFinal(z={print}), "$.z[...]: builtin_function_or_method"),
        (Callable[[], int], print, "is not a type that can be stored"),
        (UNTYPED, [generator()], "$[0]: generator has no stored form; use a list"),
        (UNTYPED, print, "use data, not code"),
        (UNTYPED, int, "use data, not code"),
        (UNTYPED, Money(1), "converter="),
        (UNTYPED, collections.defaultdict(list), "return dict(...) of it"),
    ],
    ids=plainly,
)
def test_what_would_not_come_back_is_rejected(
    codec: Codec, type_: Any, value: Any, says: str
) -> None:
    """A value without a faithful form under its type is rejected, with the place and the reason."""
    with pytest.raises(SerializationError) as caught:
        codec.encode_and_decode(value, type_, what="step 'a'")
    with pytest.raises(SerializationError):
        codec.encode(value, type_, what="step 'a'")

    assert str(caught.value).startswith("step 'a': ")
    assert says in str(caught.value)


@define
class Recent:
    items: collections.deque[int]
    names: list[collections.deque[str]] = field(factory=list)
    found: collections.defaultdict[str, int] | None = None


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        (collections.deque[int], collections.deque([1], 3), "$: a deque with maxlen has no stored"),
        (
            collections.deque,
            collections.deque(maxlen=0),
            "$: a deque with maxlen has no stored form",
        ),
        (
            collections.deque[int] | None,
            collections.deque([1], 3),
            "$: a deque with maxlen has no stored form",
        ),
        (Recent, Recent(collections.deque([1], 3)), "$.items: a deque with maxlen"),
        (
            Recent,
            Recent(collections.deque(), [collections.deque(["a"], 1)]),
            "$.names[0]: a deque with maxlen",
        ),
        (
            Recent,
            Recent(collections.deque(), found=collections.defaultdict(lambda: 3)),
            "$.found: a defaultdict whose default_factory is not int has no stored form",
        ),
        (
            dict[str, collections.deque[int]],
            {"a": collections.deque([1], 3)},
            "$.a: a deque with maxlen",
        ),
        (Clashing, Clashing.B, "is stored like <Clashing.A"),
        (list[Clashing], [Clashing.B], "$[0]: <Clashing.B"),
        (Box[int], unset(Box), "$.item: AttributeError"),
        (UNTYPED, os.stat("."), "$: stat_result has no stored form"),  # noqa: PTH116 - its result
        (UNTYPED, {"a": [time.localtime()]}, "$.a[0]: struct_time has no stored form"),
        (list[Any], [print], "$[0]: builtin_function_or_method 'print' has no stored form"),
    ],
    ids=plainly,
)
def test_a_value_that_would_lose_something_is_rejected_everywhere(
    codec: Codec, type_: Any, value: Any, says: str
) -> None:
    """A value of a type that holds more than its stored form is neither a result nor a payload."""
    for error, call in ((SerializationError, codec.encode), (ValidationError, codec.structure)):
        with pytest.raises(error) as caught:
            call(value, type_, what="w")  # type: ignore[operator] # both take these
        assert says in str(caught.value)
        assert str(caught.value).count("$") == 1


def namesake(module: str, name: str, base: Any = object, **body: Any) -> Any:
    """A class that has the name of another one, as those of NumPy and of notebooks have."""
    return type(name, (base,), {"__module__": module, "__qualname__": name, **body})


def like(module: str, name: str, method: str = "") -> Any:
    """A value of a class of another library, with a method that converts it."""
    return namesake(module, name, **({method: None} if method else {}))()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (like("numpy", "int64", "tolist"), "convert it with .tolist()"),
        (like("numpy", "ndarray", "tolist"), "convert it with .tolist()"),
        (like("pandas", "Timestamp", "to_pydatetime"), "convert it with .to_pydatetime()"),
        (like("pandas.core.frame", "DataFrame", "to_dict"), "convert it with .to_dict()"),
        (like("pandas", "NaTType", "to_pydatetime"), "use None in its place"),
    ],
    ids=plainly,
)
def test_values_of_numpy_and_pandas_are_to_be_converted(
    codec: Codec, value: Any, says: str
) -> None:
    """An annotation would not help: they are of no type that can be stored."""
    name = type(value).__name__
    with pytest.raises(SerializationError) as caught:
        codec.encode([value], UNTYPED, what="w")
    assert str(caught.value) == f"w: $[0]: {name} has no stored form; {says}"
    for type_ in (int, dt.datetime, list[int]):
        with pytest.raises(ValidationError, match=f"found {name} ") as mismatched:
            codec.structure(value, type_, what="w")
        assert str(mismatched.value).endswith(f"({says})")


def test_data_with_a_value_that_would_lose_something_is_no_payload(codec: Codec) -> None:
    """Also where the payload is data of the type and not an instance."""
    data = {"items": collections.deque([1], 3), "names": 3, "more": {1}}
    with pytest.raises(ValidationError) as caught:
        codec.structure(data, Recent, what="w")

    assert str(caught.value) == (
        "w: $.items: a deque with maxlen has no stored form; use a list; "
        "$.names: expected list[deque[str]], found int; $.more: unknown key"
    )


NUMPY_BOOL = namesake("numpy", "bool")
ROW = define(namesake("elsewhere", "Row", __annotations__={"email": str}))
ROW_AGAIN = define(namesake(Row.__module__, "Row", __annotations__={"mail": str}))
SUB_ROW = namesake("elsewhere", "Row", Row)
COLOR = enum.Enum("Color", [("RED", "red")], module="elsewhere")
DATETIME = namesake("cftime", "datetime")


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        (bool, NUMPY_BOOL(), "expected bool, found numpy.bool"),
        (bool | None, NUMPY_BOOL(), "expected bool, found numpy.bool"),
        (list[bool], [NUMPY_BOOL()], "$[0]: expected bool, found numpy.bool"),
        (UNTYPED, NUMPY_BOOL(), "numpy.bool has no stored form"),
        (UNTYPED, [namesake("my", "dict")()], "my.dict has no stored form"),
        (str, namesake("my", "str")(), "expected str, found my.str"),
        (Row, ROW("a"), "expected Row, found another class of that name (elsewhere.Row, not "),
        (Row, ROW_AGAIN("a"), "; Row was defined again after the "),
        (Row | int, ROW("a"), "found another class of that name (elsewhere.Row, not "),
        (Row, SUB_ROW("a"), "expected Row, found a subclass of that name (elsewhere.Row, not "),
        (Color, COLOR.RED, "found another class of that name (elsewhere.Color, not "),
        (dt.datetime, DATETIME(), "another class of that name (cftime.datetime, not datetime."),
        (list[int], namesake("my", "list")(), "expected list[int], found my.list"),
        (Box[int], namesake("my", "Box")(), "another class of that name (my.Box, not "),
    ],
    ids=plainly,
)
def test_a_class_of_the_same_name_is_another_one(
    codec: Codec, type_: Any, value: Any, says: str
) -> None:
    """No message says that P was expected and P was found."""
    for error, call in ((SerializationError, codec.encode), (ValidationError, codec.structure)):
        with pytest.raises(error) as caught:
            call(value, type_, what="w")  # type: ignore[operator] # both take these
        assert says in str(caught.value)
        assert not re.search(r"expected (\w+)[^,]*, found \1(\b(?!\.))", str(caught.value))


def test_an_unawaited_coroutine_is_rejected(codec: Codec) -> None:
    """The result of calling an async function is not data."""
    coro = coroutine()
    with pytest.raises(SerializationError, match="coroutine has no stored form"):
        codec.encode(coro, UNTYPED, what="step 'a'")
    assert inspect.getcoroutinestate(coro) == "CORO_CLOSED"  # Python warns of no other


def test_an_unawaited_coroutine_is_rejected_whatever_the_type(codec: Codec) -> None:
    """An async function with an annotation is told apart from one that returns another type."""
    coro = coroutine()
    with pytest.raises(SerializationError, match="a coroutine, so nothing was done; pass a plain"):
        codec.encode(coro, int, what="step 'a'")
    assert inspect.getcoroutinestate(coro) == "CORO_CLOSED"


@pytest.mark.parametrize("value", [changed(Hidden(1), count=2), Doubling(1)])
def test_a_payload_that_would_change_is_rejected(codec: Codec, value: Any) -> None:
    """An instance whose class would not rebuild it is no valid payload."""
    with pytest.raises(ValidationError, match="would come back"):
        codec.structure(value, type(value), what="payload")


def test_two_keys_with_one_stored_form_are_rejected(codec: Codec) -> None:
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
