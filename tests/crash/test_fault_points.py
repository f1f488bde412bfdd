"""Killed at every point of the write path, and at every write and sync of the file: whatever was
acknowledged is there, and whatever was not is wholly there or not at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT
from invariants import check, check_history

import durably
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue as enqueueing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]

# A workload whose every call that returns is acknowledged in a file. It is executed by forked
# children, each of which kills itself at the n-th point; then one executes what is left.
WORKLOAD = """
import functools, os, signal, sys
import apsw
import durably
import durably.engine
from durably.store.sqlite.database import Database
folder, how, first, stride = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
class Points:
    "Counts what is reached, and kills the process at the one that was asked for."
    def __init__(self, kill_at):
        self.left = kill_at
        self.names = []
        self.pid = os.getpid()
    def __call__(self, name):
        self.names.append(name)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
class File(apsw.VFSFile):
    def __init__(self, points, name, flags):
        self.points = points
        super().__init__("", name, flags)
    def xWrite(self, data, offset):
        self.points("before write")
        super().xWrite(data, offset)
    def xSync(self, flags):
        self.points("before sync")
        super().xSync(flags)
    def xTruncate(self, size):
        self.points("before truncate")
        super().xTruncate(size)
class Vfs(apsw.VFS):
    def __init__(self, points):
        self.points = points
        super().__init__("points", "")
    def xOpen(self, name, flags):
        return File(self.points, name, flags)
    def xDelete(self, name, sync):
        self.points("before delete")
        super().xDelete(name, sync)
@durably.job
def work(step) -> int:
    for n in range(3):
        name = f"step-{n}"
        value = step.run(name, effect, step.run_id, name, step.attempt)
        leave("returned", step.run_id, name, value)
    return 3
def leave(*words):
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
def effect(run_id, name, attempt):
    leave("effect", run_id, name, f"{attempt}.{os.getpid()}")
    return f"{attempt}.{os.getpid()}"
def live(database, kill_at):
    points = Points(kill_at)
    if how == "points":
        durably.engine.Database = functools.partial(Database, fault_point=points)
    else:
        vfs = Vfs(points)
        durably.engine.Database = functools.partial(Database, vfs="points")
    app = durably.Durably(database, jobs=[work])
    handle = app.jobs["work"]
    one = handle.trigger(idempotency_key="one", concurrency_key="key", labels={"a": "b"})
    leave("acknowledged trigger", one.id)
    for run in handle.batch_trigger([None, durably.Trigger(None, concurrency_key="key")]):
        leave("acknowledged trigger", run.id)
    while app.process_one():
        pass
    cancelled = handle.trigger()
    leave("acknowledged trigger", cancelled.id)
    app.cancel(cancelled)
    leave("acknowledged cancelled", cancelled.id)
    app.retry(cancelled)
    app.run_until_idle()
    gone = handle.trigger()
    app.cancel(gone)
    app.delete_run(gone)
    leave("acknowledged deleted", gone.id)
    app.close()
    return points.names
number = first - stride
while True:
    number += stride
    place = os.path.join(folder, str(number))
    os.mkdir(place)
    fd = os.open(os.path.join(place, "effects"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    statuses = []
    for kill_at in (number, 0):
        pid = os.fork()
        if not pid:
            try:
                names = live(os.path.join(place, "runs.db"), kill_at)
                if kill_at:
                    print(*sorted(set(names)), sep=",")
                    sys.stdout.flush()
                os._exit(0)
            finally:
                os._exit(1)
        statuses.append(os.waitpid(pid, 0)[1])
    os.close(fd)
    assert statuses[1] == 0, (number, statuses)
    if statuses[0] == 0:
        print(number)
        break
    assert statuses[0] == signal.SIGKILL, (number, statuses)
"""


@pytest.mark.parametrize(
    ("how", "stride", "names"),
    [
        # Not every one, but others each time: there are more than a hundred.
        ("points", 2, "before commit,committed,write"),
        ("io", 3, "before delete,before sync,before write"),
    ],
)
def test_killed_at_each_point(tmp_path: Path, seed: int, how: str, stride: int, names: str) -> None:
    """Killed at any point of the write path, an engine loses nothing that it has acknowledged, and
    the next one finishes the work without executing a checkpointed step again.
    """
    first = seed % stride + 1
    print(f"from {first} in steps of {stride}")
    done = subprocess.run(
        [sys.executable, "-c", WORKLOAD, tmp_path, how, str(first), str(stride)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reached, number = done.stdout.split("\n")[:2]
    assert set(names.split(",")) <= set(reached.split(","))
    assert int(number) > 20
    for n in range(first, int(number) + 1, stride):
        assert_sound(tmp_path / str(n), f"killed at point {n} of {number}")


def assert_sound(folder: Path, when: str) -> None:
    """What the killed process and the next one left is whole."""
    database = folder / "runs.db"
    for path in folder.glob("*.owner-*"):
        # Killed between its lock and its owner row: swept later.
        path.unlink()
    found = check(database, is_sequential=True, is_idle=True, is_finished=True)
    assert found == [], when
    lines = (folder / "effects").read_text().splitlines(keepends=True)
    history = [line for line in lines if not line.startswith("acknowledged")]
    assert check_history(history) == [], when
    app = durably.Durably(database)
    try:
        deleted = {line.split()[2] for line in lines if line.startswith("acknowledged deleted")}
        for line in lines:
            if line.startswith("acknowledged trigger"):
                run = app.get_run(line.split()[2])
                assert run is not None, when
                assert (run.status, run.completed_steps) in (
                    ("completed", 3),
                    # Killed between the cancel and the retry.
                    ("cancelled", 0),
                ), when
        assert all(app.get_run(run_id) is None for run_id in deleted), when
        # Half a batch is none: the first run, two of a batch, the cancelled one, by each life.
        keyed = [run for run in app.get_runs() if run.concurrency_key == "key"]
        plain = [run for run in app.get_runs() if run.concurrency_key is None]
        assert len([run for run in keyed if run.idempotency_key is None]) <= 2, when
        assert len(plain) <= 5, when
        assert len(app.get_runs(labels={"a": "b"})) == 1, when
    finally:
        app.close()


def test_points_of_the_write_path(tmp_path: Path) -> None:
    """A lone statement reaches ``write`` and ``committed``, a transaction ``before commit`` too."""
    reached: list[str] = []
    database = Database(tmp_path / "runs.db", fault_point=reached.append)
    try:
        new = enqueueing.NewRun(id="a", job_name="job", payload="null")
        database.write(enqueueing.enqueue_plain, new, 1)
        assert reached == ["write", "committed"]
        reached.clear()
        database.write(enqueueing.enqueue_many, [new._replace(id="b")], 1)
        assert reached == ["write", "before commit", "committed"]
    finally:
        database.close()
    assert check(tmp_path / "runs.db", is_idle=True) == []
