"""What is measured of durably alone: nobody else has a counterpart."""

from __future__ import annotations

from benchmarks.contestants import (
    AIRPORTS,
    ALONE,
    FLOOR_ABREAST,
    LARGE_PARTS,
    MODES,
    Sizes,
    Table,
)
from benchmarks.measuring import Case


def tables(size: Sizes) -> list[Table]:
    """In their order."""
    return [
        _claim(size),
        *_beating(size),
        *_telling(size),
        _purge(size),
        *_processes(size),
        *_airports(size),
        *_large(size),
    ]


def _claim(size: Sizes) -> Table:
    finished = size.plain(1_000_000, 200_000)
    pending = size.plain(100_000, 20_000)
    times = 300
    rows = [
        ("empty file", {}),
        (f"{finished:,} finished runs", {"finished": finished}),
        (f"{pending:,} pending runs behind one busy key", {"behind": pending}),
        (f"{pending:,} pending runs of unknown jobs", {"unknown": pending}),
    ]
    return Table(
        "claim",
        "Claim of one run in a file where much else is (median, synchronous normal)",
        "µs",
        [Case(row, ALONE, "claim", {**arguments, "times": times}) for row, arguments in rows],
        higher_is_better=False,
        most_turns=3,
    )


def _beating(size: Sizes) -> list[Table]:
    times = size.plain(100, 30)
    seconds = size.plain(10, 3)
    return [
        Table(
            "heartbeat",
            "One heartbeat of a process with so many running runs (median)",
            "ms",
            [
                Case(f"{n} running", ALONE, "beat", {"running": n, "times": times}, runs=n)
                for n in (1, 100, 500)
            ],
            higher_is_better=False,
        ),
        Table(
            "idle",
            "Processor time of an engine in which nothing happens",
            "% of a core",
            [
                Case("no run", ALONE, "idle", {"running": 0, "seconds": seconds}),
                Case("500 waiting runs", ALONE, "idle", {"running": 500, "seconds": seconds}),
            ],
            higher_is_better=False,
            most_turns=3,
        ),
    ]


def _telling(size: Sizes) -> list[Table]:
    count = size.plain(1_000_000, 300_000)
    return [
        Table(
            key,
            f"Calls of {call} in an inner loop",
            "calls/s",
            [Case("durably", ALONE, "tell", {"count": number, "logs": logs}, runs=1)],
        )
        for key, call, number, logs in (
            ("progress", "step.progress", count, False),
            ("log", "step.log", count // 5, True),
        )
    ]


def _purge(size: Sizes) -> Table:
    finished = size.plain(100_000, 20_000)
    return Table(
        "purge",
        f"Longest wait for a checkpoint while {finished:,} runs are purged",
        "ms",
        [
            Case("nothing purged", ALONE, "purge", {"finished": finished, "deletes": False}),
            Case("purged", ALONE, "purge", {"finished": finished, "deletes": True}, runs=1),
        ],
        higher_is_better=False,
        most_turns=3,
    )


def _processes(size: Sizes) -> list[Table]:
    count = size.synced(8000, 1600, 8)
    one_step = size.synced(2000, 400, 4)
    kinds = (
        ("processes", "Checkpoints a second in all, four long runs, one thread a process", 4, 1),
        ("processes-runs", "One-step runs a second in all, 4 workers a process", one_step, 4),
    )
    floors = {
        "processes": [
            Case(
                f"floor, {_so_many(processes, mode)}",
                FLOOR_ABREAST,
                "processes",
                {"count": count, "processes": processes, "synchronous": mode},
                steps=count,
            )
            for mode in MODES
            for processes in (1, 2, 4)
        ]
    }
    made = []
    for key, title, runs, workers in kinds:
        number = one_step if runs == one_step else count
        cases = [
            Case(
                _so_many(processes, mode),
                ALONE,
                "processes",
                {"count": number, "processes": processes, "runs": runs, "workers": workers,
                 "synchronous": mode},
                steps=number,
                runs=runs,
            )
            for mode in MODES
            for processes in (1, 2, 4)
        ]  # fmt: skip
        made.append(Table(key, title, "steps/s", [*floors.get(key, ()), *cases]))
    return made


def _so_many(processes: int, mode: str) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}, {mode}"


def _airports(size: Sizes) -> list[Table]:
    made = []
    for batch, full, quick in ((1, 1000, 200), (10, 5000, 1000), (1000, 20_000, 10_000)):
        rows = size.synced(full, quick)
        modes: list[tuple[str, str | None]] = [
            ("without durably", None),
            ("durably, full", "full"),
            ("durably, normal", "normal"),
        ]
        made.append(
            Table(
                f"airports-{batch}",
                f"Import of {rows:,} airports, {batch:,} row{'s' if batch > 1 else ''} a step",
                "s",
                [
                    Case(
                        row,
                        AIRPORTS,
                        "measure",
                        {"rows": rows, "batch_size": batch, "synchronous": mode},
                    )
                    for row, mode in modes
                ],
                higher_is_better=False,
            )
        )
    return made


def _large(size: Sizes) -> list[Table]:
    saved = (
        ("array", "an array of NumPy", "np.save and sync", size.plain(1000, 200)),
        ("frame", "a frame of pandas", "Parquet and sync", 100),
    )
    count, mib = size.plain(20, 8), 25
    return [
        *(
            Table(
                key,
                f"A step that returns {what} of {mib_} MiB",
                "s",
                [
                    Case(row, LARGE_PARTS, key, {"mib": mib_, "how": how})
                    for row, how in ((bare, "bare"), ("durably, full", "durably"))
                ],
                higher_is_better=False,
            )
            for key, what, bare, mib_ in saved
        ),
        Table(
            "resume-frames",
            f"Memory of a resume of {count} steps with frames of {mib} MiB, of which 2 are kept",
            "MiB",
            [Case("durably", LARGE_PARTS, "resume", {"count": count, "mib": mib})],
            higher_is_better=False,
            most_turns=3,
        ),
    ]
