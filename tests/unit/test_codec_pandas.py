"""Values of pandas come back as they were, type for type; ``assert_frame_equal`` decides."""

from __future__ import annotations

import datetime as dt
import io
import json
import pickle
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import testing

from durably.codec import UNTYPED, Codec
from durably.codec.libraries import pandas_forms
from durably.errors import SerializationError

CODEC = Codec()
TIMES = pd.date_range("2026-01-01", periods=3, freq="D")
BERLIN = ZoneInfo("Europe/Berlin")

COLUMNS: dict[str, Any] = {
    "bool": [True, False, True],
    "int8": np.array([1, 2, 3], "i1"),
    "uint64": np.array([1, 2, 2**64 - 1], "u8"),
    "float16": np.array([0.1, np.nan, 3], "f2"),
    "float32": np.array([0.1, np.nan, np.inf], "f4"),
    "float": [0.1, np.nan, -0.0],
    "str": pd.Series(["a", "żółć", np.nan], dtype="str"),
    "objects": pd.Series(["a", None, "b"], dtype=object),
    "objects with NaN": pd.Series(["a", np.nan, "b"], dtype=object),
    "only None": pd.Series([None, None, None], dtype=object),
    "only NaN": pd.Series([np.nan, np.nan, np.nan], dtype=object),
    "bytes": pd.Series([b"a", None, b"\xff"], dtype=object),
    "bools or None": pd.Series([True, None, False], dtype=object),
    "dates": pd.Series([dt.date(2026, 1, 1), None, dt.date(1, 1, 1)], dtype=object),
    "times": pd.Series([dt.time(1, 2, 3, 4), None, dt.time()], dtype=object),
    "decimals": pd.Series([Decimal("1.10"), None, Decimal("-20.00")], dtype=object),
    "decimals and NaN": pd.Series([Decimal(0), np.nan, Decimal("9" * 38)], dtype=object),
    "string python": pd.Series(["a", pd.NA, "b"], dtype="string[python]"),
    "string pyarrow": pd.Series(["a", pd.NA, "b"], dtype="string[pyarrow]"),
    "Int64": pd.Series([1, pd.NA, 3], dtype="Int64"),
    "UInt8": pd.Series([1, pd.NA, 3], dtype="UInt8"),
    "Float32": pd.Series([1, pd.NA, 3], dtype="Float32"),
    "boolean": pd.Series([True, pd.NA, False], dtype="boolean"),
    "seconds": pd.Series(TIMES).astype("datetime64[s]"),
    "nanoseconds": pd.Series([pd.Timestamp(1, unit="ns"), pd.NaT, TIMES[0]]).astype("M8[ns]"),
    "zone": pd.Series(TIMES.tz_localize(BERLIN)),
    "offset": pd.Series(TIMES.tz_localize(dt.timezone(dt.timedelta(hours=2)))),
    "timedelta": pd.Series([pd.Timedelta(1, "s"), pd.NaT, pd.Timedelta(7, "ms")]),
    "category": pd.Categorical(["b", "a", None], ["b", "a", "unused"], ordered=True),
    "category of ints": pd.Categorical([3, 1, 3]),
    "category of times": pd.Categorical([TIMES[0], TIMES[1], TIMES[0]]),
    "period": pd.period_range("2026-01", periods=3, freq="M"),
    "interval": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3], closed="left"),
    "arrow list": pd.Series([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
    "arrow seconds": pd.Series(
        [dt.datetime(2026, 1, 1), None, dt.datetime(2026, 1, 2)],
        dtype=pd.ArrowDtype(pa.timestamp("s")),
    ),
    "arrow string": pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.string())),
}

INDEXES: dict[str, pd.Index] = {
    "range": pd.RangeIndex(5, 20, 5, name="n"),
    "text": pd.Index(["a", "b", "a"], name=("a", 1)),
    "objects": pd.Index(["a", None, "b"], dtype=object),
    "ints": pd.Index([3, 1, 2], dtype="int32"),
    "days": TIMES,
    "business": pd.date_range("2026-01-01", periods=3, freq="W-MON", tz=BERLIN),
    "deltas": pd.timedelta_range("1h", periods=3, freq="h"),
    "periods": pd.period_range("2026-01", periods=3, freq="Q-DEC"),
    "intervals": pd.interval_range(0, 3),
    "categories": pd.CategoricalIndex(["a", "b", "a"]),
    "multi": pd.MultiIndex.from_arrays(
        [["a", "a", "b"], [1, 2, None], TIMES], names=["x", 1, None]
    ),
    "masked": pd.Index([1, 2, 3], dtype="Int16"),
}


def both(value: Any) -> list[Any]:
    text, first = CODEC.encode_and_decode(value, UNTYPED, what="a value")
    return [first, CODEC.decode(text, UNTYPED, what="a value")]


def check(frame: Any) -> None:
    for back in both([frame]):
        (found,) = back
        if isinstance(frame, pd.Series):
            testing.assert_series_equal(found, frame, check_freq=True, check_flags=True)
        else:
            testing.assert_frame_equal(found, frame, check_freq=True, check_flags=True)
        assert found.attrs == frame.attrs


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name: str) -> None:
    """A column of each dtype has the same values and dtype, also without rows."""
    check(pd.DataFrame({"a": COLUMNS[name]}))
    check(pd.Series(COLUMNS[name], name=name))
    check(pd.DataFrame({"a": COLUMNS[name]}).iloc[:0])
    for back in both(pd.Series(COLUMNS[name])):
        assert list(map(repr, back)) == list(map(repr, pd.Series(COLUMNS[name])))


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_comes_back_as_it_was(name: str) -> None:
    """An index of each kind is the same for rows, for columns and by itself."""
    index = INDEXES[name]
    check(pd.DataFrame({"a": [1.5, 2.5, 3.5]}, index=index))
    check(pd.DataFrame([[1, 2, 3]], columns=index))
    for back in both(index):
        testing.assert_index_equal(back, index, exact=True, check_categorical=True)
        assert getattr(back, "freq", None) == getattr(index, "freq", None)


def test_names_attributes_and_flags_come_back() -> None:
    """A frame keeps its names, ``attrs`` and flags, and columns of one name."""
    frame = pd.DataFrame([[1, "x", 2.5]], columns=pd.Index([1, "a", (2, TIMES[0])], name="of"))
    frame.attrs = {"unit": "kg", "when": dt.datetime(2026, 1, 1), "both": (1, 2)}
    check(frame)
    check(pd.DataFrame([[1, 2]], columns=["twice", "twice"]))
    check(pd.DataFrame(index=range(4)))
    check(pd.DataFrame())
    check(pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False))
    check(pd.Series([1], name=("a", None)))


def test_what_the_job_changes_does_not_change_what_is_stored() -> None:
    """The value that a step returns shares no memory with what is stored."""
    frame = pd.DataFrame({"a": [1, 2]})
    frame.attrs["list"] = [1]
    first = both(frame)[0]
    frame.loc[0, "a"] = 99
    frame.attrs["list"].append(2)
    assert first.loc[0, "a"] == 1
    assert first.attrs == {"list": [1]}


def test_single_values_come_back_as_the_same_type() -> None:
    """A timestamp, a duration, a period and the like have the same class, unit and zone."""
    values = [
        pd.Timestamp("2026-10-25T01:30:00.123456789", tz="UTC").tz_convert(BERLIN),
        pd.Timestamp("2026-11-28").as_unit("s"),
        pd.Timestamp("2026-11-28", tz="UTC"),
        pd.Timedelta(7, "ns"),
        pd.Timedelta(7, "s").as_unit("ms"),
        pd.Period("2026-11", "M"),
    ]
    for value in values:
        for back in both(value):
            assert (type(back), back) == (type(value), value)
            assert getattr(back, "unit", None) == getattr(value, "unit", None)
            assert str(back) == str(value)
    assert all(back is pd.NaT for back in both(pd.NaT))
    assert all(back is pd.NA for back in both(pd.NA))


class Frame(pd.DataFrame):
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pd.DataFrame({"ok": [1], "z": [1j]}), "column 'z' has the dtype complex128"),
        (lambda: pd.DataFrame({"z": [[1]]}), "column 'z' holds objects (list)"),
        (lambda: pd.DataFrame({"z": pd.Series(["a", 1], dtype=object)}), "(int, str)"),
        (lambda: pd.DataFrame({"z": pd.arrays.SparseArray([0, 1])}), "column 'z' has the dtype Sp"),
        (lambda: Frame({"a": [1]}), "return it as a pandas.DataFrame(value)"),
        (lambda: pd.Series([1]).array, "return it as a pandas.Series(value)"),
        *(
            (
                lambda texts=texts: pd.DataFrame({"z": list(map(Decimal, texts))}),
                "column 'z' holds dec",
            )
            for texts in (["1.1", "2"], ["NaN"], ["1E+5"], ["-0.0"], ["9" * 39])
        ),
        (lambda: pd.DataFrame({"z": [dt.time(1, fold=1)]}), "column 'z' holds times with a zone"),
        (lambda: pd.Series(["a", 2**70], dtype=object), "the series holds objects"),
    ],
)
def test_what_parquet_cannot_hold_is_rejected_by_name(make: Callable[[], Any], said: str) -> None:
    """The error names the column and says how to convert it."""
    with pytest.raises(SerializationError) as caught:
        both({"train": make()})
    assert "$.train: " in str(caught.value)
    assert said in str(caught.value)


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame cannot be stored without PyArrow, and the error names the package."""
    frame = pd.DataFrame({"a": [1]})
    monkeypatch.delitem(sys.modules, "durably.codec.libraries.pandas_columns", raising=False)
    monkeypatch.delattr("durably.codec.libraries.pandas_columns", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SerializationError) as caught:
        both(frame)
    assert "`pip install 'durably[pandas]'`, or return df.to_dict(\"records\")" in str(caught.value)


def parquet(metadata: dict[bytes, bytes]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"0": [1]}).replace_schema_metadata(metadata), file)
    return file.getvalue()


SPEC = {
    "index": {"names": [None], "range": [0, 1, 1]},
    "columns": {"labels": ["a"], "names": [None]},
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps(print),
        b"PAR1" + bytes(20) + b"PAR1",
        parquet({}),
        parquet({b"durably": b"{"}),
        parquet({b"durably": json.dumps(SPEC).encode()}),
        parquet({b"durably": json.dumps({**SPEC, "values": [{"kind": "eval"}]}).encode()}),
        parquet(
            {
                b"durably": json.dumps(
                    {**SPEC, "values": [{"kind": "numpy", "name": "0", "dtype": "O"}]}
                ).encode()
            }
        ),
    ],
)
def test_a_hostile_file_is_an_error(content: bytes) -> None:
    """A file that durably did not write so is rejected, whatever it contains."""
    form = pandas_forms.form_of(pd.DataFrame)
    assert form is not None
    with pytest.raises(Exception, match="that durably did not write so"):
        form.decode(io.BytesIO(content))
