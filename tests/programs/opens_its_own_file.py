"""Executes runs while other code of the process opens and closes the files of the database.

Arguments: the database, how it is opened (sqlite3, open, copy), and the number of runs.
"""

import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import durably

database, how, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])


def poke():
    if how == "sqlite3":
        with closing(sqlite3.connect(database)) as db, suppress(sqlite3.DatabaseError):
            # What the other library reads is not promised: its locks end when durably, or anything
            # else here, closes a descriptor of the file, and then another process may overwrite
            # the part of the WAL that it is reading.
            db.execute("SELECT * FROM durably_runs").fetchall()
    elif how == "open":
        for suffix in ("", "-wal", "-shm"):
            Path(database + suffix).open("rb").close()
    else:
        shutil.copy(database, database + f".copy-{os.getpid()}")


@durably.job
def work(step) -> int:
    for n in range(3):
        step.run(f"step-{n}", int)
        poke()
    return 3


print("ready", flush=True)
sys.stdin.readline()
with durably.Durably(database, jobs=[work]) as app:
    for _ in range(runs):
        print(app.jobs["work"].trigger().id, flush=True)
        poke()
