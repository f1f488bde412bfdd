"""Holds the mutex of the writers until it ends."""

import fcntl
import os
import sys

fd = os.open(sys.argv[1] + ".writer", os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
