"""Two processes write while other code in each of them opens and closes the database's files.

Without the guard and the mutex this loses acknowledged commits, corrupts the file, or ends the
processes with SIGBUS, most of the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import durably._platform.fork_hooks

ROOT = Path(durably._platform.fork_hooks.__file__).parents[1]
DEADLINE_S = 60.0
SECONDS = 4.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the guard needs OFD locks"),
]

CONNECT = """
import os, random, sys, threading, time
import apsw
from durably._platform.clock import Clock
from durably.store.sqlite.locks.guard import FileGuard
from durably.store.sqlite.locks.mutex import WriterMutex
path, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
def connect(mutex):
    assert mutex.acquire(20)
    try:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(20000)
        connection.pragma("synchronous", "normal")
        assert connection.pragma("journal_mode", "wal") == "wal"
        connection.execute("create table if not exists t(id integer primary key, who, n, v)")
        connection.execute("select count(*) from t").get
        return connection
    finally:
        mutex.release()
def insert(connection, mutex, who, n):
    assert mutex.acquire(20)
    try:
        with connection:
            connection.execute("insert into t values(null,?,?,?)", (who, n, os.urandom(200)))
    finally:
        mutex.release()
"""

WRITER = (
    CONNECT
    + """
mutex = WriterMutex(path, Clock())
with FileGuard.opening():
    connection = connect(mutex); connection.transaction_mode = "IMMEDIATE"
    guard = FileGuard.hold(path).hold_memory()
assert guard.is_effective
def poke():
    import sqlite3
    pause = threading.Event()
    while time.monotonic() < end:
        try:
            if how == "sqlite3":
                other = sqlite3.connect(path)
                other.execute("select count(*) from t").fetchall()
                other.close()
            else:
                for suffix in ("", "-shm", "-wal"):
                    open(path + suffix, "rb").close()
        except Exception:
            pass
        pause.wait(0.003)
thread = threading.Thread(target=poke); thread.start()
n = 0
while time.monotonic() < end:
    insert(connection, mutex, os.getpid(), n + 1)
    n += 1
thread.join()
guard.release(); connection.close(); guard.close(); mutex.close()
print(os.getpid(), n)
"""
)

CHURN = (
    CONNECT
    + """
counts = {}
def churn(name):
    n = 0
    rng = random.Random(name)
    while time.monotonic() < end:
        mutex = WriterMutex(path, Clock())
        with FileGuard.opening():
            connection = connect(mutex); connection.transaction_mode = "IMMEDIATE"
            guard = FileGuard.hold(path).hold_memory()
        for _ in range(rng.randrange(4)):
            insert(connection, mutex, name, n + 1)
            n += 1
        guard.release(); connection.close(); guard.close(); mutex.close()
    counts[name] = n
threads = [threading.Thread(target=churn, args=(f"{os.getpid()}-{i}",)) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert len(counts) == 4
opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
          if os.path.exists(f"/proc/self/fd/{fd}")]
assert not [name for name in opened if name.startswith(path)], opened
for name, n in counts.items(): print(name, n)
"""
)

EXAMINE = """
import apsw, sys
c = apsw.Connection(sys.argv[1])
print(c.pragma("integrity_check"))
for row in c.execute("select who, count(*), max(n) from t group by who").fetchall(): print(*row)
"""


def python(script: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def outputs(*processes: subprocess.Popen[str]) -> list[str]:
    try:
        said = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [line for text in said for line in text.splitlines()]


def assert_nothing_lost(database: str, acknowledged: list[str]) -> None:
    verdict, *stored = outputs(python(EXAMINE, database))
    assert verdict == "ok"
    expected = {line.split()[0]: line.split()[1] for line in acknowledged}
    for who, n in expected.items():
        assert n == "0" or f"{who} {n} {n}" in stored


@pytest.mark.parametrize("how", ["sqlite3", "open"])
def test_no_acknowledged_commit_is_lost_to_a_foreign_close(tmp_path: Path, how: str) -> None:
    """Every acknowledged row is there and the file is sound, with a foreign close every 3 ms."""
    database = str(tmp_path / "runs.db")

    acknowledged = outputs(*[python(WRITER, database, how, str(SECONDS)) for _ in range(2)])

    assert_nothing_lost(database, acknowledged)


def test_engines_open_and_close_at_once(tmp_path: Path) -> None:
    """Threads of two processes open, write and close at once; nothing is lost or left open."""
    database = str(tmp_path / "runs.db")

    acknowledged = outputs(*[python(CHURN, database, "", str(SECONDS)) for _ in range(2)])

    assert_nothing_lost(database, acknowledged)


HOLD_WAL = (
    CONNECT
    + """
import sqlite3
mutex = WriterMutex(path, Clock())
with FileGuard.opening():
    connection = connect(mutex); connection.transaction_mode = "IMMEDIATE"
    guard = FileGuard.hold(path).hold_memory()
insert(connection, mutex, "me", 1)
for _ in range(3):
    other = sqlite3.connect(path); other.execute("select * from t").fetchall(); other.close()
    assert os.path.getsize(path + "-wal") > 0
insert(connection, mutex, "me", 2)
print("me", 2, flush=True)
if how == "close":
    guard.release(); connection.close(); guard.close(); mutex.close()
os._exit(0)
"""
)


def test_foreign_close_does_not_delete_the_log(tmp_path: Path) -> None:
    """A second SQLite library in the process does not take itself for the last connection."""
    database = str(tmp_path / "runs.db")

    acknowledged = outputs(python(HOLD_WAL, database, "kill", "0"))

    assert Path(f"{database}-wal").exists()
    assert_nothing_lost(database, acknowledged)


def test_last_close_tidies_up(tmp_path: Path) -> None:
    """After release, SQLite's last close removes the log and the shared memory."""
    database = str(tmp_path / "runs.db")

    outputs(python(HOLD_WAL, database, "close", "0"))

    assert {path.name for path in tmp_path.iterdir()} == {"runs.db", "runs.db.writer"}


IN_A_FORKED_CHILD = (
    CONNECT
    + """
mutex = WriterMutex(path, Clock())
with FileGuard.opening():
    connection = connect(mutex); connection.transaction_mode = "IMMEDIATE"
    guard = FileGuard.hold(path).hold_memory()
insert(connection, mutex, "parent", 1)
if os.fork(): sys.stdin.read(); os._exit(0)
kept = connection
mutex = WriterMutex(path, Clock())
with FileGuard.opening():
    connection = connect(mutex); connection.transaction_mode = "IMMEDIATE"
    guard = FileGuard.hold(path).hold_memory()
for n in range(3):
    print("ready", flush=True)
    sys.stdin.readline()
    insert(connection, mutex, "child", n + 1)
print("done", flush=True)
os._exit(0)
"""
)


def test_database_opened_in_a_forked_child_outlives_the_parent(tmp_path: Path) -> None:
    """The log of one who opened the database after a fork is safe when the parent has died."""
    database = str(tmp_path / "runs.db")
    parent = subprocess.Popen(
        [sys.executable, "-c", IN_A_FORKED_CHILD, database, "", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        said = parent.stdout.readline()
        parent.kill()
        parent.wait()
        assert said == "ready\n"
        for n in range(1, 4):
            assert_nothing_lost(database, ["parent 1"])
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == ("ready\n" if n < 3 else "done\n")
            assert_nothing_lost(database, ["parent 1", f"child {n}"])
