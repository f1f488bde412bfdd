"""Processes killed at random instants: nothing that had a checkpoint is executed again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT
from invariants import check, check_history

import durably

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]

# Forks a new process for each life, so that a life costs a few milliseconds; the parent never
# opens the database. Ends each life after a random time, inspects what it left, and goes on.
LIVES = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import durably
from invariants import check
folder, kills, seed, synchronous = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
database = os.path.join(folder, "runs.db")
STEPS = 12
effects = os.open(os.path.join(folder, "effects"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def leave(*words):
    os.write(effects, (" ".join(map(str, words)) + "\\n").encode())
def effect(run_id, name, attempt):
    value = f"{attempt}.{os.getpid()}.{time.monotonic_ns()}"
    leave("effect", run_id, name, value)
    return value
@durably.job
def work(step):
    for n in range(STEPS):
        name = f"step-{n}"
        value = step.run(name, effect, step.run_id, name, step.attempt)
        leave("returned", step.run_id, name, value)
        step.progress(n, STEPS)
    return STEPS
def live(life, ready):
    app = durably.Durably(database, jobs=[work], synchronous=synchronous)
    with app:
        for run in app.get_runs(status="cancelled"):
            app.retry(run)  # a life was killed between the two
        handle = app.jobs["work"]
        handle.batch_trigger([
            durably.Trigger(None, idempotency_key=f"{life}-plain"),
            durably.Trigger(None, concurrency_key="one", labels={"life": str(life)}),
            durably.Trigger(None, concurrency_key=f"two-{life % 2}", coalesce=True),
        ])
        os.write(ready, b"x")
        if life % 7 == 3:
            run = handle.trigger(concurrency_key="one", idempotency_key=f"{life}-again")
            try:
                app.cancel(run)
                app.retry(run)
            except durably.ConflictError:
                pass  # it was too quick for that
randomness = random.Random(seed)
killed = life = 0
while killed < kills:
    life += 1
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            live(life, told)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(told)
    if randomness.random() < 0.75:
        os.read(ready, 1)  # in the middle of its work; the others while it opens the file
    time.sleep(randomness.expovariate(1 / 0.03))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(ready)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, f"life {life} failed"
        continue  # it was done before
    killed += 1
    # Not each time: the next life has to make do with what the kill has left, unlooked-at.
    # Only when a step has been executed: killed in the middle of the first opening, it has left
    # no tables.
    if randomness.random() < 0.2 and os.fstat(effects).st_size:
        found = check(database, is_sequential=True)
        assert found == [], found
pid = os.fork()
if not pid:
    try:
        live(0, os.open(os.devnull, os.O_WRONLY))
        os._exit(0)
    finally:
        os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
print(life, "lives")
"""


def sweep(database: Path) -> None:
    """Have the lock files removed of lives that were killed before their owner row was stored."""
    for path in database.parent.glob("*.owner-*"):
        os.utime(path, (0, 0))  # younger ones might be in the making
    with durably.Durably(database) as app:
        app._supervisor._reaper._sweep()


@pytest.mark.parametrize(("synchronous", "kills"), [("full", 200), ("normal", 60)])
def test_killed_at_random_instants(tmp_path: Path, seed: int, synchronous: str, kills: int) -> None:
    """A process killed with SIGKILL at 200 random instants and restarted each time ends with every
    step executed to completion once, and no checkpointed step executed again.
    """
    arguments = [Path(__file__).parents[1], tmp_path, kills, seed, synchronous]
    done = subprocess.run(
        [sys.executable, "-c", LIVES, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
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
