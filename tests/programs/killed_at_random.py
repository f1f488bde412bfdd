"""Kills children at random instants of their work, again and again, and lets a last one finish.

It forks a new process for each life, so that a life costs a few milliseconds; this one never opens
the database. It ends each life after a random time, checks what it left, and goes on.

Arguments: the folder of the database, the number of kills, the seed, and the
mode of syncs.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from invariants import check

import durably

folder, kills, seed, synchronous = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
database = Path(folder) / "runs.db"
STEPS = 12
effects = os.open(Path(folder) / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def leave(*words):
    os.write(effects, (" ".join(map(str, words)) + "\n").encode())


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
    app = durably.Durably(database, jobs=[work], synchronous=synchronous, max_deaths=kills + 1)
    with app:
        for run in app.get_runs(status="cancelled"):
            app.retry(run)  # a life was killed between the two
        handle = app.jobs["work"]
        handle.batch_trigger(
            [
                durably.Trigger(None, idempotency_key=f"{life}-plain"),
                durably.Trigger(None, concurrency_key="one", labels={"life": str(life)}),
                durably.Trigger(None, concurrency_key=f"two-{life % 2}", coalesce=True),
            ]
        )
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
