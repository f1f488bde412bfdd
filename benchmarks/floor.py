"""What a checkpoint costs next to the write that it needs: ``python -m benchmarks.floor``.

The floor is one ``INSERT`` of the same row into a table of the same shape, committed by itself,
on a bare apsw connection with the same pragmas. Floor and durably take turns in one process, each
time on a fresh file in the same folder, and the ratio is of the medians of all turns. Absolute
figures are the machine's and mean little elsewhere.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

import durably
from benchmarks.systems.floor import FLOOR_INSERT, FLOOR_SCHEMA

# What the contract aims at, per (synchronous, threads): durably against the one-thread floor.
AIMS = {("full", 1): 0.85, ("full", 16): 2.0, ("normal", 1): 0.35}


def small_result(number: int) -> int:
    """The step's function: next to nothing, so that the checkpoint is what is measured."""
    return number


@durably.job("steps")
def many_steps(step: durably.StepContext, count: int) -> int:
    """A job of *count* small steps."""
    for number in range(count):
        step.run(f"step-{number}", small_result, number)
    return count


def floor_rate(path: Path, synchronous: str, count: int) -> float:
    """Bare inserts a second, each its own commit."""
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", synchronous)
    db.execute(FLOOR_SCHEMA)
    started = time.perf_counter()
    for number in range(count):
        now_us = time.time_ns() // 1000
        db.execute(FLOOR_INSERT, (number, f"step-{number}", str(number), now_us, now_us))
    rate = count / (time.perf_counter() - started)
    db.close()
    return rate


def durably_rate(path: Path, synchronous: str, count: int, threads: int) -> float:
    """Checkpoints a second, *threads* runs at once, *count* checkpoints in all."""
    each = count // threads
    with durably.Durably(
        path, jobs=[many_steps], max_workers=threads, synchronous=synchronous
    ) as app:
        runs = app.jobs["steps"].batch_trigger([each] * threads)
        ended = [app.wait(run) for run in runs]
        first = min(run.started_at for run in ended if run.started_at is not None)
        last = max(run.completed_at for run in ended if run.completed_at is not None)
        stored = sum(run.completed_steps for run in ended)
    if stored != each * threads:
        raise RuntimeError(f"{stored} checkpoints are stored, {each * threads} were to be")
    return stored / (last - first).total_seconds()


@contextmanager
def fresh_file(folder: Path) -> Iterator[Path]:
    """A path for one turn; what is written there is gone afterwards, and the disk quiet before."""
    os.sync()
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        yield Path(inner) / "steps.db"


def in_turn(
    systems: dict[str, Callable[[Path], float]], turns: int, folder: Path
) -> dict[str, float]:
    """The median rate of each system, all of them taking turns."""
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(turns):
        for name, measure in systems.items():
            with fresh_file(folder) as path:
                rates[name].append(measure(path))
    return {name: statistics.median(values) for name, values in rates.items()}


def compare(synchronous: str, count: int, turns: int, folder: Path) -> list[str]:
    """The lines of the report for one durability."""
    rates = in_turn(
        {
            "floor": lambda path: floor_rate(path, synchronous, count),
            "1": lambda path: durably_rate(path, synchronous, count, 1),
            "16": lambda path: durably_rate(path, synchronous, count, 16),
        },
        turns,
        folder,
    )
    lines = [f"{synchronous:7} floor,  1 thread  {rates['floor']:9,.0f}/s"]
    for threads in (1, 16):
        ratio = rates[str(threads)] / rates["floor"]
        aim = AIMS.get((synchronous, threads))
        told = "" if aim is None else f"  aim {aim:.2f}: {'reached' if ratio >= aim else 'missed'}"
        lines.append(
            f"{synchronous:7} durably, {threads:2} thread{'s' if threads > 1 else ' '} "
            f"{rates[str(threads)]:9,.0f}/s  {ratio:5.2f} of the floor{told}"
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000, help="checkpoints per turn")
    parser.add_argument("--turns", type=int, default=7, help="turns per system")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for synchronous in ("full", "normal"):
            for line in compare(synchronous, options.count, options.turns, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
