"""The forms of pandas: single values as JSON; frames, series and indexes as Parquet by pyarrow.

The names, the index, the dtypes and ``attrs`` are JSON in the file's metadata, written and read by
:mod:`durably.codec.libraries.pandas_columns` and this module: what pyarrow would do loses some.
"""

from __future__ import annotations

import binascii
import io
import json
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from durably.codec.form_lookup import Forms
from durably.codec.forms import Form, Stream
from durably.codec.json_text import dump
from durably.codec.libraries.pandas_zones import tz_from, tz_text
from durably.codec.libraries.refusals import refused, unlike
from durably.codec.messages import NotStorable
from durably.codec.tagged import TaggedValues

if TYPE_CHECKING:
    from durably.codec.libraries.pandas_columns import Columns, Reader

_KEY: Final = b"durably"
_NO_PYARROW: Final = (
    "frames are stored by pyarrow, which is not installed: `pip install 'durably[pandas]'`, "
    'or return df.to_dict("records")'
)
_MUST_COPY: Final = int(pd.__version__.partition(".")[0]) < 3
_REFUSED: Final = (
    (pd.DataFrame, "return it as a pandas.DataFrame(value)"),
    (pd.Series, "return it as a pandas.Series(value)"),
    (pd.Index, "return it as a pandas.Index(value)"),
    (pd.api.extensions.ExtensionArray, "return it as a pandas.Series(value)"),
    (pd.api.extensions.ExtensionDtype, "return str(dtype)"),
)


def form_of(cls: type) -> Form | None:
    """Return the form of the values of exactly this class."""
    form = _OF.get(cls)
    if form is not None:
        return form
    return next((refused(cls, said) for base, said in _REFUSED if issubclass(cls, base)), None)


def form_named(tag: str) -> Form | None:
    """Return the form of a tag."""
    return _NAMED.get(tag)


# --- Single values -----------------------------------------------------------------------------


def _encode_timestamp(value: Any) -> list[Any]:
    bare = value if value.tzinfo is None else value.tz_convert("UTC").tz_localize(None)
    zone = None if value.tzinfo is None else tz_text(value.tzinfo)
    return [int(bare.to_datetime64().view("i8")), value.unit, zone]


def _decode_timestamp(stored: Any) -> Any:
    number, unit, zone = _number_unit(stored, 3)
    value = pd.Timestamp(np.datetime64(number, unit))
    return value if zone is None else value.tz_localize("UTC").tz_convert(tz_from(zone))


def _number_unit(stored: Any, count: int) -> list[Any]:
    is_such = type(stored) is list and len(stored) == count and type(stored[0]) is int
    if not is_such or stored[1] not in ("s", "ms", "us", "ns"):
        msg = "pandas.Timestamp or pandas.Timedelta"
        raise unlike(msg)
    return cast("list[Any]", stored)


def _encode_timedelta(value: Any) -> list[Any]:
    return [int(value.to_timedelta64().view("i8")), value.unit]


def _decode_timedelta(stored: Any) -> Any:
    number, unit = _number_unit(stored, 2)
    return pd.Timedelta(np.timedelta64(number, unit))


def _decode_period(stored: Any) -> Any:
    number, freq = stored
    return pd.Period(ordinal=number, freq=freq)


# --- Axes --------------------------------------------------------------------------------------


def _labels(values: Any) -> Any:
    return TaggedValues(Forms(), None).write(values)[0]


def _unlabelled(data: Any) -> Any:
    return TaggedValues(Forms(), None).read(data)


def _put_index(index: Any, columns: Columns, name: str) -> dict[str, Any]:
    """Add what an index holds to the columns, and return what else it is."""
    cls = type(index)
    names = _labels(list(index.names))
    if cls is pd.RangeIndex:
        return {"names": names, "range": [index.start, index.stop, index.step]}
    if cls is pd.MultiIndex:
        spec = {
            "names": names,
            "codes": [
                columns.put(np.asarray(codes), f"{name}.codes{i}")
                for i, codes in enumerate(index.codes)
            ],
            "levels": [_index_text(level) for level in index.levels],
        }
        if index.sortorder is not None:
            spec["sortorder"] = index.sortorder
        return spec
    if form_of(cls) is not _INDEX:
        msg = f"its index is a {cls.__name__}, which has no stored form; use reset_index()"
        raise NotStorable(msg)
    freq = getattr(index, "freqstr", None) if cls in _WITH_FREQ else None
    return {"names": names, "values": columns.put(index.array, name), "freq": freq}


def _get_index(spec: Any, reader: Reader) -> Any:
    names = _unlabelled(spec["names"])
    if "range" in spec:
        return pd.RangeIndex(*spec["range"], name=names[0])
    if "levels" in spec:
        return pd.MultiIndex(
            levels=[_index_from(text) for text in spec["levels"]],
            codes=[reader.get(codes) for codes in spec["codes"]],
            sortorder=spec.get("sortorder"),
            names=names,
            verify_integrity=True,
        )
    values = reader.get(spec["values"])
    dtype: Any = values.dtype if spec["values"]["kind"] != "objects" else object
    if spec["freq"] is not None:
        cls = pd.DatetimeIndex if dtype.kind == "M" else pd.TimedeltaIndex
        return cls(values, freq=spec["freq"], name=names[0])
    return pd.Index(values, dtype=dtype, name=names[0], tupleize_cols=False)


def _put_labels(index: Any) -> dict[str, Any]:
    """Return the labels of the columns of a frame, or what stands for them."""
    if type(index) is pd.Index and index.dtype == object:
        return {"labels": _labels(list(index)), "names": _labels(list(index.names))}
    return {"index": _index_text(index)}


def _get_labels(spec: Any) -> Any:
    if "index" in spec:
        return _index_from(spec["index"])
    labels, names = _unlabelled(spec["labels"]), _unlabelled(spec["names"])
    return pd.Index(labels, dtype=object, name=names[0], tupleize_cols=False)


def _index_text(index: Any) -> str:
    columns = _columns_module().Columns()
    return _in_text(columns, {"index": _put_index(index, columns, "index")})


def _index_from(text: str) -> Any:
    reader, spec = _read(io.BytesIO(binascii.a2b_base64(text)))
    return _get_index(spec["index"], reader)


def _in_text(columns: Columns, spec: dict[str, Any]) -> str:
    file = io.BytesIO()
    _stream(columns, spec).write(file)
    return binascii.b2a_base64(file.getbuffer(), newline=False).decode("ascii")


# --- Files -------------------------------------------------------------------------------------


def _columns_module() -> Any:
    try:
        from durably.codec.libraries import pandas_columns  # noqa: PLC0415 - optional dependency
    except ImportError:
        raise NotStorable(_NO_PYARROW) from None
    return pandas_columns


def _stream(columns: Columns, spec: dict[str, Any]) -> Stream:
    import pyarrow.parquet as pq  # noqa: PLC0415 - optional dependency

    table = columns.table().replace_schema_metadata({_KEY: dump(spec).encode()})
    return Stream(lambda file: pq.write_table(table, file), table.nbytes)


def _read(file: IO[bytes]) -> tuple[Reader, Any]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - optional dependency

    table = pq.ParquetFile(file).read(use_pandas_metadata=False)
    spec = json.loads((table.schema.metadata or {})[_KEY])
    return _columns_module().Reader(table), spec


def _stored(put: Callable[[Any, Columns], dict[str, Any]]) -> Callable[[Any], Stream]:
    def encode(value: Any) -> Stream:
        columns = _columns_module().Columns()
        return _stream(columns, put(value, columns))

    return encode


def _read_back(tag: str, get: Callable[[Any, Reader], Any]) -> Callable[[IO[bytes]], Any]:
    def decode(file: IO[bytes]) -> Any:
        arrow_error = _columns_module().pa.ArrowException
        try:
            reader, spec = _read(file)
            return get(spec, reader)
        except (arrow_error, LookupError, ValueError, TypeError, AttributeError, OSError):
            raise unlike(tag) from None

    return decode


def _put_frame(frame: Any, columns: Columns) -> dict[str, Any]:
    return {
        "rows": len(frame),
        "index": _put_index(frame.index, columns, "index"),
        "columns": _put_labels(frame.columns),
        "values": [
            columns.put(frame.iloc[:, i].array, f"{i}", f"column {label!r:.80}")
            for i, label in enumerate(frame.columns)
        ],
        "attrs": _labels(frame.attrs),
        "unique": not frame.flags.allows_duplicate_labels,
    }


def _get_frame(spec: Any, reader: Reader) -> Any:
    index = _get_index(spec["index"], reader)
    values = {i: reader.get(each) for i, each in enumerate(spec["values"])}
    frame = pd.DataFrame(
        {
            i: pd.Series(each, index=index, dtype=each.dtype, copy=False)
            for i, each in values.items()
        },
        index=index,
    )
    frame.columns = _get_labels(spec["columns"])
    return _finished(frame, spec)


def _put_series(series: Any, columns: Columns) -> dict[str, Any]:
    return {
        "index": _put_index(series.index, columns, "index"),
        "name": _labels(series.name),
        "values": columns.put(series.array, "values", "the series"),
        "attrs": _labels(series.attrs),
        "unique": not series.flags.allows_duplicate_labels,
    }


def _get_series(spec: Any, reader: Reader) -> Any:
    values = reader.get(spec["values"])
    series = pd.Series(
        values, index=_get_index(spec["index"], reader), dtype=values.dtype, copy=False
    )
    series.name = _unlabelled(spec["name"])
    return _finished(series, spec)


def _finished(value: Any, spec: Any) -> Any:
    value.attrs = _unlabelled(spec["attrs"])
    if spec["unique"]:
        value.flags.allows_duplicate_labels = False
    return value


def _copy(value: Any) -> Any:
    # From pandas 3 on, a change to the one is none to the other: then that part is copied.
    copy = value.copy(deep=_MUST_COPY)
    copy.attrs = _unlabelled(_labels(value.attrs))
    return copy


_FRAME: Final = Form(
    "pandas.DataFrame",
    _stored(_put_frame),
    _read_back("pandas.DataFrame", _get_frame),
    reads_file=True,
    copy=_copy,
)
_SERIES: Final = Form(
    "pandas.Series",
    _stored(_put_series),
    _read_back("pandas.Series", _get_series),
    reads_file=True,
    copy=_copy,
)
_INDEX: Final = Form(
    "pandas.Index",
    _stored(lambda index, columns: {"index": _put_index(index, columns, "index")}),
    _read_back("pandas.Index", lambda spec, reader: _get_index(spec["index"], reader)),
    reads_file=True,
    copy=lambda index: index.copy(deep=True),
)
_TIMESTAMP: Final = Form("pandas.Timestamp", _encode_timestamp, _decode_timestamp)
_TIMEDELTA: Final = Form("pandas.Timedelta", _encode_timedelta, _decode_timedelta)
_PERIOD: Final = Form("pandas.Period", lambda value: [value.ordinal, value.freqstr], _decode_period)
_NAT: Final = Form("pandas.NaT", lambda _: None, lambda _: pd.NaT)
_NA: Final = Form("pandas.NA", lambda _: None, lambda _: pd.NA)
_WITH_FREQ: Final = (pd.DatetimeIndex, pd.TimedeltaIndex)
_OF: Final[dict[type, Form]] = {
    pd.DataFrame: _FRAME,
    pd.Series: _SERIES,
    pd.Timestamp: _TIMESTAMP,
    pd.Timedelta: _TIMEDELTA,
    pd.Period: _PERIOD,
    type(pd.NaT): _NAT,
    type(pd.NA): _NA,
    **dict.fromkeys(
        (
            pd.Index,
            pd.RangeIndex,
            pd.MultiIndex,
            pd.CategoricalIndex,
            pd.IntervalIndex,
            pd.PeriodIndex,
            pd.DatetimeIndex,
            pd.TimedeltaIndex,
        ),
        _INDEX,
    ),
}
_NAMED: Final = {form.tag: form for form in _OF.values()}
