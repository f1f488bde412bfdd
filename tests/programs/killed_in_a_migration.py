"""Is killed after so many statements of a migration.

Arguments: the database, and the number.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

from storekit import begin, connect

from durably.store.sqlite.sql import schema

db = connect(Path(sys.argv[1]))
statements = itertools.count(1)


def count(cursor, statement, bindings):
    if next(statements) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return True


db.pragma("cache_size", 1)
db.exec_trace = count
schema.migrate(db, sys.argv[1], begin(db))
