"""The calls of an engine that care for the file: purge, backup and vacuum."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from durably._platform.signals import door
from durably.settings import Duration, check_bool, optional_timeout

if TYPE_CHECKING:
    from durably.client.client import Client
    from durably.client.control import Age


@door
class CareCalls:
    """What an engine does for its file, also where nothing is executed."""

    _client: Client
    # Raises unless the engine can be used.
    _check: Callable[[], None]

    def purge_runs(self, *, older_than: Age, limit: int = 500, keep_failed: bool = False) -> int:
        """Delete terminal runs that ended long ago, and return their space to the file system.

        A child run stays until its parent, which needs its output, has ended as long ago.

        Args:
            older_than: a duration before now (a ``timedelta``, seconds, or ``"30d"``, ``"24h"``,
                ``"60m"``), or an aware ``datetime``.
            limit: how many at most, the oldest first; call again for more.
            keep_failed: leave the failed ones.

        Returns:
            How many were deleted.

        Raises:
            ValidationError: *older_than* is not an age, or *limit* not a count. Nothing is deleted.

        .. versionadded:: 0.1.0
        """
        self._check()
        return self._client.control.purge(older_than, limit, keep_failed=keep_failed)

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Store a copy of the database at *path*, while this and other processes go on writing.

        When this returns the copy is whole, as of one instant during the call, checked by SQLite
        and synced to the disk; if it raises, whatever was at *path* is as it was. A process that is
        killed meanwhile leaves a file beside *path*, which the next backup to it removes.

        The copy is a database of its own. What was being executed is pending in it, with its
        checkpoints, so that an engine which is opened on it continues all runs. It is readable for
        its owner alone, and may be on any file system.

        Nobody waits for a backup. SQLite's WAL grows while it is made, until a backup of that much
        data is written. The call blocks the calling thread, which may be any; Ctrl-C ends it.

        Args:
            path: the file to make. A link is not followed, it is what would be overwritten.
            overwrite: whether a file that is there is replaced, in one step.

        Raises:
            BackupExistsError: there is something at *path*, and *overwrite* is false.
            ValidationError: *path* is the database itself, or can never be that of a database.
            ConflictError: a database is open at *path*, or was not closed in order.
            DatabaseError: the copy cannot be written, there is not enough room for it, or the
                database is damaged.

        .. versionadded:: 0.2.0
        """
        self._check()
        check_bool(overwrite, "overwrite")
        self._client.care.backup(path, overwrite=overwrite)

    def vacuum(self, *, max_seconds: Duration | None = None) -> int:
        """Return free pages of the file to the file system, in small steps.

        Deleted runs leave free pages, which later ones use; only some of them are returned by each
        purge. No thread or process waits for more than a step, which takes some milliseconds, and
        between two steps all others come first. The file shrinks once nothing reads an older state
        of it. The call blocks the calling thread, which may be any; Ctrl-C ends it between steps.

        Args:
            max_seconds: stop after so many seconds (or a ``timedelta``), however much is left.

        Returns:
            How many bytes were returned.

        Raises:
            ValidationError: *max_seconds* is not a duration.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.care.vacuum(optional_timeout(max_seconds, "max_seconds"))
