"""The line of a terminal that shows a run: its parts, and how they fit into a width."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

from durably._platform.displayable import displayable
from durably._platform.spans import limited_text, span
from durably.display.meter import Frame, Shown
from durably.execution.live import RunView

_BAR: Final = 30
_LEAST_BAR: Final = 8
_LONGEST_NAME: Final = 60
_LONGEST_STEP: Final = 50
_LONGEST_MESSAGE: Final = 80
# Several runs: so many of them are shown below the totals.
MOST_RUNS: Final = 4


class Glyphs(NamedTuple):
    """The characters that a terminal can show."""

    reused: str = "░"
    done: str = "█"
    left: str = "▕"
    right: str = "▏"
    dot: str = "·"
    marks: str = "▸✓✗■"
    cut: str = "…"


ASCII: Final = Glyphs(":", "#", "[", "]", "-", "", "...")


class Part(NamedTuple):
    """A part of a line: its text, what it is (for its colour), and how needed it is."""

    text: str
    kind: str
    # Those with the highest number are left out first; 0 is kept.
    rank: int = 0


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the characters that an encoding can express."""
    try:
        "".join(Glyphs()).encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return ASCII
    return Glyphs()


def number(value: float) -> str:
    """Return a number of steps, items or units for people."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.2f}" if abs(value) < 1e15 else f"{value:.3g}"
    if abs(value) >= 1e15:
        return f"{float(min(abs(value), 1e300)):.3g}"
    return f"{int(value):,}"


def counted(run: RunView) -> str:
    """Return how much is done, of how much."""
    if run.total is not None:
        return f"{number(run.done)}/{number(run.total)}"
    if run.unit:
        unit = run.unit.removesuffix("s") if run.done == 1 else run.unit
        return f"{number(run.done)} {unit}"
    return number(run.done)


def said_of_death(run: RunView) -> str:
    """Return why a run that is executed had to begin again, if something has died."""
    return f"(the {run.died} before this one died)" if run.died and not run.is_over else ""


def rate_text(shown: Shown) -> str | None:
    """Return how much is done a second."""
    if shown.rate is None:
        return None
    text = f"{shown.rate:.1f}" if shown.rate < 100 else number(round(shown.rate))
    return f"{text} steps/s" if shown.run.unit == "steps" else f"{text}/s"


def status_mark(status: str, glyphs: Glyphs) -> str:
    """Return the sign before a status."""
    if not glyphs.marks:
        return ""
    return glyphs.marks[{"completed": 1, "failed": 2, "stopped": 3, "cancelled": 3}.get(status, 0)]


def fractions(run: RunView) -> tuple[float, float] | None:
    """Return how much of the bar is from checkpoints, and done now; ``None`` without a total."""
    total = run.total
    if total is None or not total > 0:
        return None
    reused = min(1.0, max(0.0, run.reused / total))
    done = min(1.0, max(0.0, run.done / total))
    return reused, max(0.0, done - reused)


def bar(run: RunView, width: int, glyphs: Glyphs) -> list[Part]:
    """Return a bar of that many characters between its ends; empty without a total."""
    parts = fractions(run)
    if parts is None:
        return []
    reused = int(parts[0] * width)
    done = int((parts[0] + parts[1]) * width) - reused
    left = width - reused - done
    mark = glyphs.marks[2] if run.status == "failed" and left and glyphs.marks else ""
    parts_of_bar = [
        Part(glyphs.left, "end"),
        Part(glyphs.reused * reused, "reused"),
        Part(glyphs.done * done, "done"),
        Part(mark, "failed"),
        Part(" " * (left - len(mark)), "open"),
        Part(glyphs.right, "end"),
    ]
    return [part for part in parts_of_bar if part.text]


def details(shown: Shown, *, is_map: bool = False) -> list[Part]:
    """Return the text behind the bar."""
    run = shown.run
    found: list[Part] = []
    if run.reused and not is_map:
        found.append(Part(f"{number(run.reused)} from checkpoints", "plain", 3))
        if died := said_of_death(run):
            found.append(Part(died, "note", 7))
    if run.failed:
        found.append(Part(f"{run.failed:,} failed", "failed", 1))
    is_waiting = run.limited_s >= 1 and not run.is_over
    if is_waiting:
        # Why nothing happens: the bar is left out first.
        found.append(Part(limited_text(run.workers, run.limited_s), "limited", 0))
    rate = rate_text(shown)
    if rate is not None and not is_waiting:
        found.append(Part(rate, "plain", 2))
    if not is_map:
        found.append(Part(span(shown.elapsed_s), "plain", 4))
    if shown.left_s is not None and not is_waiting and not run.is_over:
        found.append(Part(f"{span(shown.left_s)} left", "plain", 1))
    if not is_map and not run.is_over:
        if run.step is not None:
            found.append(Part(f"now: {displayable(run.step, _LONGEST_STEP)}", "step", 5))
        if run.message:
            found.append(Part(displayable(run.message, _LONGEST_MESSAGE), "plain", 6))
    return found


def run_line(shown: Shown, width: int, glyphs: Glyphs, *, is_map: bool = False) -> list[Part]:
    """Return the line of one run, as far as it fits into *width* cells."""
    run = shown.run
    count = counted(run)
    if is_map:
        total = counted(run).rpartition("/")[2] if run.total is not None else ""
        before = [Part(f"{count:>{2 * len(total) + 3}}", "count")]
        after, between = details(shown, is_map=True), "  "
    else:
        name = displayable(run.name, _LONGEST_NAME)
        mark = status_mark(run.status, glyphs)
        before = [Part(name, "name"), Part(" ", "plain"), Part(f"{mark}{run.status}", run.status)]
        after, between = details(shown), f" {glyphs.dot} "
        is_empty = run.total is None and not run.done
        after = after if is_empty else [Part(count, "count"), *after]
    return _fitted(before, run, after, between, width, glyphs)


def totals_line(frame: Frame, width: int, glyphs: Glyphs) -> list[Part]:
    """Return the line of totals of several runs."""
    view = frame.view
    as_run = RunView("", "", done=view.done, total=view.total, failed=view.failed, unit="")
    shown = Shown(as_run, frame.elapsed_s, frame.rate, frame.left_s)
    running = sum(run.run.status == "running" for run in frame.runs)
    count = f"{counted(as_run)} runs"
    after = [Part(count, "count"), *details(shown)]
    if running and not frame.is_last:
        after.append(Part(f"{running:,} running", "plain", 5))
    return _fitted([], as_run, after, f" {glyphs.dot} ", width, glyphs)


def lines_of(
    frame: Frame, width: int, glyphs: Glyphs, *, most: int = MOST_RUNS
) -> list[list[Part]]:
    """Return the lines of a frame: one, or totals with the slowest runs below them."""
    view = frame.view
    if not view.is_several:
        return [run_line(each, width, glyphs, is_map=view.is_map) for each in frame.runs]
    lines = [totals_line(frame, width, glyphs)]
    if not frame.is_last:
        indented = [run_line(each, width - 2, glyphs) for each in frame.runs[:most]]
        lines += [[Part("  ", "plain"), *line] for line in indented]
    return lines


def text_of(parts: Sequence[Part]) -> str:
    """Return a line without its colours."""
    return "".join(part.text for part in parts)


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(char) or char in "\u200c\u200d\ufe0f"
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _fitted(
    before: list[Part],
    run: RunView,
    after: list[Part],
    between: str,
    width: int,
    glyphs: Glyphs,
) -> list[Part]:
    """Leave out what is least needed, make the bar shorter, and cut what is still too long."""
    wide = _BAR
    while True:
        shown = bar(run, wide, glyphs) if wide else []
        line = _joined([before, shown], after, between)
        needed = sum(cells(part.text) for part in line)
        if needed <= width:
            return line
        least = max((part.rank for part in after), default=0)
        if wide > _LEAST_BAR:
            wide = max(_LEAST_BAR, wide - (needed - width))
        elif least > 0:
            after = [part for part in after if part.rank < least]
            wide = _BAR
        elif wide:
            wide = 0
        else:
            return _cut(line, width, glyphs.cut)


def _joined(groups: list[list[Part]], after: list[Part], between: str) -> list[Part]:
    line: list[Part] = []
    for group in groups:
        if group and line:
            line.append(Part(" ", "plain"))
        line += group
    for index, part in enumerate(after):
        if line:
            is_close = not index or part.kind == "note"
            line.append(Part(" " if is_close else between, "plain"))
        line.append(part)
    return line


def _cut(line: list[Part], width: int, sign: str) -> list[Part]:
    left = width - len(sign)
    kept: list[Part] = []
    for part in line:
        text = ""
        for char in part.text:
            left -= cells(char)
            if left < 0:
                kept.append(part._replace(text=text + sign))
                return kept if width >= len(sign) else []
            text += char
        kept.append(part._replace(text=text))
    return kept
