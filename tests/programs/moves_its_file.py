"""Moves the file of its engine away, reads through a new connection, and is killed."""

import os
import signal
import sys
from pathlib import Path

import durably


@durably.job("keeps")
def keeps(step, payload: str) -> int:
    return 1


path = sys.argv[1]
app = durably.Durably(path, jobs=[keeps])
for _ in range(21):
    app.jobs["keeps"].trigger("a")
Path(path).rename(path + ".moved")
app._store.database._readers._spare.clear()  # they are all in use
try:
    app._store.database.read(lambda db: print(db.execute("SELECT count(*) FROM durably_runs").get))
except durably.DatabaseLostError:
    print("lost")
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
