"""Round trips of generated values."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
import uuid
from typing import Any

import pytest
from attrs import define, field
from hypothesis import find, given
from hypothesis import strategies as st

from durably.codec import UNTYPED, Codec
from durably.errors import DurablyError

CODEC = Codec()

# Any code point, surrogates and NUL included; neighbouring surrogates on purpose.
TEXTS = st.text(st.characters()) | st.text(st.sampled_from('\ud800\udc00\ud83d\ude00\x00a\\"u'))
SMALL_INTS = st.integers()
INTS = SMALL_INTS | st.integers(4290, 4400).map(lambda digits: 10**digits - 7)
ATOMS = st.none() | st.booleans() | INTS | st.floats() | TEXTS
JSON_LIKE = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
MOMENTS = st.datetimes(timezones=st.none() | st.timezones())


@define
class Item:
    name: str
    weight: float
    count: int = 0
    extra: Any = None


@define
class Order:
    id: uuid.UUID
    items: list[Item]
    made: dt.datetime | str | None = None
    by_day: dict[dt.date, set[int]] = field(factory=dict)
    price: decimal.Decimal | int | float = 0
    blob: bytes | str = b""
    span: dt.timedelta = dt.timedelta()
    parts: tuple[Order, ...] = ()


ITEMS = st.builds(Item, TEXTS, st.floats(), INTS, JSON_LIKE)


def orders(parts: st.SearchStrategy[Order] | None = None) -> st.SearchStrategy[Order]:
    return st.builds(
        Order,
        st.uuids(),
        st.lists(ITEMS, max_size=2),
        st.none() | MOMENTS | TEXTS | MOMENTS.map(dt.datetime.isoformat),
        st.dictionaries(st.dates(), st.sets(INTS, max_size=3), max_size=2),
        st.decimals(allow_nan=False) | INTS | st.floats(),
        st.binary(max_size=20) | TEXTS,
        st.timedeltas(),
        st.just(()) if parts is None else st.lists(parts, max_size=2).map(tuple),
    )


def same(a: Any, b: Any) -> bool:
    """Return whether two JSON-like values are alike in type and value; NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float):
        return repr(a) == repr(b)
    return bool(a == b)


def alike(a: Any, b: Any) -> bool:
    """Return whether two orders are alike, field by field."""
    if isinstance(a, (Item, Order)):
        names = a.__slots__[:-1] if a.__slots__[-1] == "__weakref__" else a.__slots__
        return type(a) is type(b) and all(alike(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dt.datetime) and isinstance(b, dt.datetime) and a.tzinfo is not None:
        return a.utcoffset() == b.utcoffset() and a.replace(tzinfo=None) == b.replace(tzinfo=None)
    return same(a, b)


@given(JSON_LIKE)
def test_json_like_data_round_trips(value: Any) -> None:
    """What is stored without a type comes back as it was, as does what is validated."""
    text, decoded = CODEC.encode_and_decode(value, UNTYPED, what="w")

    assert same(decoded, value)
    assert same(CODEC.load_json(text), value)
    assert same(CODEC.structure(value, UNTYPED, what="w"), value)
    assert text.isascii()


# Most of it plain: what is odd stands at either end, or amid the rest. json itself has no text for
# the two halves of a pair of surrogates side by side.
LARGE_TEXTS = st.builds(
    "".join,
    st.lists(
        st.characters(max_codepoint=127) | TEXTS | st.integers(1, 2000).map("x".__mul__),
        max_size=6,
    ),
).filter(lambda text: not re.search("[\ud800-\udbff]\x00*[\udc00-\udfff]", text))


@given(LARGE_TEXTS)
def test_large_text_is_stored_as_json_writes_it(value: str) -> None:
    """Byte for byte, whatever has to be escaped, and it comes back."""
    text, decoded = CODEC.encode_and_decode(value, str, what="w")

    assert text == json.dumps(value)
    assert decoded == CODEC.decode(text, str, what="w") == value
    assert CODEC.encode({"a": [value]}, UNTYPED, what="w") == f'{{"a":[{text}]}}'


@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 50_000])
def test_each_character_is_stored_as_json_writes_it(length: int) -> None:
    """At the beginning, in the middle and at the end of short and of long text."""
    for character in (*map(chr, range(300)), "\u2028", "\ud800", "\udc00", "\uffff", "\U0001f600"):
        for before in (0, length // 2, length):
            value = "x" * before + character + "x" * (length - before)
            assert CODEC.encode(value, str, what="w") == json.dumps(value)
    assert CODEC.encode("x" * length, str, what="w") == json.dumps("x" * length)


@given(orders(orders()))
def test_typed_data_round_trips(value: Order) -> None:
    """Attrs classes with unions, nested collections and typed keys come back as they were."""
    text, decoded = CODEC.encode_and_decode(value, Order, what="w")

    assert alike(value, decoded)
    assert CODEC.encode(decoded, Order, what="w") == text
    assert alike(value, CODEC.structure(value, Order, what="w"))


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (float, st.floats()),
        (str, TEXTS),
        (int, INTS),
        (dict[int, str], st.dictionaries(INTS, TEXTS)),
        (dict[int | str, int], st.dictionaries(INTS | TEXTS, INTS)),
        (dict[float, int], st.dictionaries(st.floats(allow_nan=False), INTS)),
        (tuple[int, ...], st.lists(INTS).map(tuple)),
        (list[int | str | bool | float | None], st.lists(ATOMS)),
        (dt.date | dt.datetime | str, st.dates() | st.datetimes() | TEXTS | st.dates().map(str)),
        (uuid.UUID | str, st.uuids() | st.uuids().map(str)),
        (set[str | int], st.sets(TEXTS | INTS)),
        (frozenset[tuple[int, str]], st.frozensets(st.tuples(INTS, TEXTS))),
        (dt.timedelta, st.timedeltas()),
        (dt.time, st.times()),
        (bytes, st.binary()),
    ],
    ids=lambda v: str(v)[:40] if not isinstance(v, st.SearchStrategy) else "",
)
def test_shapes_round_trip(type_: Any, values: st.SearchStrategy[Any]) -> None:
    """Each of these types gives back what it got."""

    @given(values)
    def check(value: Any) -> None:
        decoded = CODEC.encode_and_decode(value, type_, what="w")[1]
        assert (
            decoded == value
            or (isinstance(value, float) and math.isnan(value) and math.isnan(decoded))
            or same(value, decoded)
        )
        assert type(decoded) is type(value)

    check()


@given(
    JSON_LIKE,
    st.sampled_from([Order, Item, int, list[Item], dict[int, Item | Order], Order | Item]),
)
def test_arbitrary_payloads_validate_or_are_rejected(value: Any, type_: Any) -> None:
    """There is no other outcome, and what validates can be stored."""
    try:
        valid = CODEC.structure(value, type_, what="payload")
    except DurablyError as error:
        assert len(str(error)) < 10_000  # noqa: PT017 - one of two right outcomes
    else:
        CODEC.encode(valid, type_, what="payload")


@given(JSON_LIKE, st.sampled_from([Order, Item, float, set[int], dict[int, Item | Order]]))
def test_arbitrary_texts_decode_or_are_rejected(value: Any, type_: Any) -> None:
    """Text that was stored under another type leads to a typed error or to a value."""
    text = CODEC.encode(value, UNTYPED, what="w")
    try:
        CODEC.decode(text, type_, what="output")
    except DurablyError as error:
        assert str(error).startswith("output: ")  # noqa: PT017 - one of two right outcomes


@given(st.recursive(st.none() | SMALL_INTS | st.floats() | TEXTS, st.lists))
def test_stored_text_is_what_json_reads(value: Any) -> None:
    """Any JSON reader of Python reads ordinary values from the text."""
    text: str = CODEC.encode(value, UNTYPED, what="w")
    if not text.startswith(" "):
        assert same(json.loads(text), value)


def test_the_strategy_makes_split_surrogates() -> None:
    """The texts above hold the pairs that JSON would join."""
    assert find(TEXTS, lambda text: "\ud800\udc00" in text) == "\ud800\udc00"


OFFSETS = st.timedeltas(-dt.timedelta(hours=23), dt.timedelta(hours=23))
ZONES = (
    st.none() | st.timezones() | st.builds(dt.timezone, OFFSETS, TEXTS) | OFFSETS.map(dt.timezone)
)


@given(
    st.datetimes(timezones=ZONES) | st.times(timezones=ZONES),
    st.sampled_from([0, 1]),
)
def test_times_come_back_in_their_zone(value: dt.datetime | dt.time, fold: int) -> None:
    """Wall time, fold, zone or offset and its name are kept, of imaginary times too."""
    value = value.replace(fold=fold)
    decoded = CODEC.encode_and_decode(value, type(value), what="w")[1]

    assert decoded.replace(tzinfo=None) == value.replace(tzinfo=None)
    assert (decoded.fold, decoded.utcoffset()) == (fold, value.utcoffset())
    assert repr(decoded) == repr(value)
