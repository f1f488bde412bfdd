"""Triggers a run for each line that it reads, without executing any."""

import sys

import durably


@durably.job
def quick(step: durably.StepContext) -> int:
    return 0


app = durably.Durably(sys.argv[1], jobs=[quick])
print("open", flush=True)
for _ in sys.stdin:
    print(app.jobs["quick"].trigger().id, flush=True)
app.close()
