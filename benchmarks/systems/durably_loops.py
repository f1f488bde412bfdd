"""durably: a map over items, and a loop of steps that does the same work."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Literal

import durably
from benchmarks.systems import bare_loops
from benchmarks.systems.child import Outcome, forget_peak, main, peak_mib, resident_mib
from benchmarks.systems.durably_engine import durability

PATH = "durably.db"
Mode = Literal["full", "normal"]


def add_one(number: int) -> int:
    """An item whose work is next to nothing."""
    return number + 1


def in_force() -> dict[str, object]:
    """What is really in force in such a file."""
    with closing(durably.Durably(PATH)) as app:
        return durability(app)


def items(*, count: int, workers: int, synchronous: Mode = "full") -> Outcome:
    """One map, in a session as ``durably.map`` opens it."""
    with durably.session("loop", PATH, key="loop", synchronous=synchronous) as step:
        before_mib = resident_mib()
        forget_peak()
        started = time.perf_counter()
        results = step.map("items", add_one, range(count), max_workers=workers)
        seconds = time.perf_counter() - started
        memory_mib = peak_mib() - before_mib
    assert results[-1] == count
    return {"value": 1e6 * seconds / count, "memory": memory_mib, "durability": in_force()}


def processes(
    *, count: int, workers: int, chunk: int | None, kind: bare_loops.Kind = "spawn"
) -> Outcome:
    """One map on a pool whose processes have started; ``None`` lets durably choose the chunks."""
    with bare_loops.pool_of(kind, workers) as pool, durably.session("loop", PATH) as step:
        started = time.perf_counter()
        results = step.map("items", bare_loops.add_one, range(count), executor=pool, chunk=chunk)
        seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count, "durability": in_force()}


def whole_processes(*, count: int, workers: int, chunk: int | None) -> Outcome:
    """One map in processes of its own, with their start and their end."""
    with durably.session("loop", PATH) as step:
        started = time.perf_counter()
        results = step.map(
            "items",
            bare_loops.add_one,
            range(count),
            executor="process",
            max_workers=workers,
            chunk=chunk,
        )
        seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count, "durability": in_force()}


def prepare(*, count: int, workers: int) -> Outcome:
    """A file in which all items are."""
    return items(count=count, workers=workers, synchronous="normal")


def steps(*, count: int, synchronous: Mode = "full") -> Outcome:
    """A step for each item."""
    with durably.session("loop", PATH, synchronous=synchronous) as step:
        started = time.perf_counter()
        results = [step.run(f"item-{number}", add_one, number) for number in range(count)]
        seconds = time.perf_counter() - started
    assert results[-1] == count
    return {"value": 1e6 * seconds / count, "durability": in_force()}


if __name__ == "__main__":
    main(
        {
            "items": items,
            "prepare": prepare,
            "steps": steps,
            "processes": processes,
            "whole_processes": whole_processes,
        }
    )
