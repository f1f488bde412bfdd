"""Executes a run, and is killed without closing: what it did is in the WAL."""

import os
import signal
import sys

import durably


@durably.job
def work(step, payload):
    return step.run("one", int)


app = durably.Durably(sys.argv[1], jobs=[work])
app.jobs["work"].trigger("last words")
app.run_until_idle()
os.kill(os.getpid(), signal.SIGKILL)
