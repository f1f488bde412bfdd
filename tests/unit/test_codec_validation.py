"""What does not fit its type is rejected, and every bad path is named."""

from __future__ import annotations

import datetime as dt
import math
import pathlib
import uuid
from decimal import Decimal
from typing import Any, Generic, Literal

import attrs
import pytest
from attrs import define, field, validators
from codeckit import (
    Cat,
    Color,
    Dog,
    Import,
    IntBox,
    IntSubclass,
    Level,
    Money,
    Options,
    Pair,
    Permission,
    Point,
    Puppy,
    Row,
    T,
    Tree,
    WithFinal,
)
from naming import plainly

from durably.codec import UNTYPED, Codec
from durably.errors import ValidationError


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
        (WithFinal, {"z": {"a": print}}, "$.z.a"),
        (IntSubclass, "a", "$"),
        (Any, {"a": [print]}, "$.a[0]"),
        (UNTYPED, {"a": {1: print}}, "$.a[1]"),
        (UNTYPED, [print], "$[0]"),
    ],
    ids=plainly,
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
        codec.structure({"a": {len}, "b": [b"", {2: id}], "c": (1, print)}, UNTYPED, what="payload")

    for path in ("$.a[...]: ", "$.b[1][2]: ", "$.c[1]: "):
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


def test_text_of_an_older_type_is_rejected_with_paths(codec: Codec) -> None:
    """Stored text that no longer fits its type says where."""
    with pytest.raises(ValidationError, match=r"^output of run 1: \$\.emial: unknown key"):
        codec.decode('{"email":"a","emial":3}', Row, what="output of run 1")
    with pytest.raises(ValidationError, match=r"^output: Money is not a type that can be stored"):
        codec.decode("1", Money, what="output")


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", [BadRepr(), "x" * 10**6, [0] * 10**6, {"a" * 10**6: 1}, 10**10**5], ids=plainly
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


def test_very_many_problems_are_counted(codec: Codec) -> None:
    """After a thousand problems the rest is a number."""
    with pytest.raises(ValidationError, match=r"\$\[999\]: .*; and 500 more$"):
        codec.structure(["x"] * 1500, list[int], what="payload")
