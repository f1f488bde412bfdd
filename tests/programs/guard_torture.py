"""Writes to a database while other code of the process opens and closes its files.

Arguments: the database, the name of a function below, how the files are opened (sqlite3, open), and
for how many seconds.
"""

import os
import random
import sqlite3
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import apsw

from durably._platform.clock import Clock
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex

path, scene, how, seconds = sys.argv[1:]
end = time.monotonic() + float(seconds)


class Connection:
    """A connection and its locks, taken and released in durably's order."""

    def __init__(self):
        self._mutex = WriterMutex(path, Clock())
        with FileGuard.opening():
            self._db = self._connected()
            self._db.transaction_mode = "IMMEDIATE"
            self._guard = FileGuard.acquire(path).acquire_memory()
        assert self._guard.is_effective

    def _connected(self):
        assert self._mutex.acquire(20)
        try:
            db = apsw.Connection(path)
            db.set_busy_timeout(20000)
            db.pragma("synchronous", "normal")
            assert db.pragma("journal_mode", "wal") == "wal"
            db.execute("create table if not exists t(id integer primary key, who, n, v)")
            db.execute("select count(*) from t").fetchall()
            return db
        finally:
            self._mutex.release()

    def insert(self, who, n):
        assert self._mutex.acquire(20)
        try:
            with self._db:
                self._db.execute("insert into t values(null,?,?,?)", (who, n, os.urandom(200)))
        finally:
            self._mutex.release()

    def close(self):
        self._guard.release()
        self._db.close()
        self._guard.close()
        self._mutex.close()


def read_with_sqlite3():
    other = sqlite3.connect(path)
    other.execute("select count(*) from t").fetchall()
    other.close()


def write():
    """Write until the time is over, beside a thread that opens and closes the files."""

    def poke():
        pause = threading.Event()
        while time.monotonic() < end:
            with suppress(Exception):
                if how == "sqlite3":
                    read_with_sqlite3()
                else:
                    for suffix in ("", "-shm", "-wal"):
                        Path(path + suffix).open("rb").close()
            pause.wait(0.003)

    connection = Connection()
    thread = threading.Thread(target=poke)
    thread.start()
    n = 0
    while time.monotonic() < end:
        connection.insert(os.getpid(), n + 1)
        n += 1
    thread.join()
    connection.close()
    print(os.getpid(), n)


def churn():
    """Open, write and close in four threads until the time is over."""
    counts = {}

    def work(name):
        n = 0
        rng = random.Random(name)
        while time.monotonic() < end:
            connection = Connection()
            for _ in range(rng.randrange(4)):
                connection.insert(name, n + 1)
                n += 1
            connection.close()
        counts[name] = n

    threads = [threading.Thread(target=work, args=(f"{os.getpid()}-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 4
    opened = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    assert not [name for name in opened if name.startswith(path)], opened
    for name, n in counts.items():
        print(name, n)


def keep_the_wal():
    """Write, with another library's close in between; close, or end without."""
    connection = Connection()
    connection.insert("me", 1)
    for _ in range(3):
        read_with_sqlite3()
        assert Path(path + "-wal").stat().st_size > 0
    connection.insert("me", 2)
    print("me", 2, flush=True)
    if how == "close":
        connection.close()
    os._exit(0)


def fork():
    """Open and write in a forked child, when it is asked to, while its parent may die."""
    inherited = Connection()
    inherited.insert("parent", 1)
    if os.fork():
        sys.stdin.read()
        os._exit(0)
    own = Connection()
    for n in range(3):
        print("ready", flush=True)
        sys.stdin.readline()
        own.insert("child", n + 1)
    print("done", flush=True)
    os._exit(0)


def examine():
    """Print whether the file is sound, and what is stored."""
    db = apsw.Connection(path)
    print(db.pragma("integrity_check"))
    for row in db.execute("select who, count(*), max(n) from t group by who").fetchall():
        print(*row)


globals()[scene]()
