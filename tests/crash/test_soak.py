"""The short forms of what ``python -m tests.crash.soak`` does for as long as it is asked to."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from crash import soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, stops and kills"),
]

SECONDS = 0.1  # each goes through one round at least

# What each kind promises.
FACTS = {
    "killed": "Several processes killed at random instants lose nothing acknowledged.",
    "killed-at-points": "Nor do those that are killed at a point of the write path.",
    "stopped": "A process stopped past the threshold changes nothing when it goes on.",
    "suspended": "A machine that sleeps costs no run its owner.",
    "tidied": "Deleted lock files cost nothing, also where their owners die.",
    "exits": "An interpreter that ends at any moment neither hangs nor loses.",
    "interrupts": "A script ends by Ctrl-C, and the next one goes on.",
    "kernels": "An engine in a notebook can be used on after each Ctrl-C.",
    "runs-here": "A run that is executed in the main thread goes on after each Ctrl-C.",
    "maps": "A map whose process is killed executes no item again that is stored.",
    "maps-full-disk": "A map whose disk is full loses no result and makes none twice.",
    "pools-workers": "A map whose workers are killed executes what they were at elsewhere.",
    "pools-full-disk": "A map in processes whose disk is full loses no result.",
    "deaths": "A step may end, fork or starve its process.",
    "poked": "Code that opens and closes the files in the same process harms nothing.",
    "long-reader": "The log is bounded again when a long reader has ended.",
    "crowd": "Eight processes do to one file's runs what they like.",
    "migrations": "Processes make and migrate a file at once, and are killed at it.",
    "lost": "Processes whose file is taken away notice, and what was moved is whole.",
    "backups": "Each backup beside processes that write and die is whole and sound.",
    "blobs": "Processes that store and purge the same large results, and die, lose and leave none.",
    "waits": "Runs that wait get each answer once, whatever process is killed.",
    "clocks": "Wall clocks that jump cost no run its owner and make no duration negative.",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kind leaves when it has found something lies with the test's other files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("kind", FACTS)
def test_short_form(kind: str, seed: int) -> None:
    """Each kind of fault leaves what FACTS says of it."""
    counts = soak.KINDS[kind](time.monotonic() + SECONDS, seed)
    assert counts["checks passed"] >= 1
    assert sum(counts.values()) > counts["checks passed"]


def test_one_command_runs_them() -> None:
    """The command of the documentation works from a checkout, and reports what it did."""
    arguments = ["--minutes", "0.005", "--seed", "7", "--kind", "migrations"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.soak", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "migrations --seed 7" in done.stdout
    assert "checks passed" in done.stdout


def test_finding_is_reported_with_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a finding the status is 1, and what shows it again is the last thing that is printed."""
    seeds = []

    def kind(deadline: float, seed: int) -> Counter[str]:
        seeds.append(seed)
        assert len(seeds) < 3, "found"
        return Counter({"checks passed": 1})

    monkeypatch.setattr(soak, "KINDS", {"one": kind, "two": kind})
    assert soak.soak(["one", "two"], 60.0, 7) == 1
    assert seeds[0] == 7
    printed = capsys.readouterr()
    assert "AssertionError: found" in printed.err
    assert printed.out.rstrip().endswith(f"--kind one --seed {seeds[2]} --minutes 1")
    assert "2 checks passed" in printed.out
