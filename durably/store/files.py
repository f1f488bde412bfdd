"""The file of a database: what its path names, and whether it still does."""

from __future__ import annotations

import os
import stat
from typing import Final

from durably.errors import DatabaseError, ValidationError
from durably.shown import shown
from durably.store import schema

_PRIVATE: Final = 0o600


def resolved(path: str | os.PathLike[str]) -> str:
    """The real path of the database file; links are followed, as SQLite's locks are per file."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise ValidationError(f"path must be a str or a PathLike, not {shown(path)}") from None
    if not isinstance(text, str):
        raise ValidationError(f"path must be text, not {shown(text)}")
    if not text or text == ":memory:":
        raise ValidationError(
            f"path={text!r} names no file; durably keeps its work in a file, or it would be lost"
        )
    if "\0" in text:
        raise ValidationError(f"path={shown(text)} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        # How Python shows bytes of a file name that are no UTF-8; SQLite takes nothing else.
        raise ValidationError(f"path={text!a:.80} cannot be written as UTF-8") from None
    real = os.path.realpath(text)
    # A separator at the end says so, even where nothing is there yet.
    if os.path.isdir(real) or not os.path.basename(text):
        raise ValidationError(f"path={text!r} is a directory; name a file in it")
    folder = os.path.dirname(real)
    if not os.path.isdir(folder):
        raise DatabaseError(f"the folder {folder!r} of the database does not exist; make it first")
    return real


def create_private(path: str) -> None:
    """Make the file, if missing, readable for its owner alone.

    Only a file that does not exist yet is opened here: closing a descriptor of an open
    database would drop SQLite's locks on it.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _PRIVATE)
    except FileExistsError:
        refuse_special(path)
    except OSError as exc:
        raise DatabaseError(
            f"the database {path!r} cannot be made: {exc.strerror}; check the folder's permissions"
        ) from exc
    else:
        os.close(descriptor)


def refuse_special(path: str) -> None:
    """Refuse what is there but can be no database file."""
    try:
        status = os.stat(path)
    except OSError as exc:
        # A link that leads to itself, say, or a file that was removed this instant.
        raise DatabaseError(
            f"the database {path!r} cannot be looked at: {exc.strerror}; check the path"
        ) from exc
    if not stat.S_ISREG(status.st_mode):
        raise ValidationError(f"path={path!r} is not a regular file")
    if status.st_size == 1:
        # SQLite takes a single byte for an empty file and would write over it.
        raise schema.not_a_database(path)
    if status.st_nlink > 1:
        raise DatabaseError(
            f"the database {path!r} has more than one name (hard links); SQLite would keep a "
            "log for each and damage it. Remove the other names"
        )


def identity(path: str) -> tuple[int, int] | None:
    """What tells the file that *path* names from every other one; ``None`` if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)
