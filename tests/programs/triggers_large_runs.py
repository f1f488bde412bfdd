"""Triggers thousands of runs with large payloads in a moment."""

import sys

import durably


@durably.job("keeps")
def keeps(step, payload: str) -> int:
    return 1


with durably.Durably(sys.argv[1], jobs=[keeps]) as app:
    app.stop()
    for _ in range(4):
        app.jobs["keeps"].batch_trigger(["b" * 1000] * 1000)
