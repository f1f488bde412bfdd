"""Translate SQLite's errors for a user of durably: one sentence of fact, and what to do."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from typing import Final

import apsw

from durably.errors import DatabaseError
from durably.store.bounds import MOST_RUNS
from durably.store.sqlite.locks.holders import holder_of

_USED_UP: Final = """
    SELECT name FROM sqlite_sequence
    WHERE name IN ('durably_runs', 'durably_owners', 'durably_logs') AND seq >= :most"""

# (the exception of APSW, what happened and what to do, whether trying again later may help)
_MEANINGS: Final[tuple[tuple[type[apsw.Error | UnicodeDecodeError], str, bool], ...]] = (
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
    # Stored text is always UTF-8: other bytes are damage that SQLite does not notice.
    (
        UnicodeDecodeError,
        "is damaged: it contains bytes that are not valid UTF-8; restore it from a copy",
        False,
    ),
    (
        apsw.IOError,
        "cannot be read or written: the system reported an I/O error; its log (dmesg) says more",
        True,
    ),
    (apsw.NoMemError, "could not be used: out of memory", True),
    (apsw.TooBigError, "cannot hold a value this large (SQLite's limit is 1 GB)", False),
)


# Errors of the system that SQLite reports as a damaged page when they occur inside a statement.
_UNREADABLE: Final = frozenset(
    {errno.EIO, errno.ENXIO, errno.ERANGE, getattr(errno, "EDEVERR", errno.EIO)}
)
# Where ``sqlite3_io_methods`` has xFileControl, counted in pointers.
_FILE_CONTROL: Final = 10


def database_error(
    exc: apsw.Error | UnicodeDecodeError,
    path: str,
    db: apsw.Connection | None = None,
    *,
    waited_s: float | None = None,
) -> DatabaseError:
    """Return the error for a user that stands for *exc*; the caller raises it ``from exc``.

    Args:
        exc: the exception of APSW.
        path: the database.
        db: the connection that raised it, in the thread that uses it. It returns the system's error
            number, the only difference between an unreadable disk and a damaged file.
        waited_s: the seconds that the call waited for a lock.
    """
    if isinstance(exc, apsw.BusyError):
        return locked_error(path, waited_s, str(exc))
    if db is not None and isinstance(exc, apsw.FullError | apsw.ConstraintError):
        table = _without_numbers(db)
        if table is not None:
            return DatabaseError(
                f"the database {path!r} has no number left for another row of {table}: another "
                "program has written the highest one. Delete the row that durably.testing.check "
                "names, if there is one, with an SQLite tool, and open the database again"
            )
    number = 0 if db is None else system_error(exc, db)
    cause: type[apsw.Error | UnicodeDecodeError] = type(exc)
    if number and isinstance(exc, apsw.CorruptError):
        cause = apsw.IOError
    for kind, meaning, is_transient in _MEANINGS:
        if issubclass(cause, kind):
            return DatabaseError(
                f"the database {path!r} {meaning} ({exc}{_code_of(exc)}{_words_of(number)})",
                is_transient=is_transient,
            )
    return DatabaseError(f"the database {path!r} reported an error: {type(exc).__name__}: {exc}")


def locked_error(path: str, waited_s: float | None, said: str) -> DatabaseError:
    """Return the error for a call that has waited for a lock for too long."""
    held = "for too long" if waited_s is None else f"for {waited_s:.1f} s and longer"
    holder = holder_of(path)
    if holder is None:
        by, advice = "", "close whatever is writing to it"
    else:
        name, is_stopped = holder
        by = f" ({name}, which is stopped)" if is_stopped else f" ({name})"
        advice = (
            "let that process continue, or end it" if is_stopped else "close it, or let it finish"
        )
    return DatabaseError(
        f"the database {path!r} is locked by another program{by} {held}; {advice} ({said})",
        is_transient=True,
    )


def _without_numbers(db: apsw.Connection) -> str | None:
    """Return the table whose numbers are used up, which another program must have done."""
    with suppress(apsw.Error):
        for row in db.execute(_USED_UP, {"most": MOST_RUNS}).fetchall():
            return str(row[0])
    return None


def _code_of(exc: apsw.Error | UnicodeDecodeError) -> str:
    """Return SQLite's name of an I/O error, which names the operation that failed."""
    code = getattr(exc, "extendedresult", 0) if isinstance(exc, apsw.IOError) else 0
    name = apsw.mapping_extended_result_codes.get(code)
    # That name says "corrupt" for a file that could not be read.
    return "" if name is None or code == apsw.SQLITE_IOERR_CORRUPTFS else f", {name}"


def _words_of(number: int) -> str:
    return f", {errno.errorcode.get(number, number)}: {os.strerror(number)}" if number else ""


def system_error(exc: apsw.Error | UnicodeDecodeError, db: apsw.Connection) -> int:
    """Return the number of the system's error that caused *exc*; 0 if there was none."""
    if isinstance(exc, apsw.IOError | apsw.CantOpenError):
        return db.system_errno or _last_errno(db)
    return disk_error(db) if isinstance(exc, apsw.CorruptError) else 0


def disk_error(db: apsw.Connection) -> int:
    """Return the number of the error of a read of *db* that SQLite reports as damage, or 0."""
    number = _last_errno(db)
    return number if number in _UNREADABLE else 0


def _last_errno(db: apsw.Connection) -> int:
    """Return the error number of the last failed call for the database file or for its WAL."""
    number = ctypes.c_int(0)
    ask = apsw.SQLITE_FCNTL_LAST_ERRNO
    db.file_control("main", ask, ctypes.addressof(number))
    log = ctypes.c_void_p()
    db.file_control("main", apsw.SQLITE_FCNTL_JOURNAL_POINTER, ctypes.addressof(log))
    if number.value or not log:
        return number.value
    # APSW calls only the database file. The WAL's file is called as SQLite itself would: the first
    # member of a file is the table of its functions.
    methods = ctypes.cast(log, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    if methods:
        control = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        control(methods[_FILE_CONTROL] or 0)(log, ask, ctypes.addressof(number))
    return number.value
