"""No setting of the program or of its threads changes how values are stored and read."""

from __future__ import annotations

import decimal
import json
import json.decoder
import json.encoder
import locale
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import define
from codeckit import ROUND_TRIPS, same

from durably.codec import UNTYPED, Codec
from durably.errors import ValidationError


@define
class Mixed:
    price: Decimal
    took: timedelta
    sizes: set[Decimal]
    shares: dict[Decimal, float]


VALUES: list[tuple[Any, Any]] = [
    *ROUND_TRIPS,
    (Decimal, Decimal("1E+30")),
    (Decimal, Decimal("1.23456789012345678901234567890")),
    (Decimal, Decimal("1E-999999")),
    (Decimal, Decimal("-sNaN12")),
    (timedelta, timedelta(seconds=1234, microseconds=567_891)),
    (timedelta, timedelta.min),
    (timedelta, timedelta.max),
    (
        Mixed,
        Mixed(
            Decimal("-1.10E-7"),
            timedelta(microseconds=-1),
            {Decimal("1E+9"), Decimal("2.50")},
            {Decimal("1E+9"): 0.1 + 0.2},
        ),
    ),
    (UNTYPED, {"a": [0.1 + 0.2, 1e300, 10**5000, "é\n"]}),
]


@contextmanager
def decimals(context: decimal.Context) -> Iterator[None]:
    with decimal.localcontext(context):
        yield


@contextmanager
def digits(most: int) -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(most)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


@contextmanager
def commas() -> Iterator[None]:
    """A locale that writes 1,5, where the machine has one."""
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "tr_TR.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        break
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


class Rounded(float):
    def __repr__(self) -> str:
        return f"{self:.1f}"


def nothing(*_: object, **__: object) -> None:
    return None


@contextmanager
def patched_json() -> Iterator[None]:
    """The json module as programs patch it to round floats and to read them as Decimal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json.encoder, "c_make_encoder", None)
        patch.setattr(json.encoder, "float", Rounded, raising=False)
        patch.setattr(json.encoder, "FLOAT_REPR", "{:.1f}".format, raising=False)
        patch.setattr(json.encoder, "encode_basestring_ascii", json.encoder.encode_basestring)
        patch.setattr(json.JSONEncoder, "default", nothing)
        patch.setattr(json.decoder, "scanstring", nothing)
        patch.setattr(json, "_default_decoder", json.JSONDecoder(parse_float=Decimal))
        for name in ("dump", "dumps", "load", "loads"):
            patch.setattr(json, name, nothing)
        yield


hostile = pytest.mark.parametrize(
    "setting",
    [
        lambda: decimals(decimal.Context(prec=6)),
        lambda: decimals(decimal.Context(prec=1, rounding=decimal.ROUND_UP, capitals=0, clamp=1)),
        lambda: decimals(decimal.Context(prec=3, Emax=3, Emin=-3)),
        lambda: decimals(decimal.ExtendedContext),
        lambda: decimals(decimal.Context(prec=2, traps=[*decimal.Context().traps])),
        lambda: digits(0),
        lambda: digits(640),
        commas,
        patched_json,
    ],
    ids=[
        "precision 6",
        "precision 1, small letters",
        "small exponents",
        "no traps",
        "all traps",
        "any digits",
        "640 digits",
        "locale",
        "json",
    ],
)


@hostile
def test_values_are_stored_and_read_alike_under_any_setting(
    codec: Codec, setting: Callable[[], Any]
) -> None:
    """The text of a value, and what is read of it, are the same whatever the program has set."""
    plainly = [codec.encode(value, type_, what="w") for type_, value in VALUES]

    with setting():
        found = []
        for (type_, value), text in zip(VALUES, plainly, strict=True):
            stored, back = codec.encode_and_decode(value, type_, what="w")
            found.append((stored, back, codec.decode(text, type_, what="w")))
            validated = codec.structure(value, type_, what="w")
            assert type(validated) is type(value)

    for (_, value), text, (stored, back, read) in zip(VALUES, plainly, found, strict=True):
        assert stored == text
        assert same(back, value)
        assert same(read, value)


@hostile
@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (Decimal, "twelve"),
        (Decimal, ""),
        (Decimal, "1.2.3"),
        (Decimal, "1E9999999999999999999"),
        (timedelta, "twelve"),
        (timedelta, "NaN"),
        (timedelta, "Infinity"),
        (timedelta, "1E999999999"),
        (timedelta, 10**30),
        (timedelta, float("nan")),
        (dict[Decimal, int], {"twelve": 1}),
        (list[Decimal], ["1", "x"]),
        (Decimal | None, "twelve"),
    ],
)
def test_what_is_not_a_number_is_rejected_under_any_setting(
    codec: Codec, setting: Callable[[], Any], type_: Any, data: Any
) -> None:
    """A context that traps nothing does not make a NaN of what is not a number."""
    with setting():
        with pytest.raises(ValidationError, match="expected"):
            codec.structure(data, type_, what="payload")
        text = '["twelve"]' if type_ == list[Decimal] else json.JSONEncoder().encode(data)
        with pytest.raises(ValidationError):
            codec.decode(text, type_, what="stored")
