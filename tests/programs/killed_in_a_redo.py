"""Executes changed code again and again, each time in a child that kills itself at a later write.

After each kill a second child executes what is out of date yet. Arguments: the folder, the first
write at which a child is killed, and how many to go on at a time. Prints how many were killed.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import apsw
from invariants import check
from killing import KillingVfs

import durably

folder, first, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
before = folder / "before.db"
effects = os.open(folder / "effects", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

NAMES = ["a", "inside", "b", "items[1]", "items[2]", "items[3]", "c"]
OLD = dict(zip(NAMES, [1, 1, 2, 1, 2, 3, 9], strict=True))
NEW = dict(zip(NAMES, [10, 10, 20, 10, 20, 30, 90], strict=True))


class Box:
    "Nothing is known of it: that what it was made of has changed is known by the order alone."

    def __init__(self, value):
        self.value = value


def note(name):
    os.write(effects, f"{name}\n".encode())


def first_version():
    note("a")
    return 1


def second_version():
    note("a")
    return 7 + 3


def inside(box):
    note("inside")
    return box.value


def around(step, box):
    note("b")
    return step.run("inside", inside, box) + box.value


def total(box):
    note("c")
    return sum(box.value)


def execute(path, version):
    with durably.session("s", path, key="s", on_change="redo", synchronous="normal") as step:
        a = step.run("a", version)
        b = step.run("b", around, step, Box(a))

        def item(n):
            note(f"items[{n}]")
            return n * a

        items = step.map("items", item, [1, 2, 3], max_uncommitted=1)
        return step.run("c", total, Box([a, b, *items]))


def stored(path):
    db = apsw.Connection(str(path))
    try:
        found = db.execute("SELECT name, output FROM durably_steps").fetchall()
        found += db.execute(
            "SELECT 'items[' || (1 + (item & 1023)) || ']', output FROM durably_items"
        ).fetchall()
        return {name: int(output) for name, output in found}
    finally:
        db.close()


def executed():
    os.lseek(effects, 0, os.SEEK_SET)
    found = os.read(effects, 1 << 20).decode().split()
    os.ftruncate(effects, 0)
    return found


def in_a_child(path, kill_at=None):
    pid = os.fork()
    if not pid:
        vfs.use()
        try:
            if kill_at is not None:
                vfs.left = kill_at
            os._exit(0 if execute(path, second_version) == NEW["c"] else 2)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


assert execute(before, first_version) == OLD["c"]
assert stored(before) == OLD
assert sorted(executed()) == sorted(NAMES)
vfs = KillingVfs(counts_syncs=False)
killed, half_done = 0, 0
for kill_at in range(first, 10_000, stride):
    path = folder / f"{kill_at}.db"
    shutil.copyfile(before, path)
    status = in_a_child(path, kill_at)
    if status == 0:
        break
    assert status == signal.SIGKILL, (kill_at, status)
    killed += 1
    executed()
    now = stored(path)  # opens the file as the next process does
    assert set(now) == set(NAMES), (kill_at, now)
    assert all(now[name] in (OLD[name], NEW[name]) for name in NAMES), (kill_at, now)
    is_new = [now[name] == NEW[name] for name in NAMES]
    assert is_new == sorted(is_new, reverse=True), (kill_at, now)
    half_done += any(is_new) and not all(is_new)
    assert in_a_child(path) == 0, kill_at
    # What was stored by the new code is not executed again, but inside of a step that is.
    again = {name for name in NAMES if now[name] == OLD[name]}
    again |= {"inside"} if "b" in again else set()
    assert sorted(executed()) == sorted(again), (kill_at, now)
    assert stored(path) == NEW, kill_at
    for owner in folder.glob(f"{kill_at}.db.owner-*"):
        owner.unlink()
    assert check(path, is_finished=True) == [], kill_at
print(killed, half_done)
