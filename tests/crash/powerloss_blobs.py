"""What the folder of large results does to the disk, reported to the recorder of SQLite's files."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from powerloss import Recorder, Sync, SyncFolder, Write

from durably._platform.renaming import rename_to_free
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import filing, writing

# So that most results of the workload are files.
LARGE = 1000


@contextmanager
def small_files() -> Iterator[None]:
    """Make what is small a file."""
    with mock.patch.object(filing, "LARGE", LARGE), mock.patch.object(checkpoints, "LARGE", LARGE):
        yield


class BlobCalls:
    """Pass the calls of the system on, and record those that concern the folder.

    Args:
        database: its path; the folder is the one beside it.
    """

    def __init__(self, recorder: Recorder, database: Path) -> None:
        self._recorder = recorder
        self._parent = str(database.parent)
        self._folder = f"{database}.blobs"
        self._real = {name: getattr(os, name) for name in ("open", "write", "fsync", "unlink")}
        self._real["mkdir"] = os.mkdir
        # By device and number: those of the files of the folder, and how much is written of each.
        self._inodes: dict[tuple[int, int], int] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record within the block."""
        with ExitStack() as stack:
            for name in self._real:
                stack.enter_context(mock.patch.object(os, name, getattr(self, f"_{name}")))
            stack.enter_context(mock.patch.object(writing, "rename_to_free", self._rename))
            yield

    def _name(self, path: Any) -> str | None:
        """Return the name of a path of the folder, in the folder of the database."""
        if not isinstance(path, str) or not path.startswith(self._folder):
            return None
        return os.path.relpath(path, self._parent)

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        fd: int = self._real["open"](path, flags, *args, **kwargs)
        name = self._name(path)
        if name is not None and flags & os.O_CREAT:
            inode = self._recorder.create(name)
            with self._lock:
                self._inodes[_identity(fd)] = inode
        return fd

    def _write(self, fd: int, data: Any) -> int:
        count: int = self._real["write"](fd, data)
        with self._lock:
            inode = self._inodes.get(_identity(fd))
            if inode is not None:
                at = self._sizes.get(inode, 0)
                self._sizes[inode] = at + count
                self._recorder.record(Write(inode, at, bytes(memoryview(data)[:count])))
        return count

    def _fsync(self, fd: int) -> None:
        begun = len(self._recorder.log)
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        inode = self._inodes.get(_identity(fd))
        is_folder = path in (self._folder, self._parent)
        if inode is None and not is_folder:
            self._real["fsync"](fd)
            return
        if self._recorder.sync_fails():
            if inode is not None:
                self._recorder.record(Sync(inode, begun, is_of_folder=False, has_failed=True))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if inode is not None:
            self._recorder.record(Sync(inode, begun, is_of_folder=False, has_failed=False))
        else:
            self._recorder.record(
                SyncFolder("" if path == self._parent else self._name(path) or "")
            )

    def _unlink(self, path: Any, *args: Any, **kwargs: Any) -> None:
        self._real["unlink"](path, *args, **kwargs)
        name = self._name(path)
        if name is not None:
            self._recorder.delete(name)

    def _mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        self._real["mkdir"](path, *args, **kwargs)
        name = self._name(path)
        if name is not None:
            self._recorder.create(name, is_folder=True)

    def _rename(self, old: str, new: str) -> None:
        rename_to_free(old, new)
        self._recorder.rename(str(self._name(old)), str(self._name(new)))


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
