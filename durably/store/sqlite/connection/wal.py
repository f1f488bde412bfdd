"""Keep the file small: copy the WAL into it, and return free pages to the file system."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

import apsw

from durably.store.rows import Shrunk
from durably.store.sqlite.connection.file_checks import FileChecks
from durably.store.sqlite.connection.readers import Readers
from durably.store.sqlite.connection.writer import GroupCommitWriter

# How long new reads are blocked, when the WAL has grown large, until those in progress have ended
# and it can restart.
_READS_S: Final = 0.1


class WalCare:
    """Keep the WAL and the file of one database small. Used by one thread at a time."""

    def __init__(
        self, path: str, writer: GroupCommitWriter, readers: Readers, checks: FileChecks
    ) -> None:
        self._path = path
        self._writer = writer
        self._readers = readers
        self._checks = checks
        # The size of the WAL, in bytes, from which on new reads are blocked for its restart.
        self._worth_blocking = 0

    def wal_checkpoint(self, *, above_bytes: int) -> None:
        """Copy the WAL into the file if it has grown beyond *above_bytes*, and restart it.

        It does not wait, unless overlapping reads keep the WAL from being copied. Then it waits a
        moment for the reads in progress, while new ones are blocked.
        """
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return
        if size > above_bytes:
            self._checks.check_content()
        if size <= above_bytes or self._writer.maintain(
            run_wal_checkpoint, apsw.SQLITE_CHECKPOINT_PASSIVE
        ):
            self._worth_blocking = 0
        elif size >= self._worth_blocking:
            # One long read, here or elsewhere, must not block all new ones each time.
            is_done = self._writer.maintain(self._checkpoint_without_reads)
            self._worth_blocking = 0 if is_done else 2 * size

    def _checkpoint_without_reads(self, db: apsw.Connection) -> bool:
        with self._readers.block_new_reads(_READS_S) as are_reads_over:
            # The WAL checkpoint itself restarts the WAL: the next writer would find reads again.
            return are_reads_over and run_wal_checkpoint(db, apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def shrink(self, most_pages: int) -> Shrunk:
        """Return up to *most_pages* free pages to the file system."""
        self._checks.check_content()
        return self._writer.maintain(_vacuum, most_pages)


def run_wal_checkpoint(db: apsw.Connection, mode: int) -> bool:
    """Copy the WAL into the file; return whether all of it was, which an open read may prevent."""
    try:
        frames, copied = db.wal_checkpoint(mode=mode)
    except apsw.BusyError:
        return False
    return frames == copied


def _vacuum(db: apsw.Connection, most_pages: int) -> Shrunk:
    since_s = time.monotonic()
    free = db.pragma("freelist_count")
    left = free
    if free:
        with suppress(apsw.BusyError):
            db.execute(f"PRAGMA incremental_vacuum({int(most_pages)})").fetchall()
        left = db.pragma("freelist_count")
    # Another program may write in between.
    returned = max(0, free - left)
    took_s = time.monotonic() - since_s
    return Shrunk(returned * db.pragma("page_size"), returned > 0 and left > 0, took_s)
