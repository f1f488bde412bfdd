"""The condition of a database: what its tables and the system say about it. Nothing is written."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import Final, Literal

import apsw

from durably.store.conditions import Condition, OwnerState, Sizes
from durably.store.owners import Liveness
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.connection.files import size_of
from durably.store.sqlite.connection.filesystem import (
    file_system_of,
    is_network,
    is_shared_folder,
    mount_table,
)
from durably.store.sqlite.locks import holders, owner_lock
from durably.store.sqlite.reads import ReadFile
from durably.store.sqlite.sql import blobs, conditions, runs, schema

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def sizes_of(database: ReadFile) -> Sizes:
    """Return the sizes of the database."""
    file_bytes, free_bytes = database.read(conditions.pages)
    blob_bytes = sum(database.read(blobs.all_referred).values())
    return Sizes(file_bytes, size_of(f"{database.path}-wal"), free_bytes, blob_bytes)


def condition_of(database: ReadFile, folder: BlobFolder, most_failures: int) -> Condition:
    """Return the condition of the database, with so many kinds of failures.

    Args:
        folder: that of its large results.
    """
    import shutil  # noqa: PLC0415 - where first needed: it brings what compresses files

    path = database.path
    kind = file_system_of(path, mount_table())
    file_sizes = folder.sizes()
    known = {*database.read(blobs.all_referred), *database.read(blobs.all_dropped)}
    lost = folder.orphans(known, time.time())
    return Condition(
        path=path,
        schema=len(schema.migrations()),  # an older one is not opened
        sqlite=apsw.sqlite_lib_version(),
        sizes=sizes_of(database),
        file_system=kind,
        shared_by=_shared_by(kind),
        disk_bytes=shutil.disk_usage(os.path.dirname(path)).free,
        wal_readers=holders.readers_of(path),
        owners=[_owner(path, *row) for row in database.read(conditions.owners)],
        jobs=database.read(conditions.state_of_jobs),
        failures=database.read(conditions.failures, most_failures),
        newest_time_us=database.read(runs.newest_time),
        file_mode=_file_mode(path),
        folder_mode=_folder_mode(path),
        lost_files=len(lost),
        lost_bytes=sum(file_sizes.get(name, 0) for name in lost),
    )


def _shared_by(kind: str | None) -> Literal["network", "host"] | None:
    if kind is None:
        return None
    if is_network(kind):
        return "network"
    return "host" if is_shared_folder(kind) else None


def _owner(
    path: str, token: str, pid: int, is_started: int, beat_us: int, interval_us: int, running: int
) -> OwnerState:
    liveness = owner_lock.probe(path, token)
    is_alive = {Liveness.ALIVE: True, Liveness.DEAD: False}.get(liveness)
    # The number of a process that has ended may be another's by now.
    process, is_stopped = (f"process {pid}", False)
    if is_alive:
        process, is_stopped = holders.described(pid)
    return OwnerState(
        pid, process, is_alive, is_stopped, bool(is_started), beat_us, interval_us, running
    )


def _file_mode(path: str) -> int | None:
    if sys.platform == "win32":
        return None
    mode = stat.S_IMODE(os.stat(path).st_mode)  # SQLite gives it to the files beside it, too
    return mode if mode & _OTHERS else None


def _folder_mode(path: str) -> int | None:
    if sys.platform == "win32":
        return None
    mode = os.stat(os.path.dirname(path)).st_mode
    is_open = mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX
    return stat.S_IMODE(mode) if is_open else None
