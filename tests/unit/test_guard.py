"""The locks that no foreign close can drop: shared and counted, and gone in a forked child."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durably._platform.fork_hooks
from durably._platform.clock import Clock
from durably.errors import DatabaseError
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("fcntl")

ROOT = Path(durably._platform.fork_hooks.__file__).parents[1]
DEADLINE_S = 20.0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs OFD locks")

PRELUDE = """
import os, sys, fcntl, threading
from durably._platform.clock import Clock
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex
path = sys.argv[1]
def say(*words): print(*words, flush=True)
"""


class Child:
    """A Python child process that is told what to do line by line."""

    def __init__(self, script: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def end(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(script: str, *args: str) -> Child:
        children.append(Child(script, *args))
        return children[-1]

    yield start
    for child in children:
        child.end()


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A path with the two files that a guard locks; no database, so that only guards lock them."""
    path = tmp_path / "runs.db"
    path.touch()
    Path(f"{path}-shm").touch()
    return str(path)


SCAN = """
for name, start, length in ((path, 0x40000002, 510), (path + "-shm", 128, 1)):
    with open(name, "rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError:
            say("locked")
        else:
            say("free")
"""


def locks(spawn: Callable[..., Child], database: str) -> list[str]:
    """What another process finds at the two places, as SQLite would."""
    child = spawn(SCAN, database)
    return [child.line(), child.line()]


LOCKED = ["locked", "locked"]
FREE = ["free", "free"]


# The guard.


@linux_only
def test_guard_holds_both_places_until_it_is_released(
    spawn: Callable[..., Child], database: str
) -> None:
    """Other processes see a reader from hold to release, whatever is opened and closed."""
    guard = FileGuard.hold(database).hold_memory()
    for name in (database, f"{database}-shm"):
        Path(name).read_bytes()
    assert guard.is_effective
    assert locks(spawn, database) == LOCKED

    guard.release()

    assert not guard.is_effective
    assert locks(spawn, database) == FREE
    guard.close()


@linux_only
def test_guards_of_one_file_share_its_locks(
    spawn: Callable[..., Child], database: str, tmp_path: Path
) -> None:
    """The last release frees the file, by whatever name it was held, and a repeated one counts
    once.
    """
    link = tmp_path / "link"
    link.symlink_to(database)
    first, second = FileGuard.hold(database).hold_memory(), FileGuard.hold(str(link)).hold_memory()
    first.release()
    first.release()
    assert locks(spawn, database) == LOCKED
    first.close()
    first.close()
    assert locks(spawn, database) == LOCKED

    second.release()

    assert locks(spawn, database) == FREE
    second.close()


@linux_only
def test_file_can_be_held_again_between_release_and_close(
    spawn: Callable[..., Child], database: str
) -> None:
    """One that opens the file while another closes it gets locks that the other does not end."""
    first = FileGuard.hold(database).hold_memory()
    first.release()
    second = FileGuard.hold(database).hold_memory()
    assert locks(spawn, database) == LOCKED

    first.close()

    assert locks(spawn, database) == LOCKED
    second.close()
    assert locks(spawn, database) == FREE


@linux_only
def test_new_shared_memory_file_is_locked_too(spawn: Callable[..., Child], database: str) -> None:
    """A guard taken after SQLite made its shared memory anew locks the new file."""
    first = FileGuard.hold(database).hold_memory()
    first.release()
    Path(f"{database}-shm").unlink()
    Path(f"{database}-shm").touch()

    second = FileGuard.hold(database).hold_memory()

    assert locks(spawn, database) == LOCKED
    second.release()
    assert locks(spawn, database) == FREE
    first.close()
    second.close()


POSIX_LOCK = """
import io
shm = path + "-shm"
fd = os.open(path, os.O_RDWR)
def take(): fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
def is_kept():
    r, w = os.pipe()
    if not os.fork():
        other = os.open(path, os.O_RDWR)
        try: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
        except OSError: os.write(w, b"kept")
        else: os.write(w, b"lost")
        os._exit(0)
    os.wait()
    return os.read(r, 9).decode()
"""


@linux_only
def test_closing_a_guard_keeps_the_posix_locks_of_the_process(
    spawn: Callable[..., Child], database: str
) -> None:
    """No descriptor of the file is closed while another guard of it is open: SQLite's locks would
    go with it.
    """
    child = spawn(
        POSIX_LOCK
        + "a = FileGuard.hold(path).hold_memory(); b = FileGuard.hold(path).hold_memory(); take()\n"
        "a.release(); a.close(); say(is_kept())\n"
        "b.release(); say(is_kept())\n"
        "b.close(); say(is_kept())\n",
        database,
    )

    assert [child.line() for _ in range(3)] == ["kept", "kept", "lost"]


@linux_only
def test_closing_waits_for_one_who_is_opening(spawn: Callable[..., Child], database: str) -> None:
    """Locks that a thread's SQLite took before its guard existed survive another's close."""
    child = spawn(
        POSIX_LOCK + "a = FileGuard.hold(path).hold_memory()\n"
        "with FileGuard.opening():\n"
        "    take(); a.release(); a.close(); say(is_kept())\n"
        "    b = FileGuard.hold(path).hold_memory()\n"
        "say(is_kept())\n"
        "b.close(); say(is_kept())\n"
        "take()\n"
        "with FileGuard.opening(): pass\n"
        "say(is_kept())\n",
        database,
    )

    assert [child.line() for _ in range(4)] == ["kept", "kept", "lost", "kept"]


@linux_only
def test_failed_hold_keeps_the_locks_of_others(spawn: Callable[..., Child], database: str) -> None:
    """A hold that fails halfway says what to do and closes nothing that another guard needs."""
    child = spawn(
        POSIX_LOCK
        + """
a = FileGuard.hold(path).hold_memory(); take(); os.rename(path + "-shm", path + "-away")
b = FileGuard.hold(path)
try: b.hold_memory()
except Exception as exc: say(type(exc).__name__, path in str(exc))
b.close(); say(is_kept()); a.close(); say(is_kept())
""",
        database,
    )

    assert [child.line() for _ in range(3)] == ["DatabaseError True", "kept", "lost"]


@linux_only
def test_guard_is_closed_in_a_forked_child(spawn: Callable[..., Child], database: str) -> None:
    """The child has no copies, what it does with the object does nothing, and it can hold anew."""
    child = spawn(
        """
def copies():
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(fd) for fd in fds if os.path.exists(fd)]
    return sum(name.startswith(path) for name in names)
guard, mutex = FileGuard.hold(path).hold_memory(), WriterMutex(path, Clock())
say(copies(), guard.is_effective, mutex.acquire(0))
with FileGuard.opening():
    pid = os.fork()
if not pid:
    say(copies(), guard.is_effective, mutex.acquire(0), mutex.is_effective)
    mutex.release(); mutex.close(); guard.release(); guard.close()
    new = FileGuard.hold(path).hold_memory()
    say(copies(), new.is_effective)
    new.close()
    say(copies())
    os._exit(0)
os.wait(); say("parent", guard.is_effective, copies())
sys.stdin.readline()
""",
        database,
    )

    lines = [child.line() for _ in range(5)]
    assert lines == ["3 True True", "0 False False False", "2 True", "0", "parent True 3"]
    assert locks(spawn, database) == LOCKED
    assert not WriterMutex(database, Clock()).acquire(0)


@linux_only
def test_forked_child_does_not_keep_the_locks_of_a_dead_parent(
    spawn: Callable[..., Child], database: str, eventually: Any
) -> None:
    """When the parent has been killed, the file and the mutex are free though the child lives."""
    child = spawn(
        """
guard, mutex = FileGuard.hold(path).hold_memory(), WriterMutex(path, Clock())
mutex.acquire(0)
if not os.fork(): sys.stdin.readline(); os._exit(0)
say("ready"); sys.stdin.readline()
""",
        database,
    )
    assert child.line() == "ready"

    child.kill()

    # The grandchild lets go as the first thing it does.
    eventually(lambda: locks(spawn, database) == FREE)
    mutex = WriterMutex(database, Clock())
    assert mutex.acquire(0)
    mutex.close()


@linux_only
def test_exclusive_lock_of_another_program_is_waited_for(
    spawn: Callable[..., Child], database: str
) -> None:
    """A program that has the file to itself for a moment delays the guard, and failed attempts do
    not cost the process its locks.
    """
    holder = spawn(
        "f = open(path, 'rb+'); fcntl.lockf(f, fcntl.LOCK_EX, 510, 0x40000002)\n"
        "say('ready'); sys.stdin.readline()\n",
        database,
    )
    assert holder.line() == "ready"
    child = spawn(
        POSIX_LOCK
        + """
once = FileGuard._hold_once
def attempt(name):
    try: return once(name)
    except BlockingIOError: say("waits"); raise
FileGuard._hold_once = attempt
take(); guard = FileGuard.hold(path).hold_memory(); say(guard.is_effective, is_kept())
""",
        database,
    )
    assert child.line() == "waits"

    holder.kill()

    said = child.line()
    while said == "waits":
        said = child.line()
    assert said == "True kept"


def test_guard_of_missing_files_says_what_to_do(tmp_path: Path) -> None:
    """Where there is nothing to guard, the error names the file."""
    if sys.platform != "linux":
        assert not FileGuard.hold(str(tmp_path / "no.db")).hold_memory().is_effective
        return
    with pytest.raises(DatabaseError, match=r"no\.db-shm"):
        FileGuard.hold(str(tmp_path / "no.db")).hold_memory()


# The mutex.


def test_mutexes_of_one_process_exclude_each_other(database: str) -> None:
    """Two write connections of one process take turns as those of two processes do."""
    first, second = WriterMutex(database, Clock()), WriterMutex(database, Clock())
    assert first.is_effective
    assert first.acquire(0)
    assert not second.acquire(0)

    first.release()

    assert second.acquire(0)
    assert not first.acquire(0)
    second.close()
    assert first.acquire(0)
    first.close()


def test_mutex_is_private_and_can_be_closed_twice(database: str) -> None:
    """The file is the user's alone and stays; a closed mutex says no and does nothing."""
    mutex = WriterMutex(database, Clock())
    assert Path(mutex.path).stat().st_mode & 0o777 == 0o600
    mutex.close()
    mutex.close()
    mutex.release()

    assert not mutex.acquire(DEADLINE_S)
    assert not mutex.is_effective
    assert Path(mutex.path).exists()


def test_mutex_in_an_unusable_folder_says_what_to_do(tmp_path: Path) -> None:
    """A mutex that cannot be made is a DatabaseError that names the file."""
    with pytest.raises(DatabaseError, match=r"runs\.db\.writer.*folder"):
        WriterMutex(str(tmp_path / "no" / "runs.db"), Clock())


def test_waiter_gets_the_mutex_when_it_is_released(database: str) -> None:
    """One who waits obtains the mutex within its timeout."""
    first, second = WriterMutex(database, Clock()), WriterMutex(database, Clock())
    assert first.acquire(0)
    obtained: list[bool] = []
    thread = threading.Thread(target=lambda: obtained.append(second.acquire(DEADLINE_S)))
    thread.start()

    first.release()

    thread.join(DEADLINE_S)
    assert obtained == [True]
    first.close()
    second.close()


class CountingClock(Clock):
    """A clock whose waits cost no time, and are counted."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return sum(self.waits)

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        assert timeout_s is not None
        self.waits.append(timeout_s)
        return event.is_set()


def test_stopped_holder_is_waited_for_once(spawn: Callable[..., Child], database: str) -> None:
    """After one timeout a process only tries, until it got the mutex; then it has patience again.

    So a process that was stopped while it held the mutex costs each other one timeout.
    """
    holder = spawn(
        "m = WriterMutex(path, Clock())\n"
        "while True: say(m.acquire(20)); sys.stdin.readline(); m.release(); say('released');"
        " sys.stdin.readline()\n",
        database,
    )
    assert holder.line() == "True"
    holder.stop()
    clock = CountingClock()
    mutex = WriterMutex(database, clock)

    assert not mutex.acquire(5.0)
    waits = len(clock.waits)
    assert clock.monotonic() == pytest.approx(5.0)
    assert all(wait <= 0.004 for wait in clock.waits)
    assert not any(mutex.acquire(5.0) for _ in range(10))
    assert len(clock.waits) == waits

    holder.process.send_signal(signal.SIGCONT)
    holder.go_on()
    assert holder.line() == "released"
    assert mutex.acquire(5.0)
    mutex.release()
    holder.go_on()
    assert holder.line() == "True"
    assert not mutex.acquire(5.0)
    assert len(clock.waits) > waits
    mutex.close()


def test_process_that_commits_on_and_on_steps_back_once_a_turn(database: str) -> None:
    """It waits for longer than any pause of the one that waits for the mutex, which gets it."""
    clock = CountingClock()
    busy, other = WriterMutex(database, clock), WriterMutex(database, clock)
    assert busy.acquire(1)
    assert not other.acquire(0.015)
    longest_pause_s = max(clock.waits)
    busy.release()

    before = len(clock.waits)
    assert busy.acquire(1)
    busy.release()
    assert len(clock.waits) == before  # its turn is not over
    clock.waits.append(0.006)
    before = len(clock.waits)
    assert busy.acquire(1)
    (stepped_back_s,) = clock.waits[before:]
    assert stepped_back_s > longest_pause_s
    busy.release()

    clock.waits.append(0.02)
    before = len(clock.waits)
    assert busy.acquire(1)
    assert len(clock.waits) == before  # a thread that has not tried for so long waits no more
    for mutex in (busy, other):
        mutex.close()


def test_killed_holder_frees_the_mutex(spawn: Callable[..., Child], database: str) -> None:
    """The mutex of a process that was killed is free at once."""
    holder = spawn(
        "m = WriterMutex(path, Clock()); say(m.acquire(0)); sys.stdin.readline()\n", database
    )
    assert holder.line() == "True"
    mutex = WriterMutex(database, Clock())
    assert not mutex.acquire(0)

    holder.kill()

    assert mutex.acquire(0)
    mutex.close()


HAMMER = """
import time
mutex = WriterMutex(path, Clock())
say("ready"); sys.stdin.readline()
now = time.perf_counter
end = now() + 1; turns = 0
while now() < end:
    assert mutex.acquire(10)
    until = now() + 0.0002
    while now() < until: pass
    mutex.release(); turns += 1
say(turns)
"""


def test_no_process_starves_another(spawn: Callable[..., Child], database: str) -> None:
    """Two processes that take the mutex again as soon as they release it both get their turns."""
    children = [spawn(HAMMER, database) for _ in range(2)]
    assert [child.line() for child in children] == ["ready", "ready"]
    for child in children:
        child.go_on()

    turns = [int(child.line()) for child in children]

    assert min(turns) > sum(turns) / 10


@linux_only
def test_nobody_opens_or_closes_while_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before a guard is held until SQLite has opened, and from its release until SQLite has
    closed, the mutex of the writers is taken, so that no other process can be the last to close.
    """
    path = str(tmp_path / "runs.db")
    Database(path).close()
    others = WriterMutex(path, Clock())
    seen: dict[str, bool] = {}

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(FileGuard, name)

        def look(*args: Any) -> Any:
            if is_free := others.acquire(0):
                others.release()
            seen[name] = is_free
            return original(*args)

        return look

    monkeypatch.setattr(FileGuard, "hold", watched("hold"))
    for name in ("hold_memory", "release", "close"):
        monkeypatch.setattr(FileGuard, name, watched(name))
    Database(path).close()
    others.close()
    assert seen == dict.fromkeys(("hold", "hold_memory", "release", "close"), False)
