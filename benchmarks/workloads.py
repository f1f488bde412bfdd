"""What is measured: the work that all systems can do, and all tables in their order."""

from __future__ import annotations

from benchmarks import loop_workloads, own_workloads
from benchmarks.contestants import (
    COJI,
    DBOS,
    DURA,
    DURABLY,
    FLOOR,
    HUEY,
    STEP_PEERS,
    Sizes,
    Table,
    in_modes,
)
from benchmarks.measuring import Case


def tables(scale: float, *, quick: bool) -> list[Table]:
    """All of them; *scale* shortens those that wait for the disk where it is slow."""
    size = Sizes(scale, quick=quick)
    return [
        *_steps(size),
        _runs(size),
        _batch(size),
        *_start(size),
        *_resume(size),
        _restart(size),
        *_weight(),
        *loop_workloads.tables(size),
        *own_workloads.tables(size),
    ]


def _steps(size: Sizes) -> list[Table]:
    count = size.synced(4000, 800)
    theirs = size.synced(800, 120)
    one = [
        *in_modes(FLOOR, "steps", {"count": count}, steps=count),
        *in_modes(DURABLY, "steps", {"count": count}, steps=count),
        *(Case(peer.name, peer, "steps", {"count": theirs}, steps=theirs) for peer in STEP_PEERS),
    ]
    many = size.synced(16_000, 3200, 16)
    their_many = size.synced(1600, 240, 16)
    sixteen = [
        *in_modes(FLOOR, "steps", {"count": count}, ", one thread", steps=count),
        *in_modes(DURABLY, "steps", {"count": many, "threads": 16}, ", 16 runs", steps=many),
        *(
            Case(
                f"{peer.name}, 16 runs",
                peer,
                "steps",
                {"count": their_many, "threads": 16},
                steps=their_many,
            )
            for peer in STEP_PEERS
        ),
    ]
    sized = []
    for key, chars, full, quick in (("100kB", 100_000, 400, 60), ("5MB", 5_000_000, 24, 4)):
        number = size.synced(full, quick)
        arguments = {"count": number, "size": chars}
        cases = [
            *in_modes(FLOOR, "steps", arguments, steps=number),
            *in_modes(FLOOR, "steps", {**arguments, "encodes": True}, " with JSON", steps=number),
            *in_modes(DURABLY, "steps", arguments, steps=number),
            *(Case(peer.name, peer, "steps", arguments, steps=number) for peer in STEP_PEERS),
        ]
        sized.append(
            Table(
                f"steps-{key}",
                f"Checkpoints of {key.replace('k', ' k').replace('M', ' M')} a second, one run",
                "steps/s",
                cases,
                note="The floor stores a text that is there already; with JSON it is encoded "
                "before and decoded after, as a checkpoint is.",
            )
        )
    beside = size.synced(300, 60)
    spinning = []
    for system in (FLOOR, DURABLY):
        for spinners in (0, 1, 4):
            row = f"{system.name}, {spinners} beside"
            options = {"count": beside, "synchronous": "full", "spinners": spinners}
            spinning.append(Case(row, system, "steps", options, steps=beside))
    return [
        Table("steps", "Checkpoints a second, one run, small results", "steps/s", one),
        Table("steps-16", "Checkpoints a second, 16 runs at once", "steps/s", sixteen),
        *sized,
        Table(
            "gil",
            "Milliseconds a checkpoint beside threads that compute in Python",
            "ms",
            spinning,
            higher_is_better=False,
            note="All at synchronous full.",
        ),
    ]


def _runs(size: Sizes) -> Table:
    count = size.synced(1000, 300)
    theirs = size.synced(1000, 60)
    cases = [
        *in_modes(FLOOR, "runs", {"count": count, "batch": False}, runs=count, steps=count),
        *in_modes(
            FLOOR, "runs", {"count": count, "batch": True}, ", batched", runs=count, steps=count
        ),
        *in_modes(DURABLY, "runs", {"count": count, "workers": 4}, runs=count, steps=count),
        *in_modes(
            DURABLY,
            "runs",
            {"count": count, "workers": 4, "batch": True},
            ", batched",
            runs=count,
            steps=count,
        ),
        Case("huey", HUEY, "runs", {"count": count, "workers": 4}, runs=count),
        *(
            Case(
                peer.name,
                peer,
                "runs",
                {"count": theirs, "workers": 4},
                runs=theirs,
                steps=theirs,
            )
            for peer in STEP_PEERS
        ),
    ]
    return Table(
        "runs",
        "Runs of one step a second, 4 workers, from the first trigger to the last completion",
        "runs/s",
        cases,
        note="Batched: triggered in one transaction, and the floor claims the next run in the "
        "transaction that ends one. The plain floor commits four times a run. huey has no steps.",
    )


def _batch(size: Sizes) -> Table:
    count = size.plain(20_000, 5000)
    few = size.plain(2000, 200)
    return Table(
        "batch",
        "Runs a second triggered in one batch",
        "runs/s",
        [
            *in_modes(FLOOR, "batch", {"count": count}),
            *in_modes(DURABLY, "batch", {"count": count}),
            Case("@coji/durably", COJI, "batch", {"count": few}),
        ],
    )


def _start(size: Sizes) -> list[Table]:
    times = size.plain(100, 30)
    slow = size.plain(20, 4)
    here = [
        *in_modes(FLOOR, "start", {"times": times}),
        *in_modes(DURABLY, "start", {"times": times}, runs=times),
        Case("dbos", DBOS, "start", {"times": times}, runs=times),
        Case("huey", HUEY, "start", {"times": slow}),
        Case("dura", DURA, "start", {"times": slow}, runs=slow),
        Case("@coji/durably", COJI, "start", {"times": slow}, runs=slow),
    ]
    elsewhere = size.plain(60, 20)
    other = [Case("durably", DURABLY, "start_elsewhere", {"times": elsewhere}, runs=elsewhere)]
    return [
        Table(
            "start",
            "From the trigger to the first line of the job, idle engine, same process (median)",
            "ms",
            here,
            higher_is_better=False,
            note="dbos without a queue. The others look for work now and then.",
        ),
        Table(
            "start-elsewhere",
            "The same, triggered by another process, default settings (median)",
            "ms",
            other,
            higher_is_better=False,
            note="Triggered every tenth of a second or so. After some seconds without a commit the "
            "engine polls four times a second.",
        ),
    ]


def _resume(size: Sizes) -> list[Table]:
    made = []
    for key, full, quick in (("10k", 10_000, 10_000), ("100k", 100_000, 100_000)):
        count = size.plain(full, quick)
        cases = [
            Case("floor", FLOOR, "resume", {"count": count}, {"count": count}),
            Case("durably", DURABLY, "resume", {"count": count}, {"count": count}, runs=1),
        ]
        if key == "10k":
            theirs = size.plain(5000, 500)
            cases += [
                Case(peer.name, peer, "resume", {"count": theirs}, {"count": theirs}, runs=1)
                for peer in STEP_PEERS
            ]
        made.append(
            Table(
                f"resume-{key}",
                f"Resume of a run with {count:,} completed steps",
                "µs a step",
                cases,
                higher_is_better=False,
                most_turns=5,
                note=f"The peers with {theirs:,} steps." if key == "10k" else "",
            )
        )
    return made


def _restart(size: Sizes) -> Table:
    count = 5000
    theirs = size.plain(5000, 500)
    return Table(
        "restart",
        "From the start of the process to the first new step after SIGKILL, 5,000 steps stored",
        "s",
        [
            Case("floor", FLOOR, "restart", {"count": count}, {"count": count}),
            Case("durably", DURABLY, "restart", {"count": count}, {"count": count}, runs=1),
            Case("dbos", DBOS, "restart", {"count": theirs}, {"count": theirs}, runs=1),
        ],
        higher_is_better=False,
        most_turns=5,
        note=f"dbos with {theirs:,}. @coji/durably waits for 30 s, dura for 120 s, until the dead "
        "process's lease is over.",
    )


# A name is imported when it is first used.
_NAMED = "durably.job; durably.Durably; durably.StepContext"
_IMPORT = """
import time
started = time.perf_counter()
import {module}
taken = time.perf_counter() - started
print('OUTCOME {{"value": %f}}' % (1000 * taken))
"""
_TRIVIAL = """
import durably

@durably.job
def trivial(step: durably.StepContext, number: int) -> int:
    return step.run("only", int, number)

with durably.Durably("durably.db", jobs=[trivial]) as app:
    app.jobs["trivial"].trigger_and_wait(1)
"""
_PEAK = """
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
print('OUTCOME {"value": %f}' % (peak / 1024))
"""


def _weight() -> list[Table]:
    imports = [
        Case(row, system, code=_IMPORT.format(module=module))
        for row, system, module in (
            ("floor (apsw)", FLOOR, "apsw"),
            ("what durably needs (apsw, attrs, cattrs)", FLOOR, "apsw, attrs, cattrs"),
            *((system.name, system, system.name) for system in (DURABLY, DBOS, HUEY, DURA)),
            ("durably, with what a script names", DURABLY, f"durably; {_NAMED}"),
        )
    ]  # fmt: skip
    systems = (FLOOR, DURABLY, DBOS, HUEY, DURA, COJI)
    return [
        Table(
            "import",
            "Import, over bare Python",
            "ms",
            [*imports, Case("@coji/durably", COJI, "imports")],
            higher_is_better=False,
            note="Compiled before.",
        ),
        Table(
            "memory",
            "Peak memory of a process after one trivial job",
            "MiB",
            [
                Case("bare Python", FLOOR, code=_PEAK),
                Case("durably, in a script of its own", DURABLY, code=_TRIVIAL + _PEAK, runs=1),
                *(Case(system.name, system, "memory") for system in systems),
            ],
            higher_is_better=False,
            note="The programs of all the systems take a MiB for what they measure with.",
        ),
    ]
