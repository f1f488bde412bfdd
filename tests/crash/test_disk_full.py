"""A full disk: a clear error, what was committed stays, and on it goes when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from invariants import check

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts")

ROOM = 1 << 20

# Fills a disk, says what it was told, and goes on when there is room again. ``full`` and ``room``
# are asked for by name.
PROGRAM = """
import os, resource, sys, threading
import apsw
import durably
database, how = sys.argv[1], sys.argv[2]
def full():
    if how == "limit":
        most = max(os.path.getsize(database), os.path.getsize(database + "-wal"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most + 60_000, resource.RLIM_INFINITY))
    else:
        with open(os.path.join(os.path.dirname(database), "filler"), "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                filler.truncate(filler.tell() - 60_000)  # room for some of it
def room():
    if how == "limit":
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    else:
        os.unlink(os.path.join(os.path.dirname(database), "filler"))
def say(*words):
    print(*words, flush=True)
"""

TRIGGERS = (
    PROGRAM
    + """
@durably.job
def work(step, payload: str) -> int:
    return step.run("one", len, payload)
app = durably.Durably(database, jobs=[work])
full()
acknowledged = []
while True:
    try:
        acknowledged.append(app.jobs["work"].trigger("x" * 5000).id)
    except durably.DatabaseError as exc:
        say("error", type(exc).__name__, type(exc.__cause__).__name__, exc.is_transient, exc)
        break
try:
    app.jobs["work"].batch_trigger(["y" * 5000] * 50)
except durably.DatabaseError:
    say("batch refused")
say(app.count_runs() == len(acknowledged) > 0)
say(all(app.get_run(run_id).status == "pending" for run_id in acknowledged))
room()
say(app.jobs["work"].trigger("z" * 5000).status)
say(app.run_until_idle() == len(acknowledged) + 1)
app.close()
"""
)

STEPS = (
    PROGRAM
    + """
executed = []
def once(n) -> str:
    executed.append(n)
    return "x" * 5000
@durably.job
def work(step) -> int:
    for n in range(30):
        step.run(f"step-{n}", once, n)
    return 30
told = threading.Event()
app = durably.Durably(database, jobs=[work])
app.on("worker:error", lambda event: event.context == "storing a step" and told.set())
app.start()
full()
run = app.jobs["work"].trigger()
say(told.wait(20))
say(app.get_run(run.id).status)
room()
run = app.wait(run, timeout=20)
say(run.output, run.attempt, executed == list(range(30)))
app.close()
"""
)


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder whose files cannot grow when it is asked for, and how that is done."""
    if request.param == "limit":
        yield tmp_path, "limit"
        return
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small tmpfs")
    try:
        yield folder, "tmpfs"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_a_clear_error(disk: tuple[Path, str]) -> None:
    """A trigger on a full disk is a DatabaseError that says so; every run that was acknowledged is
    there, a batch is refused whole, and the same engine works again when there is room.
    """
    folder, how = disk
    with Child(TRIGGERS, folder / "runs.db", how) as child:
        kind, message = child.line().split(" ", 1)
        assert kind == "error"
        expected = {
            "limit": "DatabaseError IOError True the database",
            "tmpfs": "DatabaseError FullError True the database",
        }
        assert message.startswith(expected[how])
        assert str(folder / "runs.db") in message
        if how == "tmpfs":
            assert "the disk is full" in message
        assert child.rest() == ["batch refused", "True", "True", "pending", "True"]
    assert check(folder / "runs.db", is_idle=True, is_finished=True) == []


def test_result_of_a_step_waits_for_room(disk: tuple[Path, str]) -> None:
    """A step whose result does not fit the disk is told as worker:error and not executed again: its
    result is stored when there is room, and the run completes at its first attempt.
    """
    folder, how = disk
    with Child(STEPS, folder / "runs.db", how) as child:
        assert child.rest() == ["True", "running", "30 1 True"]
    assert check(folder / "runs.db", is_sequential=True, is_idle=True, is_finished=True) == []


def test_opening_on_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """A new database on a full disk is a DatabaseError, and can be made when there is room."""
    program = (
        PROGRAM
        + """
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
try:
    durably.Durably(database)
except durably.DatabaseError as exc:
    say("error", exc)
room()
durably.Durably(database).close()
"""
    )
    with Child(program, tmp_path / "runs.db", "limit") as child:
        (line,) = child.rest()
        assert line.startswith("error")
        assert str(tmp_path / "runs.db") in line
    assert check(tmp_path / "runs.db", is_idle=True) == []


def test_next_process_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    """What a process that was stopped by a full disk leaves behind is opened by the next one."""
    program = TRIGGERS.split("room()\nsay(app.jobs")[0] + "os._exit(0)\n"
    with Child(program, tmp_path / "runs.db", "limit") as child:
        assert child.line().startswith("error")
        assert child.rest() == ["batch refused", "True", "True"]
    assert check(tmp_path / "runs.db") == []

    @durably.job
    def work(step: durably.StepContext, payload: str) -> int:
        return step.run("one", len, payload)

    with durably.Durably(tmp_path / "runs.db", jobs=[work]) as app:
        assert app.count_runs() > 0
    assert check(tmp_path / "runs.db", is_idle=True, is_finished=True) == []
