"""What is accepted, how it is stored, and that it comes back."""

from __future__ import annotations

import collections
import datetime as dt
import threading
from typing import Any, NotRequired, TypedDict

import pytest
from attrs import define
from codeckit import (
    ROUND_TRIPS,
    UTC,
    Box,
    Cat,
    Dog,
    Import,
    IntSubclass,
    Level,
    LiarStr,
    Options,
    Pair,
    Private,
    Puppy,
    Row,
    Tree,
    same,
)
from naming import plainly

from durably.codec import UNTYPED, Codec
from durably.errors import ValidationError


@pytest.mark.parametrize(("type_", "value"), ROUND_TRIPS, ids=plainly)
def test_a_value_comes_back_as_it_was_under_its_type(codec: Codec, type_: Any, value: Any) -> None:
    """What is encoded is ASCII text, and decodes to an equal value of the same type."""
    text, decoded = codec.encode_and_decode(value, type_, what="step 'a'")

    assert same(decoded, value)
    assert same(codec.decode(text, type_, what="step 'a'"), value)
    assert codec.encode(value, type_, what="step 'a'") == text
    assert text.isascii()


@pytest.mark.parametrize(("type_", "value"), ROUND_TRIPS, ids=plainly)
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
        (dict[bytes | Level, int], {'"YQ=="': 1}, {b"a": 1}),
        (
            dt.datetime | Options,
            {"$union": "datetime", "value": "2026-01-02T03:04:05"},
            dt.datetime(2026, 1, 2, 3, 4, 5),
        ),
        (Private, {"_secret": 1, "renamed": 2}, Private(1, other=2)),
    ],
)
def test_data_structures_into_the_type(codec: Codec, type_: Any, data: Any, value: Any) -> None:
    """A payload may be the JSON-like data of the type, with instances among it."""
    assert same(codec.structure(data, type_, what="payload"), value)


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


def test_subclasses_of_plain_types_come_back_plain(codec: Codec) -> None:
    """Also where the annotation is the plain type."""
    value = [IntSubclass(3), LiarStr("a")]
    decoded = codec.encode_and_decode(value, list[int | str], what="w")[1]
    assert decoded == [3, "a"]
    assert [type(item) for item in decoded] == [int, str]


def test_an_int_for_a_float_comes_back_as_float(codec: Codec) -> None:
    """An int is accepted where a float is asked for."""
    assert same(codec.encode_and_decode(3, float, what="w"), ("3.0", 3.0))


def test_stored_text_is_compact_and_sorted_where_order_means_nothing(codec: Codec) -> None:
    """Sets are stored in the order of their items' text."""
    assert codec.encode({"c", "a", "b"}, set[str], what="w") == '["a","b","c"]'
    assert codec.encode({"b": 1, "a": [1, 2]}, UNTYPED, what="w") == '{"b":1,"a":[1,2]}'


def test_a_key_that_is_json_text_of_another_type_is_taken_as_it_is(codec: Codec) -> None:
    """Data from outside may have keys that look like numbers."""
    assert codec.structure({"1": "a"}, dict[dt.date | str, str], what="p") == {"1": "a"}


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


def test_equal_types_in_another_order_are_kept_apart(codec: Codec) -> None:
    """A | B equals B | A in Python, but each has its own order of preference."""
    first = codec.structure({"bark": 1}, Dog | Puppy, what="p")
    second = codec.structure({"bark": 1}, Puppy | Dog, what="p")

    assert type(first) is Dog
    assert type(second) is Puppy
    codecs = codec._typed_values()._codecs
    assert codecs.of(list[int]) is codecs.of(list[int])


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


Headers = TypedDict("Headers", {"content-type": str, "class": NotRequired[int]})


def test_keys_of_a_typed_dict_may_be_any_text(codec: Codec) -> None:
    """Also such as no Python name could be."""
    value = {"content-type": "a"}

    assert codec.encode_and_decode(value, Headers, what="w")[1] == value
    with pytest.raises(ValidationError, match=r"\$\['content-type'\]: required, but missing"):
        codec.structure({"class": 1}, Headers, what="payload")
