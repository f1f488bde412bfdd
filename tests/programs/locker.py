"""Takes and releases the write lock of a database as another program does, as its input says."""

import sys

import apsw

MEANING = {"lock": "BEGIN IMMEDIATE", "exclude": "BEGIN EXCLUSIVE", "free": "ROLLBACK"}

db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE)
db.set_busy_timeout(20000)
print("ready", flush=True)
for line in sys.stdin:
    db.execute(MEANING[line.strip()])
    print(line.strip(), flush=True)
