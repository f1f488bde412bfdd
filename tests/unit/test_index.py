"""The index of SQLite's WAL is made by durably, and stays where it is on btrfs."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durably.store.sqlite.connection import nocow
from durably.store.sqlite.connection.nocow import make_index

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has btrfs")
PRESENT, NOT_COPIED = 0x80000, 0x00800000  # from <linux/fs.h>
Ioctl = Callable[[int, int, bytes], bytes]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "x.db"
    path.touch(mode=0o640)
    path.chmod(0o640)
    return path


@pytest.fixture
def btrfs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The flags that a file system with flags is given, and the file that they are of."""
    given: list[tuple[int, str]] = []

    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        if request >> 30 == 2:  # it is read
            return struct.pack("i", PRESENT).ljust(len(argument), b"\0")
        (flags,) = struct.unpack_from("i", argument)
        given.append((flags, str(Path(f"/proc/self/fd/{fd}").readlink())))
        return argument

    monkeypatch.setattr(nocow.fcntl, "ioctl", ioctl)
    return given


def test_a_new_index_is_empty_private_and_not_copied(
    database: Path, btrfs: list[tuple[int, str]]
) -> None:
    """It has the mode of the database, whatever the umask; its other flags stay."""
    before = os.umask(0o077)
    try:
        make_index(str(database))
    finally:
        os.umask(before)
    index = Path(f"{database}-shm")
    assert index.stat().st_size == 0
    assert stat.S_IMODE(index.stat().st_mode) == 0o640
    assert btrfs == [(PRESENT | NOT_COPIED, str(index))]


@pytest.mark.parametrize("there", ["a file", "a link", "no database"])
def test_nothing_is_made_where_it_should_not_be(
    database: Path, btrfs: list[tuple[int, str]], there: str
) -> None:
    """An index that is there is SQLite's; a link leads to the file of somebody else."""
    index = Path(f"{database}-shm")
    if there == "a file":
        index.write_bytes(b"index")
    elif there == "a link":
        index.symlink_to(database.parent / "elsewhere")
    else:
        database.unlink()
    files = sorted(database.parent.iterdir())
    make_index(str(database))
    assert sorted(database.parent.iterdir()) == files
    assert btrfs == []
    if there == "a file":
        assert index.read_bytes() == b"index"


def test_a_file_system_without_flags_is_one_that_copies_nothing(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is there; an error of the code itself is not hidden."""

    def refuse(fd: int, request: int, argument: bytes) -> bytes:
        raise OSError(errno.ENOTTY, "no flags here")

    monkeypatch.setattr(nocow.fcntl, "ioctl", refuse)
    make_index(str(database))
    index = Path(f"{database}-shm")
    assert index.is_file()
    index.unlink()

    def broken(fd: int, request: int, argument: bytes) -> bytes:
        raise OSError("of no system call")

    monkeypatch.setattr(nocow.fcntl, "ioctl", broken)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="of no system call"):
        make_index(str(database))
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_sqlite_reports_why_the_index_cannot_be_made(
    database: Path, btrfs: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries next, and knows more about it."""

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "open", full)
    make_index(str(database))
    monkeypatch.undo()
    assert not Path(f"{database}-shm").exists()
    assert btrfs == []
