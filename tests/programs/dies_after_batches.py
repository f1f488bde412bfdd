"""Executes a run of ten batches, and is killed after some of them, if asked to.

Arguments: the database, the file of the notes, and after how many batches it dies (0: never).
"""

import os
import signal
import sys

import durably

database, effects, die_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def leave(*words):
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())


def batch(run_id, n, attempt) -> str:
    leave("effect", run_id, n, f"{attempt}.{n}")
    return f"{attempt}.{n}"


executed = 0


@durably.job("import")
def work(step) -> int:
    for n in range(10):
        value = step.run(f"batch-{n}", batch, step.run_id, n, step.attempt)
        leave("returned", step.run_id, n, value)
        if n + 1 == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return 10


with durably.Durably(database, jobs=[work]) as app:
    run = app.jobs["import"].trigger_and_wait(idempotency_key="once", retry_failed=True)
    print(run.output, run.attempt, run.disposition, len(app.get_steps(run)))
