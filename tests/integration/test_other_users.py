"""A database that root has used stays its user's, and nothing that others put beside it is used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from children import Child
from databases import open_database

import durably
from durably import DatabaseError, Durably
from durably.store.sqlite.connection.sidefiles import LONGEST_SUFFIX
from durably.testing import check

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of files")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be several users"
)

USER, STRANGER = 61234, 61235
TOKEN = "01M8HHFHZV2YEE6C5FPJAKF9RC"
SIDE_FILES = ("-wal", "-shm", "-journal", ".writer", f".owner-{TOKEN}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users reach."""
    place = os.environ.get("PYTEST_DEBUG_TEMPROOT")  # as for any other test's files
    folder = Path(tempfile.mkdtemp(prefix="durably-users-", dir=place))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


class Users:
    """Users who execute a process each, one after the other."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def begin(self, *call: object) -> None:
        self._child.say(
            json.dumps([str(each) if isinstance(each, Path) else each for each in call])
        )

    def end(self, expected: int = 0) -> str:
        """Return what the process has printed, when it has ended with that status."""
        lines = list(iter(self._child.line, f"ended {expected}"))
        assert not [line for line in lines if line.startswith("ended")]
        return "\n".join(lines)

    def run_as(self, uid: int, path: Path, key: str = "key") -> str:
        """Return the status and the attempt of a run of that user, or an error."""
        self.begin("execute", path, key, uid, "end")
        return self.end()

    @contextmanager
    def inside(self, uid: int, path: Path, key: str = "key") -> Iterator[None]:
        """Have a process of that user inside a step, and kill it at the end of the block."""
        self.begin("execute", path, key, uid, "wait")
        word, pid = self._child.line().split()
        assert word == "inside"
        try:
            yield
        finally:
            os.kill(int(pid), signal.SIGKILL)
            self.end(-signal.SIGKILL)

    def plant(self, path: Path, suffix: str, *content: Path) -> str:
        """Return what is said to a user who opens it, while a stranger puts a file beside it."""
        self.begin("plant", path, suffix, USER, STRANGER, *content)
        return self.end()


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    with Child("other_user") as child:
        yield Users(child)


def owners(folder: Path) -> set[int]:
    return {each.lstat().st_uid for each in folder.iterdir()}


def put(path: Path, uid: int, mode: int = 0o666) -> None:
    path.touch()
    path.chmod(mode)
    os.chown(path, uid, uid)


@needs_root
class TestRoot:
    def test_what_root_leaves_when_it_is_killed_is_the_users(
        self, users: Users, folder: Path
    ) -> None:
        """After root was killed in a step, its user continues the run at once."""
        path = folder / "x.db"
        assert users.run_as(USER, path, "first") == "completed 1"
        with users.inside(0, path, "second"):
            assert owners(folder) == {USER}
        assert owners(folder) == {USER}
        # In less than the threshold of 30 s, for which nobody would wait here.
        assert users.run_as(USER, path, "second") == "completed 2"
        assert check(path) == []

    def test_what_root_makes_anew_is_the_users(self, users: Users, folder: Path) -> None:
        """Root that opens a user's database without a lock file makes one that is the user's."""
        path = folder / "x.db"
        assert users.run_as(USER, path) == "completed 1"
        (folder / "x.db.writer").unlink()
        assert users.run_as(0, path, "other") == "completed 1"
        assert owners(folder) == {USER}
        assert users.run_as(USER, path, "third") == "completed 1"

    @pytest.mark.parametrize("suffix", SIDE_FILES)
    def test_what_an_older_durably_left_as_root_is_explained(
        self, users: Users, folder: Path, suffix: str
    ) -> None:
        """A file of root's beside a user's database raises an error that says how to give it back;
        root itself goes on.
        """
        path = folder / "x.db"
        assert users.run_as(USER, path) == "completed 1"
        put(Path(f"{path}{suffix}"), 0, 0o600)
        said = users.run_as(USER, path, "other")
        for part in (f"{path}{suffix}", "belongs to root", f"uid {USER}", "chown"):
            assert part in said
        assert users.run_as(0, path, "other") == "completed 1"
        os.chown(path, USER, USER)
        for each in folder.iterdir():
            os.chown(each, USER, USER)
        assert users.run_as(USER, path, "third") == "completed 1"

    def test_database_of_roots_own(self, users: Users, folder: Path) -> None:
        """A user who may not open a database of root's gets an error that names its owner."""
        path = folder / "x.db"
        assert users.run_as(0, path) == "completed 1"
        before = sorted(folder.iterdir())
        said = users.run_as(USER, path)
        for part in (str(path), f"uid {USER}", "it belongs to root", "0600", "chown"):
            assert part in said
        assert sorted(folder.iterdir()) == before

    def test_a_look_of_a_user_who_may_only_read(self, users: Users, folder: Path) -> None:
        """It reads what is in use, makes nothing beside what is not, and says what else it is."""
        path = folder / "x.db"
        os.chown(folder, USER, USER)
        folder.chmod(0o755)
        assert users.run_as(USER, path) == "completed 1"
        path.chmod(0o644)
        with Child("other_user") as child:
            stranger = Users(child)

            def looked() -> list[str]:
                before = sorted(folder.iterdir())
                stranger.begin("look", path, STRANGER)
                said = stranger.end().splitlines()
                assert sorted(folder.iterdir()) == before
                return said

            listed, checked = looked()
            assert "may only be read here" in listed
            assert checked == listed
            with users.inside(USER, path, "second"):
                assert looked() == ["running completed", "[]"]
            path.chmod(0o600)
            listed, checked = looked()
            assert f"may not be read by uid {STRANGER}, as whom this process runs" in listed
            assert checked == listed
        assert users.run_as(USER, path, "second") == "completed 2"

    def test_database_of_another_user(self, users: Users, folder: Path) -> None:
        """A user who may open the database and not its locks gets an error that says whose."""
        path = folder / "x.db"
        assert users.run_as(USER, path) == "completed 1"
        path.chmod(0o666)
        said = users.run_as(STRANGER, path)
        for part in (f"{path}.writer", f"uid {STRANGER}", f"it belongs to uid {USER}", "0600"):
            assert part in said


@needs_root
class TestPlanted:
    @pytest.mark.parametrize("suffix", SIDE_FILES)
    @pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
    def test_what_a_stranger_put_beside_it(
        self, users: Users, folder: Path, suffix: str, is_known: bool
    ) -> None:
        """A file of a stranger's beside the database is named, and nothing is made or changed."""
        folder.chmod(0o1777)
        path = folder / "x.db"
        if is_known:
            assert users.run_as(USER, path) == "completed 1"
        put(Path(f"{path}{suffix}"), STRANGER)
        before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
        said = users.run_as(USER, path, "other")
        for part in (f"{path}{suffix}", f"belongs to uid {STRANGER}", "Remove it"):
            assert part in said
        assert {each.name: each.stat().st_mtime_ns for each in folder.iterdir()} == before

    def test_also_root_uses_nothing_of_a_strangers(self, users: Users, folder: Path) -> None:
        """Root that makes a database rejects what a user has put beside its place."""
        path = folder / "x.db"
        put(Path(f"{path}-wal"), STRANGER)
        assert f"belongs to uid {STRANGER}" in users.run_as(0, path)
        assert [each.name for each in folder.iterdir()] == ["x.db-wal"]

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_empty_database(self, users: Users, folder: Path, mode: int) -> None:
        """An empty file of a stranger's is not made a database."""
        folder.chmod(mode)
        path = folder / "x.db"
        put(path, STRANGER)
        said = users.run_as(USER, path)
        assert f"the empty file {str(path)!r} belongs to uid {STRANGER}" in said
        assert [each.name for each in folder.iterdir()] == ["x.db"]
        assert path.stat().st_size == 0

    @pytest.mark.parametrize("uid", [0, USER])
    def test_whole_database_in_a_folder_for_all(self, users: Users, folder: Path, uid: int) -> None:
        """Nor is a database used that a stranger has made in a folder like /tmp."""
        folder.chmod(0o1777)
        path = folder / "x.db"
        assert users.run_as(STRANGER, path) == "completed 1"
        for each in folder.iterdir():
            each.chmod(0o666)
        assert f"belongs to uid {STRANGER}" in users.run_as(uid, path, "other")

    @pytest.mark.parametrize("suffix", ["-wal", "-shm"])
    def test_file_that_appears_while_it_is_opened(
        self, users: Users, folder: Path, suffix: str
    ) -> None:
        """What a stranger puts there after the check is found before anything is stored."""
        folder.chmod(0o1777)
        path = folder / "x.db"
        said = users.plant(path, suffix)
        assert f"{path}{suffix}" in said
        assert f"belongs to uid {STRANGER}" in said
        # What SQLite has put into it was not copied from there, and nobody goes on with it.
        assert Path(f"{path}{suffix}").stat().st_uid == STRANGER
        assert f"belongs to uid {STRANGER}" in users.run_as(USER, path)

    def test_log_that_appears_while_it_is_opened(
        self, users: Users, folder: Path, tmp_path: Path
    ) -> None:
        """Nothing of a log that a stranger puts there after the check comes into the database."""
        folder.chmod(0o1777)
        path, log = folder / "x.db", tmp_path / "log"
        assert users.run_as(USER, path, "first") == "completed 1"
        with users.inside(USER, path, "second"):
            pass
        shutil.copy(f"{path}-wal", log)
        for each in folder.iterdir():
            if each != path:
                each.unlink()
        assert f"belongs to uid {STRANGER}" in users.plant(path, "-wal", log)
        for each in folder.iterdir():
            if each != path:
                each.unlink()
        folder.chmod(0o777)
        app = Durably(path)
        try:
            assert [run.idempotency_key for run in app.get_runs()] == ["first"]
        finally:
            app.close()


class TestNotFiles:
    @pytest.mark.parametrize("suffix", SIDE_FILES)
    @pytest.mark.parametrize("kind", ["link", "hard link", "folder", "pipe"])
    def test_what_is_no_file_of_its_own(self, tmp_path: Path, suffix: str, kind: str) -> None:
        """Links, folders and pipes at the names of the files beside it raise, and stay as they
        are.
        """
        path, side = tmp_path / "x.db", Path(f"{tmp_path / 'x.db'}{suffix}")
        other = tmp_path / "other"
        other.write_text("precious")
        make: dict[str, Callable[[], object]] = {
            "link": lambda: side.symlink_to(other),
            "hard link": lambda: side.hardlink_to(other),
            "folder": side.mkdir,
            "pipe": lambda: os.mkfifo(side),
        }
        make[kind]()
        with pytest.raises(DatabaseError, match="remove it") as caught:
            Durably(path)
        assert str(side) in str(caught.value)
        assert other.read_text() == "precious"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["other", side.name]


class TestOwnLeftovers:
    def test_removed_after_a_crash_and_made_anew(self, users: Users, tmp_path: Path) -> None:
        """Removing only the database after a crash starts anew: nothing of the earlier one
        comes back, and what its process left is no obstacle.
        """
        path = tmp_path / "x.db"
        with users.inside(0, path):
            pass
        left = {each.name for each in tmp_path.iterdir()}
        assert {"x.db-wal", "x.db-shm", "x.db.writer"} < left
        path.unlink()
        app = Durably(path)
        try:
            assert app.get_runs() == []
        finally:
            app.close()
        assert users.run_as(0, path) == "completed 1"
        assert check(path) == []

    def test_log_and_index_of_an_earlier_database(self, tmp_path: Path) -> None:
        """What everybody may read, of a database that is gone, is not written to."""
        path = tmp_path / "x.db"
        log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
        for each in (log, index):
            each.write_bytes(b"of an earlier one" * 3000)
            each.chmod(0o644)
        app = Durably(path)
        try:
            assert {log.stat().st_mode & 0o777, index.stat().st_mode & 0o777} == {0o600}
        finally:
            app.close()

    def test_index_that_an_earlier_engine_still_uses(self, users: Users, tmp_path: Path) -> None:
        """A database that is removed and made anew shares nothing with an engine that still has
        the earlier one open.
        """
        path = tmp_path / "x.db"
        job = durably.job("j")(lambda step: None)
        with users.inside(0, path):
            path.unlink()
            app = Durably(path, jobs=[job])
            try:
                app.jobs["j"].trigger()
                assert app.count_runs() == 1
            finally:
                app.close()
        assert check(path) == []

    def test_journal_of_an_earlier_database(self, tmp_path: Path) -> None:
        """A journal that a crash has left is not applied to a database that is made anew."""
        path = tmp_path / "x.db"
        db = open_database(path)
        db.execute("CREATE TABLE secrets (secret); INSERT INTO secrets VALUES ('old')")
        db.execute("PRAGMA cache_spill = 1; PRAGMA cache_size = 1; BEGIN")
        db.execute("UPDATE secrets SET secret = zeroblob(100000)")
        db.cache_flush()
        shutil.copy(f"{path}-journal", tmp_path / "copy")
        db.close(force=True)
        path.unlink()
        assert (tmp_path / "copy").stat().st_size > 512
        (tmp_path / "copy").rename(f"{path}-journal")
        app = Durably(path)
        try:
            assert app.get_runs() == []
        finally:
            app.close()
        assert check(path) == []


class TestNames:
    LONGEST = 255 - LONGEST_SUFFIX

    @pytest.mark.parametrize("letter", ["x", "é", "日"])
    def test_longest_name(self, tmp_path: Path, letter: str) -> None:
        """The longest name that leaves room for the files beside it works."""
        size = len(letter.encode())
        name = letter * (self.LONGEST // size) + "x" * (self.LONGEST % size)
        assert len(name.encode()) == 222
        job = durably.job("j")(lambda step: step.run("one", int, "1"))
        with Durably(tmp_path / name, jobs=[job]) as app:
            assert app.jobs["j"].trigger_and_wait().output == 1

    @pytest.mark.parametrize("letter", ["x", "é"])
    @pytest.mark.parametrize("size", [223, 248, 255, 256, 1000])
    def test_name_that_is_too_long(self, tmp_path: Path, letter: str, size: int) -> None:
        """A longer one raises, in bytes and with the limit, and nothing is made."""
        width = len(letter.encode())
        name = letter * (size // width) + "x" * (size % width)
        with pytest.raises(durably.ValidationError, match=f"too long: {size} bytes.* 222 "):
            Durably(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("size", "is_possible"), [(504, True), (505, False), (3000, False)])
    def test_long_paths(self, tmp_path: Path, size: int, is_possible: bool) -> None:
        """A path that is longer than SQLite's limit raises likewise."""
        folder = tmp_path
        while len(str(folder)) + 102 < size:
            folder /= "d" * 100
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("x" * (size - len(str(folder)) - 1))
        if is_possible:
            with Durably(path) as app:
                assert app.get_runs() == []
            return
        with pytest.raises(durably.ValidationError, match=f"too long: {size} bytes.* 504"):
            Durably(path)
        assert list(folder.iterdir()) == []


class TestFailedOpenings:
    @pytest.fixture(autouse=True)
    def no_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """SQLite opens nothing."""

        def connect(_: object) -> None:
            raise apsw.CantOpenError("too many open files")

        monkeypatch.setattr(
            durably.store.sqlite.connection.connections.Connections, "connect", connect
        )

    def test_new_file_is_not_left_behind(self, tmp_path: Path) -> None:
        """An opening that fails removes the file that it has made, if nothing is in it."""
        path = tmp_path / "x.db"
        with pytest.raises(DatabaseError, match="too many open files"):
            Durably(path)
        assert not path.exists()

    def test_file_of_somebody_elses_making_stays(self, tmp_path: Path) -> None:
        """One that was there before stays, though it is empty."""
        path = tmp_path / "x.db"
        path.touch()
        with pytest.raises(DatabaseError, match="too many open files"):
            Durably(path)
        assert path.exists()

    def test_file_with_something_in_it_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that somebody has written to meanwhile stays."""
        path = tmp_path / "x.db"

        def connect(_: object) -> None:
            path.write_text("theirs")
            raise apsw.CantOpenError("too many open files")

        monkeypatch.setattr(
            durably.store.sqlite.connection.connections.Connections, "connect", connect
        )
        with pytest.raises(DatabaseError, match="too many open files"):
            Durably(path)
        assert path.read_text() == "theirs"
