"""What lies beside a database and belongs to it: SQLite's files and durably's locks."""

from __future__ import annotations

import os
from typing import Final

# The log, its index, and the journal that SQLite has while a file is not in WAL mode yet.
_OF_SQLITE: Final = ("-wal", "-shm", "-journal")
# What the writers lock.
_WRITER: Final = ".writer"
# Followed by the token of an engine: what says that it is alive.
_OWNER: Final = ".owner-"


def writer_path(path: str) -> str:
    """Return the file that the writers of the database *path* lock."""
    # All names of a database must lead to one lock.
    return f"{os.path.realpath(path)}{_WRITER}"


def owner_path(path: str, token: str) -> str:
    """Return the file that the engine of that token locks, on the database *path*."""
    return f"{os.path.realpath(path)}{_OWNER}{token}"


def shared_paths(path: str) -> list[str]:
    """Return what all engines of the database *path*, a real path, use together: it first."""
    return [path, *(path + suffix for suffix in (*_OF_SQLITE, _WRITER))]
