"""Loops without checkpoints: what an executor alone costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.systems.child import Outcome, main


def add_one(number: int) -> int:
    """An item whose work is next to nothing."""
    return number + 1


def items(*, count: int, workers: int) -> Outcome:
    """A loop, or a pool of threads; nothing is stored."""
    started = time.perf_counter()
    if workers == 1:
        results = [add_one(number) for number in range(count)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(add_one, number) for number in range(count)]
            results = [future.result() for future in futures]
    seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count}


if __name__ == "__main__":
    main({"items": items})
