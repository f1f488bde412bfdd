"""A service that is started again and again, one of whose runs kills its process each time.

``python kills_its_process.py DATABASE MAX_DEATHS``
"""

import os
import signal
import sys

import durably


def work(number: int) -> int:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@durably.job
def job(step: durably.StepContext, number: int) -> int:
    step.run("read", int)
    return step.run("parse", work, number)


app = durably.Durably(sys.argv[1], jobs=[job], max_workers=1, max_deaths=int(sys.argv[2]))
app.batch_trigger(job, [durably.Trigger(n, idempotency_key=str(n)) for n in range(4)])
with app:
    pass
