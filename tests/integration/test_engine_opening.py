"""Opening a database: new, known, foreign, newer, damaged, and what is not one at all."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from children import Child, execute
from databases import open_database
from descriptors import descriptors

import durably
from durably import DatabaseError, Durably, SchemaError, ValidationError

if TYPE_CHECKING:
    pass

HANG_S = 60  # only guards against hanging


@durably.job
def quick(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


# Reads and changes files without this process opening them: that would drop SQLite's locks.
def bytes_of(folder: Path) -> dict[str, bytes]:
    done = execute("reads_files", folder)
    assert done.returncode == 0, done.stderr
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    return {name: bytes.fromhex(content) for name, _, content in pairs}


def made(path: Path) -> durably.Run[Any, Any]:
    """A database with one completed run, closed."""
    with Durably(path, jobs=[quick]) as app:
        return app.jobs["quick"].trigger_and_wait()


def pragma(path: Path, name: str) -> Any:
    db = open_database(path)
    try:
        return db.pragma(name)
    finally:
        db.close()


def refused(path: Path, error: type[Exception], match: str) -> Exception:
    """Open *path*, see it rejected, and see that nothing in its folder has changed."""
    before = bytes_of(path.parent)
    modified = path.stat().st_mtime_ns
    with pytest.raises(error, match=match) as caught:
        Durably(path)
    assert bytes_of(path.parent) == before
    assert path.stat().st_mtime_ns == modified
    return caught.value


class TestNew:
    def test_a_missing_file_is_made_with_its_tables(self, tmp_path: Path) -> None:
        """Opening makes the file, marked as durably's, before anything is triggered."""
        path = tmp_path / "new.db"
        app = Durably(path)
        try:
            assert path.exists()
            assert app.get_runs() == []
            assert pragma(path, "application_id") == 0x44757261
            assert pragma(path, "user_version") >= 1
        finally:
            app.close()

    def test_a_zero_byte_file_is_a_new_database(self, tmp_path: Path) -> None:
        """What tempfile or touch left is taken as new."""
        path = tmp_path / "empty.db"
        path.touch()
        assert made(path).output == 7

    def test_the_file_is_private(self, tmp_path: Path) -> None:
        """A new file is readable for its owner alone, and so is what lies beside it."""
        umask = os.umask(0)
        try:
            with Durably(tmp_path / "x.db") as app:
                assert app.count_runs() == 0
                modes = {each.name: each.stat().st_mode & 0o077 for each in tmp_path.iterdir()}
        finally:
            os.umask(umask)
        assert set(modes.values()) == {0}, modes

    def test_nothing_but_the_database_is_left_by_a_close(self, tmp_path: Path) -> None:
        """No write-ahead log, no shared memory, and no owner's lock stay behind."""
        made(tmp_path / "x.db")
        left = {each.name for each in tmp_path.iterdir()}
        assert not {name for name in left if name.endswith(("-wal", "-shm")) or "owner" in name}

    @pytest.mark.parametrize("form", [str, Path, os.fspath], ids=["str", "Path", "fspath"])
    def test_paths_come_in_any_form(self, tmp_path: Path, form: Any) -> None:
        """A path is a str or anything with __fspath__."""
        made(form(tmp_path / "x.db"))
        assert (tmp_path / "x.db").exists()

    @pytest.mark.parametrize(
        "name",
        [
            "file:x.db?mode=ro",
            "a b%20c.db",
            "größe-日本.db",
            "x?vfs=memdb",
            "'; DROP--.db",
            "#x",
            "-x",
        ],
    )
    def test_a_path_is_a_path(self, tmp_path: Path, name: str) -> None:
        """No part of a name means anything: no URI, no parameters, no SQL."""
        made(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0

    def test_relative_paths_are_those_of_the_opening(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later chdir does not lead elsewhere; the default name is durably.db."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        app = Durably(jobs=[quick])
        monkeypatch.chdir(tmp_path / "elsewhere")
        with app:
            app.jobs["quick"].trigger_and_wait()
        assert (tmp_path / "durably.db").exists()
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_a_symbolic_link_leads_to_its_file(self, tmp_path: Path) -> None:
        """The target is used, or made if the link dangles; the link stays."""
        (tmp_path / "data").mkdir()
        link = tmp_path / "link.db"
        link.symlink_to(tmp_path / "data" / "x.db")
        run = made(link)
        assert link.is_symlink()
        app = Durably(tmp_path / "data" / "x.db")
        try:
            assert app.get_run(run) is not None
        finally:
            app.close()

    def test_several_processes_and_threads_open_a_new_file_at_once(self, tmp_path: Path) -> None:
        """Migrations are safe when several do it at once: all succeed."""
        path = tmp_path / "x.db"
        children = [Child("opens_when_told", path) for _ in range(3)]
        raised: list[BaseException] = []

        def open_and_close() -> None:
            try:
                Durably(path).close()
            except BaseException as exc:
                raised.append(exc)

        threads = [threading.Thread(target=open_and_close) for _ in range(4)]
        try:
            for child in children:
                child.expect("ready")
            for child in children:
                child.say()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(HANG_S)
            for child in children:
                assert child.rest() == ["0"]
        finally:
            for child in children:
                child.__exit__(None, None, None)
        assert raised == []
        assert made(path).output == 7


class TestAgain:
    def test_opening_again_finds_what_was_stored(self, tmp_path: Path) -> None:
        """Opening is idempotent: a known database keeps its runs, and its version."""
        path = tmp_path / "x.db"
        run = made(path)
        version = pragma(path, "user_version")
        for _ in range(2):
            app = Durably(path, jobs=[quick])
            try:
                found = app.get_run(run.id)
                assert found is not None
                assert found.output == 7
            finally:
                app.close()
        assert pragma(path, "user_version") == version

    def test_two_engines_of_one_process(self, tmp_path: Path) -> None:
        """The same file may be open twice; what one triggers the other executes."""
        path = tmp_path / "x.db"
        first = Durably(path, jobs=[quick])
        try:
            with Durably(path, jobs=[quick]) as second:
                run = first.jobs["quick"].trigger()
                assert second.wait(run.id, timeout=HANG_S).output == 7
            assert first.get_run(run).output == 7
        finally:
            first.close()

    def test_an_engine_that_was_dropped_does_not_stand_in_the_way(self, tmp_path: Path) -> None:
        """One that nobody closed is collected without a warning; the file opens again."""
        path = tmp_path / "x.db"
        app = Durably(path, jobs=[quick])
        run_id = app.jobs["quick"].trigger().id
        del app
        gc.collect()
        with Durably(path, jobs=[quick]) as app:
            assert app.wait(run_id, timeout=HANG_S).output == 7


class TestRefused:
    def test_a_database_of_another_program(self, tmp_path: Path) -> None:
        """An SQLite file with somebody else's tables is a SchemaError, and is left untouched."""
        path = tmp_path / "theirs.db"
        db = open_database(path)
        db.execute("CREATE TABLE customers (name); INSERT INTO customers VALUES ('x')")
        db.close()
        refused(path, SchemaError, r"theirs\.db.*another program.*left as it is.*of its own")

    def test_one_in_wal_mode_with_an_open_connection(self, tmp_path: Path) -> None:
        """A foreign database that is being used is neither checkpointed nor changed."""
        path = tmp_path / "theirs.db"
        db = open_database(path)
        db.pragma("journal_mode", "wal")
        db.execute("CREATE TABLE customers (name)")
        try:
            with pytest.raises(SchemaError, match="another program"):
                Durably(path)
            assert db.pragma("journal_mode") == "wal"
            assert db.execute("SELECT count(*) FROM sqlite_schema").get == 1
        finally:
            db.close()

    @pytest.mark.parametrize(
        ("application_id", "user_version"), [(0x12345678, 0), (0x12345678, 1), (0, 1), (0, 99)]
    )
    def test_marks_of_another_program(
        self, tmp_path: Path, application_id: int, user_version: int
    ) -> None:
        """Also without tables: an application id or version that is not ours is not ours."""
        path = tmp_path / "theirs.db"
        db = open_database(path)
        db.pragma("application_id", application_id)
        db.pragma("user_version", user_version)
        db.close()
        refused(path, SchemaError, "another program")

    def test_a_newer_durably(self, tmp_path: Path) -> None:
        """A file of a newer schema is a SchemaError that says to update, and is left untouched."""
        path = tmp_path / "newer.db"
        made(path)
        db = open_database(path)
        version = db.pragma("user_version")
        db.pragma("user_version", version + 1)
        db.close()
        refused(path, SchemaError, rf"newer\.db.*schema {version + 1}.*knows {version}.*Update")

    @pytest.mark.parametrize(
        "content",
        [b"x", b"hello, this is text\n", b"SQLite format 3", b"\x00" * 100, b"a,b\n1,2\n" * 5000],
        ids=["a byte", "a line", "a beginning", "zeroes", "a csv file"],
    )
    def test_a_file_that_is_no_database(self, tmp_path: Path, content: bytes) -> None:
        """Text and other files are not durably databases: SchemaError, left untouched."""
        path = tmp_path / "notes.txt"
        path.write_bytes(content)
        refused(path, SchemaError, r"notes\.txt.*not.*left as it is")

    def test_a_directory(self, tmp_path: Path) -> None:
        """A directory is rejected by name, and nothing is made in it."""
        with pytest.raises(ValidationError, match=f"{tmp_path.name}.*directory"):
            Durably(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_path_that_ends_as_a_directory_does(self, tmp_path: Path) -> None:
        """What ends in a separator means a directory, though there is none yet; nothing is made."""
        with pytest.raises(ValidationError, match="data/.*directory"):
            Durably(f"{tmp_path}/data/")
        assert list(tmp_path.iterdir()) == []

    def test_a_link_that_leads_to_itself(self, tmp_path: Path) -> None:
        """A DatabaseError names it, and carries what the system said."""
        path = tmp_path / "loop.db"
        path.symlink_to(path)
        with pytest.raises(DatabaseError, match=r"loop\.db.*check the path") as caught:
            Durably(path)
        assert isinstance(caught.value.__cause__, OSError)

    @pytest.mark.parametrize("kind", ["fifo", "device"])
    def test_what_is_no_regular_file(self, tmp_path: Path, kind: str) -> None:
        """A pipe or a device is rejected at once, and not waited for."""
        path = tmp_path / "pipe"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path = Path("/dev/null")
        with pytest.raises(ValidationError, match=f"{path.name}.*regular file"):
            Durably(path)

    @pytest.mark.parametrize("folder", ["missing", "missing/deeper", "a-file"])
    def test_a_missing_folder(self, tmp_path: Path, folder: str) -> None:
        """A DatabaseError names the folder, which is not made."""
        (tmp_path / "a-file").touch()
        with pytest.raises(DatabaseError, match=f"{tmp_path.name}/{folder}'"):
            Durably(tmp_path / folder / "x.db")
        assert [each.name for each in tmp_path.iterdir()] == ["a-file"]

    @pytest.mark.parametrize("damage", ["schema page", "truncated"])
    def test_a_damaged_database(self, tmp_path: Path, damage: str) -> None:
        """A DatabaseError that names the file, carries SQLite's error, and says what to do."""
        path = tmp_path / "damaged.db"
        made(path)
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[:4096])
        else:
            path.write_bytes(content[:100] + b"\xa5" * 3996 + content[4096:])
        with (
            pytest.raises(DatabaseError, match=r"damaged\.db.*damaged; restore") as caught,
            Durably(path, jobs=[quick]) as app,
        ):
            app.jobs["quick"].trigger()
        assert isinstance(caught.value.__cause__, apsw.CorruptError)

    def test_a_rejection_leaves_nothing_open(self, tmp_path: Path) -> None:
        """After rejections this process has no descriptor of the file."""
        path = tmp_path / "notes.txt"
        path.write_text("no database" * 1000)
        for _ in range(5):
            with pytest.raises(SchemaError):
                Durably(path)
        assert not descriptors(tmp_path)
        shutil.rmtree(tmp_path)


class TestPermissions:
    """Opened by a child that permissions stop, also when this process is root's."""

    def opened(self, path: Path) -> str:
        powerless = []
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("root cannot give up its powers without setpriv")
            powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        done = execute("starts_and_triggers", path, under=powerless)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_a_read_only_file(self, tmp_path: Path) -> None:
        """A DatabaseError names the file and says to look at the permissions."""
        made(tmp_path / "x.db")
        for each in tmp_path.iterdir():
            each.chmod(0o444)
        said = self.opened(tmp_path / "x.db")
        assert said.startswith("DatabaseError")
        assert str(tmp_path / "x.db") in said
        assert "permissions" in said

    @pytest.mark.parametrize("is_there", [True, False], ids=["known", "new"])
    def test_a_read_only_folder(self, tmp_path: Path, is_there: bool) -> None:
        """A DatabaseError names the path and says to look at the permissions."""
        if is_there:
            made(tmp_path / "x.db")
        there = sorted(tmp_path.iterdir())
        tmp_path.chmod(0o555)
        said = self.opened(tmp_path / "x.db")
        tmp_path.chmod(0o755)
        assert sorted(tmp_path.iterdir()) == there
        assert said.startswith("DatabaseError")
        assert str(tmp_path / "x.db") in said
        assert "permissions" in said or "writable" in said

    def test_an_unreadable_file(self, tmp_path: Path) -> None:
        """Likewise for a file that may not be read."""
        made(tmp_path / "x.db")
        (tmp_path / "x.db").chmod(0)
        said = self.opened(tmp_path / "x.db")
        assert said.startswith("DatabaseError")
        assert str(tmp_path / "x.db") in said

    @pytest.mark.parametrize("mode", [0, 0o444, 0o666])
    @pytest.mark.parametrize("below", ["", "deeper"])
    def test_a_folder_that_may_not_be_entered(self, tmp_path: Path, mode: int, below: str) -> None:
        """A DatabaseError says so, and not that the folder or the file is missing."""
        path = tmp_path / "closed" / below / "x.db"
        path.parent.mkdir(parents=True)
        (tmp_path / "closed").chmod(mode)
        said = self.opened(path)
        (tmp_path / "closed").chmod(0o755)
        assert said.startswith("DatabaseError")
        assert "Permission denied; check the permissions" in said
        assert list(path.parent.iterdir()) == []


class TestCreate:
    """``create=False``: a typing error in the path does not begin a new, empty history."""

    @pytest.mark.parametrize("name", ["missing.db", "./sub/../missing.db", "dangling.db"])
    def test_a_missing_file_is_named_and_not_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """The error names the real path; nothing is made, there or beside it."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sub").mkdir()
        (tmp_path / "dangling.db").symlink_to(tmp_path / "missing.db")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DatabaseError, match="there is no file") as caught:
            Durably(name, create=False)
        assert repr(str(tmp_path / "missing.db")) in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        """The error is the same as without the option."""
        with pytest.raises(DatabaseError, match="the folder .*nowhere.* does not exist"):
            Durably(tmp_path / "nowhere" / "x.db", create=False)

    @pytest.mark.parametrize("is_empty", [False, True], ids=["known", "empty"])
    def test_a_file_that_is_there_is_opened(self, tmp_path: Path, *, is_empty: bool) -> None:
        """An empty file is a new database, with the option as without."""
        if is_empty:
            (tmp_path / "x.db").touch(mode=0o600)
        else:
            made(tmp_path / "x.db")
        with Durably(tmp_path / "x.db", jobs=[quick], create=False) as app:
            assert app.count_runs() == (0 if is_empty else 1)
            assert app.jobs["quick"].trigger_and_wait().output == 7

    @pytest.mark.parametrize("module", ["place", "files"], ids=["early", "late"])
    def test_a_file_that_vanishes_meanwhile_is_not_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
    ) -> None:
        """Removed after a check has found it, it is not made again by anything in the opening."""
        path = tmp_path / "x.db"
        made(path)
        monkeypatch.setattr(
            f"durably.store.sqlite.connection.{module}.require_file",
            lambda _: path.unlink(missing_ok=True),
        )
        with pytest.raises(DatabaseError, match=r"x\.db"):
            Durably(path, create=False)
        assert not path.exists()


class TestWithoutAPath:
    """The path may be left out, as a script of cron does."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DURABLY_DB", raising=False)

    @pytest.mark.parametrize("arguments", [(), (None,)], ids=["left out", "None"])
    @pytest.mark.parametrize(
        ("variable", "name"),
        [(None, "durably.db"), ("", "durably.db"), ("there/own.db", "there/own.db")],
        ids=["unset", "empty", "set"],
    )
    def test_the_file_of_the_environment(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[None, ...],
        variable: str | None,
        name: str,
    ) -> None:
        """DURABLY_DB names it; unset or empty, it is durably.db in the working folder."""
        (tmp_path / "there").mkdir()
        if variable is not None:
            monkeypatch.setenv("DURABLY_DB", variable)
        app = Durably(*arguments)
        assert repr(str(tmp_path / name)) in repr(app)
        app.close()
        assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path(name)]

    def test_a_path_that_is_given_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """DURABLY_DB is only for who leaves the path out."""
        monkeypatch.setenv("DURABLY_DB", "own.db")
        Durably("durably.db").close()
        assert [path.name for path in tmp_path.glob("*.db")] == ["durably.db"]

    @pytest.mark.parametrize("value", [":memory:", "there", "x\udcff.db"], ids=ascii)
    def test_a_bad_value_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """The message says that it is the variable's."""
        (tmp_path / "there").mkdir()
        monkeypatch.setenv("DURABLY_DB", value)
        with pytest.raises(ValidationError, match="^DURABLY_DB="):
            Durably()
        assert [path.name for path in tmp_path.iterdir()] == ["there"]

    def test_a_missing_file_of_the_environment_is_not_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """create=False holds for it, too."""
        monkeypatch.setenv("DURABLY_DB", "own.db")
        with pytest.raises(DatabaseError, match=r"there is no file .*own\.db"):
            Durably(create=False)
        assert list(tmp_path.iterdir()) == []
