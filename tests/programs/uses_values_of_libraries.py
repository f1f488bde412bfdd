"""Stores values of NumPy, pandas and other libraries in a session, and checks what comes back.

An argument makes it fail at the end, so that the session is continued by the next process.
"""

import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic

import durably


class Config(pydantic.BaseModel):
    rate: float


FRAME = pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}, index=pd.date_range("2026", periods=2))
LARGE = np.asfortranarray(np.arange(2_000_000.0).reshape(1000, 2000))
calls = []


def load():
    calls.append("load")
    return {"train": FRAME, "model": {"weights": LARGE, "score": np.float32(0.1)}}


def others():
    calls.append("others")
    return [pl.DataFrame({"a": [1]}), pa.table({"a": [1]}), Config(rate=0.5), pd.NaT]


def typed() -> dict[str, pd.DataFrame]:
    calls.append("typed")
    return {"a": FRAME}


def check(step):
    loaded, rest = step.run("load", load), step.run("others", others)
    pd.testing.assert_frame_equal(loaded["train"], FRAME)
    pd.testing.assert_frame_equal(step.run("typed", typed)["a"], FRAME)
    weights, score = loaded["model"]["weights"], loaded["model"]["score"]
    assert type(weights) is np.ndarray
    assert weights.flags.f_contiguous
    assert weights.flags.writeable
    assert (weights == LARGE).all()
    assert type(score) is np.float32
    assert score == np.float32(0.1)
    assert rest[0].equals(pl.DataFrame({"a": [1]}))
    assert rest[1].equals(pa.table({"a": [1]}))
    assert rest[2] == Config(rate=0.5)
    assert rest[3] is pd.NaT


with durably.session("values", "values.db") as step:
    check(step)
    print(*calls)
    if len(sys.argv) > 1:
        raise SystemExit(3)
