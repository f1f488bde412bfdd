"""The picture of a run over time: steps as bars, the items of a map as a band."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from engines import engine

import durably
from durably.rendering.timeline import Items, Lane, Stretch, Timeline

NASTY = "</title><script>\x1b\u202e\ufffe\ud800"
SVG = "{http://www.w3.org/2000/svg}"
RED, GREEN = "#c62828", "#2e7d32"


def drawn(timeline: Timeline) -> tuple[list[ET.Element], list[str]]:
    """The rectangles of a picture and its texts, which are all that is in it."""
    root = ET.fromstring(timeline._repr_svg_())
    kinds = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert kinds <= {"svg", "title", "text", "rect"}
    for each in root.iter(f"{SVG}rect"):
        left, width = float(each.attrib["x"]), float(each.attrib["width"])
        assert 200 <= left <= left + width <= 902
        assert float(each.attrib["height"]) >= 0
    return list(root.iter(f"{SVG}rect")), [each.text or "" for each in root.iter(f"{SVG}text")]


def tooltips(rects: list[ET.Element], colour: str) -> list[str]:
    """What the rectangles of a colour say."""
    return [rect[0].text or "" for rect in rects if rect.attrib["fill"] == colour]


def test_a_run_is_a_picture_of_its_steps_items_and_attempts(tmp_path: Path) -> None:
    """In a notebook and as a file; also of a run that has failed, and of one that never started."""

    def label(number: int) -> int:
        if number == 3:
            raise ValueError(NASTY)
        return number

    def crawl(step: durably.StepContext) -> None:
        step.run("first title><script>\u202e", int)
        step.map("labels", label, range(5), on_failed="return")
        step.run("last", lambda: 1 // 0)

    with engine(tmp_path, crawl) as app:
        pending = app.trigger("crawl")
        assert drawn(pending.timeline()) == ([], [])
        app.run_until_idle(raise_failed=False)
        app.retry(pending)
        app.run_until_idle(raise_failed=False)
        timeline = pending.timeline()
        assert repr(timeline) == f"<Timeline of …{pending.id[-4:]} crawl failed: 3 steps>"
        rects, texts = drawn(timeline)
        assert "labels" in texts
        assert "first title><script>\\u202e" in texts
        stretches = tooltips(rects, "#808080")
        assert [text.partition(",")[0] for text in stretches] == [
            "attempt 1: failed",
            "attempt 2: failed",
        ]
        failed = tooltips(rects, RED)
        assert any(text.startswith("1 failed at ") for text in failed)
        assert any("ZeroDivisionError" in text for text in failed)
        assert any("4 of 5 items, 1 failed" in text for text in tooltips(rects, GREEN))
        counts = [text.split()[:2] for text in tooltips(rects, GREEN) if " at " in text]
        assert sum(int(count) for count, kind in counts if kind == "completed") == 4
        timeline.save(tmp_path / "run.svg")
        assert (tmp_path / "run.svg").read_text("utf-8") == timeline._repr_svg_()
        app.delete_run(pending)
        with pytest.raises(durably.NotFoundError):
            pending.timeline()


def test_a_map_that_was_interrupted_is_drawn_as_well(tmp_path: Path) -> None:
    """As far as its items are stored."""

    def stops(step: durably.StepContext) -> None:
        for item in step.imap("labels", lambda number: number, range(50)):
            if item.key == 40:
                raise KeyboardInterrupt

    with engine(tmp_path, stops) as app:
        run = app.trigger("stops")
        app.run_until_idle(raise_failed=False)
        assert "labels" in drawn(run.timeline())[1]


def test_of_many_steps_those_that_failed_and_the_longest_are_drawn() -> None:
    """In their order; how many are left out is said, and the time of an open one is until now."""
    lanes = [Lane(f"step-{n}", "completed", 1000.0 + n, 1000.0 + n + n % 7 / 7) for n in range(200)]
    lanes[70] = Lane("bad", "failed", 1070.0, 1070.0)
    lanes.append(Lane("open", "running", 1200.0, None))
    rects, texts = drawn(Timeline(NASTY, lanes, [Stretch("attempt 1", 1000.0, None)]))
    assert texts[-1] == "… 151 more, which were shorter"
    assert {"bad", "open"} <= set(texts)
    assert len(tooltips(rects, GREEN)) == 48


def test_a_long_time_in_which_nothing_was_executed_is_cut_short() -> None:
    """A run that went on a day later is not two lines at the edges; bad clocks do no harm."""
    day = 86400.0
    lanes = [Lane("a", "completed", 0.0, 10.0), Lane("b", "completed", day, day + 10)]
    rects, _ = drawn(Timeline("x", lanes, []))
    assert [round(float(each.attrib["width"])) for each in rects] == [340, 340]
    for start, end in ((0.0, -5.0), (0.0, 0.0), (-1e10, 1e10)):
        items = [Items(start, 3, 1), Items(end, 0, 10**6)]
        lane = Lane("a", "completed", start, end, "", items)
        drawn(Timeline("x", [lane], [Stretch("y", start, end)], items_s=1.0))
