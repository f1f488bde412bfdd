"""Open the store of an engine, on the file that its caller has chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from durably._platform.clock import Clock
from durably.settings import Settings
from durably.store.sqlite.blobs.belonging import SUFFIX, require_own
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.connection.files import chosen, file_at
from durably.store.sqlite.connection.place import require_regular
from durably.store.sqlite.database import Database
from durably.store.sqlite.store import SqliteStore


def open_store(
    path: str | os.PathLike[str] | None,
    settings: Settings,
    clock: Clock,
    prepare: Callable[[str, object], None],
) -> SqliteStore:
    """Return the store on the file at *path*; for ``None``, on the file of this environment.

    Args:
        prepare: called before the file is opened, with its real path and what identifies the file
            that is there, ``None`` if there is none.
    """
    real = chosen(path)
    require_regular(real, create=settings.create)  # a mistake in the path closes nothing
    prepare(real, file_at(real))
    folder = settings.blobs or real + SUFFIX
    with suppress(OSError):  # said by what needs the folder
        require_own(folder, real)
    database = Database(real, create=settings.create, synchronous=settings.synchronous, clock=clock)
    filing = Filing(
        database,
        folder,
        files=settings.blobs is not False,
        synchronous=settings.synchronous,
        clock=clock,
    )
    return SqliteStore(database, filing)
