"""Killed at each write of a change by hand: it has happened, or nothing of it has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from children import execute
from invariants import check

import durably

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]


def state_of(path: Path) -> Any:
    """All that the verbs change, of each run."""
    app = durably.Durably(path)
    try:
        return [
            (
                str(run.status),
                [(step.name, step.status, step.output, step.is_manual) for step in run.steps],
                [(item.key, item.status, item.output) for item in run.items("items")],
            )
            for run in app.runs()
        ]
    finally:
        app.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", ["redo", "redo only", "fork", "set", "set item", "retry"])
def test_a_change_by_hand_is_whole(tmp_path: Path, verb: str) -> None:
    """Its results are all there before, and all as wanted after it; none is lost in between."""
    done = execute("killed_by_hand", tmp_path, verb, timeout_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = int(done.stdout)
    assert killed > 2
    before, after = state_of(tmp_path / "before.db"), state_of(tmp_path / f"{killed}.db")
    found = []
    for n in range(killed):
        path = tmp_path / f"{n}.db"
        for left in tmp_path.glob(f"{n}.db.owner-*"):
            left.unlink()
        found.append(state_of(path))
        assert found[-1] in (before, after), f"killed at write {n}"
        assert check(path) == [], f"killed at write {n}"
    assert found[0] == before
