"""What is measured of loops: many items of next to no work, each with a checkpoint."""

from __future__ import annotations

from benchmarks.contestants import BARE, DBOS, DURABLY_LOOPS, DURABLY_STEPS, JOBLIB, Sizes, Table
from benchmarks.measuring import Case

THREADS = 4


def tables(size: Sizes) -> list[Table]:
    """In their order."""
    return [_items(size, 1), _items(size, THREADS), _processes(size), *_resume(size)]


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


def _processes(size: Sizes) -> Table:
    count = size.plain(10_000, 2000)
    arguments = {"count": count, "workers": 2}
    own = [("durably, chunks of 1", 1), ("durably, chunks chosen by itself", None)]
    cases = [
        *(
            Case(f"bare, chunks of {chunk}", BARE, "processes", {**arguments, "chunk": chunk})
            for chunk in (1, 256)
        ),
        *(
            Case(row, DURABLY_LOOPS, "processes", {**arguments, "chunk": chunk}, steps=count)
            for row, chunk in own
        ),
    ]
    return Table(
        "items-processes",
        f"A loop over {count:,} items of x + 1 in 2 processes that have started, an item",
        "µs",
        cases,
        higher_is_better=False,
        note="durably at synchronous full.",
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
