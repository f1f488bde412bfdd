"""Triggers a hundred runs with idempotency keys on request, and executes them."""

import sys

import durably


@durably.job
def work(step, payload: int) -> int:
    return step.run("one", abs, payload)


app = durably.Durably(sys.argv[1], jobs=[work])
print("ready", flush=True)
sys.stdin.readline()
runs = [app.jobs["work"].trigger(n, idempotency_key=str(n)) for n in range(100)]
print(*[run.id for run in runs], flush=True)
print(sum(run.disposition == "created" for run in runs), flush=True)
app.run_until_idle()
app.close()
