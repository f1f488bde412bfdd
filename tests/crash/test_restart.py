"""A script that died goes on at once when it is started again, with default settings."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import execute
from invariants import check, check_history

import durably

# Far above what a start takes, far below the default stale_threshold.
GUARD_S = 10.0


def start(tmp_path: Path, die_after: int) -> subprocess.CompletedProcess[str]:
    """Execute the script to its end, or until it dies after so many batches."""
    return execute(
        "dies_after_batches",
        tmp_path / "runs.db",
        tmp_path / "effects",
        die_after,
        timeout_s=GUARD_S,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_script_that_died_goes_on_at_once(tmp_path: Path) -> None:
    """Killed and started again, and again, a script with default settings does not wait for the
    stale_threshold: it goes on from the first batch without a checkpoint, and once it is done
    it does nothing more.
    """
    for die_after in (1, 4, 9):
        assert start(tmp_path, die_after).returncode == -signal.SIGKILL
    done = start(tmp_path, 0)
    assert (done.returncode, done.stdout) == (0, "10 4 idempotent 10\n")
    again = start(tmp_path, 0)
    assert (again.returncode, again.stdout) == (0, "10 4 idempotent 10\n")

    assert check(tmp_path / "runs.db", is_sequential=True, is_idle=True, is_finished=True) == []
    lines = (tmp_path / "effects").read_text().splitlines(keepends=True)
    assert check_history(lines) == []
    executed = [line.split()[3] for line in lines if line.startswith("effect")]
    attempts = [1, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert executed == [f"{attempt}.{n}" for n, attempt in enumerate(attempts)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "ending", ["returns", "sys.exit", "raises", "os._exit", "SIGTERM", "SIGINT"]
)
def test_script_that_ends_without_stop_neither_hangs_nor_loses(tmp_path: Path, ending: str) -> None:
    """However a script ends that has a started engine with a run in the middle of a step, it does
    not hang, and the run goes on at once in the next process from its checkpoints.
    """
    database = tmp_path / "runs.db"
    execute("ends_inside_a_step", database, ending, timeout_s=GUARD_S)
    assert check(database, is_sequential=True) == []

    @durably.job(origin="any")
    def work(step: durably.StepContext) -> str:
        step.run("first", str, "again")
        step.run("second", str, "again")
        return step.run("third", str, "by the second")

    with durably.Durably(database, jobs=[work]) as app:
        (run,) = app.get_runs()
        run = app.wait(run, timeout=GUARD_S)
        # Only a death is a try of its own; every other end puts the run back.
        is_dead = ending in ("os._exit", "SIGTERM")
        assert (run.output, run.attempt) == ("by the second", 2 if is_dead else 1)
        outputs = [step.output for step in app.get_steps(run)]
    # A kill loses the step in progress; every other end lets it finish and keeps it.
    kept = "again" if is_dead else "second"
    assert outputs == ["first", kept, "by the second"]
    assert check(database, is_idle=True, is_finished=True) == []
