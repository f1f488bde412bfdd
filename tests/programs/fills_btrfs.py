"""Fills a btrfs, and goes on when there is room again.

It prints "kept" when the index is not copied on write, in each of the openings: a new database, a
known one, one that a kill has left without its index, and a known one again. Another process finds
that out, since closing a descriptor here would drop SQLite's locks. Arguments: the database, and
whether the process survives that the disk is full.
"""

import os
import pathlib
import subprocess
import sys

import durably
from durably.testing import check

path, must_survive = sys.argv[1], sys.argv[2] == "yes"
filler = pathlib.Path(path).with_name("fill")


def look():
    program = pathlib.Path(__file__).with_name("says_if_copied.py")
    subprocess.run([sys.executable, program, path + "-shm"], check=True)


@durably.job
def work(step):
    return step.run("one", str, "x" * 2000)


for _ in range(2):
    with durably.Durably(path, jobs=[work]) as app:
        app.jobs["work"].trigger_and_wait()
        look()
pid = os.fork()
if not pid:
    app = durably.Durably(path, jobs=[work])
    app.jobs["work"].trigger()
    os._exit(0)
os.waitpid(pid, 0)
pathlib.Path(path + "-shm").unlink()
app = durably.Durably(path, jobs=[work])
look()
app.close()
app = durably.Durably(path, jobs=[work])
for _ in range(20):
    app.jobs["work"].trigger()
look()
if must_survive:
    os.sync()
    with filler.open("wb", 0) as fill:
        for size in (1 << 16, 1 << 12):
            try:
                while fill.write(os.urandom(size)) == size:
                    pass
            except OSError:
                os.sync()
    told = set()
    for _ in range(60):
        os.sync()  # what is mapped has no place in memory alone
        for call in (app.count_runs, app.jobs["work"].trigger, lambda: app.get_runs(limit=1)):
            try:
                call()
            except durably.DatabaseError as exc:
                told.add(str(exc))
    print("the disk is full" in str(told), flush=True)
    filler.unlink()
    os.sync()
app.close()
print(list(check(path)))
