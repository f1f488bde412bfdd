"""What is measured of loops: many items of next to no work, each with a checkpoint."""

from __future__ import annotations

from benchmarks.contestants import (
    BARE,
    BARE_DASK,
    BARE_LOKY,
    DBOS,
    DURABLY_LOOPS,
    DURABLY_ON_DASK,
    DURABLY_ON_LOKY,
    DURABLY_STEPS,
    JOBLIB,
    Sizes,
    Table,
)
from benchmarks.measuring import Case

THREADS = 4


def tables(size: Sizes) -> list[Table]:
    """In their order."""
    return [
        _items(size, 1),
        _items(size, THREADS),
        *_processes(size),
        _dask(size),
        *_resume(size),
    ]


def _items(size: Sizes, workers: int) -> Table:
    count = size.plain(10_000, 2000)
    # They wait for the disk at each item.
    synced, theirs = size.synced(4000, 400), size.synced(1000, 100)
    arguments = {"count": count, "workers": workers}
    cases = [
        Case("bare, nothing stored", BARE, "items", arguments),
        Case("durably, step.map", DURABLY_LOOPS, "items", arguments, steps=count),
        Case(
            "durably, a loop of step.run", DURABLY_STEPS, "steps", {"count": synced}, steps=synced
        ),
        Case("joblib, Memory", JOBLIB, "items", arguments),
        Case("dbos, a queue", DBOS, "items", {"count": theirs, "workers": workers}, runs=theirs),
    ]
    where = "in the calling thread" if workers == 1 else f"on {workers} threads"
    return Table(
        f"items-{workers}",
        f"A loop over {count:,} items of x + 1 {where}, an item",
        "µs",
        cases,
        higher_is_better=False,
        note="durably at synchronous full; joblib leaves to the system when results reach the "
        "disk. The loop of step.run is in the calling thread.",
    )


def _processes(size: Sizes) -> list[Table]:
    count = size.plain(10_000, 2000)
    many = size.plain(100_000, 5000)
    work = {"count": count, "workers": 2}
    single = {**work, "chunk": 1}
    chosen = {**work, "chunk": None}
    started = [
        Case("spawn, bare, chunks of 1", BARE, "processes", single),
        Case("spawn, bare, chunks of 256", BARE, "processes", {**work, "chunk": 256}),
        Case("spawn, durably, chunks of 1", DURABLY_LOOPS, "processes", single, steps=count),
        Case(
            "spawn, durably, chunks chosen by itself",
            DURABLY_LOOPS,
            "processes",
            chosen,
            steps=count,
        ),
        Case(
            f"spawn, durably, chunks chosen by itself, {many:,} items",
            DURABLY_LOOPS,
            "processes",
            {**chosen, "count": many},
            steps=many,
        ),
        Case("loky, bare, chunks of 1", BARE_LOKY, "processes", {**single, "kind": "loky"}),
        Case(
            "loky, durably, chunks of 1",
            DURABLY_ON_LOKY,
            "processes",
            {**single, "kind": "loky"},
            steps=count,
        ),
    ]
    whole = [
        Case("spawn, bare, chunks of 256", BARE, "whole_processes", {**work, "chunk": 256}),
        Case(
            "loky, bare, chunks of 256",
            BARE_LOKY,
            "whole_processes",
            {**work, "chunk": 256, "kind": "loky"},
        ),
        Case("durably, chunks of 1", DURABLY_ON_LOKY, "whole_processes", single, steps=count),
        Case(
            "durably, chunks chosen by itself",
            DURABLY_ON_LOKY,
            "whole_processes",
            chosen,
            steps=count,
        ),
    ]
    return [
        Table(
            "items-processes",
            f"A loop over {count:,} items of x + 1 on a pool of 2 processes that have started, "
            "an item",
            "µs",
            started,
            higher_is_better=False,
            note="durably at synchronous full.",
        ),
        Table(
            "items-own-processes",
            f"A loop over {count:,} items of x + 1 in 2 processes, their start and end included, "
            "an item",
            "µs",
            whole,
            higher_is_better=False,
            note='durably at synchronous full, with executor="process", which starts processes as '
            "loky does.",
        ),
    ]


def _dask(size: Sizes) -> Table:
    cases, counts = [], []
    for what, seconds, count in (
        ("x + 1", 0.0, size.plain(10_000, 2000)),
        ("1 ms", 0.001, size.plain(5000, 500)),
    ):
        work = {"count": count, "workers": 2, "seconds": seconds}
        cases += [
            Case(f"bare, items of {what}", BARE_DASK, "bare", work),
            Case(f"durably, items of {what}", DURABLY_ON_DASK, "durably", work, steps=count),
        ]
        counts.append(f"{count:,} items of {what}")
    return Table(
        "items-dask",
        "A loop on a cluster of Dask of 2 processes that have started, an item",
        "µs",
        cases,
        higher_is_better=False,
        note=f"{' and '.join(counts)}, durably at synchronous full; both hand out the chunks that "
        "durably has chosen.",
    )


def _resume(size: Sizes) -> list[Table]:
    made = []
    for key, full, quick in (("10k", 10_000, 10_000), ("1m", 1_000_000, 50_000)):
        count = size.plain(full, quick)
        arguments = {"count": count, "workers": 1}
        cases = [Case("durably", DURABLY_LOOPS, "items", arguments, prepare=arguments, steps=count)]
        if key == "10k":
            cases.append(Case("joblib, Memory", JOBLIB, "items", arguments, prepare=arguments))
        made.append(
            Table(
                f"resume-items-{key}",
                f"A loop over {count:,} items that are all stored, an item",
                "µs",
                cases,
                higher_is_better=False,
                most_turns=3,
            )
        )
    return made
