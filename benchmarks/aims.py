"""What durably aims at, each aim a ratio of figures of one run, and what was reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from attrs import frozen

Figures = dict[str, dict[str, list[dict[str, Any]]]]


class Medians:
    """The median of all turns, by table and row."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def of(self, table: str, row: str, what: str = "value") -> float:
        """One median.

        Raises:
            KeyError: it was not measured.
        """
        outcomes = self._figures[table][row]
        if not outcomes:
            raise KeyError(row)
        return float(statistics.median(outcome[what] for outcome in outcomes))

    def rows(self, table: str) -> list[str]:
        """Which rows of a table were measured."""
        return [row for row, outcomes in self._figures.get(table, {}).items() if outcomes]

    def beyond(self, table: str, row: str, peers: tuple[str, ...], *, higher: bool) -> bool:
        """Whether *row* is better than each of *peers* that was measured."""
        own = self.of(table, row)
        theirs = [self.of(table, peer) for peer in peers if peer in self.rows(table)]
        return all(own > other if higher else own < other for other in theirs)


@frozen
class Reached:
    """What came of an aim."""

    workload: str
    aim: str
    reached: str
    is_met: bool | None


PEERS = ("dbos", "huey", "dura", "@coji/durably")


def judge(figures: Figures) -> list[Reached]:
    """Each aim, with what was reached; unmet and unmeasured ones too."""
    medians = Medians(figures)
    judged = []
    for workload, aim, evaluate in _AIMS:
        try:
            reached, is_met = evaluate(medians)
        except KeyError as missing:
            reached, is_met = f"not measured ({missing.args[0]})", None
        judged.append(Reached(workload, aim, reached, is_met))
    return judged


Evaluate = Callable[[Medians], tuple[str, bool]]


def _ratio(table: str, row: str, to: str, least: float, peers: tuple[str, ...] = ()) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own, other = medians.of(table, row), medians.of(table, to)
        is_met = own / other >= least and medians.beyond(table, row, peers, higher=True)
        return f"{own / other:.2f} ({own:,.0f} to {other:,.0f})", is_met

    return evaluate


def _at_least(table: str, row: str, least: float, unit: str) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own = medians.of(table, row)
        return f"{own:,.0f} {unit}", own >= least

    return evaluate


def _below(table: str, row: str, most: float, unit: str, minus: str | None = None) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own = medians.of(table, row) - (medians.of(table, minus) if minus else 0)
        return f"{own:,.3g} {unit}", own < most

    return evaluate


def _within(table: str, row: str, of: str, most: float) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        ratio = medians.of(table, row) / medians.of(table, of)
        return f"{ratio:.2f}", ratio <= most

    return evaluate


def _times(table: str, row: str, of: str, most: float) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own, bare = medians.of(table, row), medians.of(table, of)
        return f"{own / bare:.2f} times ({own:,.4g} to {bare:,.4g} µs)", own < most * bare

    return evaluate


def _items(table: str, most_us: float, times: float) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own = medians.of(table, "durably, step.map")
        steps = medians.of(table, "durably, a loop of step.run")
        return f"{own:.1f} µs, {steps / own:.1f} times", own < most_us and steps >= times * own

    return evaluate


def _one_switch(medians: Medians) -> tuple[str, bool]:
    extra = medians.of("gil", "durably, 1 beside") - medians.of("gil", "durably, 0 beside")
    floors = medians.of("gil", "floor, 1 beside") - medians.of("gil", "floor, 0 beside")
    # A checkpoint that pays two intervals takes ten milliseconds more, not seven.
    return f"{extra:.2f} ms more (floor: {floors:.2f} ms more)", extra < 7.5


def _resume_speed(table: str, peers: tuple[str, ...]) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        own = medians.of(table, "durably")
        is_met = own <= 3 and medians.beyond(table, "durably", peers, higher=False)
        return f"{own:.2f} µs a step (floor {medians.of(table, 'floor'):.2f})", is_met

    return evaluate


def _resume_memory(medians: Medians) -> tuple[str, bool]:
    less = medians.of("resume-10k", "durably", "memory")
    more = medians.of("resume-100k", "durably", "memory")
    # What stays per step is that its name was used; the checkpoints themselves may not.
    return f"{less:.1f} MiB at 10,000 steps, {more:.1f} MiB at 100,000", more < 3 * max(less, 1)


def _claims(medians: Medians) -> tuple[str, bool]:
    empty = medians.of("claim", "empty file")
    others = [row for row in medians.rows("claim") if row != "empty file"]
    if len(others) < 3:
        raise KeyError("claim")
    ratios = [medians.of("claim", row) / empty for row in others]
    return ", ".join(f"{ratio:.2f}" for ratio in ratios), max(ratios) <= 1.3


def _purge(medians: Medians) -> tuple[str, bool]:
    longest = medians.of("purge", "purged")
    idle = medians.of("purge", "nothing purged")
    before = medians.of("purge", "purged", "bytes_before") / 2**20
    after = medians.of("purge", "purged", "bytes_after") / 2**20
    told = f"{longest:.0f} ms ({idle:.0f} ms without a purge), file {before:.0f} to {after:.0f} MiB"
    return told, longest <= 50 and after < before


def _processes(mode: str, table: str) -> Evaluate:
    def evaluate(medians: Medians) -> tuple[str, bool]:
        def ratios(system: str) -> list[float]:
            one = medians.of(table, f"{system}1 process, {mode}")
            return [medians.of(table, f"{system}{n} processes, {mode}") / one for n in (2, 4)]

        own = ratios("")
        told = f"{own[0]:.2f} with two, {own[1]:.2f} with four"
        if f"floor, 1 process, {mode}" in medians.rows(table):
            floors = ratios("floor, ")
            told += f" (floor: {floors[0]:.2f}, {floors[1]:.2f})"
        return told, min(own) >= 1

    return evaluate


def _overhead(medians: Medians) -> tuple[str, bool]:
    told = []
    for rows in (1, 10, 1000):
        parts = []
        for mode in ("full", "normal"):
            table = f"airports-{rows}"
            ratio = medians.of(table, f"durably, {mode}") / medians.of(table, "without durably")
            parts.append(f"{100 * (ratio - 1):+.0f} % {mode}")
        told.append(f"{rows:,}: {', '.join(parts)}")
    return "; ".join(told), True


_FULL, _NORMAL = "durably, full", "durably, normal"
_AIMS: list[tuple[str, str, Evaluate]] = [
    ("checkpoints, one run, full", "0.95 of the floor, ahead of every peer",
     _ratio("steps", _FULL, "floor, full", 0.95, PEERS)),
    ("checkpoints, one run, normal", "0.4 of the floor",
     _ratio("steps", _NORMAL, "floor, normal", 0.4)),
    ("checkpoints, 16 runs at once, full", "3.5 of the one-thread floor",
     _ratio("steps-16", "durably, 16 runs, full", "floor, one thread, full", 3.5)),
    ("a CPU-bound Python thread beside", "a checkpoint pays at most one switch interval (5 ms)",
     _one_switch),
    ("results of 100 kB, full", "0.8 of the floor",
     _ratio("steps-100kB", _FULL, "floor, full", 0.8)),
    ("results of 100 kB, normal", "0.8 of the floor",
     _ratio("steps-100kB", _NORMAL, "floor, normal", 0.8)),
    ("results of 5 MB, full", "0.8 of the floor",
     _ratio("steps-5MB", _FULL, "floor, full", 0.8)),
    ("results of 5 MB, normal", "0.8 of the floor",
     _ratio("steps-5MB", _NORMAL, "floor, normal", 0.8)),
    ("1,000 one-step runs, full", "1.3 of the plain floor, ahead of every peer",
     _ratio("runs", _FULL, "floor, full", 1.3, PEERS)),
    ("1,000 one-step runs, normal", "0.4 of the floor",
     _ratio("runs", _NORMAL, "floor, normal", 0.4)),
    ("batch trigger", "50,000 runs a second",
     _at_least("batch", _FULL, 50_000, "runs/s")),
    ("trigger to first line, same process", "within 1.5 of the floor",
     _within("start", _FULL, "floor, full", 1.5)),
    ("trigger to first line, another process", "median under 20 ms",
     _below("start-elsewhere", "durably", 20, "ms")),
    ("10,000 items on 4 threads, full", "under 50 µs an item, a fourth of a loop of step.run",
     _items("items-4", 50, 4)),
    ("10,000 items in the calling thread, full", "a third of a loop of step.run",
     _items("items-1", math.inf, 3)),
    *(("10,000 items in 2 processes, chunks of 1", f"under twice the bare pool ({kind})",
       _times("items-processes", f"{kind}, durably, chunks of 1", f"{kind}, bare, chunks of 1", 2))
      for kind in ("spawn", "loky")),
    ("10,000 items in 2 processes, chunks chosen by itself", "under 15 µs an item",
     _below("items-processes", "spawn, durably, chunks chosen by itself", 15, "µs")),
    *((f"{items} on Dask, chunks chosen by itself",
       "under 1.2 times the bare executor in the same chunks",
       _times("items-dask", f"durably, {items}", f"bare, {items}", 1.2))
      for items in ("items of x + 1", "items of 1 ms")),
    ("resume of 10,000 items", "under 3 µs an item",
     _below("resume-items-10k", "durably", 3, "µs")),
    ("resume of 1,000,000 items", "under 3 µs an item",
     _below("resume-items-1m", "durably", 3, "µs")),
    ("resume of 10,000 steps", "3 µs a step, ahead of every peer",
     _resume_speed("resume-10k", PEERS)),
    ("resume of 100,000 steps", "3 µs a step", _resume_speed("resume-100k", ())),
    ("memory of a resume", "bounded by a window, not by the run", _resume_memory),
    ("restart after SIGKILL, 5,000 steps", "under 0.3 s",
     _below("restart", "durably", 0.3, "s")),
    ("claim beside finished, queued and unknown runs", "within 1.3 of an empty file", _claims),
    ("heartbeat of 500 running runs", "under 5 ms",
     _below("heartbeat", "500 running", 5, "ms")),
    ("idle engine", "under 0.5 % of a core", _below("idle", "no run", 0.5, "%")),
    ("step.progress", "500,000 calls a second",
     _at_least("progress", "durably", 500_000, "calls/s")),
    ("step.log", "100,000 calls a second", _at_least("log", "durably", 100_000, "calls/s")),
    ("import durably, with what a script of jobs names", "under 60 ms over bare Python",
     _below("import", "durably, with what a script names", 60, "ms")),
    ("memory after one trivial job", "under 15 MiB over bare Python",
     _below("memory", "durably, in a script of its own", 15, "MiB", "bare Python")),
    ("purge of many runs", "no commit of others waits over 50 ms; the file shrinks", _purge),
    ("two and four processes, long runs, full", "no less than one",
     _processes("full", "processes")),
    ("two and four processes, long runs, normal", "no less than one",
     _processes("normal", "processes")),
    ("two and four processes, one-step runs, full", "no less than one",
     _processes("full", "processes-runs")),
    ("a step that returns a large array, full", "within 1.3 of np.save and a sync",
     _within("array", _FULL, "np.save and sync", 1.3)),
    ("a step that returns a frame of 100 MiB, full", "within 1.3 of writing Parquet and a sync",
     _within("frame", _FULL, "Parquet and sync", 1.3)),
    ("memory of a resume with large frames", "of those that are used, and of the one being read",
     _below("resume-frames", "durably", 5 * 25, "MiB")),
    ("import of airports, 1, 10, 1,000 rows a step", "reported, in percent over without durably",
     _overhead),
]  # fmt: skip
