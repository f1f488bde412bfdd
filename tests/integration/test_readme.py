"""The first screen of the README is true: its example, its transcript, its length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import README, entries_of, paced, sections, shows
from terminals import Program

pytestmark = pytest.mark.slow

EXAMPLE, TRANSCRIPT = sections(README)[""]


def test_the_first_screen_is_one() -> None:
    """It has one sentence, an example of at most twelve lines, a transcript and three links."""
    head = README.read_text(encoding="utf-8").partition("\n## ")[0]
    sentence = re.sub(r"^```.*?^```$", "", head, flags=re.DOTALL | re.MULTILINE).split("\n")[2]

    assert re.fullmatch(r"durably [^.]*\.", sentence)
    assert (EXAMPLE.language, TRANSCRIPT.language) == ("python", "console")
    assert len(EXAMPLE.text.splitlines()) <= 12
    assert len(re.findall(r"\]\(docs/recipes/", head)) == 3


def test_killed_and_started_again_it_prints_what_the_page_shows(tmp_path: Path) -> None:
    """The transcript, on a terminal: killed in a step, the example continues with that step."""
    (_, before), (_, after) = entries_of(TRANSCRIPT.text)
    *until_killed, killed = before.splitlines()
    assert killed == "Killed"

    with Program(paced(EXAMPLE.text), tmp_path) as program:
        program.wait_for(until_killed[-1])
        program.kill()
        # What is left of the line that says how far it is.
        assert [line for line in program.lines if "▸running" not in line] == until_killed
    with Program(paced(EXAMPLE.text), tmp_path, PACE="0.8") as program:
        assert program.end() == 0
        assert shows(after, "".join(f"{line}\n" for line in program.lines)), program.lines
