"""Map items on a disk that becomes full in the middle.

Arguments: the database, a seed, how many threads, and what happens once the disk is full: "room"
(there is room again), "dies" (the process is killed), or "never" (it does not become full).
"""

import logging
import os
import random
import resource
import signal
import sys
import threading
from pathlib import Path

import durably

database, seed, workers, then = sys.argv[1:]
rng = random.Random(int(seed))
full_at = None if then == "never" else rng.randrange(5, 200)
most_uncommitted = rng.choice([1, 8, 256])
room = rng.randrange(60_000)
calls = os.open(Path(database).with_name("calls"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
could_not_store = threading.Event()


class Notices(logging.Handler):
    """Knows when a commit has failed."""

    def emit(self, record):
        if "storing items" in record.getMessage():
            could_not_store.set()


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def after_a_failure():
    could_not_store.wait()
    if then == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    limit(resource.RLIM_INFINITY)


def work(item: int) -> str:
    if item == full_at:
        limit(room + max(Path(database + each).stat().st_size for each in ("", "-wal")))
    os.write(calls, b"%d\n" % item)
    return f"{item} " * 4000


logging.getLogger("durably").addHandler(Notices())
threading.Thread(target=after_a_failure, daemon=True).start()
results = durably.map(
    work, range(400), db=database, max_workers=int(workers), max_uncommitted=most_uncommitted
)
assert results == [f"{item} " * 4000 for item in range(400)]
print("full" if could_not_store.is_set() else "never full")
