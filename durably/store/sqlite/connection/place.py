"""Check whether a database can be at a path, before anything is made there."""

from __future__ import annotations

import os

from durably.store.sqlite.connection.files import (
    refuse_special,
    require_file,
    require_names,
)
from durably.store.sqlite.connection.filesystem import (
    file_system_of,
    mount_table,
    refuse_mounted,
    warn_of_shared,
)
from durably.store.sqlite.connection.sidefiles import refuse_strangers, shared_paths


def require_regular(path: str, *, create: bool) -> None:
    """Check that there is a file that can be a database at *path*, or that it may be made.

    Raises:
        ValidationError: what is there is not a regular file.
        DatabaseError: the file has several names, or is missing and may not be made.
    """
    if not create:
        require_file(path)
    if os.path.lexists(path):
        refuse_special(path)


def require_place(path: str, *, create: bool = True, reads_only: bool = False) -> str | None:
    """Check that a database can be at *path*, before anything is made there.

    Args:
        create: whether a missing file may be made.
        reads_only: whether this process only reads the file.

    Returns:
        The type of the file system, if the system reports it.

    Raises:
        ValidationError: the path names no regular file, or the names beside it would be too long.
        DatabaseError: the file is mounted alone, or is another user's, or may not be used;
            or it is missing and may not be made.
    """
    require_regular(path, create=create)
    mounts = mount_table()
    refuse_mounted(shared_paths(path), mounts)
    require_names(path)
    refuse_strangers(path, reads_only=reads_only)
    kind = file_system_of(path, mounts)
    warn_of_shared(path, kind)
    return kind
