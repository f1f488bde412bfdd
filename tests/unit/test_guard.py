"""The locks that no foreign close can drop: shared and counted, and gone in a forked child."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from children import Child

from durably._platform.clock import Clock
from durably.errors import DatabaseError
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("fcntl")

DEADLINE_S = 20.0

DEADLINE_S = 20.0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs OFD locks")


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A path with the two files that a guard locks; no database, so that only guards lock them."""
    path = tmp_path / "runs.db"
    path.touch()
    Path(f"{path}-shm").touch()
    return str(path)


def locks(spawn: Callable[..., Child], database: str) -> list[str]:
    """What another process finds at the two places, as SQLite would."""
    child = spawn("guards", database, "scan")
    return [child.line(), child.line()]


LOCKED = ["locked", "locked"]
FREE = ["free", "free"]


# The guard.


@linux_only
def test_guard_holds_both_places_until_it_is_released(
    spawn: Callable[..., Child], database: str
) -> None:
    """Other processes see a reader from acquire to release, whatever is opened and closed."""
    guard = FileGuard.acquire(database).acquire_memory()
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
    first, second = (
        FileGuard.acquire(database).acquire_memory(),
        FileGuard.acquire(str(link)).acquire_memory(),
    )
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
    first = FileGuard.acquire(database).acquire_memory()
    first.release()
    second = FileGuard.acquire(database).acquire_memory()
    assert locks(spawn, database) == LOCKED

    first.close()

    assert locks(spawn, database) == LOCKED
    second.close()
    assert locks(spawn, database) == FREE


@linux_only
def test_new_shared_memory_file_is_locked_too(spawn: Callable[..., Child], database: str) -> None:
    """A guard taken after SQLite made its shared memory anew locks the new file."""
    first = FileGuard.acquire(database).acquire_memory()
    first.release()
    Path(f"{database}-shm").unlink()
    Path(f"{database}-shm").touch()

    second = FileGuard.acquire(database).acquire_memory()

    assert locks(spawn, database) == LOCKED
    second.release()
    assert locks(spawn, database) == FREE
    first.close()
    second.close()


@linux_only
def test_closing_a_guard_keeps_the_posix_locks_of_the_process(
    spawn: Callable[..., Child], database: str
) -> None:
    """No descriptor of the file is closed while another guard of it is open: SQLite's locks would
    go with it.
    """
    child = spawn("guards", database, "close_one_of_two")

    assert [child.line() for _ in range(3)] == ["kept", "kept", "lost"]


@linux_only
def test_closing_waits_for_one_who_is_opening(spawn: Callable[..., Child], database: str) -> None:
    """Locks that a thread's SQLite took before its guard existed survive another's close."""
    child = spawn("guards", database, "close_while_opening")

    assert [child.line() for _ in range(4)] == ["kept", "kept", "lost", "kept"]


@linux_only
def test_failed_acquire_keeps_the_locks_of_others(
    spawn: Callable[..., Child], database: str
) -> None:
    """An acquire that fails halfway says what to do and closes nothing that another guard needs."""
    child = spawn("guards", database, "fail_to_hold")

    assert [child.line() for _ in range(3)] == ["DatabaseError True", "kept", "lost"]


@linux_only
def test_guard_is_closed_in_a_forked_child(spawn: Callable[..., Child], database: str) -> None:
    """The child has no copies, the object does nothing in it, and it can acquire anew."""
    child = spawn("guards", database, "fork_with_a_guard")

    lines = [child.line() for _ in range(5)]
    assert lines == ["3 True True", "0 False False False", "2 True", "0", "parent True 3"]
    assert locks(spawn, database) == LOCKED
    assert not WriterMutex(database, Clock()).acquire(0)


@linux_only
def test_forked_child_does_not_keep_the_locks_of_a_dead_parent(
    spawn: Callable[..., Child], database: str, eventually: Any
) -> None:
    """When the parent has been killed, the file and the mutex are free though the child lives."""
    child = spawn("guards", database, "fork_a_child_that_lives_on")
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
    holder = spawn("guards", database, "lock_exclusively")
    assert holder.line() == "ready"
    child = spawn("guards", database, "wait_to_hold")
    assert child.line() == "waits"

    holder.kill()

    said = child.line()
    while said == "waits":
        said = child.line()
    assert said == "True kept"


def test_guard_of_missing_files_says_what_to_do(tmp_path: Path) -> None:
    """Where there is nothing to guard, the error names the file."""
    if sys.platform != "linux":
        assert not FileGuard.acquire(str(tmp_path / "no.db")).acquire_memory().is_effective
        return
    with pytest.raises(DatabaseError, match=r"no\.db-shm"):
        FileGuard.acquire(str(tmp_path / "no.db")).acquire_memory()


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
    """A thread that waits obtains the mutex within its timeout."""
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
    holder = spawn("guards", database, "take_and_release_the_mutex")
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

    holder.go_on()
    holder.say()
    assert holder.line() == "released"
    assert mutex.acquire(5.0)
    mutex.release()
    holder.say()
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
    holder = spawn("guards", database, "take_and_release_the_mutex")
    assert holder.line() == "True"
    mutex = WriterMutex(database, Clock())
    assert not mutex.acquire(0)

    holder.kill()

    assert mutex.acquire(0)
    mutex.close()


def test_no_process_starves_another(spawn: Callable[..., Child], database: str) -> None:
    """Two processes that take the mutex again as soon as they release it both get their turns."""
    children = [spawn("guards", database, "take_the_mutex_again_and_again") for _ in range(2)]
    assert [child.line() for child in children] == ["ready", "ready"]
    for child in children:
        child.say()

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

    monkeypatch.setattr(FileGuard, "acquire", watched("acquire"))
    for name in ("acquire_memory", "release", "close"):
        monkeypatch.setattr(FileGuard, name, watched(name))
    Database(path).close()
    others.close()
    assert seen == dict.fromkeys(("acquire", "acquire_memory", "release", "close"), False)
