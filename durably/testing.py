"""Check whether a database keeps durably's promises: in tests, and after a crash."""

from __future__ import annotations

import os

import attrs

from durably._platform.signals import entered
from durably.models.records import Record
from durably.rendering.bases import Listing


@attrs.frozen(eq=False, repr=False)
class Finding(Record):
    """One thing that is wrong with a database; ``str()`` gives ``problem: where``.

    Attributes:
        problem: a sentence, the same for every finding of its kind.
        where: the rows that are wrong, by run id, step name and the like. Never a payload or a
            result.

    .. versionadded:: 0.1.0
    """

    problem: str
    where: str

    _columns = (("", "message", "problem"), ("where", "message", "where"))

    def __str__(self) -> str:
        return f"{self.problem}: {self.where}"


class FindingList(Listing[Finding]):
    """Findings of one file. A slice is a ``FindingList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = Finding, "finding", Finding._columns  # noqa: SLF001 - of this module
    _counted = "problem"


@entered
def check(
    path: str | os.PathLike[str], *, blobs: str | os.PathLike[str] | None = None
) -> FindingList:
    """Check a database file for everything that can be wrong in it.

    It checks that the file is not damaged (SQLite's own ``integrity_check``); that its tables,
    indexes and triggers are those that durably makes, word for word; and, row by row, what must
    hold whatever was killed and whenever: a running run has an owner, a run that has ended has an
    end and no process executes it, no key is held twice, each result belongs to one step of one
    run, and so on. Each file of a large result is read: it must be there and have the content that
    its name stands for, and one of no run must not be over an hour old. Tables and views that were
    added under names of their own are left alone, and none of their rows is read.

    The file is only read, and may be in use, by other processes or by engines of this one: the
    check reads its content as of one instant. Nothing that was planted in it, such as a trigger or
    a view, is executed. A million runs take some ten seconds, in which SQLite's WAL cannot be
    reset and grows. The call blocks; a Ctrl-C ends it, and so does a limit of a minute plus a
    second for each megabyte.

    Args:
        path: the database file.
        blobs: the folder of its large results, as the engine has it.

    Returns:
        The findings, an empty list if nothing is wrong. Of one kind there are at most a hundred,
        and one more that says so.

    Raises:
        SchemaError: the file is not a durably database, or of a version that this durably
            does not know.
        DatabaseError: there is no such file, or it cannot be read, is mounted alone, or is locked
            for over 30 s, or the check takes longer than its limit.
        ValidationError: the path can never be a database file.

    .. versionadded:: 0.1.0
    """
    from durably.store.sqlite.sql.check import findings  # noqa: PLC0415 - where first needed

    return FindingList(Finding(problem, where) for problem, where in findings(path, blobs))
