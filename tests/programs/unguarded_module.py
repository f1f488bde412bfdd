"""A module that executes a job when it is imported, by the script ``unguarded.py``."""

import sys

import durably


@durably.job
def job(step, method: str) -> int:
    import __main__  # noqa: PLC0415 - that of the script

    return sum(step.run("squares", __main__.squares, method))


app = durably.Durably("a.db", jobs=[job])
with app:
    app.jobs["job"].trigger_and_wait(sys.argv[1])
