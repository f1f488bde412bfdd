"""Loops without checkpoints: what an executor alone costs."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

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


@contextmanager
def pool_of(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes have started and imported this module."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for started in [pool.submit(time.sleep, 0.3) for _ in range(workers)]:
            started.result()
        for future in [pool.submit(add_one, number) for number in range(100 * workers)]:
            future.result()
        yield pool


def processes(*, count: int, workers: int, chunk: int) -> Outcome:
    """A pool of processes, so many items in each call; nothing is stored."""
    with pool_of(workers) as pool:
        started = time.perf_counter()
        if chunk == 1:
            futures = [pool.submit(add_one, number) for number in range(count)]
            results = [future.result() for future in futures]
        else:
            results = list(pool.map(add_one, range(count), chunksize=chunk))
        seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count}


if __name__ == "__main__":
    main({"items": items, "processes": processes})
