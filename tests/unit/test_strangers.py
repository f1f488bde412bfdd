"""Files beside a database that belong to another user are never used."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durably import DatabaseError
from durably.store.sqlite.connection import sidefiles
from durably.store.sqlite.connection.sidefiles import (
    give_to_owner,
    owner_path,
    refuse_strangers,
    remove_leftovers,
    writer_path,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners of files")
TOKEN = "0" * 26
ME, SHE, HE = 4001, 4002, 4003


class Owners:
    """Who owns the files of a folder, and as whom this process runs."""

    def __init__(self, folder: Path) -> None:
        self.me = ME
        self.of: dict[str, int] = {}
        self.accessible = True
        self.given: list[tuple[int, int]] = []
        self.refusal = 0
        self._stat = os.stat
        self._folder = str(folder)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        found = self._stat(path, follow_symlinks=follow_symlinks)
        if not str(path).startswith(self._folder):
            return found
        owner = self.of.get(Path(path).name, ME)
        return os.stat_result((*found[:4], owner, owner, *found[6:]))

    def chown(self, fd: int, uid: int, gid: int) -> None:
        if self.refusal:
            raise OSError(self.refusal, "refused")
        self.given.append((uid, gid))


@pytest.fixture
def owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owners:
    """This process runs as ``ME``, who owns every file that is not said to be another's."""
    made = Owners(tmp_path)
    monkeypatch.setattr(os, "stat", made.stat)
    monkeypatch.setattr(os, "geteuid", lambda: made.me)
    monkeypatch.setattr(os, "access", lambda *args, **options: made.accessible)
    monkeypatch.setattr(os, "fchown", made.chown)
    monkeypatch.setattr(sidefiles, "_PAUSE_S", 0.0)
    return made


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "x.db"
    path.write_bytes(b"SQLite")
    return path


def refusal(database: Path, *, with_locks: bool = True) -> str:
    with pytest.raises(DatabaseError) as caught:
        refuse_strangers(str(database), with_locks=with_locks)
    return str(caught.value)


def test_what_belongs_to_this_user_or_to_the_databases_owner_is_used(
    owners: Owners, database: Path
) -> None:
    """Also files that are not there, and a database that root has put there."""
    refuse_strangers(str(database))
    for suffix in ("-wal", "-shm", ".writer", f".owner-{TOKEN}"):
        Path(f"{database}{suffix}").touch()
    refuse_strangers(str(database))
    owners.of = {"x.db": 0, "x.db-wal": 0, "x.db-shm": ME}
    refuse_strangers(str(database))
    refuse_strangers(str(database.with_name("missing.db")))


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".writer", f".owner-{TOKEN}"])
def test_a_file_of_another_user_is_not_used(owners: Owners, database: Path, suffix: str) -> None:
    """The error names it, its owner, and what to do."""
    each = Path(f"{database}{suffix}")
    each.touch()
    owners.of[each.name] = SHE
    said = refusal(database)
    assert repr(str(each)) in said
    assert f"belongs to uid {SHE}, who could read what is written to it" in said
    owners.of[each.name] = 0
    said = refusal(database)
    assert "belongs to root" in said
    assert f"Give it to uid {ME} with chown, as root" in said
    if suffix.startswith(".owner"):
        refuse_strangers(str(database), with_locks=False)


def test_a_file_that_root_is_about_to_give_away_is_used(
    owners: Owners, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the file first."""
    wal = Path(f"{database}-wal")
    wal.touch()
    owners.of[wal.name] = 0
    looks: list[str] = []
    real = owners.stat

    def stat_later(path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        looks.append(path)
        if looks.count(str(wal)) == 3:
            owners.of[wal.name] = ME
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "stat", stat_later)
    refuse_strangers(str(database))
    assert looks.count(str(wal)) == 3


def test_what_is_no_file_of_its_own_is_not_used(owners: Owners, database: Path) -> None:
    """A link, or another name of a file, leads to what somebody else reads."""
    wal = Path(f"{database}-wal")
    wal.symlink_to(database)
    assert "is not a regular file; remove it" in refusal(database)
    wal.unlink()
    wal.hardlink_to(database)
    assert "has more than one name (hard links); remove it" in refusal(database)


def test_a_database_that_another_user_has_put_there_is_not_used(
    owners: Owners, database: Path
) -> None:
    """An empty one, or one in a folder where everybody can put files."""
    owners.of["x.db"] = SHE
    refuse_strangers(str(database))  # she shares it
    database.write_bytes(b"")
    said = refusal(database)
    assert f"the empty file {str(database)!r} belongs to uid {SHE}" in said
    assert f"this process (uid {ME})" in said
    database.write_bytes(b"SQLite")
    database.parent.chmod(0o1777)
    assert f"the file {str(database)!r} belongs to uid {SHE}" in refusal(database)
    owners.of[database.parent.name] = SHE
    refuse_strangers(str(database))  # it is in a folder of hers
    owners.me = 0
    database.write_bytes(b"")
    refuse_strangers(str(database))


def test_a_file_that_cannot_be_written_says_whose_it_is(
    owners: Owners, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, where the system knows one."""
    owners.accessible = False
    database.chmod(0o600)
    said = refusal(database)
    assert f"may not be read and written by uid {ME}, as whom this process runs" in said
    assert f"it belongs to uid {ME}, with the permissions 0600" in said
    root = pwd.getpwuid(0).pw_name
    owners.of["x.db"] = 0
    assert f"it belongs to {root} (uid 0)" in refusal(database)
    monkeypatch.setattr(os, "access", lambda path, *args, **options: not path.endswith("-wal"))
    Path(f"{database}-wal").touch()
    assert f"{database}-wal', beside the database" in refusal(database)
    read_only = (*os.statvfs(database.parent)[:8], os.ST_RDONLY, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(read_only))
    assert "is on a file system that is mounted read-only" in refusal(database)


def test_a_folder_that_cannot_be_listed_is_used(
    owners: Owners, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks of engines cannot be found there; a folder that cannot be read is an error."""

    def refuse(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "not listed")

    monkeypatch.setattr(os, "listdir", refuse)
    refuse_strangers(str(database))

    def broken(path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr(os, "stat", broken)
    assert "a broken disk" in refusal(database)


@pytest.mark.parametrize(
    ("refused", "raises"), [(0, False), (errno.EPERM, False), (errno.EIO, True)]
)
def test_what_root_makes_is_given_to_the_databases_owner(
    owners: Owners, database: Path, refused: int, raises: bool
) -> None:
    """Otherwise root's files would keep the owner out. Some file systems do not allow it."""
    owners.me, owners.refusal = 0, refused
    owners.of["x.db"] = HE
    give: Callable[[], None] = lambda: give_to_owner(7, str(database))  # noqa: E731 - used twice
    if raises:
        with pytest.raises(OSError, match="refused"):
            give()
    else:
        give()
    assert owners.given == ([] if refused else [(HE, HE)])
    owners.given.clear()
    owners.refusal = 0
    owners.of["x.db"] = 0
    give()
    give_to_owner(7, str(database.with_name("missing.db")))
    owners.me, owners.of["x.db"] = ME, HE
    give()
    assert owners.given == []


def test_names_beside_a_database(tmp_path: Path, database: Path) -> None:
    """All names of a database lead to the same locks, and a token of a database leads nowhere."""
    link = tmp_path / "link.db"
    link.symlink_to(database)
    assert writer_path(str(link)) == f"{database}.writer"
    assert owner_path(str(link), TOKEN) == f"{database}.owner-{TOKEN}"
    for token in ("../../etc/passwd", "", TOKEN + "0"):
        with pytest.raises(ValueError, match="is not the token of an engine"):
            owner_path(str(database), token)
    wal, shm, writer = (Path(f"{database}{suffix}") for suffix in ("-wal", "-shm", ".writer"))
    for each in (wal, writer):
        each.touch()
    remove_leftovers(str(database))
    assert [each.exists() for each in (wal, shm, writer)] == [False, False, True]
    assert stat.S_ISREG(database.stat().st_mode)
