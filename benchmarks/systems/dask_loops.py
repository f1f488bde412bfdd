"""A map on a cluster of Dask, beside the executor of Dask alone in the same chunks."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import durably
from benchmarks.systems.child import Outcome, main
from benchmarks.systems.durably_loops import PATH, in_force


class Work:
    """An item that takes so long, beside next to nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, number: int) -> int:
        """An item."""
        if self._seconds:
            time.sleep(self._seconds)
        return number + 1

    def of_all(self, numbers: list[int]) -> list[int]:
        """What a call of the executor alone does: a chunk of items."""
        return [self(number) for number in numbers]


@contextmanager
def executor_of(workers: int) -> Iterator[Any]:
    """The executor of a cluster of so many processes that have imported what they need."""
    distributed = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(importlib.import_module, __name__)
        client.run(importlib.import_module, "durably.execution.loops.in_child")
        executor = client.get_executor(pure=False)
        for future in [executor.submit(os.getpid) for _ in range(20 * workers)]:
            future.result()
        yield executor


def mapped(executor: Executor, work: Work, count: int, path: str) -> tuple[float, list[int]]:
    """The seconds that a map takes, and how many items it has handed out together."""
    chunks: list[int] = []
    submit = executor.submit

    def noting(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        chunks.append(len(args[0].items))
        return submit(fn, *args, **kwargs)

    executor.submit = noting  # type: ignore[method-assign]
    with durably.session("loop", path) as step:
        started = time.perf_counter()
        results = step.map("items", work, range(count), executor=executor)
        seconds = time.perf_counter() - started
    del executor.submit
    assert results[-1] == count
    return seconds, chunks


def with_durably(*, count: int, workers: int, seconds: float) -> Outcome:
    """One map; the chunks are chosen by itself."""
    with executor_of(workers) as executor:
        taken, chunks = mapped(executor, Work(seconds), count, PATH)
    return {"value": 1e6 * taken / count, "chunks": chunks, "durability": in_force()}


def bare(*, count: int, workers: int, seconds: float) -> Outcome:
    """The executor alone, in the chunks that a map before it has chosen; nothing is stored."""
    work = Work(seconds)
    with executor_of(workers) as executor:
        _, chunks = mapped(executor, work, count, PATH)
        numbers = iter(range(count))
        lists = [[next(numbers) for _ in range(chunk)] for chunk in chunks]
        started = time.perf_counter()
        futures = [executor.submit(work.of_all, chunk) for chunk in lists]
        results = [result for future in futures for result in future.result()]
        taken = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * taken / count, "chunks": chunks}


if __name__ == "__main__":
    main({"bare": bare, "durably": with_durably})
