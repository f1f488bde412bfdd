"""Triggers runs on request, and stops (``SIGSTOP``) at a point of their commit.

Arguments: the database, the point, and how many runs.
"""

import functools
import os
import signal
import sys

import durably
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

path, name, count = sys.argv[1:]
is_due = False


def reached(point):
    if is_due and point == name:
        os.kill(os.getpid(), signal.SIGSTOP)


opening.Database = functools.partial(Database, fault_point=reached)


@durably.job
def quick(step):
    return 1


app = durably.Durably(path, jobs=[quick])
print("ready", flush=True)
sys.stdin.readline()
is_due = True
if count == "1":
    app.jobs["quick"].trigger()
else:
    app.jobs["quick"].batch_trigger([None] * int(count))
is_due = False
print("stored", flush=True)
sys.stdin.readline()
app.close()
