"""durably next to the floor and to its peers: ``python -m benchmarks``, ``--quick`` for a look.

All systems take turns on one machine, each measurement in a process of its own on a fresh file,
the disk synced before. Environments for the peers are made in a folder that git ignores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import environments, machine, report
from benchmarks.contestants import (
    BARE_DASK,
    BARE_LOKY,
    COJI,
    DBOS,
    DURA,
    DURABLY,
    FLOOR,
    HUEY,
    JOBLIB,
    LARGE_PARTS,
    MODES,
    Table,
)
from benchmarks.environments import ROOT, Environment, MissingError
from benchmarks.measuring import Case, FailedError, count_syncs, has_strace, measure
from benchmarks.workloads import tables

# What most of the numbers of commits are meant for: where a sync takes longer, fewer will do.
USUAL_SYNC_MS = 0.5
LEAST_SCALE = 0.05

# Between the marks of a count there is nothing else: few are enough.
COUNTED = 160


def main() -> None:
    """Measure, tell, and write the results."""
    options = _options()
    started = time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    machine.require_disk(options.folder)
    found, skipped = _environments(options.environments)
    results: dict[str, Any] = {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "turns": options.turns,
        "machine": machine.describe(options.folder),
        "versions": {name: each.versions for name, each in found.items() if name != FLOOR.name},
        "skipped": skipped,
        "failed": {},
        "counted": {},
        "figures": {},
    }
    sync_ms = results["machine"]["sync_ms"]["median"]
    scale = min(1.0, max(LEAST_SCALE, USUAL_SYNC_MS / sync_ms))
    _tell(f"a sync takes {sync_ms} ms; commits are scaled by {scale:.2f}")
    results["scale"] = scale
    chosen = [
        table
        for table in tables(scale, quick=options.quick)
        if not options.only or table.key in options.only
    ]
    if not options.only or "counted" in options.only:
        _count(found, results, options.folder)
    measured = time.monotonic()
    for table in chosen:
        _measure(table, found, results, options)
        results["seconds_per_table"] = results.get("seconds_per_table", {}) | {
            table.key: round(time.monotonic() - measured, 1)
        }
        measured = time.monotonic()
    results["machine"]["load_after"] = machine.load()
    results["minutes"] = (time.monotonic() - started) / 60
    report.write(results, chosen, options.results, options.page)
    _tell(f"\n{options.results / 'results.md'} is written, {results['minutes']:.1f} minutes")
    for what, reason in results["failed"].items():
        _tell(f"FAILED {what}: {reason}")
    if results["failed"]:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    private = ROOT / ".benchmarks"
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--quick", action="store_true", help="five minutes: one turn, less work")
    parser.add_argument("--turns", type=int, help="turns of each system (5; 1 if quick)")
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="tables by their keys, counted")
    parser.add_argument(
        "--folder", type=Path, default=private / "data", help="on the disk that is to be measured"
    )
    parser.add_argument(
        "--environments", type=Path, default=private / "environments", help="of the peers"
    )
    parser.add_argument("--results", type=Path, help="where the report goes")
    options = parser.parse_args()
    options.turns = options.turns or (1 if options.quick else 5)
    is_whole = not options.quick and not options.only and options.results is None
    # Only a whole run may change what is committed.
    options.page = ROOT / "docs" / "performance.md" if is_whole else None
    options.results = options.results or (results if is_whole else private / "results")
    options.folder = options.folder.resolve()
    options.environments = options.environments.resolve()
    return options


def _environments(folder: Path) -> tuple[dict[str, Environment], dict[str, str]]:
    """Those that are here or can be made, and why the others cannot."""
    own = environments.own()
    found = {FLOOR.name: own, DURABLY.name: own}
    skipped = {}
    makers: dict[str, Callable[[Path], Environment]] = {
        DBOS.name: environments.dbos,
        HUEY.name: environments.huey,
        JOBLIB.name: environments.joblib,
        DURA.name: environments.dura,
        COJI.name: environments.coji,
        BARE_LOKY.name: lambda _: environments.own_with("loky", "cloudpickle"),
        BARE_DASK.name: lambda _: environments.own_with("dask", "distributed"),
        LARGE_PARTS.name: lambda _: environments.own_with("numpy", "pandas", "pyarrow"),
    }
    for name, make in makers.items():
        try:
            found[name] = make(folder)
        except MissingError as missing:
            skipped[name] = str(missing)
            _tell(f"{name} is skipped: {missing}")
    return found, skipped


def _count(found: dict[str, Environment], results: dict[str, Any], folder: Path) -> None:
    """Syncs and bytes of a step and of a one-step run, for each row."""
    can_trace = has_strace()
    if not can_trace:
        results["skipped"]["syncs"] = "strace is not here, or may not trace"
    for system in (FLOOR, DURABLY, DBOS, HUEY, DURA, COJI):
        if system.name not in found:
            continue
        has_modes = system in (FLOOR, DURABLY)
        for mode in MODES if has_modes else ("",):
            row = f"{system.name}, {mode}" if has_modes else system.name
            for work in ("steps", "runs"):
                if work == "steps" and system is HUEY:
                    continue
                case = _counted_case(row, system, work, mode)
                try:
                    if can_trace:
                        syncs, outcome = count_syncs(case, found[system.name], folder)
                    else:
                        syncs, outcome = None, measure(case, found[system.name], folder)
                except FailedError as failed:
                    results["failed"][f"counting {work} of {row}"] = str(failed)
                    continue
                counted = results["counted"].setdefault(row, {})
                counted["durability"] = outcome["durability"]
                per_one = None if syncs is None else syncs / COUNTED
                counted[work] = {"syncs": per_one, "bytes": outcome["bytes"]}
                told = "not counted" if per_one is None else f"{per_one:.2f}"
                _tell(f"{row:20} {work:6} syncs each {told}, {outcome['bytes']:,.0f} bytes each")


def _counted_case(row: str, system: Any, work: str, mode: str) -> Case:
    arguments: dict[str, Any] = {"count": COUNTED}
    if mode:
        arguments["synchronous"] = mode
    if work == "runs" and system is not FLOOR:
        arguments["workers"] = 4
    elif work == "runs":
        arguments["batch"] = False
    return Case(
        row,
        system,
        work,
        arguments,
        steps=COUNTED if system.count_steps else None,
        runs=COUNTED if work == "runs" else None,
    )


def _measure(
    table: Table,
    found: dict[str, Environment],
    results: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """All cases of a table in turn, several times."""
    _tell(f"\n{table.title} [{table.key}, {table.unit}]")
    figures: dict[str, list[dict[str, Any]]] = {}
    results["figures"][table.key] = figures
    cases = [case for case in table.cases if case.system.name in found]
    for case in cases:
        figures[case.row] = []
    given_up = set()
    for _ in range(min(options.turns, table.most_turns)):
        for case in cases:
            if case.row in given_up:
                continue
            try:
                outcome = measure(case, found[case.system.name], options.folder)
            except FailedError as failed:
                results["failed"][f"{table.key}: {case.row}"] = str(failed)
                _tell(f"  {case.row}: {failed}")
                given_up.add(case.row)
                continue
            figures[case.row].append(outcome)
    for row, outcomes in figures.items():
        values = " ".join(f"{outcome['value']:,.4g}" for outcome in outcomes)
        _tell(f"  {row:48} {values}")


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
