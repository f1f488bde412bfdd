"""Executes a run that reports the numbers that it reads as its progress."""

import sys

import durably


@durably.job
def report(step):
    for line in sys.stdin:
        step.progress(int(line), None, "from afar")


with durably.Durably(sys.argv[1], jobs=[report]) as app:
    print(app.jobs["report"].trigger().id, flush=True)
