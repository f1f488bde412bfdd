"""What SQLite's errors mean to a user of durably: one sentence, and what to do."""

from __future__ import annotations

from typing import Final

import apsw

from durably.errors import DatabaseError

# (what APSW raises, what happened and what to do, whether trying again later may help)
_MEANINGS: Final[tuple[tuple[type[apsw.Error | UnicodeDecodeError], str, bool], ...]] = (
    (
        apsw.BusyError,
        "is locked by another program for too long; close whatever is writing to it",
        True,
    ),
    (apsw.LockedError, "is locked within this process; close whatever is writing to it", True),
    (apsw.FullError, "cannot grow: the disk is full; make room, nothing committed is lost", True),
    (
        apsw.ReadOnlyError,
        "cannot be written; check the permissions of the file and of its folder",
        False,
    ),
    (
        apsw.CantOpenError,
        "cannot be opened; check the folder and that this process has file descriptors left",
        True,
    ),
    (apsw.PermissionsError, "may not be used; check the permissions of the file", False),
    (apsw.AuthError, "may not be used; check the permissions of the file", False),
    (apsw.NotADBError, "is not an SQLite database, or is encrypted; it was left as it is", False),
    (
        apsw.CorruptError,
        "is damaged; restore it from a copy, or save what is readable with sqlite3's .recover",
        False,
    ),
    # What is stored as text is always UTF-8: other bytes in its place are damage that SQLite
    # does not see.
    (UnicodeDecodeError, "is damaged: it holds text that is none; restore it from a copy", False),
    (apsw.IOError, "cannot be read or written: the system reported an I/O error", True),
    (apsw.NoMemError, "could not be used: out of memory", True),
    (apsw.TooBigError, "cannot hold a value this large (SQLite's limit is 1 GB)", False),
)


def database_error(exc: apsw.Error | UnicodeDecodeError, path: str) -> DatabaseError:
    """The error a user gets for *exc*; the caller raises it ``from exc``."""
    for kind, meaning, is_transient in _MEANINGS:
        if isinstance(exc, kind):
            return DatabaseError(
                f"the database {path!r} {meaning} ({exc}{_code_of(exc)})",
                is_transient=is_transient,
            )
    return DatabaseError(f"the database {path!r} refused: {type(exc).__name__}: {exc}")


def _code_of(exc: apsw.Error | UnicodeDecodeError) -> str:
    """SQLite's name of an I/O error, which says what the system was asked for."""
    code = getattr(exc, "extendedresult", 0) if isinstance(exc, apsw.IOError) else 0
    name = apsw.mapping_extended_result_codes.get(code)
    return "" if name is None else f", {name}"
