"""Executes a workload again and again, each time in a child that kills itself at the next point.

Every call that returns is acknowledged in a file. After each child that was killed another one
executes what is left.

Arguments: the folder, what a point is (points: those of the write path; io: writes and syncs of
files), the first point, and how many to go on at a time.
"""

import functools
import os
import signal
import sys
from pathlib import Path

import apsw

import durably
from durably.store.sqlite import opening
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

    def xWrite(self, data, offset):  # noqa: N802
        self.points("before write")
        super().xWrite(data, offset)

    def xSync(self, flags):  # noqa: N802
        self.points("before sync")
        super().xSync(flags)

    def xTruncate(self, size):  # noqa: N802
        self.points("before truncate")
        super().xTruncate(size)


class Vfs(apsw.VFS):
    def __init__(self, points):
        self.points = points
        super().__init__("points", "")

    def xOpen(self, name, flags):  # noqa: N802
        return File(self.points, name, flags)

    def xDelete(self, name, sync):  # noqa: N802
        self.points("before delete")
        super().xDelete(name, sync)


@durably.job
def work(step) -> int:
    for n in range(3):
        name = f"step-{n}"
        value = step.run(name, effect, step.run_id, name, step.attempt)
        leave("returned", step.run_id, name, value)
    return 3


@durably.job(retry=durably.Retry(attempts=9, wait=0.01, jitter=False, on=ConnectionError))
def flaky(step) -> int:
    for n in range(3):
        name = f"step-{n}"
        value = step.run(name, effect, step.run_id, name, step.attempt)
        leave("returned", step.run_id, name, value)
        outcomes = [each.outcome for each in engines[-1].get_attempts(step.run_id)]
        if n < 2 and outcomes.count("failed") <= n:
            raise ConnectionError(f"failure {n}")
    return 3


def leave(*words):
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())


def effect(run_id, name, attempt):
    leave("effect", run_id, name, f"{attempt}.{os.getpid()}")
    return f"{attempt}.{os.getpid()}"


kept = []
engines = []


def live(database, kill_at):
    points = Points(kill_at)
    if how == "points":
        opening.Database = functools.partial(Database, fault_point=points)
    else:
        kept.append(Vfs(points))  # registered for as long as it lives
        opening.Database = functools.partial(Database, vfs="points")
    app = durably.Durably(database, jobs=[work, flaky])
    engines.append(app)
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
    tried = app.trigger(flaky, idempotency_key="flaky")
    leave("acknowledged trigger", tried.id)
    app.run_until_idle(max_wait=60)
    gone = handle.trigger()
    app.cancel(gone)
    app.delete_run(gone)
    leave("acknowledged deleted", gone.id)
    app.close()
    return points.names


number = first - stride
while True:
    number += stride
    place = Path(folder) / str(number)
    place.mkdir()
    fd = os.open(place / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    statuses = []
    for kill_at in (number, 0):
        pid = os.fork()
        if not pid:
            try:
                names = live(place / "runs.db", kill_at)
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
