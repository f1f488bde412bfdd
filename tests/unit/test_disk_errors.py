"""A disk that cannot be read is no damaged file, though SQLite reports both as one."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

import durably
from durably import DatabaseError
from durably.store.sqlite.database import Database
from durably.testing import check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the file of a descriptor")

_PREAD = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int64,
    use_errno=True,
)


@contextmanager
def unreadable(path: Path, number: int, *, start: int = 0) -> Iterator[None]:
    """Make SQLite's reads of *path* from *start* on fail as the system does, with *number*."""
    vfs = apsw.VFS("durably-unreadable", "unix")
    name = next(each for each in ("pread64", "pread") if vfs.xGetSystemCall(each))
    pointer = vfs.xGetSystemCall(name)
    assert pointer is not None
    real = _PREAD(pointer)

    def pread(fd: int, buffer: int, size: int, offset: int) -> int:
        if offset >= start and Path(f"/proc/self/fd/{fd}").readlink() == path:
            ctypes.set_errno(number)
            return -1
        return int(real(fd, buffer, size, offset))

    replaced = _PREAD(pread)
    address = ctypes.cast(replaced, ctypes.c_void_p).value
    assert address is not None
    assert vfs.xSetSystemCall(name, address)
    try:
        yield
    finally:
        vfs.xSetSystemCall(name, pointer)
        vfs.unregister()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of so many runs that reading one more row reads one more page."""
    path = tmp_path / "runs.db"
    app = durably.Durably(path, jobs=[durably.job("j")(lambda step: None)])
    try:
        for _ in range(20):
            app.jobs["j"].batch_trigger([durably.Trigger(labels={"x": "y" * 60})] * 50)
    finally:
        app.close()
    return path


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.EUCLEAN, errno.ESTALE])
@pytest.mark.parametrize("is_in_log", [False, True], ids=["the file", "its log"])
def test_read_that_fails_is_an_error_of_the_disk(path: Path, number: int, is_in_log: bool) -> None:
    """What a statement cannot read is reported as the disk's error, with the system's words for it,
    and not as damage; the same call succeeds when the disk can be read again.
    """
    database = Database(path)
    try:
        if is_in_log:
            database.write(_touch_all)
        database.read(_first)  # the schema and the first page are known from here on
        with (
            unreadable(Path(f"{path}-wal") if is_in_log else path, number),
            pytest.raises(DatabaseError, match="I/O error") as caught,
        ):
            database.read(_all)
        assert os.strerror(number) in str(caught.value)
        assert "damaged" not in str(caught.value)
        assert caught.value.is_transient
        assert database.read(_all) == 1000
    finally:
        database.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO])
def test_write_that_cannot_read_is_an_error_of_the_disk(path: Path, number: int) -> None:
    """A transaction that meets an unreadable page raises the same, and stores nothing."""
    database = Database(path)
    try:
        database.write(_first)
        with (
            unreadable(path, number),
            pytest.raises(DatabaseError, match=os.strerror(number)) as caught,
        ):
            database.write(_touch_all)
        assert caught.value.is_transient
        assert database.write(_touch_all) == 1000
    finally:
        database.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_check_that_cannot_read_finds_nothing(path: Path, number: int) -> None:
    """``check`` raises for a disk that it cannot read, and makes no finding of it."""
    half = path.stat().st_size // 2
    with (
        unreadable(path, number, start=half),
        pytest.raises(DatabaseError, match=os.strerror(number)),
    ):
        check(path)
    assert check(path) == []


def test_damaged_page_is_damage(path: Path) -> None:
    """A page that can be read and is wrong is damage."""
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 8192 * 4096, len(content), 4096):
        content[start : start + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    database = Database(path)
    try:
        with pytest.raises(DatabaseError, match="is damaged; restore it") as caught:
            database.read(_all)
        assert not caught.value.is_transient
    finally:
        database.close()


def _first(db: apsw.Connection) -> Any:
    return db.execute("SELECT count(*) FROM sqlite_schema").fetchall()


def _all(db: apsw.Connection) -> int:
    return len(db.execute("SELECT labels FROM durably_runs").fetchall())


def _touch_all(db: apsw.Connection) -> int:
    db.execute("UPDATE durably_runs SET updated_at_us = updated_at_us + 1").fetchall()
    return db.changes()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "check the permissions"),
        (errno.ENOSPC, "make room"),
        (errno.EMFILE, "ulimit"),
        (errno.EROFS, "mounted read-only"),
        (errno.EUCLEAN, "dmesg"),
        (errno.EIO, "dmesg"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".writer"])
def test_file_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, suffix: str
) -> None:
    """The error has the system's words and what to do about this one, and no empty database is
    left."""
    path = tmp_path / "runs.db"
    make = os.open

    def fail(file: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        if str(file) == f"{path}{suffix}" and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(file))
        return make(file, flags, mode, **kwargs)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DatabaseError, match=os.strerror(number)) as caught:
        Database(path)
    assert advice in str(caught.value)
    assert f"{path}{suffix}" in str(caught.value)
    assert not path.exists()
