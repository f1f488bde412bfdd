"""Executes a run in the main thread whose step forks a child that comes back from it.

Arguments: the database, and the call, ``run`` or ``process_one``.
"""

import os
import sys

import durably


def fork():
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)


@durably.job
def job(step):
    step.run("fork", fork)
    return step.run("last", int)


app = durably.Durably(sys.argv[1], jobs=[job])
try:
    if sys.argv[2] == "run":
        app.run(job)
    else:
        app.trigger(job)
        app.process_one()
except durably.ForkedError:
    print("forked", flush=True)
    os._exit(0)
print([(str(run.status), run.completed_steps) for run in app.get_runs()], flush=True)
app.close()
