"""Notice that the files of an open database were written without SQLite.

``cp backup.db jobs.db``, ``rsync --inplace``, ``> jobs.db`` or a program that synchronises folders
keep the file in its place and change its content. SQLite does not notice: it continues with what it
has in memory and in its WAL, and copies that WAL into the foreign content.

In WAL mode only WAL checkpoints change the database file, and each of them leaves traces in the
index of the WAL (``-shm``) before and after it. So a file that has changed, while the index shows
no WAL checkpoint, was overwritten. If the index cannot be read (everywhere but on Linux), or a WAL
checkpoint came in between, only changes that no WAL checkpoint makes are noticed: the file is no
database of durably's any more, or one with another schema.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from durably.store.sqlite.sql import schema

HEADER_SIZE: Final = 100
LOG_HEADER_SIZE: Final = 32
INDEX_SIZE: Final = 136

_MAGIC: Final = b"SQLite format 3\0"
_BIG: Final = struct.Struct(">I")
_NATIVE: Final = struct.Struct("=I")
_SCHEMA_VERSION: Final = 40
_APPLICATION_ID: Final = 68
# In the index of the WAL: its state after the last commit, in two copies, and how far WAL
# checkpoints have copied the WAL, and have begun to.
_INDEX_STATE: Final = 48
_PAGE_SIZE: Final = struct.Struct("=H")
_PAGE_SIZE_AT: Final = 14
_FRAMES_AT: Final = 16
_SALT: Final = slice(32, 40)
_COPIED_AT: Final = 96
_ATTEMPTED_AT: Final = 128
_FRAME_HEADER_SIZE: Final = 24
_SALT_IN_LOG: Final = slice(16, 24)


class _Seen(NamedTuple):
    """The file as it was at one moment at which no WAL checkpoint was in progress."""

    stamp: tuple[int, int]
    header: bytes
    checkpoints: bytes
    """The values that each WAL checkpoint changes; empty if the index cannot be read."""


class Content:
    """The last checked content of the files of one database. Used by one thread at a time.

    Args:
        read: returns the first bytes of the database file (0) or of its WAL (1), at most the given
            number.
        index: returns the first bytes of the index of the WAL; empty if that is not possible.
        schema_version: returns the number of the schema as of the newest commit.
    """

    def __init__(
        self,
        *,
        read: Callable[[int, int], bytes],
        index: Callable[[], bytes],
        schema_version: Callable[[], int],
    ) -> None:
        self._read = read
        self._index = index
        self._schema_version = schema_version
        self._seen: _Seen | None = None

    @property
    def is_settled(self) -> bool:
        """Return whether no WAL checkpoint is in progress, and none was cut short."""
        return self._checkpoints() is not None

    def is_as_seen(self, status: os.stat_result) -> bool:
        """Return whether nothing was written since the last check, and the WAL did not restart."""
        seen = self._seen
        return (
            seen is not None
            and seen.stamp == _stamp(status)
            and seen.checkpoints == self._checkpoints()
        )

    def is_overwritten(self, path: str) -> bool:
        """Check the database file, and return whether it was written without SQLite."""
        before = self._checkpoints()
        stamp = _stamp(os.stat(path))
        header = self._read(0, HEADER_SIZE)
        after = self._checkpoints()
        seen = self._seen
        if not header.startswith(_MAGIC) or len(header) < HEADER_SIZE:
            return True
        if seen is not None and self._is_another(seen, header):
            return True
        if before is None or before != after:
            return False  # a WAL checkpoint is in progress: checked again the next time
        if seen is not None and before and before == seen.checkpoints:
            # A time alone proves nothing: any program may set it.
            is_same = (seen.header, seen.stamp[0]) == (header, stamp[0])
            if not is_same:
                return True
        self._seen = _Seen(stamp, header, before)
        return False

    def _is_another(self, seen: _Seen, header: bytes) -> bool:
        """Return whether no WAL checkpoint can have changed the last known header to *header*."""
        application_id = _number(header, _APPLICATION_ID)
        was_ours = _number(seen.header, _APPLICATION_ID) == schema.APPLICATION_ID
        if was_ours and application_id != schema.APPLICATION_ID:
            return True
        version = _number(header, _SCHEMA_VERSION)
        if version == _number(seen.header, _SCHEMA_VERSION):
            return False
        # It only rises, and first in the WAL.
        return not _number(seen.header, _SCHEMA_VERSION) <= version <= self._schema_version()

    def _checkpoints(self) -> bytes | None:
        """Return the values that each WAL checkpoint changes.

        Return ``None`` while one is in progress or was cut short.
        """
        index = self._index()
        if not index:
            return b""
        copied = index[_COPIED_AT : _COPIED_AT + 4]
        if copied != index[_ATTEMPTED_AT : _ATTEMPTED_AT + 4]:
            return None
        return index[_SALT] + copied

    def is_wal_overwritten(self, path: str) -> bool:
        """Check the WAL, and return whether it lacks content that its index lists.

        Args:
            path: of the WAL.
        """
        before = self._index()[:_INDEX_STATE]
        if not before or before != self._index()[_INDEX_STATE : 2 * _INDEX_STATE]:
            return False
        frames = _NATIVE.unpack_from(before, _FRAMES_AT)[0]
        if not frames:
            return False
        size = os.stat(path).st_size
        header = self._read(1, LOG_HEADER_SIZE)
        if before != self._index()[:_INDEX_STATE]:
            return False  # there was a commit meanwhile, or a restart
        (page_size,) = _PAGE_SIZE.unpack_from(before, _PAGE_SIZE_AT)
        page_size = (page_size & 0xFE00) | ((page_size & 1) << 16)
        needed = LOG_HEADER_SIZE + frames * (_FRAME_HEADER_SIZE + page_size)
        return size < needed or header[_SALT_IN_LOG] != before[_SALT]


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _number(header: bytes, offset: int) -> int:
    number: int = _BIG.unpack_from(header, offset)[0]
    return number
