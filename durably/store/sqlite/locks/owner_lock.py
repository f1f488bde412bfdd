"""The lock that an engine holds while it is alive, and checks of the locks of other owners.

Each engine holds a ``flock`` on a file of its own, ``<database>.owner-<token>``, from before its
owner row is visible until the row is gone. The kernel releases it when the process ends, however
it ends, so an owner is known to be dead at once and without a clock. It is a ``flock`` and not a
POSIX lock: that one is dropped when any code of the process opens and closes the file, and a live
owner would look dead.

Only the lock decides: not the process id, and not the boot id of the machine, because a container
may show a boot id of its own and share the kernel, and its locks, with all others.

A stopped or hung owner holds its lock: it is alive, and the reaper decides what to do about it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from durably._platform.fork_hooks import ForkParticipant, no_fork, watch_forks
from durably._platform.ids import is_id
from durably._platform.latch import Latch
from durably.errors import DatabaseError
from durably.store.owners import Liveness
from durably.store.sqlite.connection.sidefiles import give_to_owner, owner_path, owner_prefix
from durably.store.sqlite.locks import begun_steps
from durably.store.sqlite.locks.begun_steps import Begun, BegunSteps

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Container

# A probe has a shared lock for some microseconds. A thread that needs the exclusive one tries
# again.
_ATTEMPTS: Final = 50
_PAUSE_S: Final = 0.002

# O_NOFOLLOW: a symbolic link at a lock's name is not a lock of durably's. O_NONBLOCK: opening a
# FIFO that another program put there must not wait.
_FLAGS: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOINHERIT", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)


def try_lock(fd: int, *, shared: bool) -> bool:
    """Try to lock *fd*; return False if another open file description has a conflicting lock."""
    try:
        if sys.platform == "win32":
            # There are no shared locks; each of two probes at once may find the other's lock.
            os.lseek(fd, 0, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_exclusively(fd: int) -> bool:
    """Lock *fd* until the process ends; return False if another process keeps a lock on it."""
    pause = Latch()
    for _ in range(_ATTEMPTS):
        if try_lock(fd, shared=False):
            return True
        pause.wait(_PAUSE_S)
    return False


def _is_at(fd: int, path: str) -> bool:
    """Return whether *path* still names the file that *fd* has open."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _unlink_and_close(fd: int, path: str) -> None:
    """Remove the lock file *path* that *fd* has locked, and unlock it."""
    is_ours = _is_at(fd, path)
    if sys.platform == "win32":  # an open file cannot be removed there
        os.close(fd)
    if is_ours:
        with contextlib.suppress(OSError):
            os.unlink(path)
    # Unlocked only after it was removed: otherwise a probe in between would find the lock free, and
    # an owner that is closing properly would count as dead.
    if sys.platform != "win32":
        os.close(fd)


def sync_folder(path: str) -> None:
    """Sync the name of *path* to the disk, if the system can do so.

    The owner's row survives a loss of power. Without its lock file, which is free after the next
    start, the owner would count as hung instead of dead.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# The locks that are held: one that is no longer referenced must still be closed in a forked child.
_held: Final[set[OwnerLock]] = set()


class OwnerLock(ForkParticipant):
    """The lock that proves that this engine is alive.

    It is held until :meth:`release` or the end of the process, even if it is not referenced.

    Attributes:
        token: the engine's token, as in its owner row.
        path: the lock file.
        begun: notes in the file of the steps that are in progress.
    """

    def __init__(self, token: str, path: str, fd: int, file_system: str | None) -> None:
        """Use :meth:`acquire`."""
        self.token: Final = token
        self.path: Final = path
        self.begun: Final = BegunSteps(path, file_system)
        self._fd = fd
        self._pid: Final = os.getpid()

    @classmethod
    def acquire(cls, database_path: str, token: str, file_system: str | None = None) -> OwnerLock:
        """Make and lock the file of the owner *token*, which no owner had before.

        Acquire it before the owner's row is visible: if the file of a row is missing, no lock ever
        shows that the owner is dead.

        Args:
            file_system: the type of the file system that the database is on, if it is known.

        Raises:
            DatabaseError: the file cannot be made, or not be locked.
        """
        path = owner_path(database_path, token)
        fd = -1
        lock: OwnerLock | None = None
        try:
            with no_fork():
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
                give_to_owner(fd, database_path)
                lock = cls(token, path, fd, file_system)
                watch_forks(lock)
                _held.add(lock)
            sync_folder(path)
            # A sweep may have found the file just before it was locked.
            if not _lock_exclusively(fd) or not _is_at(fd, path):
                raise OSError(f"another process locked or removed {path}")  # noqa: TRY301
        except BaseException as exc:
            if lock is not None:
                lock.release()
            if not isinstance(exc, OSError):
                raise
            raise DatabaseError(
                f"cannot make and lock {path}, which shows other processes that this one is "
                f"alive: {exc}. Make sure that its folder is writable by you, has room, and is on "
                f"a local disk, and that this process has file descriptors left (ulimit -n)."
            ) from exc
        return lock

    @property
    def is_held(self) -> bool:
        """Return whether this process holds the lock."""
        return self._fd >= 0 and self._pid == os.getpid()

    def release(self) -> None:
        """Remove the file, then release the lock. Calling it again does nothing.

        In a forked child only the copied descriptor is closed: file and lock are the parent's.
        """
        with no_fork():
            fd, self._fd = self._fd, -1
            _held.discard(self)
            if fd < 0:
                return
            with contextlib.suppress(OSError):
                if self._pid == os.getpid():
                    _unlink_and_close(fd, self.path)
                else:
                    os.close(fd)

    def abandon(self) -> None:
        """Release the lock and leave the file, by which other engines find that the owner is dead.

        Use it for an owner whose row could not be removed: without the file no engine could find
        that it is dead, and the row and its runs would stay.
        """
        with no_fork():
            fd, self._fd = self._fd, -1
            _held.discard(self)
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def after_fork_in_child(self) -> None:
        """Close the copy: with it the parent would look alive for as long as the child is."""
        self.release()


def _open_existing(path: str, mode: int) -> int:
    """Open *path* without making it; return -1 if it is missing or may not be opened."""
    try:
        return os.open(path, mode | _FLAGS)
    except OSError:
        return -1


def probe(database_path: str, token: str) -> Liveness:
    """Return whether the owner *token* is alive, without making a file or disturbing its lock.

    An owner whose token no engine can have is dead: another program has written it to the database.
    Such a token is never used as the name of a file.

    Args:
        database_path: the database of the owner.
        token: the owner's token.
    """
    if not is_id(token):
        return Liveness.DEAD
    # Without no_fork, a child that is forked now would keep the shared lock, and no engine could
    # take the exclusive one to remove the file.
    with no_fork():
        mode = os.O_RDWR if sys.platform == "win32" else os.O_RDONLY
        fd = _open_existing(owner_path(database_path, token), mode)
        if fd < 0:
            return Liveness.UNKNOWN
        try:
            # Shared, so that of two probes at once neither finds the other's lock.
            return Liveness.DEAD if try_lock(fd, shared=True) else Liveness.ALIVE
        except OSError:
            return Liveness.UNKNOWN
        finally:
            os.close(fd)


def begun_by(database_path: str, token: str) -> list[Begun]:
    """Return the steps that the owner *token* was inside of when it wrote last."""
    return begun_steps.read(owner_path(database_path, token)) if is_id(token) else []


def remove_lock(database_path: str, token: str) -> None:
    """Remove the lock file of the dead owner *token*, if it exists and is not locked.

    A file that is locked, or cannot be removed, stays; :func:`sweep_orphans` finds it later. Text
    that is not the token of an engine names no file.
    """
    if is_id(token):
        remove_if_free(owner_path(database_path, token))


def remove_if_free(path: str) -> bool:
    """Remove the file *path* if no process has a lock on it; return whether it was removed."""
    for _ in range(2):
        with no_fork():
            fd = _open_existing(path, os.O_RDWR)
            if fd < 0:
                return False
            try:
                if try_lock(fd, shared=False) and _is_at(fd, path):
                    fd_to_close, fd = fd, -1
                    _unlink_and_close(fd_to_close, path)
                    return True
            except OSError:
                return False
            finally:
                if fd >= 0:
                    os.close(fd)
        # A probe may have had its shared lock on it.
        Latch().wait(_PAUSE_S)
    return False


def sweep_orphans(
    database_path: str, known_tokens: Container[str], *, older_than_s: float
) -> list[str]:
    """Remove lock files that no owner row will ever name, and return their tokens.

    A process that is killed between making its lock and inserting its row leaves such a file. It
    removes files that are not locked, have no row, and are older than *older_than_s* seconds. A
    file whose name only begins like theirs is not one. The age keeps only files that are just being
    made; if the wall clock jumps, the lock still protects every live owner.

    Args:
        database_path: the database beside which the files are.
        known_tokens: the tokens of all owner rows.
        older_than_s: seconds since the file was made.
    """
    folder, prefix = os.path.split(owner_prefix(database_path))
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    swept = []
    for name in names:
        token = name.removeprefix(prefix)
        if token == name or not is_id(token) or token in known_tokens:
            continue
        path = os.path.join(folder, name)
        try:
            age_s = time.time() - os.stat(path, follow_symlinks=False).st_mtime
        except OSError:
            continue
        if age_s > older_than_s and remove_if_free(path):
            swept.append(token)
    return swept


@functools.cache
def current_boot_id() -> str:
    """Return the boot id of the machine; "" if the system does not report it.

    It is stored for people who read the file, and decides only whether a death counts against a
    run: a container may show another one than its host.
    """
    if sys.platform == "darwin":
        return _mac_boot_id()
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _mac_boot_id() -> str:
    try:
        sysctl = ctypes.CDLL(None).sysctlbyname
    except (OSError, AttributeError):
        return ""
    value = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(value))
    if sysctl(b"kern.bootsessionuuid", value, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return ""
    return value.value.decode("ascii", "replace")
