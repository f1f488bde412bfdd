"""Triggers runs on request, executes what it can of them, and notes what it executes.

Arguments: the database, the file of the notes, the number of runs, and that of concurrency keys.
"""

import os
import sys

import durably

database, effects, runs, keys = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def leave(*words):
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())


@durably.job
def work(step, payload: dict) -> int:
    key = payload["key"]
    leave("start", key, step.run_id, os.getpid(), step.attempt)
    step.run("one", leave, "step", key, step.run_id, os.getpid(), step.attempt)
    leave("end", key, step.run_id, os.getpid(), step.attempt)
    return os.getpid()


app = durably.Durably(database, jobs=[work], synchronous="normal")
print("ready", flush=True)
sys.stdin.readline()
with app:
    for n in range(runs):
        key = f"key-{n % keys}" if n % 2 else None
        app.jobs["work"].trigger({"key": key or "-"}, concurrency_key=key)
print("done", flush=True)
