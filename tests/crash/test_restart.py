"""A script that died goes on at once when it is started again, with default settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT
from invariants import check, check_history

import durably

# Far above what a start takes, far below the default stale_threshold.
GUARD_S = 10.0

SCRIPT = """
import os, signal, sys
import durably
database, effects, die_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def leave(*words):
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
def batch(run_id, n, attempt) -> str:
    leave("effect", run_id, n, f"{attempt}.{n}")
    return f"{attempt}.{n}"
executed = 0
@durably.job("import")
def work(step) -> int:
    for n in range(10):
        value = step.run(f"batch-{n}", batch, step.run_id, n, step.attempt)
        leave("returned", step.run_id, n, value)
        if n + 1 == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return 10
with durably.Durably(database, jobs=[work]) as app:
    run = app.jobs["import"].trigger_and_wait(idempotency_key="once", retry_failed=True)
    print(run.output, run.attempt, run.disposition, len(app.get_steps(run)))
"""


def start(tmp_path: Path, die_after: int) -> subprocess.CompletedProcess[str]:
    """Execute the script to its end, or until it dies after so many batches."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "runs.db", tmp_path / "effects", str(die_after)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=GUARD_S,
        check=False,
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


ENDINGS = {
    "returns": "",
    "sys.exit": "sys.exit(3)",
    "raises": "raise ZeroDivisionError",
    "os._exit": "os._exit(3)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("ending", ENDINGS)
def test_script_that_ends_without_stop_neither_hangs_nor_loses(tmp_path: Path, ending: str) -> None:
    """However a script ends that has a started engine with a run in the middle of a step, it does
    not hang, and the run goes on at once in the next process from its checkpoints.
    """
    program = f"""
import os, signal, sys, threading
import durably
inside = threading.Event()
def second(step):
    inside.set()
    while not step.cancelled:
        threading.Event().wait(0.01)
    return "second"
@durably.job
def work(step) -> str:
    step.run("first", str, "first")
    step.run("second", second, step)
    return step.run("third", str, "by the first")
app = durably.Durably(sys.argv[1], jobs=[work]).init()
app.jobs["work"].trigger()
inside.wait()
{ENDINGS[ending]}
"""
    database = tmp_path / "runs.db"
    subprocess.run(
        [sys.executable, "-c", program, database],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        timeout=GUARD_S,
        check=False,
    )
    assert check(database, is_sequential=True) == []

    @durably.job
    def work(step: durably.StepContext) -> str:
        step.run("first", str, "again")
        step.run("second", str, "again")
        return step.run("third", str, "by the second")

    with durably.Durably(database, jobs=[work]) as app:
        (run,) = app.get_runs()
        run = app.wait(run, timeout=GUARD_S)
        assert (run.output, run.attempt) == ("by the second", 2)
        outputs = [step.output for step in app.get_steps(run)]
    # A kill loses the step in progress; every other end lets it finish and keeps it.
    kept = "again" if ending in ("os._exit", "SIGTERM") else "second"
    assert outputs == ["first", kept, "by the second"]
    assert check(database, is_idle=True, is_finished=True) == []
