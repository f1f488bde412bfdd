"""Brings one run to its end in the main thread.

Arguments: the database, what its second step does (``quick``, ``hang``, ``tool``), and
``if_running``.
"""

import logging
import subprocess
import sys
import threading
import time

import durably

path, what = sys.argv[1:3]


def act():
    print("in the step", flush=True) if what != "quick" else None
    if what == "hang":
        for _ in range(1200):  # a signal just before a sleep does not end that
            time.sleep(0.05)
    elif what == "tool":
        subprocess.run(["sleep", "60"], check=True)


@durably.job
def job(step):
    step.run("first", int)
    step.run(what, act)
    return step.run("last", int)


def watch():
    """Say that the engine waits: it has an owner row then, and this file has another one."""
    while app._supervisor.local.owner is None:
        time.sleep(0.01)
    print("waits", flush=True)


app = durably.Durably(path)
if sys.argv[3:] == ["wait"] and app.get_runs(status="running"):
    threading.Thread(target=watch, daemon=True).start()
logging.getLogger("durably").addHandler(logging.NullHandler())
run = app.run(job, key="k", if_running=sys.argv[3] if sys.argv[3:] else "wait")
print(run.status, run.disposition, run.completed_steps, flush=True)
app.close()
