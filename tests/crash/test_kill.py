"""Processes killed at random instants: nothing that had a checkpoint is executed again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from children import execute
from invariants import check, check_history

import durably

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]


def sweep(database: Path) -> None:
    """Remove the lock files of lives that were killed before their owner row was stored."""
    for path in database.parent.glob("*.owner-*"):
        os.utime(path, (0, 0))  # younger ones might be in the making
    with durably.Durably(database) as app:
        app._supervisor._reaper._sweep()


@pytest.mark.timeout(600)  # a hundred processes, one after the other
@pytest.mark.parametrize(("synchronous", "kills"), [("full", 60), ("normal", 40)])
def test_killed_at_random_instants(tmp_path: Path, seed: int, synchronous: str, kills: int) -> None:
    """A process killed with SIGKILL at random instants and restarted each time ends with every
    step executed to completion once, and no checkpointed step executed again.
    """
    done = execute("killed_at_random", tmp_path, kills, seed, synchronous, timeout_s=590)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"

    database = tmp_path / "runs.db"
    sweep(database)
    assert check(database, is_sequential=True, is_idle=True, is_finished=True) == []
    lines = (tmp_path / "effects").read_text().splitlines(keepends=True)
    assert check_history(lines) == []
    stored = {}
    app = durably.Durably(database)
    try:
        runs = app.get_runs()
        assert len(runs) >= kills / 2
        for run in runs:
            assert (run.status, run.output) == ("completed", 12)
            for step in app.get_steps(run):
                stored[run.id, step.name] = step.output
    finally:
        app.close()
    # The last execution of each step is the one whose result is stored.
    executed = [line.split()[1:] for line in lines if line.startswith("effect")]
    last = {(run_id, name): value for run_id, name, value in executed}
    assert last == stored
    assert len(stored) == 12 * len(runs)
    # Some steps were killed between their effect and their checkpoint; each of these was
    # alone in a thread of its process, so no kill can have caused more than there are threads.
    assert 0 <= len(executed) - len(stored) <= 4 * kills
