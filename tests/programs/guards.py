"""Does with the locks of a file what a test of them needs another process for.

Arguments: the database, and the name of a function below.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

from durably._platform.clock import Clock
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex

path = sys.argv[1]


def say(*words):
    print(*words, flush=True)


def wait_for_line():
    sys.stdin.readline()


def hold():
    return FileGuard.acquire(path).acquire_memory()


def mutex():
    return WriterMutex(path, Clock())


# -- locks as SQLite takes them ---------------------------------------------------------------


def scan():
    """Say what another process finds at the two places that a guard locks."""
    for name, start, length in ((path, 0x40000002, 510), (path + "-shm", 128, 1)):
        with Path(name).open("rb+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except OSError:
                say("locked")
            else:
                say("free")


def lock_exclusively():
    """Lock the whole file until the end, as another program may for a moment."""
    with Path(path).open("rb+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 510, 0x40000002)
        say("ready")
        wait_for_line()


class PosixLock:
    """A lock of this process on the file, as SQLite has it: any close of the file drops it."""

    def __init__(self):
        self._fd = os.open(path, os.O_RDWR)

    def take(self):
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)

    def tell(self, *words):
        """Say whether the lock is kept, as another process sees it."""
        reader, writer = os.pipe()
        if not os.fork():
            other = os.open(path, os.O_RDWR)
            try:
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
            except OSError:
                os.write(writer, b"kept")
            else:
                os.write(writer, b"lost")
            os._exit(0)
        os.wait()
        say(*words, os.read(reader, 9).decode())


def close_one_of_two():
    lock = PosixLock()
    first, second = hold(), hold()
    lock.take()
    first.release()
    first.close()
    lock.tell()
    second.release()
    lock.tell()
    second.close()
    lock.tell()


def close_while_opening():
    lock = PosixLock()
    first = hold()
    with FileGuard.opening():
        lock.take()
        first.release()
        first.close()
        lock.tell()
        second = hold()
    lock.tell()
    second.close()
    lock.tell()
    lock.take()
    with FileGuard.opening():
        pass
    lock.tell()


def fail_to_hold():
    lock = PosixLock()
    first = hold()
    lock.take()
    Path(path + "-shm").rename(path + "-away")
    second = FileGuard.acquire(path)
    try:
        second.acquire_memory()
    except Exception as exc:
        say(type(exc).__name__, path in str(exc))
    second.close()
    lock.tell()
    first.close()
    lock.tell()


def wait_to_hold():
    once = FileGuard._acquire_once

    def attempt(name):
        try:
            return once(name)
        except BlockingIOError:
            say("waits")
            raise

    FileGuard._acquire_once = attempt
    lock = PosixLock()
    lock.take()
    guard = hold()
    lock.tell(guard.is_effective)


# -- forks ------------------------------------------------------------------------------------


def copies():
    """Return how many descriptors of the file and those beside it this process has."""
    names = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    return sum(name.startswith(path) for name in names)


def fork_with_a_guard():
    guard, own = hold(), mutex()
    say(copies(), guard.is_effective, own.acquire(0))
    with FileGuard.opening():
        pid = os.fork()
    if not pid:
        say(copies(), guard.is_effective, own.acquire(0), own.is_effective)
        own.release()
        own.close()
        guard.release()
        guard.close()
        new = hold()
        say(copies(), new.is_effective)
        new.close()
        say(copies())
        os._exit(0)
    os.wait()
    say("parent", guard.is_effective, copies())
    wait_for_line()


def fork_a_child_that_lives_on():
    kept = hold(), mutex()
    kept[1].acquire(0)
    if not os.fork():
        wait_for_line()
        os._exit(0)
    say("ready")
    wait_for_line()


# -- the mutex of the writers -----------------------------------------------------------------


def take_and_release_the_mutex():
    own = mutex()
    while True:
        say(own.acquire(20))
        wait_for_line()
        own.release()
        say("released")
        wait_for_line()


def take_the_mutex_again_and_again():
    own = mutex()
    say("ready")
    wait_for_line()
    now = time.perf_counter
    end = now() + 1
    turns = 0
    while now() < end:
        assert own.acquire(10)
        until = now() + 0.0002
        while now() < until:
            pass
        own.release()
        turns += 1
    say(turns)


globals()[sys.argv[2]]()
