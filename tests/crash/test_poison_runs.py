"""Runs that kill their process: the others are executed, and after a few deaths they are failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from children import DEADLINE_S, ENVIRONMENT, PROGRAMS
from invariants import check

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes")


def test_a_run_that_kills_its_process_starves_no_others_and_is_failed(tmp_path: Path) -> None:
    """A service that is started again after each death executes all other runs at its second start;
    the one that kills it is failed at its last, which says so, and a retry tries it anew.
    """
    database, most = tmp_path / "runs.db", 3
    program = [sys.executable, PROGRAMS / "kills_its_process.py", database, str(most)]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            program,
            env=ENVIRONMENT,
            timeout=3 * DEADLINE_S,
            capture_output=True,
            check=False,
            text=True,
        )

    assert start().returncode == -9
    # It dies first, then the others are executed.
    assert start().returncode == -9
    with durably.Durably(database) as app:
        found = {run.payload: run.status.value for run in app.get_runs()}
        assert found == {0: "pending", 1: "completed", 2: "completed", 3: "completed"}
        [poison] = app.get_runs(status="pending")
        assert [each.outcome for each in app.get_attempts(poison)] == ["died"] * 2
    assert start().returncode == -9
    last = start()
    assert last.returncode == 1
    assert "its process died 3 times without completing another step" in last.stderr
    assert check(database, is_idle=True, is_finished=True) == []
    with durably.Durably(database) as app:
        [failed] = app.get_runs(status="failed")
        assert failed.id == poison.id
        assert failed.error is not None
        assert failed.error.type == "durably.WorkerDiedError"
        assert "the last step begun was 'parse'; host " in failed.error.message
        assert failed.attempt == most
        app.retry(failed)
    assert start().returncode == -9
    with durably.Durably(database) as app:
        [again] = app.get_runs(status="pending")
        assert (again.id, again.attempt) == (poison.id, most + 1)
