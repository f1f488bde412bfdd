"""Kills programs that have a session open at random instants, and lets a last one finish it.

It forks a new process for each life. The sessions have a key or none, in turn; those with one do
more in each life.

Arguments: the folder of the database, the number of kills, the seed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from invariants import check

import durably

folder, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
database = Path(folder) / "sessions.db"
STEPS = 12
effects = os.open(Path(folder) / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def leave(*words):
    os.write(effects, (" ".join(map(str, words)) + "\n").encode())


def effect(run_id, name):
    value = f"{os.getpid()}.{time.monotonic_ns()}"
    leave("effect", run_id, name, value)
    return value


def live(life, ready):
    key, steps = (f"{life % 4}", STEPS + life) if life % 2 else (None, STEPS)
    with durably.session("work", database, key=key) as step:
        os.write(ready, b"x")
        for n in range(steps):
            name = f"step-{n}"
            leave("returned", step.run_id, name, step.run(name, effect, step.run_id, name))
            step.progress(n, steps)


def fork(life):
    """Begin a life, and return its process once it has the session open, or has ended."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            live(life, told)
            status = 0
        finally:
            os._exit(status)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


rng = random.Random(seed)
for life in range(kills):
    pid = fork(life)
    time.sleep(rng.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = check(database)
    assert not found, (life, found)
for life in range(kills, kills + 4):
    assert os.waitstatus_to_exitcode(os.waitpid(fork(life), 0)[1]) == 0
