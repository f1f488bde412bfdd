"""An array and a frame that a step returns, beside NumPy and pyarrow alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import durably
from benchmarks.systems.child import Outcome, forget_peak, main, peak_mib

PATH = "durably.db"
MIB = 2**20


def array_of(mib: int) -> Any:
    """Random numbers, which no file system makes smaller."""
    return np.random.default_rng(1).random(mib * MIB // 8)


def frame_of(mib: int) -> pd.DataFrame:
    """A frame of ten columns of them."""
    rows = mib * MIB // 80
    numbers = np.random.default_rng(1)
    return pd.DataFrame({f"c{n}": numbers.random(rows) for n in range(10)})


def array(*, mib: int, how: str) -> Outcome:
    """Store an array."""
    return _measured(array_of(mib), how, lambda value, file: np.save(file, value))


def frame(*, mib: int, how: str) -> Outcome:
    """Store a frame."""
    return _measured(
        frame_of(mib), how, lambda value, file: pq.write_table(pa.Table.from_pandas(value), file)
    )


def _measured(value: Any, how: str, save: Callable[[Any, Any], object]) -> Outcome:
    # Whatever is imported or made at a first use is not what is measured.
    save(value[:10], "warm")
    with durably.session("large", PATH) as step:
        step.run("warm", lambda: value[:10])
        os.sync()
        forget_peak()
        started = time.perf_counter()
        if how == "durably":
            step.run("value", lambda: value)
        else:
            with Path("value").open("wb") as file:
                save(value, file)
                file.flush()
                os.fsync(file.fileno())
        seconds = time.perf_counter() - started
        return {"value": seconds, "memory": peak_mib()}


def resume(*, count: int, mib: int) -> Outcome:
    """Resume a session whose steps have returned so many frames, of which two are kept."""
    with suppress(KeyboardInterrupt), durably.session("frames", PATH) as step:
        for number in range(count):
            step.run(f"frame-{number}", lambda number=number: frame_of(mib) + number)
        raise KeyboardInterrupt
    with durably.session("warm", PATH) as step:
        step.run("warm", lambda: frame_of(1))
    forget_peak()
    before = peak_mib()
    with durably.session("frames", PATH) as step:
        kept: list[Any] = []
        for number in range(count):
            value = step.run(f"frame-{number}", lambda: frame_of(1))
            kept = [*kept, value][:2]
            del value
    assert [len(each) for each in kept] == [mib * MIB // 80] * 2
    return {"value": peak_mib() - before}


if __name__ == "__main__":
    main({"array": array, "frame": frame, "resume": resume})
