"""Triggers a run of ``told`` with an idempotency key on request."""

import sys

import durably


@durably.job
def told(step, payload):
    return "in the other process"


app = durably.Durably(sys.argv[1], jobs=[told])
print("ready", flush=True)
sys.stdin.readline()
run = app.jobs["told"].trigger(1, idempotency_key="i")
print(run.id, run.disposition, flush=True)
app.close()
