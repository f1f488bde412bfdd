"""Holds the lock of an owner, after something that must not take it away.

Arguments: the database, and the name of a function below. It ends with its standard input.
"""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

from durably.store.sqlite.locks.owner_lock import OwnerLock, current_boot_id, probe

database = sys.argv[1]


def say(*words):
    print(*words, flush=True)


def wait_for_the_end():
    say("ready")
    sys.stdin.read()


def acquire(token="A" * 26):
    return OwnerLock.acquire(database, token)


def hold():
    lock = acquire()
    wait_for_the_end()
    assert lock.is_held


def fork():
    lock = acquire()
    pid = os.fork()
    if not pid:
        sys.stdin.read()
        os._exit(0)
    say(pid)
    wait_for_the_end()
    assert lock.is_held


def fork_and_release():
    lock = acquire()
    pid = os.fork()
    if not pid:
        assert not lock.is_held
        lock.release()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lock.is_held
    wait_for_the_end()


def start_a_program():
    lock = acquire()
    child = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, close_fds=False)
    say(child.pid)
    wait_for_the_end()
    assert lock.is_held


def open_and_close_the_file():
    lock = acquire()
    for _ in range(3):
        Path(lock.path).open("rb+").close()
    wait_for_the_end()


def forget():
    acquire()
    gc.collect()
    if not os.fork():
        sys.stdin.read()
        os._exit(0)
    wait_for_the_end()


def say_boot_id():
    say(current_boot_id())


def fork_in_threads():
    """Fork in several threads, each of which takes locks meanwhile; say which have."""
    done = []

    def work(name):
        for number in range(25):
            lock = acquire(name.upper() + f"{number:025}")
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            assert probe(database, lock.token).name == "ALIVE"
            lock.release()
        done.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    say(sorted(done))


globals()[sys.argv[2]]()
