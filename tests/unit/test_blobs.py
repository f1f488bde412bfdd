"""The folder of large results: what is pinned or referred to stays, whatever fails in between."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultydisk import CODES, FaultyDisk
from storekit import given_owner, given_running

from durably._platform.renaming import rename_to_free
from durably.errors import DatabaseError
from durably.store.outcome import Completed
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import belonging, filing, writing
from durably.store.sqlite.blobs.content import name_of
from durably.store.sqlite.blobs.filing import Filing
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.database import Database
from durably.store.sqlite.store import SqliteStore

CONTENT = b"0123456789" * 1000
NOTHING: Callable[[list[str]], set[str]] = lambda _names: set()  # noqa: E731
CALLS = ("mkdir", "open", "write", "fsync", "unlink")


@pytest.fixture
def folder(tmp_path: Path) -> BlobFolder:
    (tmp_path / "test.db").touch()
    return BlobFolder(str(tmp_path / "test.db.blobs"), str(tmp_path / "test.db"))


def test_what_is_pinned_or_referred_to_is_not_removed(folder: BlobFolder) -> None:
    """A file goes when its last pin is released and no row names it."""
    first, second = folder.put(CONTENT), folder.put(CONTENT)
    name = name_of(CONTENT)
    assert first.name == second.name == name
    assert folder.remove([name], NOTHING) == set()
    first.release()
    first.release()
    assert folder.remove([name], NOTHING) == set()
    second.release()
    assert folder.remove([name], set) == set()
    assert folder.read(name) == CONTENT
    assert folder.remove([name, "../test.db"], NOTHING) == {name, "../test.db"}
    assert list(Path(folder.path).iterdir()) == []
    assert Path(folder.path, "../test.db").exists()


def test_a_pin_of_a_killed_process_is_released_and_a_child_keeps_none(folder: BlobFolder) -> None:
    """The kernel ends the pin of a process that is killed; a forked child does not prolong one."""
    put, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        kept = folder.put(CONTENT)
        os.write(put[1], b"x")
        os.read(done[0], 1)
        kept.release()
        os._exit(0)
    os.read(put[0], 1)
    assert folder.remove([name_of(CONTENT)], NOTHING) == set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pin = folder.put(CONTENT)
    child = os.fork()
    if child == 0:
        os.read(done[0], 1)
        os._exit(0)
    pin.release()
    assert folder.remove([name_of(CONTENT)], NOTHING) == {name_of(CONTENT)}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for fd in (*put, *done):
        os.close(fd)


def test_nothing_is_removed_during_a_backup(folder: BlobFolder) -> None:
    """The folder is locked for as long as files are copied out of it."""
    folder.put(CONTENT).release()
    with folder.kept(), folder.kept():
        assert folder.remove([name_of(CONTENT)], NOTHING) == set()
    assert folder.remove([name_of(CONTENT)], NOTHING) == {name_of(CONTENT)}


def test_links_are_never_followed(folder: BlobFolder, tmp_path: Path) -> None:
    """A link of a file's name leads nowhere: not to read, to write, or to remove."""
    (tmp_path / "secret").write_bytes(CONTENT)
    folder.put(b"other").release()
    Path(folder.path, name_of(CONTENT)).symlink_to(tmp_path / "secret")
    with pytest.raises(DatabaseError, match="cannot be read"):
        folder.read(name_of(CONTENT))
    with pytest.raises(DatabaseError, match="cannot be written"):
        folder.put(CONTENT)
    assert folder.remove([name_of(CONTENT)], NOTHING) == set()
    with pytest.raises(DatabaseError, match="which is none"):
        folder.read("../secret")
    assert (tmp_path / "secret").read_bytes() == CONTENT


class Failing:
    """Fails or ends the process at one of the calls of the system that a block makes."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at = at
        self.calls = 0
        self._act = act

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self._act()
            return function(*args, **kwargs)

        return call

    def into(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        for module in (writing, belonging):
            patch.setattr(module, "rename_to_free", self.wrap(rename_to_free))


@pytest.fixture(params=["beside", "elsewhere"])
def any_folder(request: pytest.FixtureRequest, folder: BlobFolder, tmp_path: Path) -> BlobFolder:
    """The folder beside the database, and one that is marked as that database's."""
    if request.param == "beside":
        return folder
    return BlobFolder(str(tmp_path / "elsewhere"), str(tmp_path / "test.db"))


def _fail(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_there", [False, True])
def test_each_call_of_the_system_fails_in_turn(
    any_folder: BlobFolder, monkeypatch: pytest.MonkeyPatch, number: int, *, is_there: bool
) -> None:
    """What fails raises and pins nothing; the next try succeeds, and nothing is half written."""
    folder = any_folder
    if is_there:
        folder.put(CONTENT).release()
    failed, is_transient = 0, None
    place = Path(folder.path)
    for at in range(1, 100):
        failing = Failing(at, _fail(number))
        with monkeypatch.context() as patch:
            failing.into(patch)
            try:
                folder.put(CONTENT).release()
            except DatabaseError as exc:
                failed += 1
                is_transient = exc.is_transient
        if (place / name_of(CONTENT)).exists():
            assert folder.read(name_of(CONTENT)) == CONTENT
        if failing.calls < at:
            break
        if not is_there:
            shutil.rmtree(place, ignore_errors=True)
    assert failed >= (3 if is_there else 8)
    assert is_transient == (number == errno.ENOSPC)
    folder.put(CONTENT).release()
    assert folder.read(name_of(CONTENT)) == CONTENT
    marks = {path.name for path in place.iterdir()} - {name_of(CONTENT)}
    assert marks == (set() if place.name.startswith("test.db") else {"database"})


def test_a_loss_of_power_takes_nothing_that_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a file is on the disk before the commit; a removal follows a synced commit."""
    done: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            done.append(name)
            return result

        return call

    def sync(fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        done.append("sync folder" if is_folder else "sync file")

    monkeypatch.setattr(checkpoints, "LARGE", 100)
    monkeypatch.setattr(filing, "LARGE", 100)
    with contextlib.closing(Database(tmp_path / "test.db")) as database:
        store = SqliteStore(database)
        run = given_running(database, given_owner(database))
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "write", noting("write", os.write))
        monkeypatch.setattr(os, "unlink", noting("unlink", os.unlink))
        monkeypatch.setattr(writing, "rename_to_free", noting("rename", rename_to_free))
        monkeypatch.setattr(database, "write", noting("commit", database.write))
        values = run.run, run.fence, 0, "a", '"' + "x" * 200 + '"', 1, 2, 3, None
        assert store.checkpoints.save(*values)
        stored = ["write", "sync file", "rename", "sync folder", "commit"]
        assert done == ["sync folder", *stored]  # that of the database, for the new folder
        # What another process has written may not be on the disk yet.
        done.clear()
        assert store.checkpoints.save(run.run, run.fence, 1, "b", *values[4:])
        assert done == ["sync file", "sync folder", "commit"]
        done.clear()
        store.settle(run.run, run.fence, Completed("1"), 3)
        store.delete(run.id)
        assert done == ["commit", "commit", "commit", "unlink", "commit"]


@pytest.mark.parametrize(
    ("synchronous", "outcomes"),
    [
        ("full", ["rejected", "left", "removed", "removed"]),
        ("normal", ["left", "left", "removed", "removed"]),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the layout of SQLite's VFS")
def test_each_sync_of_a_removal_fails_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: Any, outcomes: list[str]
) -> None:
    """A file stays until the deletion is on the disk, and is removed by the next sweep."""
    monkeypatch.setattr(checkpoints, "LARGE", 100)
    monkeypatch.setattr(filing, "LARGE", 100)
    found = []
    with FaultyDisk() as disk:
        while not found or disk.hit:
            path = tmp_path / f"{len(found)}.db"
            database = Database(path, vfs=disk.name, synchronous=synchronous)
            with contextlib.closing(database):
                files = Filing(database, synchronous=synchronous)
                store, folder = SqliteStore(database, files), files.folder
                run = given_running(database, given_owner(database))
                text = '"' + "x" * 200 + '"'
                assert store.checkpoints.save(run.run, run.fence, 0, "a", text, 1, 2, 3, None)
                store.settle(run.run, run.fence, Completed("1"), 3)
                disk.fail({"sync"}, len(found) + 1, 1, CODES)
                try:
                    store.delete(run.id)
                    found.append("left" if folder.sizes() else "removed")
                except DatabaseError:
                    found.append("rejected")
                    assert folder.sizes()
                    store.delete(run.id)
                disk.repair()
                store.sweep_files()
                assert folder.sizes() == {}
    assert found == outcomes


def test_a_process_is_killed_before_each_call_of_the_system(
    any_folder: BlobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the name of a file there is all of it or nothing, and what is left can be swept."""
    folder = any_folder
    ended, place = False, Path(folder.path)
    for at in range(1, 100):
        child = os.fork()
        if child == 0:
            failing = Failing(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            failing.into(monkeypatch)
            folder.put(CONTENT)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ended = status == 0
        if (place / name_of(CONTENT)).exists():
            assert folder.read(name_of(CONTENT)) == CONTENT
        if place.exists():
            folder.sweep(NOTHING, 0.0)  # by a clock that is far from the time of the files
            assert [path for path in place.iterdir() if path.name != "database"] == []
            shutil.rmtree(place)
        if ended:
            break
    assert ended
    assert at > 8
