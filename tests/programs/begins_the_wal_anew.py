"""Writes on request until the WAL has been begun anew, if nobody's snapshot prevents it."""

import sys

import apsw

db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE)
db.set_busy_timeout(20000)
db.pragma("synchronous", "off")
print("ready", flush=True)
for _ in sys.stdin:
    for _ in range(3):
        db.execute("UPDATE durably_runs SET updated_at_us = updated_at_us + 1")
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    print("written", flush=True)
