"""Check whether the open file and its WAL were moved, deleted, replaced or overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import apsw

from durably.errors import DatabaseLostError
from durably.store.sqlite.connection.content import Content
from durably.store.sqlite.connection.files import identity, is_gone
from durably.store.sqlite.notify import VersionReader

# The system's errors for a file that is missing. Other errors may be a signal handler's.
_GONE: Final = (FileNotFoundError, NotADirectoryError)


class FileChecks:
    """Check the file of one database, once it is open. Usable from any thread.

    Attributes:
        identity: what identifies the open file.

    Args:
        versions: the connection that never writes; its lock guards what was seen of the file.
        index: returns the first bytes of the index of the log.
    """

    def __init__(
        self,
        path: str,
        versions: VersionReader,
        *,
        index: Callable[[], bytes],
    ) -> None:
        self._path = path
        self._versions = versions
        self.identity: Final = identity(path)
        self._log_path, shm_path = f"{path}-wal", f"{path}-shm"
        self._identities = {each: identity(each) for each in (self._log_path, shm_path)}
        self._content = Content(
            read=versions.read_raw, index=index, schema_version=versions.schema_version
        )
        self._is_wal_lost = False
        # The file that was found overwritten. Stays set: later WAL checkpoints hide the change.
        self.overwritten: str | None = None

    def begin(self, checkpoint: Callable[[], object]) -> None:
        """Note the content of the file now; *checkpoint* copies the WAL into it."""
        if not self._content.is_settled:
            # A crash left a large WAL. If it cannot be copied now, later WAL checkpoints do it.
            with suppress(apsw.Error):
                checkpoint()
        self._read_content()

    @property
    def is_suspect(self) -> bool:
        """Return whether nothing may be copied into the file any more."""
        return self._is_wal_lost or self.overwritten is not None

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the path does not lead to the file that is open.

        What is written then goes to a file that no later opening finds.
        """
        # Called by nearly every call of an engine, so the system is asked once if all is well.
        try:
            status = os.stat(self._path)
        except OSError:
            status = None
        is_there = status is not None and (status.st_dev, status.st_ino) == self.identity
        if not is_there and is_gone(self._path, self.identity):
            raise DatabaseLostError(
                f"the database file {self._path!r} was moved, deleted or replaced while it was "
                "open; close this engine and open the file where it is now"
            )
        self.check_content(status if is_there else None)

    def check_content(self, status: os.stat_result | None = None) -> None:
        """Raise ``DatabaseLostError`` if the file was overwritten, now or at an earlier check.

        Reads the file only if it was written since the last check.

        Args:
            status: of the file; it is read if it is not given.
        """
        if self.overwritten is None:
            try:
                if self._content.is_as_seen(os.stat(self._path) if status is None else status):
                    return
            except OSError:
                return  # just deleted: the next check notices that
            self._read_content()
        self.raise_overwritten()

    def _read_content(self) -> None:
        with self._versions.lock:
            if not self._versions.is_usable():
                return
            try:
                is_overwritten = self._content.is_overwritten(self._path)
            except (apsw.Error, OSError):
                return  # it cannot be read now, which proves nothing
            if is_overwritten:
                self.overwritten = self._path

    def raise_overwritten(self) -> None:
        """Raise ``DatabaseLostError`` if the file was found overwritten."""
        if self.overwritten is not None:
            raise DatabaseLostError(
                f"{self.overwritten!r} was overwritten by another program while the database was "
                "open, and what was committed last may be lost. Close every program that has it "
                "open, delete its -wal and -shm, and put the copy in its place once more"
            )

    def check_wal(self) -> None:
        """Raise ``DatabaseLostError`` if SQLite's WAL or its index is not the one that is open.

        They were deleted, perhaps by SQLite in a connection that seemed to be the last one. What is
        committed then goes to a WAL that no later opening finds.
        """
        for path, before in self._identities.items():
            if is_gone(path, before):
                self._is_wal_lost = True
                raise DatabaseLostError(
                    f"{path!r}, which belongs to the database, was deleted or replaced while it "
                    "was open; what was committed last may be lost. Close this engine, and let no "
                    "program delete the files that lie beside a database"
                )
        if self.overwritten is None:
            with self._versions.lock, suppress(apsw.Error, *_GONE):
                if self._versions.is_usable() and self._content.is_wal_overwritten(self._log_path):
                    self.overwritten = self._log_path
        self.raise_overwritten()
