"""Values of NumPy come back as they were, type for type; nothing of them is unpickled."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from durably.codec import UNTYPED, Codec
from durably.codec.libraries import numpy_forms
from durably.errors import SerializationError

CODEC = Codec()

SCALARS = [
    np.bool_(True),
    np.int8(-5),
    np.uint64(2**64 - 1),
    np.float16(0.1),
    np.float32(0.1),
    np.float64(0.1),
    np.float64("-inf"),
    np.longdouble("0.1") + np.longdouble("1e-19"),
    np.complex64(1 + 0.1j),
    np.complex128(complex(float("inf"), -0.0)),
    np.clongdouble(1.5 + 0.1j),
    np.datetime64("2026-11-28T10:12:00.123456789"),
    np.datetime64("2026-11"),
    np.timedelta64(7, "25s"),
    np.str_("zażółć"),
    np.bytes_(b"\xff\x00a"),
    np.array((1, "two"), dtype=[("a", ">i4"), ("b", "U3")])[()],
]
STRUCTURED = np.array([(1, 2.5), (3, 4.5)], dtype=[("größe", "<i4"), ("b", ">f8")])
WIDE = np.arange(12.0).reshape(3, 4)
ARRAYS = {
    "empty": np.empty((0, 3), "f4"),
    "0-d": np.array(7, ">u2"),
    "C": WIDE,
    "F": np.asfortranarray(WIDE),
    "not contiguous": np.arange(60).reshape(3, 4, 5)[::-1, ::2, 1::3],
    "byte order": WIDE.astype(">f8"),
    "structured": STRUCTURED,
    "times": np.array(["2026-01-01", "NaT"], "datetime64[s]"),
    "texts": np.array(["a", "żółć"]),
    "no bytes": np.zeros(3, "S0"),
    "half": np.array([0.1, np.nan], "f2"),
    "complex": np.array([1j, np.inf]),
}


def both(value: Any) -> tuple[str, list[Any]]:
    text, first = CODEC.encode_and_decode(value, UNTYPED, what="a value")
    return text, [first, CODEC.decode(text, UNTYPED, what="a value")]


def test_scalars_come_back_as_the_same_type() -> None:
    """A scalar has the same class, dtype and bytes."""
    for scalar in SCALARS:
        for back in both({"in": [scalar]})[1]:
            found = back["in"][0]
            assert type(found) is type(scalar)
            assert found.dtype == scalar.dtype
            assert found == scalar
    for missing in (np.float32("nan"), np.datetime64("NaT", "s"), np.timedelta64("NaT", "ms")):
        for back in both(missing)[1]:
            assert (type(back), back.dtype) == (type(missing), missing.dtype)
            assert np.isnan(back) if missing.dtype.kind == "f" else np.isnat(back)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_equal_in_dtype_shape_order_and_bytes(name: str) -> None:
    """An array is the same in all that NumPy distinguishes."""
    array = ARRAYS[name]
    for back in both((array,))[1]:
        (found,) = back
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
        assert found.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
        assert found.flags.writeable
        assert not np.shares_memory(found, array)


def test_the_bytes_are_a_file_that_numpy_reads() -> None:
    """``numpy.load`` reads what is stored of an array."""
    for array in ARRAYS.values():
        form = numpy_forms.form_of(np.ndarray)
        assert form is not None
        file = io.BytesIO()
        form.encode(array).write(file)
        file.seek(0)
        read = np.load(file, allow_pickle=False)
        assert (read.dtype, read.tobytes()) == (array.dtype, array.tobytes())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([object()]), "$.a: an array of dtype object holds Python objects"),
        (np.ma.masked_array([1], [True]), "MaskedArray has no stored form; return array.filled()"),
        (np.rec.array([(1, 2)]), "recarray has no stored form; return it as an array"),
        (np.zeros(1, np.dtype("i4", metadata={"a": 1})), "the dtype of the array has metadata"),
        (np.dtype("i4"), "return str(dtype)"),
    ],
)
def test_what_is_not_stored_is_rejected_with_advice(value: Any, said: str) -> None:
    """The error says what to store instead."""
    with pytest.raises(SerializationError) as caught:
        both({"a": value})
    assert said in str(caught.value)


def npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps(print),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([print])),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999,)}", bytes(8)),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, -1)}", bytes(8)),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': 'x'}"),
        npy("print()"),
        npy("(" * 5000),
    ],
)
def test_a_hostile_file_is_an_error(content: bytes) -> None:
    """A file that durably did not write so is rejected, whatever it contains."""
    form = numpy_forms.form_of(np.ndarray)
    assert form is not None
    with pytest.raises(Exception, match="a numpy.ndarray that durably did not write so"):
        form.decode(io.BytesIO(content))


def test_an_array_in_a_file_is_mapped_and_changes_nothing_in_it(tmp_path: Any) -> None:
    """A large array is not read as a whole, and a change of it stays in memory."""
    form = numpy_forms.form_of(np.ndarray)
    assert form is not None
    path = tmp_path / "array"
    with path.open("wb") as file:
        form.encode(ARRAYS["F"]).write(file)
    before = path.read_bytes()
    with path.open("rb") as file:
        found = form.decode(file)
    found[0, 0] = 99.0
    assert type(found) is np.ndarray
    assert found.flags.f_contiguous
    assert path.read_bytes() == before
