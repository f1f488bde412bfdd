"""Write the arrays that pandas' objects are made of as columns of a Parquet file, and read them.

What can be written is decided by the dtype; only of objects is each value checked. A column that
cannot be written is named. What is said beside a column is JSON: its kind, and what makes the
dtype again.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
from typing import Any, Final, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from durably.codec.libraries.pandas_zones import tz_from, tz_text
from durably.codec.libraries.refusals import unlike
from durably.codec.messages import NotStorable

Spec = dict[str, Any]
_DIGITS: Final = 38  # of Arrow's and Parquet's decimals
# The types that a column of objects may have, beside None or NaN: all of it one of them. For
# numbers of the type Decimal it is chosen by their digits.
_OBJECTS: Final[dict[type, Any]] = {
    str: pa.large_string(),
    bytes: pa.large_binary(),
    bool: pa.bool_(),
    int: pa.int64(),
    dt.date: pa.date32(),
    dt.time: pa.time64("us"),
    decimal.Decimal: None,
}
_MASKED: Final = (
    pd.BooleanDtype,
    *(getattr(pd, f"{sign}Int{bits}Dtype") for sign in ("", "U") for bits in (8, 16, 32, 64)),
    pd.Float32Dtype,
    pd.Float64Dtype,
)


class Columns:
    """The columns of a file that is to be written."""

    def __init__(self) -> None:
        self._arrays: dict[str, Any] = {}

    def table(self) -> Any:
        """Return the table of all columns."""
        return pa.table(self._arrays)

    def put(self, array: Any, name: str, said: str = "the index") -> Spec:
        """Add an array of pandas or NumPy, and return what :meth:`Reader.get` needs of it.

        Args:
            said: what it is, for a message.

        Raises:
            NotStorable: it cannot be written.
        """
        try:
            return {"name": name, **self._put(array, name, said)}
        except (pa.ArrowException, OverflowError) as error:
            msg = f"{said} cannot be written to Parquet: {error!s:.120}"
            raise NotStorable(msg) from None

    def _put(self, array: Any, name: str, said: str) -> Spec:
        if type(array) is pd.arrays.NumpyExtensionArray:
            array = array.to_numpy()
        for cls, put in _WRITERS:
            if isinstance(array.dtype, cls):
                return cast("Spec", put(self, array, name, said))
        raise _refusal(said, array.dtype)

    def _zoned(self, array: Any, name: str, _: str) -> Spec:
        bare = array.tz_convert("UTC").tz_localize(None)
        self._arrays[name] = pa.array(np.asarray(bare).view("i8"))
        return {"kind": "zoned", "unit": array.dtype.unit, "zone": tz_text(array.dtype.tz)}

    def _category(self, array: Any, name: str, said: str) -> Spec:
        self._arrays[name] = pa.array(np.asarray(array.codes))
        categories = Columns()
        spec = categories.put(array.categories.array, "c", f"the categories of {said}")
        text = categories.text()
        return {"kind": "category", "of": spec, "in": text, "ordered": bool(array.ordered)}

    def _period(self, array: Any, name: str, _: str) -> Spec:
        self._arrays[name] = pa.array(np.asarray(array.asi8))
        freq = array.dtype.name.removeprefix("period[").removesuffix("]")
        return {"kind": "period", "freq": freq}

    def _interval(self, array: Any, name: str, said: str) -> Spec:
        ends = [
            self.put(getattr(end, "array", end), f"{name}.{side}", said)
            for side, end in (("left", array.left), ("right", array.right))
        ]
        return {"kind": "interval", "ends": ends, "closed": array.dtype.closed}

    def _string(self, array: Any, name: str, _: str) -> Spec:
        self._arrays[name] = pa.array(array, type=pa.large_string(), from_pandas=True)
        na = "NA" if array.dtype.na_value is pd.NA else "nan"
        return {"kind": "string", "storage": array.dtype.storage, "na": na}

    def _masked(self, array: Any, name: str, _: str) -> Spec:
        self._arrays[name] = pa.array(array)
        return {"kind": "masked", "dtype": array.dtype.name}

    def _arrow(self, array: Any, name: str, _: str) -> Spec:
        found = self._arrays[name] = pa.array(array)
        return {"kind": "arrow", "type": _type_text(found.type)}

    def _numpy(self, array: Any, name: str, said: str) -> Spec:
        kind = array.dtype.kind
        if kind == "O":
            return self._objects(array, name, said)
        if kind not in "biufmM" or array.dtype.itemsize > 8:
            raise _refusal(said, array.dtype)
        dtype = array.dtype.str
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        if kind in "mM":
            native = native.view("i8")
        elif native.dtype == np.float16:
            native = native.view("u2")
        # A NaN is a number, and not missing.
        self._arrays[name] = pa.array(native, from_pandas=False)
        return {"kind": "numpy", "dtype": dtype}

    def _objects(self, array: Any, name: str, said: str) -> Spec:
        types = set(map(type, array))
        has_none = type(None) in types
        values = types - {type(None)}
        has_nan = float in values
        if has_nan:
            values.remove(float)
            floats = [each for each in array if type(each) is float]
            if has_none or any(each == each for each in floats):  # noqa: PLR0124 - not a NaN
                raise _mixed(said, types)
            array = np.where(pd.isna(array), None, array)
        if len(values) > 1 or not values <= _OBJECTS.keys():
            raise _mixed(said, types)
        cls = values.pop() if values else str
        if cls is dt.time and any(each.tzinfo or each.fold for each in array if each is not None):
            msg = f"{said} holds times with a zone or a fold, which Parquet cannot hold; convert it"
            raise NotStorable(msg)
        arrow = _OBJECTS[cls]
        if cls is decimal.Decimal:
            arrow = _decimal_type([each for each in array if each is not None], said)
        self._arrays[name] = pa.array(array, type=arrow, from_pandas=False)
        return {"kind": "objects", "nan": has_nan}

    def text(self) -> str:
        """Return all columns as text: Arrow's file format in base64."""
        table = self.table()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return base64.b64encode(sink.getvalue()).decode("ascii")


# Private methods of this module's own class, by the class of the dtype that they write.
_WRITERS: Final[Any] = (
    (np.dtype, Columns._numpy),  # noqa: SLF001
    (pd.DatetimeTZDtype, Columns._zoned),  # noqa: SLF001
    (pd.CategoricalDtype, Columns._category),  # noqa: SLF001
    (pd.PeriodDtype, Columns._period),  # noqa: SLF001
    (pd.IntervalDtype, Columns._interval),  # noqa: SLF001
    (pd.StringDtype, Columns._string),  # noqa: SLF001
    (_MASKED, Columns._masked),  # noqa: SLF001
    (pd.ArrowDtype, Columns._arrow),  # noqa: SLF001
)


def _decimal_type(numbers: list[decimal.Decimal], said: str) -> Any:
    """Return the type that holds these numbers with as many digits as each of them has."""
    parts = [number.as_tuple() for number in numbers]
    exponent = parts[0].exponent
    is_held = all(
        each.exponent == exponent
        and len(each.digits) <= _DIGITS
        and (any(each.digits) or not each.sign)
        for each in parts
    )
    if type(exponent) is not int or not is_held or not -_DIGITS <= exponent <= 0:
        msg = (
            f"{said} holds decimals that do not all have the same number of places and at most "
            f"{_DIGITS} digits, which Parquet cannot hold; convert it with .map(str)"
        )
        raise NotStorable(msg)
    return pa.decimal128(_DIGITS, -exponent)


def _refusal(said: str, dtype: Any) -> NotStorable:
    return NotStorable(
        f"{said} has the dtype {dtype!s:.80}, which Parquet cannot hold; "
        "convert it with .astype(...), or return df.to_dict('records')"
    )


def _mixed(said: str, types: set[type]) -> NotStorable:
    names = ", ".join(sorted(each.__name__ for each in types))
    return NotStorable(
        f"{said} holds objects ({names:.120}), which Parquet cannot hold; it can hold texts, "
        "bytes, bools, ints, decimals, dates or times, all of one type and with None or NaN: "
        "convert it"
    )


def _type_text(type_: Any) -> str:
    schema = pa.schema([pa.field("c", type_)])
    return base64.b64encode(schema.serialize()).decode("ascii")


def _type_from(text: str) -> Any:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))).field(0).type


class Reader:
    """The columns of a file that was read."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def get(self, spec: Spec) -> Any:
        """Return the array that :meth:`Columns.put` was given.

        Raises:
            Exception: it is none that it wrote.
        """
        kind = spec["kind"]
        if kind == "interval":
            left, right = (self.get(end) for end in spec["ends"])
            return pd.arrays.IntervalArray.from_arrays(left, right, closed=spec["closed"])
        column = self._table.column(spec["name"])
        return _READERS[kind](column, spec)


def _get_numpy(column: Any, spec: Spec) -> Any:
    dtype = np.dtype(spec["dtype"])
    if dtype.kind not in "biufmM" or column.null_count:
        raise unlike("column")
    # Its own memory: what Arrow returns is read-only.
    array = np.array(column.to_numpy())
    if dtype.kind in "mM" or dtype == np.float16:
        return array.view(dtype.newbyteorder("=")).astype(dtype, copy=False)
    return array.astype(dtype, copy=False)


def _get_zoned(column: Any, spec: Spec) -> Any:
    bare = np.array(column.to_numpy()).view(f"M8[{spec['unit']}]")
    dtype = pd.DatetimeTZDtype(spec["unit"], tz_from(spec["zone"]))
    return pd.Series(bare).dt.tz_localize("UTC").dt.tz_convert(dtype.tz).array


def _get_category(column: Any, spec: Spec) -> Any:
    content = pa.py_buffer(base64.b64decode(spec["in"]))
    values = Reader(pa.ipc.open_file(content).read_all()).get(spec["of"])
    dtype = object if spec["of"]["kind"] == "objects" else values.dtype
    categories = pd.CategoricalDtype(pd.Index(values, dtype=dtype), ordered=spec["ordered"])
    return pd.Categorical.from_codes(column.to_numpy(), dtype=categories)


def _get_period(column: Any, spec: Spec) -> Any:
    return pd.arrays.PeriodArray(np.array(column.to_numpy()), dtype=pd.PeriodDtype(spec["freq"]))


def _get_string(column: Any, spec: Spec) -> Any:
    storage = spec["storage"]
    dtype: Any
    if spec["na"] == "NA":
        dtype = pd.StringDtype(storage)
    else:
        dtype = pd.StringDtype(storage, na_value=np.nan)
    return dtype.__from_arrow__(column)


def _get_masked(column: Any, spec: Spec) -> Any:
    dtype: Any = pd.api.types.pandas_dtype(spec["dtype"])
    if not isinstance(dtype, _MASKED):
        raise unlike("column")
    return dtype.__from_arrow__(column)


def _get_arrow(column: Any, spec: Spec) -> Any:
    type_ = _type_from(spec["type"])
    return pd.arrays.ArrowExtensionArray(column.cast(type_))


def _get_objects(column: Any, spec: Spec) -> Any:
    array = np.empty(len(column), object)
    array[:] = column.to_pylist()
    if spec["nan"]:
        array[[each is None for each in array]] = np.nan
    return array


_READERS: Final = {
    "numpy": _get_numpy,
    "zoned": _get_zoned,
    "category": _get_category,
    "period": _get_period,
    "string": _get_string,
    "masked": _get_masked,
    "arrow": _get_arrow,
    "objects": _get_objects,
}
