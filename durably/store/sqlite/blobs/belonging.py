"""Check to which database a folder of large results belongs.

What no run of a database refers to is removed from its folder, which would be the files of another
database. So no two have the same one. The folder beside a database, named after it, is that
database's. Any other one has a file ``database`` with the path of its database, which the first
database that stores a file there makes. A database that was moved is not there any more, and the
next one may have the folder.
"""

from __future__ import annotations

import os
from typing import Final

from durably._platform.renaming import rename_to_free
from durably.errors import DatabaseError
from durably.store.sqlite.locks.guard import CLOEXEC

SUFFIX: Final = ".blobs"
"""The end of the name of the folder beside a database."""
MARK: Final = "database"

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LONGEST: Final = 1 << 16


def other_database(folder: str, database: str) -> str | None:
    """Return the path of another database that has the folder, ``None`` if there is none.

    Raises:
        OSError: the folder cannot be read.
    """
    beside = folder.removesuffix(SUFFIX)
    for path in (beside if beside != folder else None, _marked(folder)):
        if path and path != database and os.path.isfile(path) and not _is_same(path, database):
            return path
    return None


def require_own(folder: str, database: str) -> None:
    """Check that the folder is not that of another database.

    Raises:
        DatabaseError: it is.
        OSError: it cannot be read.
    """
    other = other_database(folder, database)
    if other is not None:
        raise DatabaseError(
            f"the folder {folder!r} has the large results of the database {other!r}, and no two "
            "databases share one; name another folder with blobs="
        )


def mark(folder: str, database: str, new: int, path: str) -> None:
    """Mark the folder as that of a database; it may be another's afterwards, which was faster.

    Args:
        new: a new file that is open for writing.
        path: leads to it.

    Raises:
        OSError: the folder cannot be marked.
    """
    os.write(new, os.fsencode(database))
    os.fsync(new)
    place = os.path.join(folder, MARK)
    if _marked(folder) is None:
        rename_to_free(path, place)
    else:
        os.replace(path, place)


def is_marked(folder: str, database: str) -> bool:
    """Return whether the folder needs no mark to be known as that of a database."""
    return folder == database + SUFFIX or _marked(folder) == database


def _marked(folder: str) -> str | None:
    try:
        fd = os.open(os.path.join(folder, MARK), os.O_RDONLY | CLOEXEC | _NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return os.fsdecode(os.read(fd, _LONGEST).partition(b"\0")[0])
    finally:
        os.close(fd)


def _is_same(path: str, database: str) -> bool:
    try:
        return os.path.samefile(path, database)
    except FileNotFoundError:
        return False
