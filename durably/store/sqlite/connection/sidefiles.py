"""The files beside a database that belong to it: SQLite's files and durably's locks.

All of them belong to the user who owns the database. A file that another user has put there would
show that user whatever is written to it, or keep the owner out, so it is never used.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from durably._platform.latch import Latch
from durably.errors import DatabaseError
from durably.store.sqlite.connection.advice import unseen

if TYPE_CHECKING:
    from collections.abc import Iterator

from durably._platform.ids import is_id

# The WAL, its index, and the journal that SQLite has while a file is not in WAL mode yet.
_OF_SQLITE: Final = ("-wal", "-shm", "-journal")
# The file that the writers lock.
_WRITER: Final = ".writer"
# The lock of an engine, which proves that it is alive; followed by its token.
_OWNER: Final = ".owner-"
# The longest name of all: that of an engine's lock, with its token.
LONGEST_SUFFIX: Final = len(_OWNER) + 26

_KNOWS_EFFECTIVE_IDS: Final = os.access in os.supports_effective_ids

# Root changes the owner of a file a moment after making it.
_CHECKS: Final = 5
_PAUSE_S: Final = 0.01

# The system, the file system, or a user name space without such a user does not allow it.
_CANNOT_GIVE: Final = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def writer_path(path: str) -> str:
    """Return the file that the writers of the database *path* lock."""
    # All names of a database must lead to the same lock.
    return f"{os.path.realpath(path)}{_WRITER}"


def owner_path(path: str, token: str) -> str:
    """Return the file that the engine with that token locks, on the database *path*.

    Raises:
        ValueError: no engine has such a token. A token from the database could lead anywhere.
    """
    if not is_id(token):
        raise ValueError(f"{token!a:.80} is not the token of an engine")
    return owner_prefix(path) + token


def owner_prefix(path: str) -> str:
    """Return the prefix of the files that engines lock, on the database *path*."""
    return f"{os.path.realpath(path)}{_OWNER}"


def shared_paths(path: str) -> list[str]:
    """Return the files that all engines of *path*, a real path, share; the database first."""
    return [path, *(path + suffix for suffix in (*_OF_SQLITE, _WRITER))]


def give_to_owner(fd: int, path: str) -> None:
    """Change the owner of a file that this process has just made to that of the database *path*.

    Only root can, and must: otherwise its locks would keep the owner out. SQLite does the same with
    its own files.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    if status.st_uid != 0:
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except OSError as exc:
            if exc.errno not in _CANNOT_GIVE:
                raise


def remove_leftovers(path: str) -> None:
    """Remove the WAL and the index beside the empty database *path*.

    They belong to an earlier database that was removed. SQLite would use the index, to which a
    process that has the earlier one open may still write, and a WAL with any file mode. Call it
    while no other code can open the database.
    """
    for leftover in (f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)


def refuse_strangers(path: str, *, with_locks: bool = True, reads_only: bool = False) -> None:
    """Raise if this process must not use the database *path*, or a file beside it.

    The files beside it must belong to the database's owner, or to this process's user. Nothing is
    opened: closing a descriptor would drop SQLite's locks.

    Args:
        path: the database, which need not exist.
        with_locks: whether to check the locks of engines in the folder, too.
        reads_only: whether this process only reads the files.

    Raises:
        DatabaseError: names the file, its owner, and what to do.
    """
    if sys.platform == "win32":
        return
    database = _status(path)
    owners = {os.geteuid()}
    if database is not None:
        _refuse_planted(path, database)
        if not _is_accessible(path, reads_only=reads_only):
            why = _inaccessible(path, database, reads_only=reads_only)
            raise DatabaseError(f"the database {path!r} {why}")
        owners.add(database.st_uid)
    for each in (*shared_paths(path)[1:], *(_locks(path) if with_locks else ())):
        _refuse_strange(each, path, owners, reads_only=reads_only)


def _only_reads(path: str) -> bool:
    """Return whether this process may read the database *path*, and not make files beside it."""
    if sys.platform == "win32":
        return False
    there = [each for each in shared_paths(path) if os.path.exists(each)]
    is_folder_writable = os.access(
        os.path.dirname(path), os.W_OK | os.X_OK, effective_ids=_KNOWS_EFFECTIVE_IDS
    )
    return not is_folder_writable or not all(map(_is_accessible, there))


def is_unchanging(path: str) -> bool:
    """Return whether a process that only reads *path* uses no file beside it.

    Nobody writes to it then: it is on a medium that cannot be written, and has no WAL.

    Raises:
        DatabaseError: SQLite would have to make files beside it, which this process may not, or
            which would keep the owner of the file out.
    """
    if not _only_reads(path):
        return False
    has_wal = os.path.exists(f"{path}-wal")
    if has_wal and os.path.exists(f"{path}-shm"):
        return False
    # A process that writes to it through another mount has a WAL beside it.
    if not has_wal and is_on_read_only(path):
        return True
    raise DatabaseError(
        f"the database {path!r} may only be read here, and while no program has it open "
        "SQLite has to make files beside it; copy it, with its -wal if there is one, into a "
        "folder of your own, or run as its owner"
    )


def is_on_read_only(path: str) -> bool:
    """Return whether the file system of the file is mounted so that nobody writes to it here."""
    return bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)


def _refuse_planted(path: str, database: os.stat_result) -> None:
    """Raise if another user has put the database there, and would read it."""
    if database.st_uid in {os.geteuid(), 0}:
        return
    folder = os.stat(os.path.dirname(path))
    # The kernel has the same rule for opening files with O_CREAT (fs.protected_regular).
    is_shared = bool(folder.st_mode & stat.S_ISVTX) and bool(folder.st_mode & 0o022)
    is_empty = not database.st_size and os.geteuid() != 0
    if is_empty or (is_shared and database.st_uid != folder.st_uid):
        raise DatabaseError(
            f"the {'empty ' if not database.st_size else ''}file {path!r} belongs to "
            f"{_user(database.st_uid)}, who would read all that this process ({_me()}) stores in "
            "it; put the database into a folder of your own"
        )


def _refuse_strange(each: str, path: str, owners: set[int], *, reads_only: bool) -> None:
    pause = Latch()
    for check in range(_CHECKS):
        status = _status(each)
        if status is None:
            return
        problem = _strangeness(each, status, path, owners, reads_only=reads_only)
        if problem is None:
            return
        if check == _CHECKS - 1:
            raise DatabaseError(f"{each!r}, beside the database {path!r}, {problem}")
        pause.wait(_PAUSE_S)


def _strangeness(
    each: str, status: os.stat_result, path: str, owners: set[int], *, reads_only: bool
) -> str | None:
    """Return what is wrong with a file beside the database, and what to do."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; remove it"
    if status.st_nlink > 1:
        return "has more than one name (hard links); remove it"
    if status.st_uid in owners:
        # What only reads does not open the locks: SQLite's files are all it needs.
        if reads_only and not each.endswith(_OF_SQLITE):
            return None
        is_accessible = _is_accessible(each, reads_only=reads_only)
        return None if is_accessible else _inaccessible(each, status, reads_only=reads_only)
    if status.st_uid == 0:
        return (
            "belongs to root, who has used the database (sudo, cron) with an older durably or "
            f"with another program. Give it to {_owner_of(path)} with chown, as root"
        )
    return (
        f"belongs to {_user(status.st_uid)}, who could read what is written to it. Remove it, and "
        "put the database into a folder that no other user can write to"
    )


def _is_accessible(path: str, *, reads_only: bool = False) -> bool:
    mode = os.R_OK if reads_only else os.R_OK | os.W_OK
    return os.access(path, mode, effective_ids=_KNOWS_EFFECTIVE_IDS)


def _inaccessible(path: str, status: os.stat_result, *, reads_only: bool) -> str:
    """Return why this process may not read, or read and write, the file, and what to do."""
    if not reads_only and is_on_read_only(path):
        return "is on a file system that is mounted read-only; put the database elsewhere"
    what = "read" if reads_only else "read and written"
    return (
        f"may not be {what} by {_me()}, as whom this process runs: it belongs to "
        f"{_user(status.st_uid)}, with the permissions {stat.S_IMODE(status.st_mode):04o}. Run as "
        "its owner, or change its owner (chown) or its permissions (chmod)"
    )


def _locks(path: str) -> Iterator[str]:
    """Yield the locks of the engines that have the database open, or had when they died."""
    folder, prefix = os.path.split(owner_prefix(path))
    try:
        names = os.listdir(folder)
    except PermissionError:  # the files of the folder may be used but not listed
        return
    for name in sorted(names):
        if name.startswith(prefix):
            yield os.path.join(folder, name)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise unseen(path, exc) from exc


def _owner_of(path: str) -> str:
    database = _status(path)
    return _me() if database is None else _user(database.st_uid)


def _me() -> str:
    return _user(os.geteuid())


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - where first needed

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
