"""The forms of pyarrow: tables, batches and arrays in Arrow's own file format."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Final, cast

import pyarrow as pa

from durably.codec.forms import Form, Stream
from durably.codec.libraries.refusals import refused, unlike


def form_of(cls: type) -> Form | None:
    """Return the form of the values of exactly this class."""
    for base, form in _OF:
        if issubclass(cls, base):
            return cast("Form", form)
    if issubclass(cls, pa.Scalar):
        return refused(cls, "return value.as_py()")
    if issubclass(cls, (pa.Schema, pa.DataType, pa.Field)):
        return refused(cls, "return str(value), or an empty table of that schema")
    return None


def form_named(tag: str) -> Form | None:
    """Return the form of a tag."""
    return _NAMED.get(tag)


def _encode(to_table: Callable[[Any], Any]) -> Callable[[Any], Stream]:
    def encode(value: Any) -> Stream:
        table = to_table(value)

        def write(file: IO[bytes]) -> None:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)

        return Stream(write, table.nbytes)

    return encode


def _decode(tag: str, from_table: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    def decode(stored: bytes) -> Any:
        try:
            table = pa.ipc.open_file(pa.py_buffer(stored)).read_all()
            table.validate(full=True)
            return from_table(table)
        except (pa.ArrowException, LookupError, ValueError, TypeError, OSError):
            raise unlike(tag) from None

    return decode


def _one_batch(table: Any) -> Any:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _one_array(table: Any) -> Any:
    chunks = table.column(0).chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [_none_of(table)])


def _none_of(table: Any) -> Any:
    return pa.array([], table.schema.field(0).type)


def _form(name: str, to_table: Callable[[Any], Any], from_table: Callable[[Any], Any]) -> Form:
    tag = f"pyarrow.{name}"
    return Form(tag, _encode(to_table), _decode(tag, from_table))


_OF: Final[Any] = (
    (pa.Table, _form("Table", lambda table: table, lambda table: table)),
    (
        pa.RecordBatch,
        _form("RecordBatch", lambda batch: pa.Table.from_batches([batch]), _one_batch),
    ),
    (
        pa.ChunkedArray,
        _form("ChunkedArray", lambda array: pa.table({"a": array}), lambda table: table.column(0)),
    ),
    (pa.Array, _form("Array", lambda array: pa.table({"a": array}), _one_array)),
)
_NAMED: Final = {form.tag: form for _, form in _OF}
