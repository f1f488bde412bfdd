"""Counts the runs with Python's sqlite3 each time that it is asked to."""

import sqlite3
import sys

print("ready", flush=True)
for _ in sys.stdin:
    db = sqlite3.connect(sys.argv[1])
    print(db.execute("SELECT count(*) FROM durably_runs_readable").fetchone()[0], flush=True)
    db.close()
