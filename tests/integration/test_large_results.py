"""What is over 4 MiB is a file beside the database, for as long as a run refers to it."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

import durably
from durably import Durably, StepContext, job
from durably.entry.read_only import open_read_only
from durably.errors import DatabaseError, RunFailedError, ValidationError
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import filing
from durably.testing import check

MIB = 2**20
LARGE = "x" * (5 * MIB)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "test.db.blobs").glob("*"))


@job(name="large")
def large(step: StepContext, payload: dict[str, str]) -> str:
    first = step.run("first", lambda: LARGE)
    step.run("same", lambda: LARGE)
    step.run("small", lambda: "y" * MIB)
    if payload.get("fails"):
        raise RuntimeError(len(first))
    return first + "z"


@job(name="small")
def small(step: StepContext, payload: dict[str, int]) -> int:
    step.run("a", lambda: LARGE[: 4 * MIB + 1])
    return len(step.run("b", lambda: LARGE[: 4 * MIB + 1]))


@job(name="maps")
def maps(step: StepContext) -> int:
    return sum(len(each) for each in step.map("items", lambda n: LARGE[n:], [1, 2, 3]))


def test_large_results_are_private_files_stored_once_and_removed_with_their_run(
    tmp_path: Path,
) -> None:
    """Equal content is one file, that another run keeps; nothing stays when the last is deleted."""
    with Durably(tmp_path / "test.db", jobs=[large, maps]) as app:
        run = app.jobs["large"].trigger_and_wait({})
        assert run.output == LARGE + "z"
        assert len(files(tmp_path)) == 2
        assert [path.stat().st_size for path in files(tmp_path)] in (
            [5 * MIB + 2, 5 * MIB + 3],
            [5 * MIB + 3, 5 * MIB + 2],
        )
        assert stat.S_IMODE((tmp_path / "test.db.blobs").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
        other = app.jobs["large"].trigger_and_wait({"a": "b"})
        assert len(files(tmp_path)) == 2
        app.delete_run(run.id)
        assert len(files(tmp_path)) == 2
        assert app.get_run(other).output == LARGE + "z"
        assert [len(each.output or "") for each in app.get_steps(other)] == [5 * MIB, 5 * MIB, MIB]
        mapped = app.jobs["maps"].trigger_and_wait()
        assert mapped.output == 3 * 5 * MIB - 6
        assert len(files(tmp_path)) == 5
        assert app.purge_runs(older_than=0) == 2
        assert files(tmp_path) == []
        payload = app.jobs["large"].trigger_and_wait({"text": LARGE})
        assert app.get_run(payload).payload == {"text": LARGE}
        assert len(files(tmp_path)) == 3
        with open_read_only(tmp_path / "test.db") as look:
            assert look.get_run(payload.id).payload == {"text": LARGE}
            assert look.sizes().blob_bytes == sum(path.stat().st_size for path in files(tmp_path))
    assert (tmp_path / "test.db").stat().st_size < 4 * MIB
    assert check(tmp_path / "test.db") == []


def test_a_resume_reads_the_file_when_it_is_used_and_names_one_that_is_missing_or_damaged(
    tmp_path: Path,
) -> None:
    """A result that nothing asks for needs no file; one that is asked for has the right content."""
    with Durably(tmp_path / "test.db", jobs=[large], raise_failed=False) as app:
        run = app.jobs["large"].trigger({"fails": "yes"})
        with pytest.raises(RunFailedError):
            run.wait()
        (path,) = files(tmp_path)
        content = path.read_bytes()
        path.unlink()
        steps = app.get_steps(run.id)
        assert [each.name for each in steps] == ["first", "same", "small"]
        assert "is missing" in steps._repr_html_()
        with pytest.raises(DatabaseError) as missing:
            _ = steps[0].output
        for part in (run.id, "'first'", str(path), "is missing"):
            assert part in str(missing.value)
        app.retry(run.id)
        with pytest.raises(RunFailedError) as failed:
            run.wait()
        for part in (run.id, "'first'", str(path), "is missing"):
            assert part in str(failed.value)
        path.write_bytes(content[:-2] + b'z"')
        app.retry(run.id)
        with pytest.raises(RunFailedError, match="is damaged"):
            run.wait()
        # A run that stores the content again repairs the file.
        other = app.jobs["large"].trigger_and_wait({"a": "b"})
        assert path.read_bytes() == content
        app.retry(run.id)
        with pytest.raises(RunFailedError, match=f"RuntimeError: {5 * MIB}"):
            run.wait()
        for each in files(tmp_path):
            each.unlink()
        # Without the folder's files the other runs can be listed, and those that need them shown.
        listed, _ = app.get_runs()
        assert listed.id == other.id
        assert listed.payload == {"a": "b"}
        with pytest.raises(DatabaseError, match=f"the output of run {other.id}: .* is missing"):
            _ = listed.output
        with pytest.raises(DatabaseError, match=f"the output of run {other.id}: .* is missing"):
            app.get_run(other.id)
        with open_read_only(tmp_path / "test.db") as look:
            assert [each.id for each in look.get_runs()] == [other.id, run.id]
            assert [each.output for each in look.find_runs(values=False)] == [None, None]
            assert str(look.get_run(other.id).output).endswith("' is missing>")
            assert look.get_steps(other.id)[0].output == f"<the file {str(path)!r} is missing>"


def test_blobs_names_the_folder_or_keeps_all_in_the_database(tmp_path: Path) -> None:
    """``blobs`` is a path or False; what was stored in files stays readable with either."""
    with pytest.raises(ValidationError, match="blobs must be the path of a folder"):
        Durably(tmp_path / "test.db", blobs=3)  # type: ignore[arg-type]
    with Durably(tmp_path / "test.db", jobs=[large], blobs=tmp_path / "elsewhere") as app:
        run = app.jobs["large"].trigger_and_wait({})
        assert len(list((tmp_path / "elsewhere").iterdir())) == 3  # with the mark
        assert app.get_run(run).output == LARGE + "z"
        app.delete_run(run.id)
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["database"]
    with Durably(tmp_path / "test.db", jobs=[large], blobs=False) as app:
        assert app.jobs["large"].trigger_and_wait({}).output == LARGE + "z"
    assert files(tmp_path) == []
    assert (tmp_path / "test.db").stat().st_size > 10 * MIB


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make files of what is over 1,000 bytes."""
    monkeypatch.setattr(filing, "LARGE", 1000)
    monkeypatch.setattr(checkpoints, "LARGE", 1000)


@job(name="text")
def text(step: StepContext, payload: str) -> str:
    return step.run("text", lambda: payload * 2000)


def kept(folder: Path) -> int:
    """How many files are in a folder, each of which looks as if it were old."""
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    return len([path for path in folder.iterdir() if path.name != "database"])


@pytest.mark.usefixtures("small_files")
def test_no_two_databases_share_a_folder(tmp_path: Path) -> None:
    """One that is another's is rejected, also where it became so since, and nothing is removed."""
    folder = tmp_path / "folder"
    with (
        Durably(tmp_path / "a.db", jobs=[text], blobs=folder) as first,
        Durably(tmp_path / "b.db", jobs=[text], blobs=folder, raise_failed=False) as second,
    ):
        run = first.trigger(text, "x")
        assert run.wait().output == "x" * 2000
        second._store.sweep_files()
        other = second.trigger(text, "x")
        with pytest.raises(RunFailedError, match="has the large results of the database '.*a.db'"):
            other.wait()
        second.delete_run(other.id)
        assert kept(folder) == 1
        second._store.sweep_files()
        first._store.sweep_files()
        assert kept(folder) == 1
    with pytest.raises(DatabaseError, match="no two databases share one; name another folder"):
        Durably(tmp_path / "b.db", blobs=folder)
    # Neither is the folder beside a database another one's, and a backup is none either.
    (tmp_path / "c.db.blobs").mkdir()
    with Durably(tmp_path / "c.db"), pytest.raises(DatabaseError, match="large results of the"):
        Durably(tmp_path / "b.db", blobs=tmp_path / "c.db.blobs")
    assert check(tmp_path / "b.db", blobs=folder) == []
    with Durably(tmp_path / "a.db", blobs=folder) as first:
        assert first.get_run(run.id).output == "x" * 2000


@pytest.mark.usefixtures("small_files")
def test_a_folder_goes_with_its_database(tmp_path: Path) -> None:
    """A database that was moved has its folder, and the next one may have that of none."""
    folder = tmp_path / "folder"
    with Durably(tmp_path / "a.db", jobs=[text], blobs=folder) as app:
        run = app.trigger(text, "x").wait()
    (tmp_path / "a.db").rename(tmp_path / "b.db")
    with Durably(tmp_path / "b.db", jobs=[text], blobs=folder) as app:
        assert app.get_run(run.id).output == "x" * 2000
        assert app.trigger(text, "y").wait().output == "y" * 2000
        assert (folder / "database").read_text() == str(tmp_path / "b.db")
        (tmp_path / "link.db").symlink_to(tmp_path / "b.db")
    with Durably(tmp_path / "link.db", jobs=[text], blobs=folder) as app:
        assert app.trigger(text, "z").wait().output == "z" * 2000
        assert kept(folder) == 3
        app.purge_runs(older_than=0)
        assert kept(folder) == 0


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_stands_in_the_place_of_the_folder_is_left_alone(tmp_path: Path, what: str) -> None:
    """A file or a link there fails the step with a sentence; nothing is written through a link."""
    place, other = tmp_path / "test.db.blobs", tmp_path / "other"
    other.mkdir()
    if what == "file":
        place.write_text("mine")
    else:
        place.symlink_to(other)
    with (
        Durably(tmp_path / "test.db", jobs=[large], raise_failed=False) as app,
        pytest.raises(RunFailedError, match="is not a folder, or a link"),
    ):
        app.jobs["large"].trigger_and_wait({})
    assert place.is_symlink() or place.read_text() == "mine"
    assert list(other.iterdir()) == []


def test_files_of_dead_processes_are_removed_after_an_hour(tmp_path: Path) -> None:
    """A whole and a temporary file go that nothing refers to; nobody else's, nothing younger."""
    folder = tmp_path / "test.db.blobs"
    folder.mkdir(mode=0o700)
    hour_ago = time.time() - 3700
    for name in ("a" * 64, "b" * 64, "new-0123456789abcdef", "mine.txt"):
        (folder / name).write_text(name)
        if name[0] != "b":
            os.utime(folder / name, (hour_ago, hour_ago))
    with Durably(tmp_path / "test.db", jobs=[large]) as app:
        app.jobs["large"].trigger_and_wait({})
        for path in folder.iterdir():
            if path.stat().st_size > MIB:
                os.utime(path, (hour_ago, hour_ago))
        app._store.sweep_files()
        left = {path.name for path in folder.iterdir() if path.stat().st_size < MIB}
        assert left == {"b" * 64, "mine.txt"}
        assert len(files(tmp_path)) == 4


@pytest.mark.usefixtures("small_files")
def test_a_session_removes_the_files_of_what_it_replaces(tmp_path: Path) -> None:
    """At once with on_change="redo", of a step and of a map; the rest when it is closed."""
    path, folder = tmp_path / "test.db", tmp_path / "test.db.blobs"

    def start(number: int) -> None:
        with durably.session("s", path, key="s", on_change="redo") as step:
            step.options(depends_on=number).run("a", lambda: f"a{number}" * 2000)
            assert {text for text in texts() if text[0] == "a"} == {f"a{number}"}
            step.map("b", lambda item: f"b{item}" * 2000, [number], depends_on=number)
            assert texts() == {f"a{number}", f"b{number}"}

    def texts() -> set[str]:
        return {each.read_text()[1:3] for each in folder.iterdir() if each.name != "database"}

    start(1)
    start(2)
    left = folder / ("a" * 64)
    left.write_text("left by a crash")
    with durably.session("other", path):
        pass
    assert left.exists()
    os.utime(left, (1, 1))
    with durably.session("other", path):
        pass
    assert not left.exists()
    left.write_text("left by a crash")
    os.utime(left, (1, 1))
    assert durably.map(len, ["abc"], db=path, name="m") == [3]
    assert texts() == {"a2", "b2"}
    assert check(path) == []


def test_a_backup_has_its_files_and_check_finds_what_is_missing(tmp_path: Path) -> None:
    """A copy has a folder of its own, with what it refers to and nothing else."""
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    with Durably(tmp_path / "test.db", jobs=[large]) as app:
        first = app.jobs["large"].trigger_and_wait({})
        app.backup(copy)
        assert len(list((copy.parent / "copy.db.blobs").iterdir())) == 2
        with Durably(copy) as other:
            assert other.get_run(first.id).output == LARGE + "z"
        app.jobs["large"].trigger_and_wait({"text": LARGE})
        app.delete_run(first.id)
        app.backup(copy, overwrite=True)
        here, there = files(tmp_path), sorted((copy.parent / "copy.db.blobs").iterdir())
        assert [path.name for path in here] == [path.name for path in there]
        assert len(here) == 3
        assert check(copy) == []
        here[0].rename(tmp_path / "away")
        with pytest.raises(DatabaseError, match="is missing"):
            app.backup(copy, overwrite=True)
        with pytest.raises(DatabaseError, match="is missing"):
            app.backup(copy.parent / "new.db")
        assert [path.name for path in copy.parent.iterdir()].count("new.db.blobs") == 0
        assert check(copy) == []
    there[0].unlink()
    there[1].write_bytes(b"other")
    stray = copy.parent / "copy.db.blobs" / ("0" * 64)
    stray.write_text("stray")
    os.utime(stray, (1, 1))
    found = sorted(map(str, check(copy)))
    assert len(found) == 3
    assert "a file of no run is over an hour old" in found[-1]
    assert "0" * 64 in found[-1]
    assert sum("is missing;" in each for each in found) == 1
    assert sum("is damaged:" in each for each in found) == 1


def test_a_file_that_is_needed_stays_when_the_step_is_stored_meanwhile(tmp_path: Path) -> None:
    """A purge in one engine takes nothing from another one that stores the same content."""
    stop = threading.Event()

    def purges() -> None:
        with Durably(tmp_path / "test.db") as app:
            while not stop.is_set():
                app.purge_runs(older_than=0)

    with Durably(tmp_path / "test.db", jobs=[small]) as app:
        purging = threading.Thread(target=purges)
        purging.start()
        try:
            for n in range(12):
                run = app.jobs["small"].trigger({"n": n})
                with contextlib.suppress(durably.NotFoundError):  # it was purged already
                    assert run.wait(timeout=20).output == 4 * MIB + 1
        finally:
            stop.set()
            purging.join(20)
        app.purge_runs(older_than=0)
        app._store.sweep_files()
    assert files(tmp_path) == []
    assert check(tmp_path / "test.db") == []
