"""Back a database up while others write to it.

The copy is made from one read transaction. So it is consistent, and no commit makes it begin again,
however busy the writers are; they are not held up, but the WAL cannot restart meanwhile and grows.
It is written under a temporary name, checked, synced and renamed: under the final name there is a
whole backup or nothing.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import apsw

from durably._platform.renaming import rename_to_free
from durably._platform.signals import deliver
from durably.errors import BackupExistsError, ConflictError, DatabaseError, ValidationError
from durably.store import defects
from durably.store.outcome import OwnerElsewhere
from durably.store.sqlite.blobs.belonging import SUFFIX
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.connection.advice import advice_on
from durably.store.sqlite.connection.connections import configure
from durably.store.sqlite.connection.files import require_names, resolved
from durably.store.sqlite.connection.sidefiles import owner_prefix, shared_paths
from durably.store.sqlite.connection.sqlite_errors import database_error, system_error
from durably.store.sqlite.locks.owner_lock import sync_folder
from durably.store.sqlite.locks.temporary import temporary
from durably.store.sqlite.sql import blobs, check, owners, requeue, schema

if TYPE_CHECKING:
    from durably.store.sqlite.reads import ReadFile

# A signal is noticed between two steps of so many pages.
_STEP_PAGES: Final = 256
_INSTRUCTIONS: Final = 100_000
# Errors that may be of the database, too.
_READING: Final = frozenset({apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ})
# Without locks: nobody else has the file, and where it is, SQLite's locks may not work.
_VFS: Final = "win32-none" if os.name == "nt" else "unix-none"
# So much room is left on the disk: that of the database may be the same one.
_ROOM_LEFT: Final = 16 * 1024 * 1024


def back_up(
    database: ReadFile,
    folder: BlobFolder,
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    now_us: int,
) -> None:
    """Store a copy of the database at *path*, and of its files in the folder beside that.

    Args:
        folder: has the files of the database.

    Raises:
        ValidationError: the path can never be that of a backup of this database.
        BackupExistsError: there is something at the path, and *overwrite* is false.
        ConflictError: a database is open at the path, or was not closed in order.
        DatabaseError: the copy cannot be written, or the database cannot be read or is damaged.
    """
    final = _destination(database.path, path)
    _refuse_taken(final, overwrite=overwrite)
    try:
        # From before the snapshot, so that no file that it refers to is removed.
        with folder.kept(), _files_beside(final) as target, temporary(final) as name:
            with _opened(name, final) as copy:
                # The WAL can restart as soon as the pages are copied.
                database.read(_copy, database.path, copy, final)
                with _blamed(copy, final):
                    # Without a WAL, which would be made beside the temporary name.
                    copy.pragma("journal_mode", "memory")
                    _require_sound(copy, database.path)
                    _free_runs(copy, now_us)
                    files = blobs.all_referred(copy)
            # Before there is a database at the path: one that is there always has its files.
            _copy_files(folder, target, files)
            _sync(name)
            _refuse_taken(final, overwrite=overwrite)
            if overwrite:
                os.replace(name, final)
            else:
                rename_to_free(name, final)
            sync_folder(final)
            target.remove(target.sizes().keys() - files.keys(), lambda _: set())
    except (apsw.Error, UnicodeDecodeError) as exc:
        raise database_error(exc, database.path) from exc
    except FileExistsError as exc:
        raise _exists(final) from exc
    except OSError as exc:
        if exc.errno is None:  # a signal handler's
            raise
        raise DatabaseError(
            f"the backup {final!r} cannot be written: {exc.strerror}; {advice_on(exc)}"
        ) from exc
    defects.log_noted()


@contextmanager
def _files_beside(final: str) -> Iterator[BlobFolder]:
    """Yield the folder for the files of the backup; if the block raises, it is as it was."""
    target = BlobFolder(f"{final}{SUFFIX}", final)
    before = target.sizes()
    was_there = os.path.lexists(target.path)
    try:
        yield target
    except BaseException:
        target.remove(target.sizes().keys() - before.keys(), lambda _: set())
        if not was_there:
            with suppress(OSError):
                os.rmdir(target.path)
        raise


def _copy_files(folder: BlobFolder, target: BlobFolder, files: dict[str, int]) -> None:
    if files:
        _require_room(target.path, sum(files.values()))
    for name in files:
        with folder.open(name) as file:
            target.put(functools.partial(shutil.copyfileobj, file), name=name).release()
        deliver()


def _destination(source: str, path: str | os.PathLike[str]) -> str:
    """Return the path of the backup; a link at its end is not followed."""
    resolved(path)
    text = os.path.abspath(os.fspath(path))
    final = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
    require_names(final)
    is_source = os.path.realpath(final) == source or (
        os.path.exists(final) and os.path.samefile(final, source)
    )
    if is_source or final in shared_paths(source) or final.startswith(owner_prefix(source)):
        raise ValidationError(
            f"path={text!r} is the database itself, or a file that belongs to it; name another file"
        )
    return final


def _refuse_taken(final: str, *, overwrite: bool) -> None:
    if os.path.lexists(final) and not overwrite:
        raise _exists(final)
    # SQLite would apply it to the backup.
    for log in (f"{final}-wal", f"{final}-journal"):
        if os.path.lexists(log):
            raise ConflictError(
                f"{log!r} is there: a database is open at {final!r}, or was not closed in order. "
                "Name another file for the backup, or remove that one with the files beside it"
            )


def _exists(final: str) -> BackupExistsError:
    return BackupExistsError(
        f"{final!r} exists already; name another file for the backup, or write overwrite=True"
    )


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: apsw.Connection, path: str, copy: apsw.Connection, final: str) -> None:
    """Copy the database of *source*, at *path*, into *copy*."""
    source.execute("BEGIN")  # one snapshot for all of it
    try:
        schema.version_of(source, path, schema.migrations())
        _require_room(final, source.pragma("page_count") * source.pragma("page_size"))
        with _blamed(copy, final), copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(_STEP_PAGES)
                deliver()
    finally:
        if source.in_transaction:
            source.execute("ROLLBACK")


@contextmanager
def _opened(name: str, final: str) -> Iterator[apsw.Connection]:
    try:
        copy = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READWRITE, vfs=_VFS)
    except apsw.Error as exc:
        raise database_error(exc, final) from exc
    try:
        configure(copy, "normal")
        copy.pragma("synchronous", "off")  # it is synced at the end
        copy.pragma("locking_mode", "exclusive")
        copy.pragma("journal_mode", "off")
        yield copy
    finally:
        copy.close(force=True)


@contextmanager
def _blamed(copy: apsw.Connection, final: str) -> Iterator[None]:
    """Name the backup in an error that is of its file, and not of the database's."""
    try:
        yield
    except (apsw.FullError, apsw.ReadOnlyError, apsw.CantOpenError) as exc:
        raise database_error(exc, final, copy) from exc
    except apsw.IOError as exc:
        if getattr(exc, "extendedresult", 0) in _READING and not system_error(exc, copy):
            raise
        raise database_error(exc, final, copy) from exc


def _require_room(final: str, size: int) -> None:
    free = shutil.disk_usage(os.path.dirname(final)).free
    if free < size + _ROOM_LEFT:
        raise DatabaseError(
            f"the backup {final!r} needs {size / 1e6:,.0f} MB, and there are {free / 1e6:,.0f} MB "
            "free on its disk; make room",
            is_transient=True,
        )


def _require_sound(copy: apsw.Connection, path: str) -> None:
    """Raise if the copy is damaged: a backup of before must not be replaced by it."""

    def proceed() -> bool:
        deliver()
        return False

    copy.set_progress_handler(proceed, _INSTRUCTIONS)
    try:
        found = check.damage(copy)
    finally:
        copy.set_progress_handler(None)
    if found is not None:
        raise DatabaseError(
            f"the database {path!r} is damaged ({found}), and was not backed up; restore it from "
            "an earlier copy, or save what is readable with sqlite3's .recover"
        )


def _free_runs(copy: apsw.Connection, now_us: int) -> None:
    """Put back what was being executed: no process has the copy open, and no lock says so."""
    with copy:
        rows: list[Any] = owners.list_all(copy)
        for row in rows:
            requeue.requeue(copy, OwnerElsewhere(row.owner), now_us)
