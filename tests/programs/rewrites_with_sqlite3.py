"""Checks a database with Python's sqlite3, and evaluates the constraints of its rows."""

import sqlite3
import sys

db = sqlite3.connect(sys.argv[1])
print(db.execute("PRAGMA integrity_check").fetchone()[0], flush=True)
db.execute("UPDATE durably_owners SET pid = pid")
db.execute("UPDATE durably_runs SET job_name = job_name, labels = labels")
print("written", flush=True)
