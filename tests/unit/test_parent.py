"""A worker ends with the process that has started it."""

from __future__ import annotations

import ctypes
import multiprocessing.process
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from durably._platform import parent
from durably._platform.parent import (
    ctrl_c_blocked,
    end_with_parent,
    ignore_ctrl_c,
    kill,
    signal_name,
)

GRACE_S = 10.0  # only guards against hanging
PARENT, OTHER = 4711, 4712


class Ended(BaseException):
    """Stands for the end of the process, in whichever thread that is."""


class World:
    """What the system says of the parent of this process, and whether this process has ended."""

    def __init__(self) -> None:
        self.ppid = PARENT
        self.exits: list[int] = []
        self.pidfd: int | None = None

    def pidfd_of(self, pid: int) -> int | None:
        assert pid == self.ppid
        return self.pidfd

    def exit(self, status: int) -> None:
        self.exits.append(status)
        raise Ended(status)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A process whose parent is ``PARENT``, and which does not watch it yet."""
    made = World()
    monkeypatch.setattr(os, "getppid", lambda: made.ppid)
    monkeypatch.setattr(os, "_exit", made.exit)
    monkeypatch.setattr(parent, "_pidfd_of", made.pidfd_of)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(parent, "_watching", [])
    monkeypatch.setattr(parent, "_POLL_S", 0.001)
    monkeypatch.setattr(multiprocessing.process, "parent_process", lambda: None)
    return made


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """What multiprocessing gives a child: the reading end of a pipe that its parent holds."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def watchers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "durably-parent"]


def ended(world: World) -> bool:
    """Return whether the process has ended, once, after the watching thread has."""
    for thread in watchers():
        thread.join(GRACE_S)
    assert not watchers()
    return world.exits == [1]


def by_multiprocessing(monkeypatch: pytest.MonkeyPatch, pid: int, sentinel: int | None) -> None:
    """Say that multiprocessing has made this process for *pid*."""
    made = SimpleNamespace(pid=pid, _sentinel=sentinel)
    monkeypatch.setattr(multiprocessing.process, "parent_process", lambda: made)


def test_a_worker_ends_when_it_gets_another_parent(world: World) -> None:
    """The system gives it one when its own was killed. It watches it once."""
    end_with_parent(PARENT)
    (thread,) = watchers()
    assert thread.daemon
    end_with_parent(PARENT)
    assert watchers() == [thread]
    assert world.exits == []
    world.ppid = 1
    assert ended(world)


def test_where_the_system_reports_the_end_it_is_noticed_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, pipe: list[int]
) -> None:
    """Nothing is polled: an item of a killed program would go on until the next look."""
    monkeypatch.setattr(parent, "_POLL_S", GRACE_S)
    world.pidfd = pipe[0]
    end_with_parent(PARENT)
    world.ppid = 1
    assert world.exits == []
    os.close(pipe.pop())
    assert ended(world)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux alone has it")
def test_the_system_reports_the_end_of_a_process() -> None:
    """Also before somebody has waited for it; of one that is gone it does not know."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pidfd = parent._pidfd_of(child.pid)
        assert pidfd is not None
        try:
            assert not parent._have_ended([pidfd])
            child.kill()
            assert parent._have_ended([pidfd], GRACE_S)
        finally:
            os.close(pidfd)
    assert parent._pidfd_of(child.pid) is None


def test_a_worker_whose_parent_has_ended_meanwhile_does_not_begin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at it and the first of the thread."""
    looks = iter([PARENT])
    monkeypatch.setattr(os, "getppid", lambda: next(looks, 1))
    with pytest.raises(Ended):
        end_with_parent(PARENT)
    for thread in watchers():
        thread.join(GRACE_S)
    assert set(world.exits) == {1}


def test_the_process_of_another_host_or_program_does_not_watch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that multiprocessing has made for somebody else."""
    world.ppid = OTHER
    end_with_parent(PARENT)
    by_multiprocessing(monkeypatch, OTHER, None)
    end_with_parent(PARENT)
    monkeypatch.delitem(sys.modules, "multiprocessing.process")
    end_with_parent(PARENT)
    assert watchers() == []
    assert world.exits == []


def test_a_forked_copy_of_a_worker_watches_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the one that it is a copy of does not exist there."""
    monkeypatch.setattr(parent, "_watching", [os.getpid() + 1])
    end_with_parent(PARENT)
    assert len(watchers()) == 1
    world.ppid = 1
    assert ended(world)


def test_with_a_fork_server_the_end_of_the_pipe_is_the_end_of_the_parent(
    world: World, monkeypatch: pytest.MonkeyPatch, pipe: list[int]
) -> None:
    """The parent in the system's view is the server."""
    by_multiprocessing(monkeypatch, PARENT, pipe[0])
    world.ppid = OTHER
    end_with_parent(PARENT)
    assert len(watchers()) == 1
    os.close(pipe.pop())
    assert ended(world)


def test_a_worker_of_a_fork_server_whose_parent_was_killed_before_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, pipe: list[int]
) -> None:
    """Before it has begun to watch, and where multiprocessing gives it no pipe."""
    by_multiprocessing(monkeypatch, PARENT, pipe[0])
    world.ppid = OTHER
    os.close(pipe.pop())
    with pytest.raises(Ended):
        end_with_parent(PARENT)
    for thread in watchers():
        thread.join(GRACE_S)
    by_multiprocessing(monkeypatch, PARENT, None)
    monkeypatch.setattr(parent, "_watching", [])
    with pytest.raises(Ended):
        end_with_parent(PARENT)
    assert watchers() == []
    assert set(world.exits) == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it")
def test_the_kernel_kills_a_worker_of_the_maps_own(world: World) -> None:
    """Also while code in C holds the interpreter's lock."""
    prctl, asked = ctypes.CDLL(None).prctl, ctypes.c_int(-1)
    prctl(2, ctypes.byref(asked), 0, 0, 0)  # PR_GET_PDEATHSIG
    before = asked.value
    try:
        end_with_parent(PARENT, is_killed=True)
        prctl(2, ctypes.byref(asked), 0, 0, 0)
    finally:
        prctl(1, before, 0, 0, 0)
    assert asked.value == signal.SIGKILL
    world.ppid = 1
    assert ended(world)


def test_a_ctrl_c_does_nothing_in_a_worker_and_ends_what_it_has_started() -> None:
    """An ignored signal would be ignored by the programs that an item starts, too."""
    before = signal.getsignal(signal.SIGINT)
    try:
        thread = threading.Thread(target=ignore_ctrl_c)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is before  # only the main thread can
        ignore_ctrl_c()
        os.kill(os.getpid(), signal.SIGINT)
        code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
        run: Callable[..., Any] = subprocess.run
        done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout == ""
        assert done.returncode == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_ctrl_c_waits_until_a_worker_that_starts_ignores_it() -> None:
    """One that comes while it imports its modules would end it with a traceback."""
    code = (
        "import os, signal; os.kill(os.getpid(), signal.SIGINT);"
        "from durably._platform.parent import ignore_ctrl_c; ignore_ctrl_c(); print('alive');"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "os.kill(os.getpid(), signal.SIGINT); print('not blocked any more')"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with ctrl_c_blocked():
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
        )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    with child:
        printed, errors = child.communicate(timeout=GRACE_S)
    assert printed == "alive\n"
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_child_is_killed_at_once() -> None:
    """Whatever it does about other signals."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        kill(child.pid)
        assert child.wait(GRACE_S) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("exitcode", "name"),
    [
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (-99, "signal 99"),
        (0, "exit status 0"),
        (3, "exit status 3"),
    ],
)
def test_the_end_of_a_process_has_a_name(exitcode: int, name: str) -> None:
    """Error messages say it by that name."""
    assert signal_name(exitcode) == name
