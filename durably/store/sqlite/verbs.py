"""Verbs of a store that are one operation each on a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from durably.store.care import leaves_files
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.connection.write_request import Operation
from durably.store.sqlite.sql import waits

if TYPE_CHECKING:
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.read_only import ReadOnlyFile

Ps = ParamSpec("Ps")
T = TypeVar("T")


class OnDatabase:
    """What has verbs that are operations on a database."""

    def __init__(self, database: Database | ReadOnlyFile, filing: Filing) -> None:
        self.database = database
        self.filing = filing

    def remove_dropped_files(self) -> None:
        """Remove the files to which nothing refers any more. A sweep tries again what fails."""
        with leaves_files():
            self.filing.remove_dropped()


class Answers(OnDatabase):
    """What stores answers: the runs that wait, and those who answer them."""

    def answer(
        self, run_id: str, name: str, value: str, answer_id: str | None, now_us: int
    ) -> bool:
        """Store an answer, and wake the run; return ``False`` if it was given before."""
        if self.filing.refers(value):
            answered = self.filing.write(
                waits.answer,
                [value],
                lambda stored: (run_id, name, *stored, answer_id, now_us),
                lambda run_pk, _: [run_pk],
                part="run",
            )
        else:
            answered = self.database.write(waits.answer, run_id, name, value, answer_id, now_us)
        return answered is not None


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
