"""Executes a run whose step forks and returns in both processes."""

import os
import sys

import durably


@durably.job("forking")
def forking(step):
    child = step.run("fork", os.fork)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


with durably.Durably(sys.argv[1], jobs=[forking]) as app:
    run = app.jobs["forking"].trigger_and_wait()
    print(run.output, run.completed_steps, flush=True)
