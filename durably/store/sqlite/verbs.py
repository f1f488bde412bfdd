"""Verbs of a store that are one operation each on a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.connection.write_request import Operation

if TYPE_CHECKING:
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.looking import LookedAt

Ps = ParamSpec("Ps")
T = TypeVar("T")


class OnDatabase:
    """What has verbs that are operations on a database."""

    def __init__(self, database: Database | LookedAt, filing: Filing) -> None:
        self.database = database
        self.filing = filing


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
