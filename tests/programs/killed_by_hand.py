"""Changes a run by hand again and again, each time in a child that kills itself at the next write.

Arguments: the folder, and the verb. Prints at how many writes and syncs a child was killed.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from killing import KillingVfs

import durably

folder, verb = Path(sys.argv[1]), sys.argv[2]


def fails(n):
    if n == 2:
        raise ValueError(n)
    return n


@durably.job
def work(step) -> int:
    first = step.run("first", lambda: 1)
    step.run("second", lambda: 2)
    step.map("items", fails, [1, 2, 3], key=str)
    return first


VERBS = {
    "redo": lambda app, run: app.redo(run, from_step="second"),
    "redo only": lambda app, run: app.redo(run, only="items[1]"),
    "fork": lambda app, run: app.fork(run, from_step="items"),
    "set": lambda app, run: app.set_step(run, "first", 7),
    "set item": lambda app, run: app.set_item(run, "items", "2", 7),
    "retry": lambda app, run: app.retry(run, only="ValueError"),
}

before = folder / "before.db"
app = durably.Durably(before, jobs=[work], raise_failed=False)
run = app.jobs["work"].trigger()
app.run_until_idle()
app.close()
vfs = KillingVfs(counts_syncs=True)
killed = 0
while True:
    path = folder / f"{killed}.db"
    shutil.copyfile(before, path)
    pid = os.fork()
    if not pid:
        vfs.use()
        try:
            child = durably.Durably(path, jobs=[work], replace=False)
            vfs.left = killed + 1
            VERBS[verb](child, run.id)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    killed += 1
print(killed)
