"""The first screen of the README is true: its example, its transcript, its length."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from children import DEADLINE_S
from pages import README, paced, sections, shows

pytestmark = pytest.mark.slow

EXAMPLE, TRANSCRIPT = sections(README)[""]


def test_the_first_screen_is_one() -> None:
    """One sentence, an example of at most twelve lines, a transcript, three links."""
    head = README.read_text(encoding="utf-8").partition("\n## ")[0]
    sentence = re.sub(r"^```.*?^```$", "", head, flags=re.DOTALL | re.MULTILINE).split("\n")[2]

    assert re.fullmatch(r"durably [^.]*\.", sentence)
    assert (EXAMPLE.language, TRANSCRIPT.language) == ("python", "console")
    assert len(EXAMPLE.text.splitlines()) <= 12
    assert len(re.findall(r"\]\(docs/recipes/", head)) == 3


def test_killed_and_started_again_it_prints_what_the_page_shows(tmp_path: Path) -> None:
    """The transcript: killed in a step, the example continues with that step."""
    before, after = re.findall(
        r"^\$ python crawl\.py\n(.*?)(?=^\$|\Z)", TRANSCRIPT.text, re.DOTALL | re.MULTILINE
    )
    *until_killed, killed = before.splitlines(keepends=True)
    assert killed == "Killed\n"
    (tmp_path / "crawl.py").write_text(paced(EXAMPLE.text), encoding="utf-8")

    def start(pace: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-u", "crawl.py"],
            cwd=tmp_path,
            env={**os.environ, "PACE": pace},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with start("1") as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in until_killed]
        process.kill()
    with start("0.01") as process:
        again, _ = process.communicate(timeout=DEADLINE_S)

    assert printed == until_killed
    assert shows(after, again), again
