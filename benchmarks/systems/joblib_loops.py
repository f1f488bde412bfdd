"""joblib: a loop over a function whose results ``Memory`` keeps, one folder for each."""

from __future__ import annotations

import time

import joblib

from benchmarks.systems.child import Outcome, main

memory = joblib.Memory("joblib", verbose=0)


@memory.cache
def add_one(number: int) -> int:
    """An item whose work is next to nothing."""
    return number + 1


def items(*, count: int, workers: int) -> Outcome:
    """Each item is executed and its result stored; a crash of the machine may lose it."""
    started = time.perf_counter()
    if workers == 1:
        results = [add_one(number) for number in range(count)]
    else:
        pool = joblib.Parallel(workers, backend="threading")
        results = pool(joblib.delayed(add_one)(number) for number in range(count))
    seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count}


def prepare(*, count: int, workers: int) -> Outcome:
    """A folder in which all results are."""
    return items(count=count, workers=workers)


if __name__ == "__main__":
    main({"items": items, "prepare": prepare})
