"""The file of a database: what its path names, and whether that has changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from durably._platform.commands import DEFAULT_PATH, PATH_VARIABLE
from durably._platform.safe_repr import short_repr
from durably.errors import DatabaseError, ValidationError
from durably.store.sqlite.connection.advice import advice_on, unseen
from durably.store.sqlite.connection.sidefiles import LONGEST_SUFFIX, remove_leftovers
from durably.store.sqlite.sql import schema

_PRIVATE: Final = 0o600
# How many bytes of its longest path SQLite reserves for the suffix of a journal.
_OF_SQLITE: Final = len("-journal")

# A device, and the number of a file on it.
Identity = tuple[int, int]


def chosen(path: str | os.PathLike[str] | None) -> str:
    """Return the real path of the database file that a caller has chosen, by ``None`` too."""
    if path is not None:
        return resolved(path)
    named = os.environ.get(PATH_VARIABLE)
    return resolved(named, PATH_VARIABLE) if named else resolved(DEFAULT_PATH)


def resolved(path: str | os.PathLike[str], what: str = "path") -> str:
    """Return the real path of the database file; links are followed since locks are per file.

    Args:
        what: the name of the argument or the variable, for messages.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        raise ValidationError(
            f"{what} must be a str or a PathLike, not {short_repr(path)}"
        ) from None
    if not isinstance(text, str):
        raise ValidationError(f"{what} must be text, not {short_repr(text)}")
    if not text or text == ":memory:":
        raise ValidationError(
            f"{what}={text!r} names no file; durably keeps its work in a file, or it would be lost"
        )
    if "\0" in text:
        raise ValidationError(f"{what}={short_repr(text)} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python represents bytes of a file name that are not UTF-8 like this; SQLite accepts none.
        raise ValidationError(f"{what}={text!a:.80} cannot be written as UTF-8") from None
    real = os.path.realpath(text)
    # A separator at the end means a folder, even if nothing is there yet.
    folder = os.path.dirname(real)
    # Checked first: the folder may be the reason why the path cannot be inspected.
    has_folder = _is_folder(folder)
    if not os.path.basename(text) or (has_folder and _is_folder(real)):
        raise ValidationError(f"{what}={text!r} is a directory; name a file in it")
    if not has_folder:
        raise DatabaseError(f"the folder {folder!r} does not exist; make it first")
    return real


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:  # so there is no such file
            return False
        raise unseen(path, exc) from exc


def require_file(path: str) -> None:
    """Raise unless there is a file at the path.

    Raises:
        DatabaseError: there is none; or the system does not report it.
    """
    try:
        is_there = identity(path) is not None
    except OSError as exc:
        raise unseen(path, exc) from exc
    if not is_there:
        raise DatabaseError(f"there is no file {path!r}")


@contextmanager
def present(path: str, *, create: bool, is_alone: bool) -> Iterator[None]:
    """Make the file, if missing; remove it again if the block raises and has left it empty.

    Args:
        path: the database.
        create: whether it may be made; if not, a missing file is an error.
        is_alone: whether no other process or thread can be opening it.
    """
    if not create:
        require_file(path)
    made = create_private(path) if create else None
    try:
        yield
    except BaseException:
        if made is not None and is_alone and made == identity(path) and not size_of(path):
            remove_leftovers(path)
            os.unlink(path)
        raise


def create_private(path: str) -> Identity | None:
    """Make the file, if missing, readable for its owner alone; return what identifies it.

    Only a file that does not exist yet is opened here: closing a descriptor of an open
    database would drop SQLite's locks on it.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _PRIVATE)
    except FileExistsError:
        refuse_special(path)
        return None
    except OSError as exc:
        raise DatabaseError(
            f"the database {path!r} cannot be made: {exc.strerror}; {advice_on(exc)}"
        ) from exc
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (status.st_dev, status.st_ino)


def require_names(path: str) -> None:
    """Raise if the names of the files beside the database would be too long.

    Raises:
        ValidationError: names the limit.
    """
    if not hasattr(os, "pathconf"):
        return
    folder, name = os.path.split(os.fsencode(path))
    longest = os.pathconf(folder, "PC_NAME_MAX") - LONGEST_SUFFIX
    if len(name) > longest:
        raise ValidationError(
            f"the file name of the database is too long: {len(name)} bytes, and up to {longest} "
            f"leave room for the names of the files beside it, in {os.fsdecode(folder)!r}"
        )
    longest = min(
        os.pathconf(folder, "PC_PATH_MAX") - 1 - LONGEST_SUFFIX,
        int(apsw.vfs_details()[0]["mxPathname"]) - _OF_SQLITE,
    )
    if len(folder) + 1 + len(name) > longest:
        raise ValidationError(
            f"the path of the database is too long: {len(folder) + 1 + len(name)} bytes, and the "
            f"system and SQLite take up to {longest}: {path!r}"
        )


def refuse_special(path: str) -> None:
    """Raise if something is at the path that cannot be a database file."""
    try:
        status = os.stat(path)
    except OSError as exc:
        # For example a link that leads to itself, or a file that was just removed.
        raise unseen(path, exc) from exc
    if not stat.S_ISREG(status.st_mode):
        raise ValidationError(f"path={path!r} is not a regular file")
    if status.st_size == 1:
        # SQLite treats a file of one byte as an empty one, and would write over it.
        raise schema.not_a_database(path)
    if status.st_nlink > 1:
        raise DatabaseError(
            f"the database {path!r} has more than one name (hard links); SQLite would keep a "
            "log for each and damage it. Remove the other names"
        )


def identity(path: str) -> Identity | None:
    """Return what identifies the file that *path* names; ``None`` if there is none.

    Raises:
        OSError: the system does not report it.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino)


def file_at(path: str) -> Identity | None:
    """Return what ``identity`` does, and ``None`` if the system does not report it."""
    try:
        return identity(path)
    except OSError:
        return None


def is_gone(path: str, known: Identity | None) -> bool:
    """Return whether *path* no longer leads to the file *known*.

    It checks twice, because an engine whose file is gone can only be closed. A system call that
    fails in any other way proves nothing about the file.
    """
    for _ in range(2):
        try:
            found = identity(path)
        except OSError:
            return False
        if found == known:
            return False
    return True


def size_of(path: str) -> int:
    """Return how many bytes the file has; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
