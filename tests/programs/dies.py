"""Triggers a run of a job, claims it, stores its first checkpoint, and dies inside the second step.

Arguments: the database, and the name of the job.
"""

import os
import sys

import durably

path, name = sys.argv[1:]


@durably.job(name)
def dies(step):
    step.run("first", os.getpid)
    step.run("second", os._exit, 9)


app = durably.Durably(path, jobs=[dies])
print(app.jobs[name].trigger().id, flush=True)
app.process_one()
