"""The folder of files that hold large texts, named by their content.

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

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from durably._platform.latch import Latch
from durably._platform.renaming import rename_to_free
from durably.errors import DatabaseError
from durably.store.sqlite.connection.advice import advice_on
from durably.store.sqlite.connection.sidefiles import give_to_owner
from durably.store.sqlite.locks.guard import CLOEXEC
from durably.store.sqlite.locks.owner_lock import try_lock
from durably.store.sqlite.locks.pins import (
    PAUSE_S,
    Pin,
    folder_locked,
    pin,
    unlock_and_close,
)

SUFFIX: Final = ".blobs"
# So old is a file that is removed if nothing refers to it: a process may be about to.
ORPHAN_AGE_S: Final = 3600.0

_DIGEST_BYTES: Final = 32
_NAME: Final = re.compile(r"[0-9a-f]{64}")
# With the temporary ones.
_OURS: Final = re.compile(r"[0-9a-f]{64}|new-[0-9a-f]{16}")
_PIECE: Final = 8 * 1024 * 1024
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)
# How long to wait for those who remove something, in all, and between two tries.
_PATIENCE_S: Final = 10.0
_TRIES: Final = round(_PATIENCE_S / PAUSE_S)
_TRIES_OF_REMOVERS: Final = 100
# Where folders cannot be synced.
_UNSYNCED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EACCES})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EINTR})


def name_of(content: bytes) -> str:
    """Return the name of the file with that content."""
    import hashlib  # noqa: PLC0415 - where first needed: it loads the cryptography library

    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def is_name(name: object) -> bool:
    """Return whether a file in the folder can have that name: one from a database may be any."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


class BlobFolder:
    """The files of one database. Usable from any thread and process.

    Args:
        path: of the folder, which is made when the first file is stored.
        database: the path of the database, whose owner gets what root makes.
        is_synced: whether files must survive a loss of power.
    """

    def __init__(self, path: str, database: str, *, is_synced: bool = True) -> None:
        self.path = path
        self._database = database
        self._is_synced = is_synced

    def put(self, content: bytes) -> Pin:
        """Store a file with that content, or find it, and pin it.

        Raises:
            DatabaseError: it cannot be written; or another process has it locked for too long.
        """
        name = name_of(content)
        pause = Latch()
        try:
            self._make()
            for _ in range(_TRIES):
                stored = self._found(name, content) or self._written(name, content)
                if stored is not None:
                    return stored
                pause.wait(PAUSE_S)
        except OSError as exc:
            raise self._failed(exc) from exc
        raise DatabaseError(
            f"the file {self._at(name)!r} is locked by another process, which removes it or is "
            "stopped; end that process",
            is_transient=True,
        )

    def read(self, name: str) -> bytes:
        """Return the content of a file, which is checked against its name.

        Raises:
            DatabaseError: it is missing, damaged, or cannot be read.
        """
        if not is_name(name):
            raise DatabaseError(
                f"a file of the name {name!a:.80} is referred to, which is none", is_of_row=True
            )
        path = self._at(name)
        try:
            content = self._content(name)
        except FileNotFoundError as exc:
            raise DatabaseError(
                f"the file {path!r} is missing; restore it from a backup, or put the folder "
                f"{os.path.basename(self.path)!r} back beside its database",
                is_of_row=True,
            ) from exc
        except OSError as exc:
            raise DatabaseError(
                f"the file {path!r} cannot be read: {exc.strerror}; {advice_on(exc)}",
                is_transient=exc.errno in _FULL,
            ) from exc
        if name_of(content) != name:
            raise DatabaseError(
                f"the file {path!r} is damaged: it has not the content that its name stands for; "
                "restore it from a backup",
                is_of_row=True,
            )
        return content

    def remove(self, names: Iterable[str], referred: Callable[[list[str]], set[str]]) -> set[str]:
        """Remove the files of those names that nothing refers to; return the names that are free.

        What cannot be removed now is left.

        Args:
            referred: returns those of the names that are referred to by what is committed.
        """
        gone = set()
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
        return self.remove([name for name in old if name not in kept], known)

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
        return [name for name in self._names() if name not in known and self._is_old(name, now_s)]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep every process from removing a file, within the block.

        Raises:
            DatabaseError: others are removing files for too long.
        """
        with folder_locked(self.path, shared=True, tries=_TRIES) as is_locked:
            if not is_locked and os.path.isdir(self.path):
                raise DatabaseError(
                    f"the folder {self.path!r} is locked by another process; end it",
                    is_transient=True,
                )
            yield

    # -- writing -----------------------------------------------------------------------------

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _make(self) -> None:
        """Make the folder, if missing.

        Raises:
            DatabaseError: something else is in its place.
        """
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another process has just made it
                os.mkdir(self.path, 0o700)
                self._give_folder()
            self._sync_folder(os.path.dirname(self.path))
            status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode):
            raise DatabaseError(
                f"{self.path!r} is not a folder, or a link; durably keeps large results in a "
                "folder of that name, so remove what is there"
            )
        if sys.platform != "win32" and status.st_uid not in self._owners():
            raise DatabaseError(
                f"the folder {self.path!r} belongs to another user, who could read what is "
                "written to it; remove it"
            )

    def _owners(self) -> set[int]:
        owners = {os.geteuid()}
        with suppress(FileNotFoundError):  # a backup that is being made
            owners.add(os.stat(self._database).st_uid)
        return owners

    def _give_folder(self) -> None:
        if sys.platform != "win32" and os.geteuid() == 0:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | CLOEXEC)
            try:
                give_to_owner(fd, self._database)
            finally:
                os.close(fd)

    def _found(self, name: str, content: bytes) -> Pin | None:
        """Return the file of that name, pinned and on the disk; ``None`` if there is none now."""
        try:
            fd = self._opened(name)
        except FileNotFoundError:
            return None
        is_pinned = False
        try:
            if not pin(fd) or not self._is_at(fd, name):
                return None
            if _has(fd, content):
                if self._is_synced:
                    # Another process may have stored it without that, or be about to.
                    _sync(fd)
                    self._sync_folder(self.path)
                is_pinned = True
                return Pin(name, fd)
        finally:
            if not is_pinned:
                unlock_and_close(fd)
        self._remove(name, lambda _: set())  # it is damaged, and the content is here
        return None

    def _written(self, name: str, content: bytes) -> Pin | None:
        """Write the file and pin it; return ``None`` if there is one of that name now."""
        temporary = self._at(f"new-{os.urandom(8).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | CLOEXEC | _NOFOLLOW | _BINARY
        fd = os.open(temporary, flags, 0o600)
        is_renamed = is_pinned = False
        try:
            give_to_owner(fd, self._database)
            pin(fd)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view[:_PIECE]) :]
            if self._is_synced:
                _sync(fd)
            if sys.platform == "win32":  # where an open file cannot be renamed
                os.close(fd)
                fd = -1
                with suppress(FileExistsError):
                    rename_to_free(temporary, self._at(name))
                    is_renamed = True
                return None  # found at the next try
            rename_to_free(temporary, self._at(name))
            is_renamed = True
            if self._is_synced:
                self._sync_folder(self.path)
            is_pinned = True
            return Pin(name, fd)
        except FileExistsError:
            return None
        finally:
            if not is_renamed:
                with suppress(OSError):
                    os.unlink(temporary)
            if not is_pinned and fd >= 0:
                unlock_and_close(fd)

    def _sync_folder(self, path: str) -> None:
        if sys.platform == "win32":
            return
        fd = os.open(path, os.O_RDONLY | CLOEXEC)
        try:
            _sync(fd)
        except OSError as exc:
            if exc.errno not in _UNSYNCED:
                raise
        finally:
            os.close(fd)

    def _failed(self, exc: OSError) -> DatabaseError:
        return DatabaseError(
            f"a large result cannot be written to the folder {self.path!r}: "
            f"{exc.strerror or exc}; {advice_on(exc)}",
            is_transient=exc.errno in _FULL,
        )

    # -- reading -----------------------------------------------------------------------------

    def _opened(self, name: str) -> int:
        """Open a file of the folder, never what a link leads to."""
        fd = os.open(self._at(name), os.O_RDONLY | CLOEXEC | _NOFOLLOW | _BINARY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", self._at(name))
        return fd

    def _content(self, name: str) -> bytes:
        with os.fdopen(self._opened(name), "rb", buffering=0) as file:
            return file.read()

    def _names(self) -> list[str]:
        """Return the names of all files in the folder that durably makes; none without one."""
        try:
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                return []
            names = os.listdir(self.path)
        except OSError:
            return []
        return [name for name in names if _OURS.fullmatch(name)]

    def _is_old(self, name: str, now_s: float) -> bool:
        try:
            modified_s = os.lstat(self._at(name)).st_mtime
        except OSError:
            return False
        # A file from the future was stored before somebody put the clock back.
        return abs(now_s - modified_s) > ORPHAN_AGE_S

    # -- removing ----------------------------------------------------------------------------

    def _remove(self, name: str, referred: Callable[[list[str]], set[str]]) -> bool:
        """Remove a file unless it is pinned or referred to; return whether there is none now."""
        if _OURS.fullmatch(name) is None:
            return True  # a name from the database may lead anywhere
        try:
            fd = self._opened(name)
        except FileNotFoundError:
            return True
        try:
            if not try_lock(fd, shared=False) or not self._is_at(fd, name) or referred([name]):
                return False
            if sys.platform == "win32":  # there, only what is open nowhere can be removed
                os.close(fd)
                fd = -1
            os.unlink(self._at(name))
            return True
        finally:
            if fd >= 0:
                unlock_and_close(fd)

    def _is_at(self, fd: int, name: str) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._at(name)))
        except OSError:
            return False


def _sync(fd: int) -> None:
    os.fsync(fd)


def _has(fd: int, content: bytes) -> bool:
    """Return whether that is all the file contains."""
    if os.fstat(fd).st_size != len(content):
        return False
    view = memoryview(content)
    while view:
        piece = os.read(fd, _PIECE)
        if not piece or piece != view[: len(piece)]:
            return False
        view = view[len(piece) :]
    return True
