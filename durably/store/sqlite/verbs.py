"""Verbs of a store that are one operation each on a database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from durably.errors import DatabaseError
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.connection.write_request import Operation

if TYPE_CHECKING:
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.looking import LookedAt

Ps = ParamSpec("Ps")
T = TypeVar("T")

log = logging.getLogger("durably")


class OnDatabase:
    """What has verbs that are operations on a database."""

    def __init__(self, database: Database | LookedAt, filing: Filing) -> None:
        self.database = database
        self.filing = filing

    def remove_dropped_files(self) -> None:
        """Remove the files of runs that were deleted. What fails is tried again by a sweep."""
        try:
            self.filing.remove_dropped()
        except DatabaseError as exc:
            log.warning("files of deleted runs are left for later: %s", exc)


def writes(operation: Operation[Ps, T]) -> Callable[Concatenate[OnDatabase, Ps], T]:
    """Return the verb that executes *operation* in a transaction, and commits it."""

    def verb(self: OnDatabase, /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        return self.database.write(operation, *args, **kwargs)

    return verb


def reads(query: Operation[Ps, T]) -> Callable[Concatenate[OnDatabase, Ps], T]:
    """Return the verb that executes *query*."""

    def verb(self: OnDatabase, /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        return self.database.read(query, *args, **kwargs)

    return verb
