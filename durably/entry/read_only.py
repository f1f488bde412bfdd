"""Open a file to read its runs: the wiring of a process that has no worker, and imports none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from durably._platform.clock import Clock
from durably.client.client import Client
from durably.client.read_only import ReadOnlyClient
from durably.codec import Codec
from durably.execution.emitter import Emitter
from durably.jobs.registry import JobRegistry
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.connection.files import chosen
from durably.store.sqlite.read_only import ReadOnlyFile
from durably.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from durably.execution.live import Displays


def open_read_only(
    path: str | os.PathLike[str] | None,
    displays: Displays | None = None,
    blobs: str | os.PathLike[str] | None = None,
) -> ReadOnlyClient:
    """Open a file to read its runs while others execute them; nothing is made or written.

    Args:
        path: ``None`` for the file of this environment.
        displays: displays what calls wait for; by default nothing is displayed.
        blobs: the folder of its large results, if that is not the one beside it.

    Raises:
        ValidationError: the path can never be a database file.
        SchemaError: the file is another program's, of another schema, empty, or changed.
        DatabaseError: it is missing, may not be used, is damaged or locked.
    """
    codec, clock = Codec(shows=True), Clock()
    file = ReadOnlyFile(chosen(path), clock=clock)
    folder = None if blobs is None else os.path.abspath(blobs)
    store = SqliteStore(file, Filing(file, folder))
    codec.use_files(store.files)
    registry, emitter = JobRegistry(codec), Emitter(clock)
    client = Client(store, codec, registry, emitter, clock, displays=displays)
    return ReadOnlyClient(store, client)
