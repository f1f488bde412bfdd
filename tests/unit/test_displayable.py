"""Text of unknown origin that is shown: one line, bounded, without effect where it is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durably._platform.displayable import displayable

# Joiners: without them families of emoji and Persian words fall apart.
JOINERS = "\u200c\u200d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ünïcode 東京 👩\u200d🔬 عربى", "Ünïcode 東京 👩\u200d🔬 عربى"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("two\nlines\r\u2028\t", r"two\nlines\r\u2028\t"),
        ("\u202egpj.exe\u200f\u2066", r"\u202egpj.exe\u200f\u2066"),
        ("lone \ud800", r"lone \ud800"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
    ],
)
def test_what_would_be_acted_on_is_escaped(text: str, shown: str) -> None:
    """A character that a terminal would act on is shown as an escape."""
    assert displayable(text) == shown


def test_long_text_is_cut_in_the_middle_between_escapes() -> None:
    """A text keeps its two ends, and no escape is cut."""
    assert displayable("abcdefghij", 10) == "abcdefghij"
    assert displayable("abcdefghijk", 10) == "abcde…hijk"
    assert displayable("a\x1b\x1b\x1bb", 10) == r"a\x1b…b"
    assert displayable("\x1b" * 9, 3) == "…"
    assert displayable("ab", 1) == "…"
    assert displayable("ab", 0) == ""
    huge = displayable("\n" * 5_000_000 + "x" * 5_000_000)
    assert (len(huge), huge[:4], huge[-4:]) == (200, r"\n\n", "xxxx")


@given(st.text(), st.integers(0, 40))
def test_any_text_is_one_harmless_line_that_fits(text: str, width: int) -> None:
    """No text breaks the line, changes its direction, or is wider than asked for."""
    shown = displayable(text, width)
    assert len(shown) <= width
    kinds = {unicodedata.category(char) for char in shown if char not in JOINERS}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(char) for char in shown} & {
        *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
    }
