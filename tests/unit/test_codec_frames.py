"""Values of polars, pyarrow and pydantic come back as they were, type for type."""

from __future__ import annotations

import datetime as dt
import pickle
from typing import Any

import polars as pl
import pyarrow as pa
import pydantic
import pytest
from polars import testing

from durably.codec import UNTYPED, Codec
from durably.codec.libraries import polars_forms, pyarrow_forms
from durably.errors import SerializationError, ValidationError

CODEC = Codec()
FRAME = pl.DataFrame(
    {
        "int": [1, None, 3],
        "text": ["a", "żółć", None],
        "time": [dt.datetime(2026, 1, 1), None, dt.datetime(2026, 1, 2)],
        "list": [[1], [], None],
        "struct": [{"a": 1}, {"a": 2}, None],
        "category": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        "enum": pl.Series(["x", "y", "x"], dtype=pl.Enum(["y", "x"])),
        "zone": pl.Series([dt.datetime(2026, 1, 1)] * 3).dt.replace_time_zone("Europe/Berlin"),
        "bytes": [b"\xff", None, b""],
    }
)
TABLE = pa.table({"a": [1, None], "b": [["x"], []], "c": pa.array([1, 2], pa.timestamp("s"))})


class Point(pydantic.BaseModel):
    x: int
    when: dt.datetime
    y: float = 1.5


class Aliased(pydantic.BaseModel):
    inner: Point = pydantic.Field(alias="Inner")
    names: dict[str, set[int]]


class Lossy(pydantic.BaseModel):
    secret: int = pydantic.Field(exclude=True, default=1)


class Numbers(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_inf_nan="constants", extra="allow")
    best: float
    all: dict[str, list[float]] = {}
    inner: Numbers | None = None


class Plain(pydantic.BaseModel):
    rate: float
    any: Any = None


def both(value: Any) -> list[Any]:
    text, first = CODEC.encode_and_decode({"in": value}, UNTYPED, what="a value")
    return [first["in"], CODEC.decode(text, UNTYPED, what="a value")["in"]]


def test_frames_of_polars_come_back() -> None:
    """A frame or a series has the same values and types, also without rows."""
    for frame in (FRAME, FRAME.clear(), pl.DataFrame()):
        for back in both(frame):
            testing.assert_frame_equal(back, frame, categorical_as_str=False)
    for series in (FRAME["struct"], FRAME["enum"], pl.Series("", [], dtype=pl.Int8)):
        for back in both(series):
            testing.assert_series_equal(back, series)


def test_what_the_job_changes_does_not_change_what_is_stored() -> None:
    """The value that a step returns shares no memory with what is stored."""
    frame = FRAME.clone()
    first = both(frame)[0]
    frame[0, "int"] = 99
    frame.drop_in_place("text")
    testing.assert_frame_equal(first, FRAME)


def test_values_of_pyarrow_come_back() -> None:
    """Tables, batches and arrays have the same values, types and metadata."""
    values = [
        TABLE.replace_schema_metadata({"k": "v"}),
        TABLE.slice(0, 0),
        pa.concat_tables([TABLE, TABLE]),
        TABLE.to_batches()[0],
        TABLE.to_batches()[0].slice(1, 0),
        pa.array([1, None, 3], pa.int8()),
        pa.array([], pa.string()),
        pa.DictionaryArray.from_arrays([0, 1, None], ["a", "b"]),
        pa.chunked_array([[1], [2, 3]]),
        pa.chunked_array([], pa.int64()),
    ]
    for value in values:
        for back in both(value):
            assert type(back) is type(value)
            assert back.equals(value)
            if isinstance(value, pa.Table):
                assert back.schema.equals(value.schema, check_metadata=True)


def test_models_come_back_of_their_class() -> None:
    """A pydantic model equals the one that was stored, nested ones and aliases included."""
    point = Point(x=1, when=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    for model in (point, Aliased(Inner=point, names={"a": {1, 2}})):
        for back in both([model]):
            assert type(back[0]) is type(model)
            assert back == [model]


def test_a_model_with_a_nan_comes_back() -> None:
    """A NaN, which equals nothing, does not count as a difference."""
    nan = float("nan")
    model = Numbers(best=nan, all={"a": [nan, 1.0]}, inner=Numbers(best=-nan), more=nan)  # type: ignore[call-arg] # extra
    for back in both(model):
        assert back.model_dump_json() == model.model_dump_json()
        assert back.inner.best != back.inner.best
        assert back.more != back.more


class Own(pl.DataFrame):
    pass


def local_model() -> pydantic.BaseModel:
    class Local(pydantic.BaseModel):
        x: int = 1

    return Local()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (FRAME.lazy, "collect it: return frame.collect()"),
        (lambda: pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), "column 'o' holds"),
        (lambda: Own({"a": [1]}), "return a polars.DataFrame or polars.Series made of it"),
        (lambda: pa.scalar(1), "return value.as_py()"),
        (lambda: TABLE.schema, "return str(value), or an empty table of that schema"),
        (local_model, "is not found by its name"),
        (lambda: Lossy(secret=7), "would come back as another"),
        (lambda: Plain(rate=1, any=(1,)), "return value.model_dump(), or give the class a form"),
        (lambda: Plain(rate=1, any=object()), "serialize unknown type: <class 'object'>; return"),
    ],
)
def test_what_is_not_stored_is_rejected_with_advice(make: Any, said: str) -> None:
    """The error names the place and says what to store instead."""
    with pytest.raises(SerializationError) as caught:
        both(make())
    assert "$.in: " in str(caught.value)
    assert said in str(caught.value)


def test_the_place_inside_of_a_model_is_named() -> None:
    """Its JSON has null for a NaN, unless the model says otherwise."""
    with pytest.raises(
        SerializationError, match=r"\$\.in\.rate: model_validate\(\) rejects .*Plain"
    ):
        both(Plain(rate=float("nan")))


@pytest.mark.parametrize("content", [b"", pickle.dumps(print), b"ARROW1\0\0" + bytes(50), b"x" * 9])
def test_a_hostile_file_is_an_error(content: bytes) -> None:
    """A file that durably did not write so is rejected, whatever it contains."""
    for form in (polars_forms.form_of(pl.DataFrame), polars_forms.form_of(pl.Series)):
        assert form is not None
        with pytest.raises(Exception, match="that durably did not write so"):
            form.decode(content)
    form = pyarrow_forms.form_of(pa.Table)
    assert form is not None
    with pytest.raises(Exception, match="that durably did not write so"):
        form.decode(content)


@pytest.mark.parametrize(
    ("name", "says"), [("Required", r"\$\.rate: .*equired; do this"), ("Gone", "here; .*; do this")]
)
def test_a_model_that_has_changed_is_named_with_advice(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stored model that does not fit its class any more is an error that says what to do."""
    made = pydantic.create_model("Required", rate=(float, ...))
    monkeypatch.setitem(globals(), "Required", made)
    text = '\t{"$":"pydantic.BaseModel","v":["' + f"{__name__}:{name}" + '",{}]}'
    with pytest.raises(SerializationError, match=says):
        CODEC.decode(text, UNTYPED, what="a value", advice="do this")


@pytest.mark.parametrize("name", ["os:system", "not_loaded:Model", "builtins:int", ":", "json:x.y"])
def test_a_name_in_what_is_stored_imports_and_calls_nothing(name: str) -> None:
    """A name that leads to no loaded model is an error."""
    text = '\t{"$": "pydantic.BaseModel", "v": ["' + name + '", {}]}'
    with pytest.raises((SerializationError, ValidationError), match="is not loaded here"):
        CODEC.decode(text, UNTYPED, what="a value")
