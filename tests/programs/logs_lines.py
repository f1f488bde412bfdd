"""Executes a run that logs, reports progress for each line that it reads, and logs again."""

import sys

import durably
import durably.plugins


@durably.job
def talk(step):
    step.log.info("before")
    print(step.run_id, flush=True)
    for number, line in enumerate(sys.stdin):
        if line == "end\n":
            break
        step.progress(number)
    step.run("s", lambda: step.log.warning("from afar", pid=1))


with durably.Durably(sys.argv[1], jobs=[talk]) as app:
    app.use(durably.plugins.LogPersistence())
    app.jobs["talk"].trigger()
