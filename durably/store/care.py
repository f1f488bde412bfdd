"""The store's verbs that care for what it is on: its place, its size, its copies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from durably._platform.safe_repr import on_one_line
from durably.errors import DatabaseError, DatabaseLostError
from durably.store.rows import Shrunk

if TYPE_CHECKING:
    from durably.codec.parts import Files
    from durably.store.conditions import Condition, JobUsage, Sizes


logger = logging.getLogger("durably")


@contextmanager
def leaves_files() -> Iterator[None]:
    """Log why the block could not remove files that nothing refers to; a sweep tries again.

    It is silent if the database is lost, which the next call raises.
    """
    try:
        yield
    except DatabaseLostError:
        return
    except DatabaseError as exc:
        logger.warning("files that nothing refers to are left for later: %s", on_one_line(str(exc)))


class Care(Protocol):
    """The part of a store that keeps it sound and small. Usable from any thread."""

    def check_in_place(self) -> None:
        """Check that the path still leads to what is open.

        Raises:
            DatabaseLostError: it was moved, deleted, replaced or overwritten.
        """

    def check_wal(self) -> None:
        """Check that the files that belong to the database are still those that are open.

        Raises:
            DatabaseLostError: they are not.
        """

    def wal_checkpoint(self, *, above_bytes: int) -> None:
        """Copy the write-ahead log into the file if it has grown beyond *above_bytes*."""

    def shrink(self, most_pages: int) -> Shrunk:
        """Return up to *most_pages* free pages to the file system."""

    def sweep_files(self) -> None:
        """Remove the files that nothing refers to, and that were left by a process for an hour."""

    @property
    def files(self) -> Files:
        """Return the files beside the database, for the codec."""

    def usage(self) -> list[JobUsage]:
        """Return what each job's runs take, the job that takes most first."""

    def sizes(self) -> Sizes:
        """Return how large the file is."""

    def condition(self, *, most_failures: int) -> Condition:
        """Return what may be unusual about the file and those that use it."""

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool, now_us: int) -> None:
        """Store a copy at *path* in which nothing is executed, while others write.

        Raises:
            ValidationError: the path can never be that of a backup of this database.
            BackupExistsError: there is something at the path, and *overwrite* is false.
            ConflictError: a database is open at the path, or was not closed in order.
            DatabaseError: the copy cannot be written, or the database is damaged.
        """
