"""The report: Markdown for people, JSON with every figure, and the table in the documentation."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.aims import Figures, Reached, judge
from benchmarks.contestants import Table

START = "<!-- what follows is written by python -m benchmarks -->"
END = "<!-- what precedes is written by python -m benchmarks -->"
PICTURED = ("steps", "runs", "start", "resume-10k", "import", "memory")

VERDICTS = {True: "met", False: "missed", None: "not measured"}


def write(results: dict[str, Any], tables: list[Table], folder: Path, page: Path | None) -> None:
    """Everything into *folder*; aims and pictures into *page* as well, if given."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: Figures = results["figures"]
    judged = judge(figures)
    results["aims"] = [
        {"workload": each.workload, "aim": each.aim, "reached": each.reached, "met": each.is_met}
        for each in judged
    ]
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = []
    for table in tables:
        if table.key in PICTURED and any(figures[table.key].values()):
            bars = [
                (row, _median(outcomes)) for row, outcomes in figures[table.key].items() if outcomes
            ]
            picture = pictures.bars(table.title, table.unit, bars)
            (folder / f"{table.key}.svg").write_text(picture, encoding="utf-8")
            drawn.append(table.key)
    text = "\n".join(_lines(results, tables, judged, drawn))
    (folder / "results.md").write_text(text, encoding="utf-8")
    if page is not None:
        pictured = [
            f"![{table.title}](../benchmarks/results/{table.key}.svg)"
            for table in tables
            if table.key in drawn
        ]
        _insert(page, judged, results, pictured)


def _median(outcomes: list[dict[str, Any]]) -> float:
    return float(statistics.median(outcome["value"] for outcome in outcomes))


def _lines(
    results: dict[str, Any], tables: list[Table], judged: list[Reached], drawn: list[str]
) -> list[str]:
    lines = ["# Results", "", *_machine(results), "", "## Aims", "", *_aims(judged), ""]
    lines += ["## What each system promises, as counted", "", *_durability(results), ""]
    if results["skipped"] or results["failed"]:
        lines += ["## Not measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in results["skipped"].items()]
        lines += [f"- {what}: {reason}" for what, reason in results["failed"].items()]
        lines.append("")
    for table in tables:
        lines += _table(table, results["figures"][table.key])
        if table.key in drawn:
            lines += [f"![{table.title}]({table.key}.svg)", ""]
    return lines


def _machine(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    sync = machine["sync_ms"]
    load = ", ".join(
        f"{load:.1f}" for load in (machine["load_before"][0], machine["load_after"][0])
    )
    versions = "; ".join(
        f"{name}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in results["versions"].items()
    )
    return [
        (
            f"Measured {results['measured_at']} in {results['minutes']:.0f} minutes with "
            f"`{results['command']}`, at most {results['turns']} turns; every figure is the median "
            "of its turns, with the least and the greatest where there were several."
        ),
        "",
        (
            f"- machine: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gib']} GiB, {machine['system']}"
        ),
        (
            f"- disk: {machine['folder_file_system']}; a sync of an appended page takes "
            f"{sync['median']} ms (median; at worst {sync['worst']} ms)"
        ),
        f"- load before and after: {load}",
        f"- versions: {versions}",
    ]


def _aims(judged: list[Reached]) -> list[str]:
    lines = ["| workload | aim | reached | |", "|---|---|---|---|"]
    for each in judged:
        verdict = VERDICTS[each.is_met]
        shown = f"**{verdict}**" if each.is_met is False else verdict
        lines.append(f"| {each.workload} | {each.aim} | {each.reached} | {shown} |")
    return lines


def _durability(results: dict[str, Any]) -> list[str]:
    lines = [
        (
            "| system | journal mode | synchronous | SQLite | survives | syncs a step | "
            "syncs a one-step run | bytes written a step | bytes written a one-step run |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, counted in results["counted"].items():
        force = counted["durability"]
        cells = [row, force["journal_mode"], force["synchronous"], force["sqlite"]]
        cells.append(survives(force))
        for what, digits in (("syncs", 2), ("bytes", 0)):
            for work in ("steps", "runs"):
                value = counted.get(work, {}).get(what)
                cells.append("" if value is None else f"{value:,.{digits}f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        (
            "The modes were read back on the connection that commits; syncs were counted by "
            "strace; bytes are those handed to the kernel. Compare rows that survive the same."
        ),
    ]
    return lines


def survives(durability: dict[str, str]) -> str:
    """What a commit outlives with these settings."""
    if durability["synchronous"] in ("full", "extra"):
        return "power loss"
    if durability["synchronous"] == "normal" and durability["journal_mode"] == "wal":
        return "a crash of the process"
    return "less"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _table(table: Table, rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        f"## {table.title}",
        "",
        f"| | {table.unit} | range | survives |",
        "|---|---:|---|---|",
    ]
    for row, outcomes in rows.items():
        if not outcomes:
            continue
        values = [outcome["value"] for outcome in outcomes]
        spread = f"{_number(min(values))} to {_number(max(values))}" if len(values) > 1 else ""
        force = outcomes[0].get("durability")
        promise = survives(force) if force else ""
        lines.append(f"| {row} | {_number(statistics.median(values))} | {spread} | {promise} |")
    better = "More" if table.higher_is_better else "Less"
    return [*lines, "", f"{better} is better. {table.note}".strip(), ""]


def _insert(
    page: Path, judged: list[Reached], results: dict[str, Any], pictured: list[str]
) -> None:
    """Replace what is between the two marks of *page*."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(START)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise SystemExit(f"{page} has lost the marks between which the table is written")
    pictures_apart = "\n\n".join(pictured)
    parts = [START, "", *_machine(results), "", *_aims(judged), "", pictures_apart, "", END]
    body = "\n".join(parts)
    page.write_text(before + body + after, encoding="utf-8")
