"""The forms of NumPy: scalars as JSON with their dtype, arrays in NumPy's own file format.

Nothing is ever pickled or unpickled. The header of an array is written and read here, since
``numpy.lib.format`` warns of some, and reserves memory for a size that only a header states.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import IO, Any, Final

import numpy as np

from durably.codec.forms import Form, Stream
from durably.codec.libraries.refusals import refused, unlike
from durably.codec.messages import NotStorable

_MAGIC: Final = b"\x93NUMPY"
_ALIGNED: Final = 64
_MAX_HEADER: Final = 1 << 20
_REFUSED: Final = (
    (np.ma.MaskedArray, "return array.filled(), or array.data and array.mask"),
    (np.ndarray, "return it as an array, with numpy.asarray(value)"),
    (np.dtype, "return str(dtype)"),
)
_OBJECTS: Final = "store what they hold: array.tolist(), or array.astype(str) for text"


def form_of(cls: type) -> Form | None:
    """Return the form of the values of exactly this class."""
    own = _OF.get(cls)
    if own is not None:
        return own
    if issubclass(cls, np.generic) and cls.__module__ == "numpy":
        return _SCALAR
    return next((refused(cls, said) for base, said in _REFUSED if issubclass(cls, base)), None)


def form_named(tag: str) -> Form | None:
    """Return the form of a tag."""
    return _NAMED.get(tag)


# --- Scalars -----------------------------------------------------------------------------------


def _encode_scalar(value: Any) -> list[Any]:
    data: Any
    kind = value.dtype.kind
    if kind in "mM":
        data = int(value.view("i8"))
    elif kind == "S":
        data = value.hex()
    elif kind == "c":
        data = [_real(value.real), _real(value.imag)]
    else:
        data = _real(value) if kind == "f" else value.item()
    return [
        value.dtype.str
        if kind in "mM"
        else value.dtype.name.rstrip("0123456789")
        if kind in "SU"
        else value.dtype.name,
        data,
    ]


def _real(value: Any) -> float | str:
    # A long double has more digits than a float; its text has all of them.
    return float(value) if value.dtype.itemsize <= 8 else str(value)


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (float, int, str),
    "U": (str,),
}


def _decode_scalar(stored: Any) -> Any:
    if type(stored) is not list or len(stored) != 2 or type(stored[0]) is not str:
        raise unlike("numpy.scalar")
    name, data = stored
    dtype = np.dtype(name)
    kind = dtype.kind
    if kind in "mM" and type(data) is int:
        return np.array(data, "i8").view(dtype)[()]
    if kind == "S" and type(data) is str:
        return np.bytes_(bytes.fromhex(data))
    if kind == "c" and type(data) is list and len(data) == 2:
        return _complex(dtype, data)
    if type(data) not in _KINDS.get(kind, ()):
        raise unlike("numpy.scalar")
    return dtype.type(data)


def _complex(dtype: Any, data: list[Any]) -> Any:
    # By parts: the product of an infinity and 1j would have a NaN.
    value = np.zeros((), dtype)
    real = value.real.dtype.type
    value.real, value.imag = real(data[0]), real(data[1])
    return value[()]


# --- Arrays ------------------------------------------------------------------------------------


def _encode_array(array: Any) -> Stream:
    header = _header(array)
    return Stream(lambda file: _write(file, header, array), len(header) + array.nbytes)


def _header(array: Any) -> bytes:
    if array.dtype.hasobject:
        msg = f"an array of dtype {array.dtype!s:.80} holds Python objects, which are not stored; "
        raise NotStorable(msg + _OBJECTS)
    if array.dtype.metadata:
        msg = "the dtype of the array has metadata, which would be lost; use a dtype without"
        raise NotStorable(msg)
    fields = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": _is_fortran(array),
        "shape": array.shape,
    }
    text = repr(fields).encode()
    version, length = (1, 2) if text.isascii() and len(text) < (1 << 16) - 100 else (3, 4)
    before = len(_MAGIC) + 2 + length
    text = text.ljust(-(-(before + len(text) + 1) // _ALIGNED) * _ALIGNED - before - 1) + b"\n"
    if len(text) > _MAX_HEADER:
        msg = "the dtype of the array has too many fields; return one array for each, in a dict"
        raise NotStorable(msg)
    return _MAGIC + bytes([version, 0]) + len(text).to_bytes(length, "little") + text


def _is_fortran(array: Any) -> bool:
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)


def _write(file: IO[bytes], header: bytes, array: Any) -> None:
    file.write(header)
    if not array.nbytes:
        return
    plain: Any = np.asarray(array)
    plain = plain.T if _is_fortran(plain) else plain
    if plain.flags.c_contiguous:
        file.write(memoryview(plain.reshape(-1).view(np.uint8)))
        return
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    size = max((1 << 24) // plain.itemsize, 1)
    chunks: Any = np.nditer(plain, flags=flags, buffersize=size, order="C")
    for chunk in chunks:
        file.write(chunk.tobytes("C"))


def _decode_array(file: IO[bytes]) -> Any:
    dtype, shape, is_fortran = _read_header(file)
    start = file.tell()
    size = file.seek(0, 2) - start
    if dtype.hasobject or min(shape, default=0) < 0 or size != math.prod(shape) * dtype.itemsize:
        raise unlike("numpy.ndarray")
    order: Any = "F" if is_fortran else "C"
    if not size:
        return np.empty(shape, dtype, order=order)
    if hasattr(file, "getbuffer"):
        file.seek(start)
        return np.frombuffer(bytearray(file.read()), dtype).reshape(shape, order=order)
    # Private: a change to the array is none to the file, and what is not used is not in memory.
    mapped = np.memmap(file, dtype, mode="c", offset=start, shape=shape, order=order)
    return mapped.view(np.ndarray)


def _read_header(file: IO[bytes]) -> tuple[Any, tuple[int, ...], bool]:
    begin = file.read(8)
    length = {b"\x01\x00": 2, b"\x03\x00": 4}.get(begin[6:])
    if begin[:6] != _MAGIC or length is None:
        raise unlike("numpy.ndarray")
    count = int.from_bytes(file.read(length), "little")
    if count > _MAX_HEADER:
        raise unlike("numpy.ndarray")
    try:
        header = ast.literal_eval(file.read(count).decode())
        descr, is_fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        dtype = np.lib.format.descr_to_dtype(descr)
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        raise unlike("numpy.ndarray") from None
    if type(shape) is not tuple or any(type(each) is not int for each in shape):
        raise unlike("numpy.ndarray")
    return dtype, shape, bool(is_fortran)


def _copy(array: Any) -> Any:
    """Return what reading an array back would return, without writing it."""
    return np.array(array, order="F" if _is_fortran(array) else "C", subok=False)


def _encode_record(value: Any) -> Stream:
    return _encode_array(np.array(value))


_decode_record: Callable[[IO[bytes]], Any] = lambda file: _decode_array(file)[()]  # noqa: E731
_SCALAR: Final = Form("numpy.scalar", _encode_scalar, _decode_scalar)
_RECORD: Final = Form("numpy.void", _encode_record, _decode_record, reads_file=True)
_ARRAY: Final = Form(
    "numpy.ndarray", _encode_array, _decode_array, reads_file=True, copy=_copy, maps_file=True
)
_NAMED: Final = {form.tag: form for form in (_SCALAR, _RECORD, _ARRAY)}
_OF: Final[dict[type, Form]] = {np.ndarray: _ARRAY, np.memmap: _ARRAY, np.void: _RECORD}
