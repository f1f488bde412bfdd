"""Types of NumPy, pandas, polars, pyarrow and pydantic as annotations."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from attrs import define

from durably.codec import Codec
from durably.codecs import ValueCodec
from durably.errors import SerializationError, ValidationError

CODEC = Codec()


class Config(pydantic.BaseModel):
    rate: float
    since: dt.date = dt.date(2026, 1, 1)


@define
class Fitted:
    config: Config
    frame: pd.DataFrame
    weights: npt.NDArray[np.float64]
    score: np.float32


FRAME = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"]))
ARRAY = np.arange(6.0).reshape(2, 3)
CONFIG = Config(rate=0.5)
# Without its module the name would be that of Python's own, in the versions where it is the same.
NUMPY_BOOL = "numpy.bool" if np.bool_.__name__ == "bool" else "bool_"


def same(one: Any, other: Any) -> bool:
    """Whether both are of one type and equal, all the way in."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other))
    if isinstance(one, Fitted):
        return all(same(getattr(one, n), getattr(other, n)) for n in Fitted.__slots__[:4])
    if isinstance(one, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other)
    equals = getattr(one, "equals", None)
    return type(one) is type(other) and (equals(other) if equals else one == other)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (np.ndarray, ARRAY),
        (npt.NDArray[np.float64], ARRAY),
        (np.float64, np.float64(0.1)),
        (np.floating, np.float32(0.1)),
        (np.bool_, np.bool_(True)),
        (pd.DataFrame, FRAME),
        (pd.Series, FRAME["a"]),
        (pd.Index, pd.RangeIndex(3)),
        (pd.Timestamp, pd.Timestamp("2026-11-28", tz="UTC")),
        (pl.DataFrame, pl.DataFrame({"a": [1]})),
        (pa.Table, pa.table({"a": [1]})),
        (pa.Array, pa.array([1, None])),
        (Config, CONFIG),
        (list[Config], [CONFIG, Config(rate=1)]),
        (list[pd.DataFrame], [FRAME, FRAME.iloc[:0]]),
        (dict[str, np.ndarray], {"a": ARRAY}),
        (tuple[pd.DataFrame, int], (FRAME, 1)),
        (pd.DataFrame | None, FRAME),
        (pd.DataFrame | None, None),
        (Config | None, CONFIG),
        (list[pd.DataFrame] | None, [FRAME]),
        (Config | pd.DataFrame | int, FRAME),
        (Fitted, Fitted(CONFIG, FRAME, ARRAY, np.float32(0.1))),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_annotated_values_come_back_as_they_were(type_: Any, value: Any) -> None:
    """A value under its type is the same at once, from its text, and as a payload."""
    CODEC.check_type(type_, "here")
    text, first = CODEC.encode_and_decode(value, type_, what="w")
    assert same(first, value)
    assert same(CODEC.decode(text, type_, what="w"), value)
    assert same(CODEC.structure(value, type_, what="w"), value)


def test_a_payload_may_be_the_data_of_a_model() -> None:
    """JSON-like data structures into a pydantic model; an error names the path."""
    for data in ({"rate": 0.5}, {"rate": 0.5, "since": "2026-01-01"}):
        assert CODEC.structure(data, Config, what="w") == CONFIG
    with pytest.raises(ValidationError, match=r"w: \$\[1\].rate: "):
        CODEC.structure([{"rate": 1}, {"rate": "fast"}], list[Config], what="w")
    with pytest.raises(ValidationError, match=r"expected Config, found None"):
        CODEC.structure(None, Config, what="w")


@pytest.mark.parametrize(
    ("type_", "value", "said"),
    [
        (pd.DataFrame, {"a": [1]}, "expected DataFrame, found dict"),
        (pd.DataFrame, pl.DataFrame({"a": [1]}), "another class of that name (polars."),
        (pd.DataFrame, pd.Series([1]), "expected DataFrame, found Series$"),
        (np.ndarray, [1], "expected ndarray, found list"),
        (bool, np.bool_(True), f"expected bool, found {NUMPY_BOOL}"),
        (int, np.int64(1), "expected int, found int64"),
        (np.int64, 1, "expected int64, found int"),
        (Config, Fitted(CONFIG, FRAME, ARRAY, np.float32(1)), "expected Config, found Fitted"),
        (pd.DataFrame, pd.DataFrame({"z": [1j]}), "column 'z' has the dtype complex128"),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_a_value_of_another_type_is_rejected(type_: Any, value: Any, said: str) -> None:
    """The error says which type was annotated and which value is there."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(value, type_, what="w")
    assert said in f"{caught.value}$"


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (pl.LazyFrame, "LazyFrame has no stored form; collect it: return frame.collect()"),
        (list[pl.LazyFrame], "collect it"),
        (np.ma.MaskedArray, "return array.filled()"),
        (pa.Int64Scalar, "return value.as_py()"),
    ],
)
def test_a_type_that_is_not_stored_says_so_before_the_call(type_: Any, said: str) -> None:
    """The annotation alone is an error, so the function is not called."""
    with pytest.raises(SerializationError) as caught:
        CODEC.require_storable(type_, what="step", name="a")
    assert said in str(caught.value)
    assert "the function was not called" in str(caught.value)


class Own:
    """A type of the program's own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return type(other) is Own and self.number == other.number

    __hash__ = None  # type: ignore[assignment]


@define
class Holds:
    """Has values of it."""

    own: Own
    more: list[Own]


@define
class Plain:
    """Has none."""

    own: int


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (Holds(Own(1), [Own(2)]), Holds | None),
        (Holds(Own(1), []), Plain | Holds),
        (Plain(3), Holds | Plain),
        ([Holds(Own(1), [Own(2)]), None], list[Holds | None]),
        ({"a": Own(1)}, dict[str, Own] | Plain),
        (Own(1), Own | int),
    ],
)
def test_a_record_in_a_union_has_values_of_the_programs_own_types(value: Any, type_: Any) -> None:
    """What is inside of a member of a union is stored by its form."""
    codec = Codec(codecs=[ValueCodec(Own, "own", lambda own: own.number, Own)])
    text, back = codec.encode_and_decode(value, type_, what="it")
    assert back == value
    assert codec.decode(text, type_, what="it") == value
