"""Is killed in the middle of a transaction with a rollback journal, as another program may be."""

import os
import signal
import sqlite3
import sys

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = DELETE")
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("CREATE TABLE filler AS SELECT randomblob(900000) AS x")
os.kill(os.getpid(), signal.SIGKILL)
