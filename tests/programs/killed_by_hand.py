"""Changes a run by hand again and again, each time in a child that kills itself at the next write.

Arguments: the folder, and the verb. Prints at how many writes and syncs a child was killed.
"""

import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import apsw

import durably
from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

folder, verb = Path(sys.argv[1]), sys.argv[2]
# How many writes are left until the process kills itself; it counts only once there is a number.
left: list[int] = []


def point():
    if left:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)


class File(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("", name, flags)

    def xWrite(self, data, offset):  # noqa: N802
        point()
        super().xWrite(data, offset)

    def xSync(self, flags):  # noqa: N802
        point()
        super().xSync(flags)


class Vfs(apsw.VFS):
    def xOpen(self, name, flags):  # noqa: N802
        return File(name, flags)


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
vfs = Vfs("points", "")
killed = 0
while True:
    path = folder / f"{killed}.db"
    shutil.copyfile(before, path)
    pid = os.fork()
    if not pid:
        opening.Database = functools.partial(Database, vfs="points")
        try:
            child = durably.Durably(path, jobs=[work], replace=False)
            left.append(killed + 1)
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
