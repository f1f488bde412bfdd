"""Write files to the folder of large results, each under the name of its content."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Final

from durably._platform.latch import Latch
from durably._platform.renaming import rename_to_free
from durably.errors import DatabaseError
from durably.store.sqlite.blobs import belonging
from durably.store.sqlite.blobs.content import PIECE, Writing, name_of, name_of_file
from durably.store.sqlite.connection.advice import advice_on
from durably.store.sqlite.connection.sidefiles import give_to_owner
from durably.store.sqlite.locks.guard import CLOEXEC
from durably.store.sqlite.locks.owner_lock import try_lock
from durably.store.sqlite.locks.pins import PAUSE_S, Pin, pin, unlock_and_close

Write = Callable[[IO[bytes]], object]

# The names that durably gives, with the temporary ones.
OURS: Final = re.compile(r"[0-9a-f]{64}|new-[0-9a-f]{16}")
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)
# How long to wait for those who remove something, in all, and between two tries.
_PATIENCE_S: Final = 10.0
TRIES: Final = round(_PATIENCE_S / PAUSE_S)
# Where folders cannot be synced.
_UNSYNCED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EACCES})
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EINTR})


class BlobWriter:
    """Writes and removes files of one folder; see ``BlobFolder``."""

    def __init__(self, path: str, database: str, *, is_synced: bool = True) -> None:
        self.path = path
        self._database = database
        self._is_synced = is_synced
        self._has_synced_parent = False
        self._is_own = False

    def put(self, content: bytes | memoryview | Write, *, name: str | None = None) -> Pin:
        """Store a file with that content, or find it, and pin it.

        Args:
            content: or what writes it to a binary file, which is hashed meanwhile.
            name: what the name of the file will be, if that is known.

        Raises:
            DatabaseError: it cannot be written; or another process has it locked for too long.
            Exception: one that *content* has raised.
        """
        if not callable(content):
            name = name_of(content)
        try:
            self._make()
            if name is not None and (found := self._found(name)):
                return found
            with self._new() as new:
                name = self._write(new, content, name)
                return self._kept_as(name, new)
        except OSError as exc:
            raise self._failed(exc) from exc

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
            self._has_synced_parent = self._is_own = False
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
        if self._is_synced and not self._has_synced_parent:
            # The process that has made the folder may have died before that, or failed in it.
            self._sync_folder(os.path.dirname(self.path))
            self._has_synced_parent = True
        if not self._is_own:
            belonging.require_own(self.path, self._database)
            if not belonging.is_marked(self.path, self._database):
                with self._new() as new, suppress(FileExistsError):
                    belonging.mark(self.path, self._database, new.fd, new.path)
                    new.is_named = True
                belonging.require_own(self.path, self._database)
            self._is_own = True

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

    def _found(self, name: str) -> Pin | None:
        """Return the file of that name, pinned and on the disk; ``None`` if there is none now."""
        try:
            fd = self._opened(name)
        except FileNotFoundError:
            return None
        is_pinned = False
        try:
            if not pin(fd) or not self._is_at(fd, name):
                return None
            with os.fdopen(fd, "rb", closefd=False) as file:
                is_whole = name_of_file(file) == name
            if is_whole:
                if self._is_synced:
                    # Another process may have stored it without that, or be about to.
                    _sync(fd)
                    self._sync_folder(self.path)
                is_pinned = True
                return Pin(name, fd, os.fstat(fd).st_size)
        finally:
            if not is_pinned:
                unlock_and_close(fd)
        self._remove(name, lambda _: set())  # it is damaged, and the content is here
        return None

    @contextmanager
    def _new(self) -> Iterator[_New]:
        """Make a temporary file, which is pinned, and is removed unless it gets a name."""
        path = self._at(f"new-{os.urandom(8).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | CLOEXEC | _NOFOLLOW | _BINARY
        new = _New(path, os.open(path, flags, 0o600))
        try:
            give_to_owner(new.fd, self._database)
            pin(new.fd)
            yield new
        finally:
            if not new.is_named:
                with suppress(OSError):
                    os.unlink(path)
            if new.fd >= 0:
                unlock_and_close(new.fd)

    def _write(self, new: _New, content: bytes | memoryview | Write, name: str | None) -> str:
        """Write the content, and return its name."""
        if not callable(content):
            view = memoryview(content)
            while view:
                view = view[os.write(new.fd, view[:PIECE]) :]
            if self._is_synced:
                _sync(new.fd)
            return name_of(content) if name is None else name
        with Writing(new.fd, new.path) as file:
            _written(content, file)
            if self._is_synced:
                _sync(new.fd)
            return file.name()

    def _kept_as(self, name: str, new: _New) -> Pin:
        """Rename a written file to its name, or find the one that has it already.

        Raises:
            DatabaseError: another process has that one locked for too long.
        """
        pause = Latch()
        for _ in range(TRIES):
            stored = self._named(name, new) or self._found(name)
            if stored is not None:
                return stored
            pause.wait(PAUSE_S)
        raise DatabaseError(
            f"the file {self._at(name)!r} is locked by another process, which removes it or is "
            "stopped; end that process",
            is_transient=True,
        )

    def _named(self, name: str, new: _New) -> Pin | None:
        """Rename a written file; return ``None`` if there is one of that name now."""
        if new.is_named:
            return None
        if sys.platform == "win32" and new.fd >= 0:  # where an open file cannot be renamed
            unlock_and_close(new.fd)
            new.fd = -1
        try:
            rename_to_free(new.path, self._at(name))
        except FileExistsError:
            return None
        new.is_named = True
        if self._is_synced:
            self._sync_folder(self.path)
        if new.fd < 0:
            return None  # found at once
        fd, new.fd = new.fd, -1
        return Pin(name, fd, os.fstat(fd).st_size)

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
            is_transient=exc.errno in FULL,
        )

    def _opened(self, name: str) -> int:
        """Open a file of the folder, never what a link leads to."""
        fd = os.open(self._at(name), os.O_RDONLY | CLOEXEC | _NOFOLLOW | _BINARY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", self._at(name))
        return fd

    def _remove(self, name: str, referred: Callable[[list[str]], set[str]]) -> bool:
        """Remove a file unless it is pinned or referred to; return whether there is none now."""
        if OURS.fullmatch(name) is None:
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


class _New:
    """A temporary file that is being written."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.is_named = False


def _written(write: Callable[[Any], object], file: Writing) -> None:
    """Write a file by *write*.

    Raises:
        OSError: the file cannot be written, whatever a library makes of that.
        Exception: what *write* raises.
    """
    try:
        write(file)
    except Exception as exc:
        if file.error is not None and exc is not file.error:
            raise file.error from exc
        raise
