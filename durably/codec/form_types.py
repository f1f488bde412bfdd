"""Complete the codecs of the types of libraries, whose values are stored by their forms."""

from __future__ import annotations

import typing
from typing import Any

from durably.codec.form_lookup import form_of_a_library
from durably.codec.forms import Form
from durably.codec.messages import Unsupported, name_of
from durably.codec.type_codec import TypeCodec


def library_type(codec: TypeCodec) -> bool:
    """Complete the codec of a library's type; return whether it is one.

    Raises:
        Unsupported: its values are not stored.
    """
    cls: Any = typing.get_origin(codec.type) or codec.type
    form = form_of_a_library(cls) if isinstance(cls, type) else None
    if not isinstance(form, Form):
        return False
    if form.refusal:
        msg = f"{name_of(cls)} has no stored form; {form.refusal}"
        raise Unsupported(msg)
    codec.compares, codec.has_form = False, True
    if form.structure is None:
        _whole(codec, cls)
    else:
        _structured(codec, cls, form)
    return True


def _whole(codec: TypeCodec, cls: type) -> None:
    """Leave a value as it is: what writes values without a type writes it."""

    def write(value: Any) -> Any:
        return value if isinstance(value, cls) else codec.misfit(value)

    def read(data: Any, _: Any = None) -> Any:
        if not isinstance(data, cls):
            raise codec.mismatch(data)
        return data

    codec.write, codec.read = write, read


def _structured(codec: TypeCodec, cls: type, form: Any) -> None:
    """Write the data of an instance, without the name of its class, which the type says."""
    unstructure, structure = form.structure
    codec.is_open = True  # which data fits, only the structure function knows

    def write(value: Any) -> Any:
        if type(value) is not cls:
            return codec.misfit(value)
        return unstructure(value)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is cls:
            return data
        if type(data) not in (dict, list, str, int, float, bool):
            raise codec.mismatch(data)
        return structure(cls, data)

    codec.write, codec.read = write, read
