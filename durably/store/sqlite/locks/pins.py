"""Locks on files that keep other processes from removing them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from durably._platform.latch import Latch
from durably.store.sqlite.locks.guard import CLOEXEC
from durably.store.sqlite.locks.owner_lock import try_lock

if sys.platform != "win32":
    import fcntl

PAUSE_S: Final = 0.005


class Pin:
    """A file that cannot be removed until :meth:`release`, or until nothing has this object.

    Attributes:
        name: of the file, in its folder.
        size: of the file in bytes.
    """

    def __init__(self, name: str, fd: int, size: int) -> None:
        self.name = name
        self.size = size
        self._fd = fd
        self._pid = os.getpid()
        self._holder: Pin | None = None

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Allow the removal of the file if nothing refers to it. Idempotent."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.release()
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if os.getpid() == self._pid:
            unlock_and_close(fd)
        else:  # in a child that was forked meanwhile, which has a copy of the object
            os.close(fd)

    def held_by(self, holder: Pin) -> Pin:
        """Close the file, which *holder* keeps as well; to release this releases both."""
        self.release()
        self._holder = holder
        return self


def locked_folder(path: str, tries: int) -> int | None:
    """Return a descriptor of a folder with its shared lock, ``None`` if others have it locked.

    It is -1 where a folder cannot be locked and what is not open can be removed.
    """
    if sys.platform == "win32":
        return -1
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | CLOEXEC)
    pause = Latch()
    try:
        while not pin(fd):
            tries -= 1
            if tries < 0:
                os.close(fd)
                return None
            pause.wait(PAUSE_S)
    except BaseException:
        os.close(fd)
        raise
    return fd


def pin(fd: int) -> bool:
    """Take the shared lock of a file, unless a process has it locked to remove it.

    Where there are no such locks nothing is ever removed, so none is needed.
    """
    if sys.platform == "win32":
        return True
    try:
        return try_lock(fd, shared=True)
    except OSError:
        return True


@contextmanager
def folder_locked(path: str, *, shared: bool, tries: int) -> Iterator[bool]:
    """Lock a folder within the block, if that is possible; yield whether it is locked.

    Where there are no such locks it counts as locked by all who share it, as nothing is removed.
    """
    if sys.platform == "win32":
        yield True  # what a backup needs may be removed meanwhile, and it fails
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | CLOEXEC)
    except OSError:
        yield False
        return
    pause = Latch()
    try:
        is_locked = shared
        with suppress(OSError):
            is_locked = try_lock(fd, shared=shared)
            while not is_locked and tries > 0:
                tries -= 1
                pause.wait(PAUSE_S)
                is_locked = try_lock(fd, shared=shared)
        yield is_locked
    finally:
        unlock_and_close(fd)


def unlock_and_close(fd: int) -> None:
    """Release the lock of a file, and close it."""
    # Unlocked first: a child that was forked meanwhile has a descriptor of the same open file.
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
