"""Files of arrays, frames and tables that an attacker has made, under the names that are theirs:
nothing is executed or imported, and each ends in a typed error.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage

import durably
from durably import Durably, StepContext, job
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import filing

ARRAY = np.arange(1000, dtype="f8")
VALUES: dict[str, Callable[[], Any]] = {
    "numpy.ndarray": lambda: ARRAY,
    "numpy.void": lambda: np.zeros((), [("a", "f8", (1000,))])[()],
    "pandas.DataFrame": lambda: pd.DataFrame({"a": ARRAY}),
    "pandas.Series": lambda: pd.Series(ARRAY),
    "pandas.Index": lambda: pd.Index(ARRAY),
    "polars.DataFrame": lambda: pl.DataFrame({"a": ARRAY}),
    "polars.Series": lambda: pl.Series(ARRAY),
    "pyarrow.Table": lambda: pa.table({"a": ARRAY}),
    "pyarrow.RecordBatch": lambda: pa.RecordBatch.from_arrays([pa.array(ARRAY)], ["a"]),
    "pyarrow.Array": lambda: pa.array(ARRAY),
    "pyarrow.ChunkedArray": lambda: pa.chunked_array([pa.array(ARRAY)]),
    "bytes": lambda: b"x" * 5000,
}


class Executes:
    """A pickle that makes a file where it is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def npy(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


def npy_of(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def parquet(table: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def arrow(table: Any) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def extended(name: bytes) -> Any:
    """A table whose column claims to be of an extension type, with a pickle for its parameters."""
    claims = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": pickle.dumps(Executes())}
    field = pa.field("a", pa.int64(), metadata=claims)
    return pa.table([pa.array([1])], schema=pa.schema([field]))


OBJECTS = np.array([Executes()], dtype=object)
SPEC = {b"durably": json.dumps({"index": {"names": [], "range": ["os.mkdir"]}}).encode()}
PANDAS = {b"pandas": json.dumps({"index_columns": ["__import__('os')"], "columns": []}).encode()}
HOSTILE: dict[str, bytes] = {
    "pickled array": npy(OBJECTS, allow_pickle=True),
    "pickle": pickle.dumps(Executes()),
    "objects in fields": npy_of("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}"),
    "header that calls": npy_of("__import__('os').mkdir('executed')"),
    "too large": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 60,)}"),
    "huge": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,)}"),
    "negative": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"x" * 8),
    "nested header": npy_of("(" * 100),
    "endless header": b"\x93NUMPY\x03\x00\xff\xff\xff\x7f",
    "cut": npy(ARRAY)[:-5],
    "cut header": npy(ARRAY)[:20],
    "parquet": parquet(pa.table({"a": [1]})),
    "parquet of pandas": parquet(pa.table({"a": [1]}).replace_schema_metadata(PANDAS)),
    "parquet of a spec": parquet(pa.table({"a": [1]}).replace_schema_metadata(SPEC)),
    "parquet that is pickled": parquet(extended(b"arrow.py_extension_type")),
    "cut parquet": parquet(pa.table({"a": ARRAY}))[:-20],
    "arrow that is pickled": arrow(extended(b"arrow.py_extension_type")),
    "cut arrow": arrow(pa.table({"a": ARRAY}))[:-100],
    "empty": b"",
    "noise": b"ARROW1\0\0" + bytes(range(256)) * 10,
}
# What these forms may read of it, as it is data like other data.
READABLE = {
    ("pyarrow.Table", "arrow that is pickled"),
    ("pyarrow.RecordBatch", "arrow that is pickled"),
    ("pyarrow.Array", "arrow that is pickled"),
    ("pyarrow.ChunkedArray", "arrow that is pickled"),
    ("polars.DataFrame", "arrow that is pickled"),
    ("polars.Series", "arrow that is pickled"),
    *(("bytes", name) for name in HOSTILE),
}


@job(name="reads")
def reads(step: StepContext, tag: str) -> str:
    value = step.run("value", VALUES[tag])
    if step.attempt == 1:
        raise RuntimeError("once")
    return type(value).__name__


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tag", VALUES)
def test_a_file_of_an_attacker_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    """A resume and a list read each as what it claims to be: the run fails, and nothing happens."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test.db"
    for module in (filing, checkpoints):
        monkeypatch.setattr(module, "LARGE", 1000)
    with Durably(path, jobs=[reads], raise_failed=False) as app:
        runs = app.batch_trigger(reads, [tag] * len(HOSTILE))
        app.run_until_idle()
        (file,) = (tmp_path / "test.db.blobs").iterdir()
    for number, content in enumerate(HOSTILE.values(), 1):
        name = hashlib.blake2b(content, digest_size=32).hexdigest()
        (file.parent / name).write_bytes(content)
        text = json.dumps({"$": tag, "file": name, "size": len(content)})
        damage(path, f"UPDATE durably_steps SET output = char(9) || '{text}' WHERE run = {number}")
        damage(path, f"INSERT INTO durably_blobs VALUES ({number}, '{name}', 'step', 1)")
    with Durably(path, jobs=[reads], raise_failed=False) as app:
        for what, run in zip(HOSTILE, runs, strict=True):
            step = app.get_steps(run.id)[0]
            with suppress(durably.DurablyError):
                assert (tag, what) in READABLE or isinstance(step.output, (str, dict)), what
            app.retry(run.id)
        app.run_until_idle()
        for what, run in zip(HOSTILE, runs, strict=True):
            read = app.get_run(run.id)
            if read.error is None:
                assert read.status == "completed", what
                assert (tag, what) in READABLE, what
            else:
                assert read.error.message.startswith("the stored result of step 'value': "), what
    assert not (tmp_path / "executed").exists()
