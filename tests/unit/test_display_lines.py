"""What a display shows of numbers: rates, times, lines of any width, HTML."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durably.display.html import html_of
from durably.display.line import ASCII, Glyphs, cells, glyphs_for, lines_of, text_of
from durably.display.meter import Meter
from durably.execution.live import RunView, View

CRAWL = RunView("1", "crawl", began_s=0.0, done=20, reused=10, total=30, step="page-20")


def line(run: RunView, now_s: float, *, width: int = 120, is_map: bool = False) -> str:
    """The line of a run that was first seen after a second."""
    meter = Meter(0.0)
    frame = meter.frame(View((run,), is_map=is_map), now_s)
    return text_of(lines_of(frame, width, Glyphs())[0])


@pytest.mark.parametrize(
    ("run", "now_s", "expected"),
    [
        (
            CRAWL,
            4.0,
            (
                "crawl ▸running ▕░░░░░░░░░░██████████          ▏ 20/30 · 10 from checkpoints · "
                "2.5 steps/s · 4.0 s · 4.0 s left · now: page-20"
            ),
        ),
        # Two new steps say nothing about the others.
        (
            CRAWL._replace(done=12),
            4.0,
            (
                "crawl ▸running ▕░░░░░░░░░░██                  ▏ 12/30 · 10 from checkpoints · "
                "4.0 s · now: page-20"
            ),
        ),
        (
            CRAWL._replace(status="failed", step=None, message="of before"),
            3.3,
            (
                "crawl ✗failed ▕░░░░░░░░░░██████████✗         ▏ 20/30 · 10 from checkpoints · "
                "3.0 steps/s · 3.3 s"
            ),
        ),
        (
            CRAWL._replace(total=None, reused=0, done=1),
            75,
            "crawl ▸running 1 step · 1 min 15 s · now: page-20",
        ),
        (RunView("1", "crawl", status="pending", is_here=False), 2.0, "crawl ▸pending 2.0 s"),
        # What the job counts itself may be anything.
        (
            CRAWL._replace(unit="", done=math.inf, total=math.nan, reused=0),
            9.0,
            "crawl ▸running inf/nan · 9.0 s · now: page-20",
        ),
    ],
)
def test_the_line_of_a_run(run: RunView, now_s: float, expected: str) -> None:
    """The line has the name, the status, a bar, the counts, the time and the newest step."""
    assert line(run, now_s, width=200) == expected


def test_the_lines_of_a_map() -> None:
    """As in the targets; no rate before more items are new than are executed at once."""
    mapped = RunView("1", "complete", began_s=0.0, total=500, unit="items", workers=8)
    few = mapped._replace(done=7, failed=1)
    many = mapped._replace(done=154, reused=78, failed=4)
    limited = many._replace(limited_s=3552.0)
    assert line(few, 1.0, is_map=True) == "    7/500 ▕                              ▏ 1 failed"
    assert line(many, 6.0, is_map=True) == (
        "  154/500 ▕░░░░█████                     ▏ 4 failed  13.3/s  26 s left"
    )
    assert line(limited, 6.0, is_map=True).endswith(
        "4 failed  rate limited: all 8 workers wait 59 min 12 s (Ctrl-C is safe)"
    )
    # On a narrow terminal it is more important than the bar.
    assert line(limited, 6.0, is_map=True, width=80) == (
        "  154/500 rate limited: all 8 workers wait 59 min 12 s (Ctrl-C is safe)"
    )


def test_what_came_from_checkpoints_counts_in_no_rate() -> None:
    """Neither do the seconds in which nothing else came."""
    meter = Meter(0.0)
    before = meter.frame(View((CRAWL._replace(done=10),)), 6.0)
    after = meter.frame(View((CRAWL,)), 8.0)
    assert (before.runs[0].rate, before.runs[0].left_s) == (None, None)
    assert (after.runs[0].rate, after.runs[0].left_s) == (5.0, 2.0)


def test_several_runs_are_totals_and_the_slowest() -> None:
    """Many runs are one line of totals, and lines of those that have run the longest."""
    runs = tuple(CRAWL._replace(id=str(number), done=number) for number in range(9))
    view = View(runs, is_several=True, done=4, failed=1, total=13)
    frame = Meter(0.0).frame(view, 2.0)
    lines = [text_of(each) for each in lines_of(frame, 120, ASCII)]
    assert lines[0] == (
        "[#########                     ] 4/13 runs - 1 failed - 2.0/s - 2.0 s - 4.5 s left - "
        "9 running"
    )
    assert [each[:16] for each in lines[1:]] == ["  crawl running "] * 4
    assert len(lines_of(frame._replace(is_last=True), 120, ASCII)) == 1
    assert html_of(frame).count("<b>") == 8


NUMBERS = st.one_of(st.integers(-5, 10**30), st.floats())
TEXTS = st.text(max_size=300)


@given(
    st.builds(
        RunView,
        id=st.just("1"),
        name=TEXTS,
        key=st.none() | TEXTS,
        status=st.sampled_from(["running", "failed", "completed", "open"]),
        began_s=st.floats(0, 10),
        done=NUMBERS,
        reused=NUMBERS,
        total=st.none() | NUMBERS,
        failed=st.integers(0, 10**9),
        unit=st.sampled_from(["", "steps", "items"]),
        step=st.none() | TEXTS,
        message=st.none() | TEXTS,
        limited_s=st.sampled_from([0.0, 61.0]),
    ),
    st.integers(1, 200),
    st.booleans(),
)
def test_any_run_fits_any_width_and_is_harmless_html(
    run: RunView, width: int, is_map: bool
) -> None:
    """A line is never wider than the terminal, and no text of it is markup."""
    frame = Meter(0.0).frame(View((run,), is_map=is_map), 12.0)
    for glyphs in (Glyphs(), ASCII):
        (parts,) = lines_of(frame, width, glyphs)
        text = text_of(parts)
        assert cells(text) <= width
        assert "\n" not in text
        assert "\x1b" not in text
    tags: set[str] = set()
    attributes: set[str] = set()

    class Read(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Read().feed(html_of(frame))
    assert tags <= {"div", "span", "b", "bdi", "code"}
    assert {name.partition("-")[0] for name in attributes} <= {
        "class",
        "style",
        "title",
        "role",
    } | {"aria"}


def test_a_terminal_that_knows_few_characters_gets_others() -> None:
    """An encoding without the characters of a bar gets ASCII; wide characters count twice."""
    assert glyphs_for("utf-8") == Glyphs()
    assert {glyphs_for(each) for each in ("ascii", "latin-1", None, "no such")} == {ASCII}
    assert cells("東京") == 4
    assert cells("e\u0301") == 1
