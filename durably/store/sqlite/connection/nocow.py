"""Make the index of SQLite's WAL on btrfs, which writes a changed page to a new place.

SQLite maps the index (``-shm``) into memory. On a full file system a write to a mapped page finds
no new place, and the kernel ends the process with ``SIGBUS``. A file that is not copied on write
keeps its place; this must be set while the file is still empty.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from contextlib import suppress
from typing import Final

from durably._platform.fork_hooks import no_fork
from durably.store.sqlite.connection.sidefiles import give_to_owner

if sys.platform == "linux":
    import fcntl

# From <linux/fs.h>. The kernel declares a long there, and reads and writes an int.
_SIZE: Final = struct.calcsize("l")
_GET_FLAGS: Final = 2 << 30 | _SIZE << 16 | ord("f") << 8 | 1
_SET_FLAGS: Final = 1 << 30 | _SIZE << 16 | ord("f") << 8 | 2
_NOT_COPIED: Final = 0x00800000


def make_index(path: str) -> None:
    """Make the index of the WAL of the database *path*, if missing, not copied on write.

    Call it before SQLite opens the database, while no other code can open it. The descriptor is
    closed again, which drops no lock, because the file was not open before. If it cannot be done,
    SQLite makes the file, or reports why it cannot be made.
    """
    if sys.platform != "linux":
        return
    index = f"{path}-shm"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with no_fork(), suppress(FileExistsError, FileNotFoundError):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        try:
            fd = os.open(index, flags, mode)
        except OSError as exc:
            if exc.errno is None:  # not the system's
                raise
            return
        try:
            os.fchmod(fd, mode)
            give_to_owner(fd, path)
            _keep_in_place(fd)
        finally:
            os.close(fd)


def _keep_in_place(fd: int) -> None:
    if sys.platform == "linux":
        try:
            (present,) = struct.unpack_from("i", fcntl.ioctl(fd, _GET_FLAGS, bytes(_SIZE)))
            wanted = struct.pack("i", present | _NOT_COPIED).ljust(_SIZE, b"\0")
            fcntl.ioctl(fd, _SET_FLAGS, wanted)
        except OSError as exc:
            if exc.errno is None:
                raise
