"""Leave the block of an engine in which a run has failed that nobody has seen."""

import durably


@durably.job
def nightly(step: durably.StepContext, date: str) -> None:
    step.run("load", lambda: 1 / 0)


with durably.Durably("x.db", jobs=[nightly]) as app:
    app.trigger(nightly, "2026-11-28")
print("not reached")
