"""Checkpoints the WAL of a database as another program does, after what it reads on its input."""

import sys

import apsw

db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE)
db.set_busy_timeout(20000)
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "vacuum":
        db.execute("VACUUM")
    elif word == "shrink":
        db.execute("PRAGMA incremental_vacuum").fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE if word == "empty" else 0)
    print(word, flush=True)
