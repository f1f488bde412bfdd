"""Find the process that has the lock that a write waits for, if the system reports it."""

from __future__ import annotations

import os
import sys
from typing import Final

from durably.store.sqlite.connection.sidefiles import shared_paths

# SQLite's locks in the index of the WAL: for writing, for copying the WAL into the file, and for
# reading it again after a crash.
_FIRST_OF_INDEX, _LAST_OF_INDEX = 120, 122
# Those of readers on a state of the file, which keep the WAL.
_FIRST_SNAPSHOT, _LAST_SNAPSHOT = 123, 127
# Its locks in the database file itself.
_FIRST_OF_FILE: Final = 0x40000000
_LAST_OF_FILE: Final = _FIRST_OF_FILE + 511


def holder_of(path: str) -> tuple[str, bool] | None:
    """Return which process has the database *path* locked for writing, and whether it is stopped.

    Return ``None`` if no process has it any more, or the system does not report it, as everywhere
    but on Linux.
    """
    files = _files(path)
    found = [pid for pid in (_writer_of(lock, files) for lock in _locks()) if pid]
    # Other processes first: this one may have the mutex, and wait for SQLite's lock.
    found.sort(key=lambda pid: pid == os.getpid())
    return described(found[0]) if found else None


def readers_of(path: str) -> list[str]:
    """Return the other processes that read a state of the database now, as people name them.

    The WAL cannot restart as long as one does. Return none where the system does not report it.
    """
    files = _files(path)
    pids = {_reader_of(lock, files) for lock in _locks()} - {0, os.getpid()}
    return [described(pid)[0] for pid in sorted(pids)]


def _locks() -> list[list[str]]:
    """Return the fields of each lock that the system reports; none where it reports none."""
    if sys.platform != "linux":
        return []
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            return [line.split() for line in file]
    except OSError as exc:
        if exc.errno is None:  # a signal handler's
            raise
        return []


def _reader_of(fields: list[str], files: dict[str, str]) -> int:
    """Return the process of a line of ``/proc/locks`` if it is for a snapshot, else 0."""
    if len(fields) != 8 or fields[1] != "POSIX" or not fields[4].isdigit():
        return 0
    _, _, _, kind, pid, name, first, last = fields
    is_index = files.get(name, "").endswith("-shm")
    if kind != "READ" or not is_index or not last.isdigit():
        return 0
    return int(pid) if int(first) <= _LAST_SNAPSHOT and int(last) >= _FIRST_SNAPSHOT else 0


def _files(path: str) -> dict[str, str]:
    """Return the files whose locks count, by their names in the system's table of locks."""
    files = {}
    for each in shared_paths(path):
        try:
            status = os.stat(each)
        except FileNotFoundError:
            continue
        device = status.st_dev
        files[f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"] = each
    return files


def _writer_of(fields: list[str], files: dict[str, str]) -> int:
    """Return the process of a line of ``/proc/locks`` if the lock counts, else 0.

    A line is ``1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120``; a waiting lock has an arrow.
    """
    if len(fields) != 8 or fields[3] != "WRITE" or not fields[4].isdigit():
        return 0
    _, kind, _, _, pid, name, first, last = fields
    path = files.get(name)
    if path is None:
        return 0
    if path.endswith(".writer"):
        return int(pid) if kind == "FLOCK" else 0
    is_index = path.endswith("-shm")
    low, high = (_FIRST_OF_INDEX, _LAST_OF_INDEX) if is_index else (_FIRST_OF_FILE, _LAST_OF_FILE)
    end = int(last) if last.isdigit() else high
    return int(pid) if kind == "POSIX" and int(first) <= high and end >= low else 0


def described(pid: int) -> tuple[str, bool]:
    """Return how people name a process, and whether it is stopped."""
    if pid == os.getpid():
        return "another connection of this process", False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            _, _, rest = file.read().partition("(")
    except OSError as exc:
        if exc.errno is None:
            raise
        return f"process {pid}", False
    # The name may contain brackets; the text after it does not.
    name, _, rest = rest.rpartition(")")
    shown = "".join(char if char.isprintable() else "?" for char in name)
    return f"process {pid} ({shown})", rest.split()[:1] in (["T"], ["t"])
