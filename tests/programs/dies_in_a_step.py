"""Dies in a step or a map, without a commit since that was begun; or completes.

Arguments: the database, which of both, and whether it dies.
"""

import os
import sys

import durably

path, kind, how = sys.argv[1:]


def parse(number):
    if how == "dies":
        os._exit(9)
    return number


@durably.job(origin="any")
def work(step):
    step.run("before", int)
    if kind == "map":
        return sum(step.map("parse", parse, [1, 2]))
    return step.run("parse", parse, 3)


with durably.Durably(path, jobs=[work]) as app:
    run = app.jobs["work"].trigger(idempotency_key="k")
    print(app.wait(run).output, flush=True)
