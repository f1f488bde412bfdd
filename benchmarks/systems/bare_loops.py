"""Loops without checkpoints: what an executor alone costs."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from benchmarks.systems.child import Outcome, main

Kind = Literal["spawn", "loky"]


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


def new_pool(kind: Kind, workers: int) -> Executor:
    """A pool whose processes start with its first items."""
    if kind == "spawn":
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    pool: Executor = importlib.import_module("loky").ProcessPoolExecutor(workers)
    return pool


@contextmanager
def pool_of(kind: Kind, workers: int) -> Iterator[Executor]:
    """A pool whose processes have started and imported this module."""
    with new_pool(kind, workers) as pool:
        for started in [pool.submit(time.sleep, 0.3) for _ in range(workers)]:
            started.result()
        for future in [pool.submit(add_one, number) for number in range(100 * workers)]:
            future.result()
        yield pool


def processes(*, count: int, workers: int, chunk: int, kind: Kind = "spawn") -> Outcome:
    """A pool of processes that have started, so many items in each call; nothing is stored."""
    with pool_of(kind, workers) as pool:
        started = time.perf_counter()
        results = _results(pool, count, chunk)
        seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count}


def whole_processes(*, count: int, workers: int, chunk: int, kind: Kind = "spawn") -> Outcome:
    """The same, with the start and the end of the processes."""
    started = time.perf_counter()
    with new_pool(kind, workers) as pool:
        results = _results(pool, count, chunk)
    seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count}


def _results(pool: Executor, count: int, chunk: int) -> list[int]:
    if chunk > 1:
        return list(pool.map(add_one, range(count), chunksize=chunk))
    futures = [pool.submit(add_one, number) for number in range(count)]
    return [future.result() for future in futures]


if __name__ == "__main__":
    main({"items": items, "processes": processes, "whole_processes": whole_processes})
