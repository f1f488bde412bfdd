"""Programs that have a session open, killed at random instants and started again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import execute
from invariants import check, check_history

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")


def test_nothing_that_was_stored_is_executed_again(tmp_path: Path, seed: int) -> None:
    """Each life goes on where the one before was killed, and the last one completes the session."""
    kills = 20
    done = execute("kills_sessions_at_random", tmp_path, kills, seed, timeout_s=120)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    database = tmp_path / "sessions.db"
    assert check(database, is_sequential=True, is_finished=True) == []
    lines = (tmp_path / "effects").read_text().splitlines(keepends=True)
    assert check_history(lines) == []
    app = durably.Durably(database)
    try:
        runs = app.get_runs()
        stored = {(run.id, step.name): step.output for run in runs for step in app.get_steps(run)}
    finally:
        app.close()
    assert {run.kind for run in runs} == {"session"}
    assert max(run.attempt for run in runs) > 2
    assert [run.idempotency_key for run in runs if run.idempotency_key] == ["3", "1"]
    # The last execution of each step is the one whose result is stored.
    executed = [line.split()[1:] for line in lines if line.startswith("effect")]
    assert {(run_id, name): value for run_id, name, value in executed} == stored
    # A kill repeats at most the step that it has interrupted.
    assert len(executed) - len(stored) <= kills
