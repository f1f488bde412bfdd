"""A file that is made beside the one whose place it takes, and that no crash leaves for long.

It has a lock of the kernel for as long as its process lives. So the next process that makes one for
the same place knows which of those it finds were left by a process that was killed, and removes
them.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from durably.store.sqlite.locks.guard import CLOEXEC
from durably.store.sqlite.locks.owner_lock import remove_if_free, try_lock

_MARK: Final = ".backup-"
_TOKEN_BYTES: Final = 8
# What SQLite makes beside a database.
_BESIDE: Final = ("", "-wal", "-shm", "-journal")


@contextmanager
def temporary(path: str) -> Iterator[str]:
    """Yield the name of a new empty file beside *path*, readable for its owner alone.

    It is removed at the end, unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """
    _sweep(path)
    name, fd = _made(path)
    try:
        yield name
    finally:
        os.close(fd)
        for beside in _BESIDE:
            with suppress(OSError):
                os.unlink(name + beside)


def _made(path: str) -> tuple[str, int]:
    while True:
        name = f"{path}{_MARK}{secrets.token_hex(_TOKEN_BYTES)}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o600)
        if sys.platform != "win32":  # there it would keep SQLite from writing
            with suppress(OSError):  # a file system without such locks
                try_lock(fd, shared=False)
        # Another process may have found it just before it was locked.
        if os.path.lexists(name):
            return name, fd
        os.close(fd)


def _sweep(path: str) -> None:
    """Remove what killed processes have left for *path*."""
    folder, name = os.path.split(path)
    token = f"[0-9a-f]{{{2 * _TOKEN_BYTES}}}"
    beside = "|".join(filter(None, _BESIDE))
    pattern = re.compile(f"({re.escape(name + _MARK)}{token})({beside})?")
    try:
        found = [match for each in os.listdir(folder) if (match := pattern.fullmatch(each))]
    except PermissionError:  # the files of the folder may be made but not listed
        return
    for each in sorted(found, key=lambda match: match[0]):
        left = os.path.join(folder, each[0])
        if each[2] is None:
            remove_if_free(left)
        elif not os.path.lexists(os.path.join(folder, each[1])):
            with suppress(OSError):
                os.unlink(left)
