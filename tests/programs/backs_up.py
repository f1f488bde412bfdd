"""Backs a database up; stops before the rename, or gets a Ctrl-C in the middle.

Arguments: the database, the path of the backup, and "interrupt" for the second.
"""

import signal
import sys

from durably.entry.read_only import open_read_only
from durably.store.sqlite import backup


def wait(_):
    print("copied", flush=True)
    sys.stdin.readline()


def interrupted():
    signal.raise_signal(signal.SIGINT)
    deliver()


deliver = backup.deliver
if "interrupt" in sys.argv:
    backup.deliver = interrupted
else:
    backup._sync = wait
with open_read_only(sys.argv[1]) as look:
    look.backup(sys.argv[2])
