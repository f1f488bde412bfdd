"""What notebooks show: whatever is in it, it is harmless, short and quick."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rendered import read

from durably.rendering import words
from durably.rendering.bases import MOST_ROWS
from durably.rendering.cells import KINDS
from durably.rendering.tables import card, table

NOW = datetime(2026, 11, 28, 14, 0, tzinfo=UTC)

HOSTILE = [
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;title\x07\r\x08",
    "\u202egnp.exe\u2066",
    "\ud800",
    "a\nb\u2028c\x00",
    "</pre></td></table><style>*{display:none}</style>",
    "$$\\href{javascript:alert(1)}{x}$$",
    "x" * 10_000_000,
    "<\u202e" * 5_000_000,
    b"<b>" * 3_000_000,
    ["<i>"] * 1_000_000,
    {f"<{n}>": n for n in range(100_000)},
    10**5000,
    float("nan"),
    float("inf"),
    None,
    True,
]


class Raises:
    """Its ``str`` and ``repr`` fail."""

    def __repr__(self) -> str:
        raise ValueError("no")


class Lies(str):
    """Its methods are not those of a str."""

    __slots__ = ()

    def __str__(self) -> str:
        return "<script>"

    def __len__(self) -> int:
        return 0


def shaped(kind: str, value: Any) -> Any:
    """What a cell of that kind is given, with a value in it; ``None`` if it has no such thing."""
    match kind:
        case "outcome":
            return (value, value)
        case "counts":
            return {str(value)[:1000] if isinstance(value, int) and value < 9 else "<b>": 3}
        case "bar":
            return (value, value, value) if isinstance(value, int | float) else (3, None, value)
        case "seconds":
            return float(value) if isinstance(value, bool | float) else 1.5
        case "lasted":
            return (NOW, None)
        case _:
            return value


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_any_kind_is_harmless_whatever_is_in_it(kind: str) -> None:
    """Nothing of it is an element or acts on the page, and of 10 MB little is shown."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in [*HOSTILE, Raises(), Lies("<u>"), deep, (Raises(),), {"k": Lies("<u>")}]:
        cell = KINDS[kind](shaped(kind, value))
        text = read(cell)
        assert len(text) <= 20_000 if kind == "lines" else len(text) <= 450, kind


def test_tables_and_cards_are_harmless() -> None:
    """Titles, captions and notes too; and a page's mathematics is none."""
    for value in HOSTILE:
        text = words.plain(value)
        shown = table([(text, "code")], [(value,)], 1, caption=text)
        assert 'class="durably tex2jax_ignore mathjax_ignore"' in shown
        read(shown)
        read(card([("name", value)], [(text, "wide_code", value)], note=text))


def test_a_table_says_how_many_rows_it_does_not_show() -> None:
    """It shows what it is given."""
    rows = [(n, f"step-{n}") for n in range(MOST_ROWS)]
    shown = table([("#", "number"), ("step", "name")], rows, 1000)
    assert shown.count("<tr>") == 1 + MOST_ROWS
    assert read(shown).endswith("step-49 … 950 more")
    assert "more" not in table([("#", "number"), ("step", "name")], rows, MOST_ROWS)


def test_a_time_is_relative_and_then_local_with_the_exact_one_as_its_tooltip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within a day it says how long ago; a clock that was set back shows the time itself."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for ago, shown in {
            0: "0 s ago",
            59: "59 s ago",
            60: "1 min ago",
            3599: "59 min ago",
            7200: "2 h ago",
            86399: "23 h ago",
            86400: "11-27 15:00",
            86400 * 365: "2025-11-28 15:00",
            -60: "11-28 15:01",
        }.items():
            assert words.ago(NOW - timedelta(seconds=ago), NOW) == shown
        assert words.exact(NOW) == "2026-11-28 15:00:00+01:00"
        assert 'title="2026-11-28 15:00:00+01:00"' in KINDS["when"](NOW)
        assert 'datetime="2026-11-28T14:00:00+00:00"' in KINDS["when"](NOW)
        for end in (datetime.min, datetime.max):
            read(KINDS["when"](end.replace(tzinfo=UTC)))
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.0042, "4 ms"),
        (0.25, "0.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3725, "1 h 2 min"),
        (90000, "1 d 1 h"),
        (1e9, "11,574 d 1 h"),
        (float("nan"), ""),
    ],
)
def test_a_duration_has_the_precision_that_people_need(seconds: float, shown: str) -> None:
    """It has milliseconds below a tenth of a second, and no seconds beyond an hour."""
    assert words.took(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"path": "a.csv", "day": (1, 2.5, None)}, "{'path': 'a.csv', 'day': (1, 2.5, None)}"),
        ((1,), "(1,)"),
        ([], "[]"),
        (frozenset({1}), "frozenset({1})"),
        (set(), "set()"),
        (list(range(100)), f"[{', '.join(map(str, range(20)))}, … 76 more …, 96, 97, 98, 99]"),
        ("a" * 50, f"'{'a' * 50}'"),
        ([[[[[[[[]]]]]]]], "[[[[[[…]]]]]]"),
    ],
)
def test_a_value_is_shown_as_python_writes_it(value: object, shown: str) -> None:
    """Of what is long the middle is left out."""
    assert words.value_text(value, 200) == shown


def test_what_is_too_long_keeps_its_two_ends() -> None:
    """The end of a value, which often distinguishes it, is shown."""
    for value in ("begin" + "x" * 10**6 + "end", b"begin" + b"x" * 10**6 + b"end"):
        shown = words.value_text(value, 40)
        assert len(shown) == 40
        assert "begin" in shown
        assert shown.endswith("end'")
    assert words.value_text({"k": ["x" * 10**6] * 10**6}, 60).startswith("{'k': ['xxx")


def test_lines_keep_the_first_and_the_last() -> None:
    """The last line of a traceback is its message."""
    shown = read(KINDS["lines"]("\n".join(f"line {n}" for n in range(1000)) + "\nValueError: <no>"))
    assert shown.splitlines()[0] == "line 0"
    assert shown.splitlines()[-1] == "ValueError: <no>"
    assert len(shown.splitlines()) == 41


@pytest.mark.parametrize(
    ("current", "total", "width", "shown"),
    [
        (9, 30, "30.0%", "9/30"),
        (40, 30, "100.0%", "40/30"),
        (-1, 30, "0.0%", "-1/30"),
        (2.5, 1e6, "0.0%", "2.5/1,000,000"),
        (9, None, None, "9"),
        (9, 0, None, "9"),
        (float("nan"), 3, None, "nan"),
        (10**400, 3, None, "1000000000…000000000"),
    ],
    ids=["part", "beyond", "below", "large", "no-total", "no-items", "nan", "huge"],
)
def test_a_bar_stays_within_its_bounds(
    current: float, total: float | None, width: str | None, shown: str
) -> None:
    """Whatever numbers a job reports."""
    bar = KINDS["bar"]((current, total, "running"))
    assert read(bar).strip().partition("…")[0] == shown.partition("…")[0]
    assert (f"width:{width}" in bar) is (width is not None)
