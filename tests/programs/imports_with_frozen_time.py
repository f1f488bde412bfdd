"""Freezes the readings of ``time`` before it imports durably; a wait times out all the same.

Arguments: the database, and the names of the readings.
"""

import functools
import sys
import time

for name in sys.argv[2:]:
    setattr(time, name, functools.partial(lambda now: now, getattr(time, name)()))

import durably  # noqa: E402 - what is tested


@durably.job
def endless(step):
    step.sleep(3600)


app = durably.Durably(sys.argv[1], jobs=[endless]).start()
try:
    app.jobs["endless"].trigger_and_wait(timeout=0.1)
except durably.WaitTimeoutError:
    print("timed out")
app.stop(interrupt=True)
