"""The folder of files that hold large texts and binary parts, named by their content.

The invariant: *whenever a committed row of* ``durably_blobs`` *names a file, the whole file is in
the folder, and on the disk at* ``synchronous="full"``.

A file is written under a temporary name, synced, renamed to the hash of its content, and the folder
is synced, all before the commit that refers to it. From before the rename, or from finding it
there, until after that commit, the storing thread has a shared lock of the kernel on the file: it
has *pinned* it. A removing thread takes the exclusive lock, without waiting, then checks that the
name still leads to the file that is locked and that no row refers to it, and unlinks it. So it
cannot remove what is pinned, and once nobody pins it, the check sees the commit.

A name never passes from one file to another: a rename to a name that is taken fails, and only the
holder of the exclusive lock unlinks. A process that is killed leaves at most a file that no row
names, or a temporary one, and the kernel releases its locks. Such a file is removed when it is an
hour old. Its age only decides when to try; the lock and the rows decide whether.

A removal is made after a commit that has synced the write-ahead log, so that a loss of power cannot
bring back a row whose file is gone. A backup keeps all removals out by a shared lock on the folder.

Where a file system has no such locks, nothing is removed. On Windows an open file cannot be.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from durably.errors import DatabaseError
from durably.store.sqlite.blobs.belonging import other_database
from durably.store.sqlite.blobs.content import name_of_file
from durably.store.sqlite.blobs.writing import FULL, OURS, TRIES, BlobWriter
from durably.store.sqlite.connection.advice import advice_on
from durably.store.sqlite.locks.pins import Pin, folder_locked, locked_folder

# So old is a file that is removed if nothing refers to it: a process may be about to.
ORPHAN_AGE_S: Final = 3600.0

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_TRIES_OF_REMOVERS: Final = 100


def is_name(name: object) -> bool:
    """Return whether a file in the folder can have that name: one from a database may be any."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


class BlobFolder(BlobWriter):
    """The files of one database. Usable from any thread and process.

    Args:
        path: of the folder, which is made when the first file is stored.
        database: the path of the database, whose owner gets what root makes.
        is_synced: whether files must survive a loss of power.
    """

    def open(self, name: str, *, is_checked: bool = True) -> IO[bytes]:
        """Return a file, opened for reading.

        Args:
            is_checked: whether its content must be what its name stands for.

        Raises:
            DatabaseError: it is missing, damaged, or cannot be read.
        """
        if not is_name(name):
            raise DatabaseError(
                f"a file of the name {name!a:.80} is referred to, which is none", is_of_row=True
            )
        path = self._at(name)
        try:
            file = os.fdopen(self._opened(name), "rb")
            try:
                is_whole = not is_checked or name_of_file(file) == name
            except BaseException:
                file.close()
                raise
        except FileNotFoundError as exc:
            raise DatabaseError(
                f"the file {path!r} is missing; restore it from a backup, put its folder back, or "
                "name the folder with blobs=",
                is_of_row=True,
            ) from exc
        except OSError as exc:
            raise DatabaseError(
                f"the file {path!r} cannot be read: {exc.strerror}; {advice_on(exc)}",
                is_transient=exc.errno in FULL,
            ) from exc
        if not is_whole:
            file.close()
            raise DatabaseError(
                f"the file {path!r} is damaged: it has not the content that its name stands for; "
                "restore it from a backup",
                is_of_row=True,
            )
        return file

    def read(self, name: str) -> bytes:
        """Return the content of a file, as :meth:`open` opens it."""
        with self.open(name) as file:
            return file.read()

    def remove(self, names: Iterable[str], referred: Callable[[list[str]], set[str]]) -> set[str]:
        """Remove the files of those names that nothing refers to; return the names that are free.

        What cannot be removed now is left.

        Args:
            referred: returns those of the names that are referred to by what is committed.
        """
        gone: set[str] = set()
        if not self._is_free():
            return gone
        with folder_locked(self.path, shared=False, tries=_TRIES_OF_REMOVERS) as may_remove:
            for name in names if may_remove else ():
                with suppress(OSError):
                    if self._remove(name, referred):
                        gone.add(name)
        return gone

    def sweep(self, known: Callable[[list[str]], set[str]], now_s: float) -> set[str]:
        """Remove the files that are not *known* and over an hour old, and return their names."""
        old = [name for name in self._names() if self._is_old(name, now_s)]
        kept = known(old) if old else set()
        left = [name for name in old if name not in kept]
        return self.remove(left, known) if left else set()

    def sizes(self) -> dict[str, int]:
        """Return the size of each file by its name, without the temporary ones."""
        found = {}
        for name in self._names():
            with suppress(OSError):
                if is_name(name):
                    found[name] = os.lstat(self._at(name)).st_size
        return found

    def orphans(self, known: set[str], now_s: float) -> list[str]:
        """Return the names of files over an hour old that are not *known*."""
        found = [name for name in self._names() if name not in known and self._is_old(name, now_s)]
        return found if self._is_free() else []

    def _is_free(self) -> bool:
        """Return whether what no run refers to here is nobody's."""
        try:
            return other_database(self.path, self._database) is None
        except OSError:
            return False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep every process from removing a file, within the block.

        Raises:
            DatabaseError: others are removing files for too long.
        """
        with folder_locked(self.path, shared=True, tries=TRIES) as is_locked:
            if not is_locked and os.path.isdir(self.path):
                raise self._locked()
            yield

    def pin_all(self) -> Pin | None:
        """Pin all files of the folder, which is there; return ``None`` where that is impossible.

        Raises:
            DatabaseError: others are removing files for too long.
        """
        try:
            fd = locked_folder(self.path, TRIES)
        except OSError as exc:
            raise self._failed(exc) from exc
        if fd is None:
            raise self._locked()
        return Pin("", fd, 0) if fd >= 0 else None

    def _locked(self) -> DatabaseError:
        return DatabaseError(
            f"the folder {self.path!r} is locked by another process; end it", is_transient=True
        )

    def _names(self) -> list[str]:
        """Return the names of all files in the folder that durably makes; none without one."""
        try:
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                return []
            names = os.listdir(self.path)
        except OSError:
            return []
        return [name for name in names if OURS.fullmatch(name)]

    def _is_old(self, name: str, now_s: float) -> bool:
        try:
            modified_s = os.lstat(self._at(name)).st_mtime
        except OSError:
            return False
        # A file from the future was stored before somebody put the clock back.
        return abs(now_s - modified_s) > ORPHAN_AGE_S
