"""The forms of polars: frames and series in Arrow's file format, as polars writes it."""

from __future__ import annotations

import io
from typing import Any, Final

import polars as pl

from durably.codec.forms import Form, Stream
from durably.codec.libraries.refusals import refused, unlike
from durably.codec.messages import NotStorable

_BEGINS: Final = b"ARROW1"


def form_of(cls: type) -> Form | None:
    """Return the form of the values of exactly this class."""
    if issubclass(cls, pl.LazyFrame):
        return refused(cls, "collect it: return frame.collect()")
    form = _OF.get(cls)
    if form is None and issubclass(cls, (pl.DataFrame, pl.Series)):
        return refused(cls, "return a polars.DataFrame or polars.Series made of it")
    if form is None and issubclass(cls, pl.Expr):
        return refused(cls, "return what it computes")
    return form


def form_named(tag: str) -> Form | None:
    """Return the form of a tag."""
    return _NAMED.get(tag)


def _stream(frame: Any) -> Stream:
    for name, dtype in frame.schema.items():
        if _has_objects(dtype):
            msg = f"column {name!r:.80} holds Python objects, which are not stored; cast it"
            raise NotStorable(msg)
    if not frame.width and frame.height:
        msg = "a frame of rows without columns has no stored form; return its height"
        raise NotStorable(msg)
    return Stream(frame.write_ipc, frame.estimated_size())


def _has_objects(dtype: Any) -> bool:
    if dtype == pl.Object:
        return True
    inner = [getattr(dtype, "inner", None), *(f.dtype for f in getattr(dtype, "fields", ()))]
    return any(_has_objects(each) for each in inner if each is not None)


def _frame(stored: bytes, tag: str) -> Any:
    if not stored.startswith(_BEGINS):
        raise unlike(tag)
    try:
        frame = pl.read_ipc(io.BytesIO(stored))
    except (pl.exceptions.PolarsError, ValueError, OSError):
        raise unlike(tag) from None
    if any(_has_objects(dtype) for dtype in frame.schema.values()):
        raise unlike(tag)
    return frame


def _series(stored: bytes) -> Any:
    frame = _frame(stored, "polars.Series")
    if frame.width != 1:
        raise unlike("polars.Series")
    return frame.to_series()


_FRAME: Final = Form(
    "polars.DataFrame",
    _stream,
    lambda stored: _frame(stored, "polars.DataFrame"),
    copy=lambda frame: frame.clone(),
)
_SERIES: Final = Form(
    "polars.Series",
    lambda series: _stream(series.to_frame()),
    _series,
    copy=lambda series: series.clone(),
)
_OF: Final[dict[type, Form]] = {pl.DataFrame: _FRAME, pl.Series: _SERIES}
_NAMED: Final = {form.tag: form for form in (_FRAME, _SERIES)}
