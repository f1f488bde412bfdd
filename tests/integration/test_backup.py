"""A backup is whole or not there, whatever happens to it, and a database of its own."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from children import Child, execute
from databases import open_database
from faultydisk import CODES, FULL_CODES, FaultyDisk
from invariants import check

import durably
from durably.entry.read_only import open_read_only
from durably.store.sqlite import backup as backups
from durably.store.sqlite.locks import temporary


@durably.job
def copy(step: durably.StepContext, size: int = 1) -> str:
    step.run("a", lambda: "x" * size)
    step.run("b", hold)
    return "done"


GO = threading.Event()
INSIDE = threading.Semaphore(0)


def hold() -> bool:
    INSIDE.release()
    return GO.wait(20)


class Given(NamedTuple):
    app: durably.Durably
    database: Path
    target: Path


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    """An engine with a completed run, beside which nothing runs."""
    GO.set()
    database, target = tmp_path / "runs.db", tmp_path / "backups" / "copy.db"
    target.parent.mkdir()
    with durably.Durably(database, jobs=[copy], heartbeat_interval=0.2, stale_threshold=1) as app:
        app.run(copy, 50_000, key="before")
        yield Given(app, database, target)
        GO.set()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def statuses(path: Path) -> dict[str | None, str]:
    with open_read_only(path) as look:
        return {run.idempotency_key: run.status.value for run in look.get_runs()}


def test_what_is_executed_goes_on_in_a_copy_at_once(given: Given) -> None:
    """A copy has the steps that are stored and no owner: its runs are claimed at once."""
    GO.clear()
    app, _, target = given
    while INSIDE.acquire(blocking=False):
        pass
    running = app.trigger(copy, 3, idempotency_key="running")
    cancelled = app.trigger(copy, 3, idempotency_key="cancelled")
    app.trigger(copy, 3, idempotency_key="pending", concurrency_key="k")
    for _ in range(2):
        assert INSIDE.acquire(timeout=20)
    app.cancel(cancelled)
    app.backup(target)

    assert files(target.parent) == ["copy.db"]
    assert check(target, is_idle=True) == []
    assert target.stat().st_mode & 0o777 == 0o600
    assert statuses(target) == {
        "before": "completed",
        "running": "pending",
        "cancelled": "cancelled",
        "pending": "pending",
    }
    GO.set()
    app.wait(running)
    with durably.Durably(target, jobs=[copy], replace=False) as other:
        copied = other.wait(running.id, timeout=20)
        assert [step.attempt for step in other.get_steps(copied)] == [1, 1]
        assert [each.outcome for each in other.get_attempts(copied)] == ["interrupted", "completed"]
        other.run_until_idle()
        assert {run.status for run in other.get_runs()} == {"completed", "cancelled"}
        other.backup(target.parent / "of the copy.db")
    assert check(target.parent / "of the copy.db", is_idle=True) == []


def test_a_busy_writer_does_not_make_it_begin_again(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the copy is followed by a commit, and the copy is as of its beginning."""
    monkeypatch.setattr(backups, "_STEP_PAGES", 4)
    commits = []

    def commit() -> None:
        if len(commits) < 1000:
            commits.append(given.app.trigger(copy, 1, idempotency_key=f"{len(commits)}"))

    monkeypatch.setattr(backups, "deliver", commit)
    given.app.backup(given.target)
    assert 5 < len(commits) < 100
    assert set(statuses(given.target)) == {"before"}
    assert check(given.target) == []


def test_several_at_once(given: Given) -> None:
    """Threads that back up to one place, and others that want it free, do not harm each other."""
    refused: list[durably.BackupExistsError] = []

    def back_up(overwrite: bool) -> None:
        for _ in range(5):
            try:
                given.app.backup(given.target, overwrite=overwrite)
            except durably.BackupExistsError as exc:
                refused.append(exc)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(back_up, n % 2 == 0) for n in range(4)]:
            done.result(60)
    assert 9 <= len(refused) <= 10
    assert check(given.target) == []
    assert files(given.target.parent) == ["copy.db"]


def test_it_works_from_a_process_that_only_reads(given: Given) -> None:
    """A process that only reads the file needs no engine, and disturbs none."""
    before = files(given.database.parent)
    with open_read_only(given.database) as look:
        look.backup(given.target)
    assert check(given.target) == []
    assert files(given.database.parent) == before


def test_nothing_is_overwritten_unasked(given: Given) -> None:
    """Neither a file nor what a link leads to; asked to, one step replaces what is there."""
    app, _, target = given
    target.write_text("precious")
    link = target.with_name("link.db")
    link.symlink_to(target)
    for taken in (target, link):
        with pytest.raises(durably.BackupExistsError, match="overwrite=True") as raised:
            app.backup(taken)
        assert isinstance(raised.value, FileExistsError)
    app.backup(link, overwrite=True)
    assert not link.is_symlink()
    assert target.read_text() == "precious"
    app.backup(target, overwrite=True)
    assert check(link) == check(target) == []
    assert files(target.parent) == ["copy.db", "link.db"]


def test_what_was_made_meanwhile_is_kept(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears just before the rename is not replaced."""
    monkeypatch.setattr(
        backups, "_refuse_taken", lambda final, **_: Path(final).write_text("precious")
    )
    with pytest.raises(durably.BackupExistsError):
        given.app.backup(given.target)
    assert given.target.read_text() == "precious"
    assert files(given.target.parent) == ["copy.db"]


def test_it_is_renamed_where_the_system_cannot_do_so_exclusively(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems cannot rename to a free name in one step."""
    monkeypatch.setattr(sys.modules["durably._platform.renaming"], "_rename_exclusively", unable)
    given.app.backup(given.target)
    assert check(given.target) == []
    with pytest.raises(FileExistsError):
        backups.rename_to_free(str(given.database), str(given.target))


def unable(*_: bytes) -> int:
    return next(iter(sys.modules["durably._platform.renaming"]._UNSUPPORTED))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("runs.db", durably.ValidationError, "the database itself"),
        ("other name.db", durably.ValidationError, "the database itself"),
        ("runs.db-wal", durably.ValidationError, "belongs to it"),
        ("runs.db.owner-x", durably.ValidationError, "belongs to it"),
        ("", durably.ValidationError, "is a directory"),
        ("x" * 250, durably.ValidationError, "too long"),
        ("missing/copy.db", durably.DatabaseError, "make it first"),
        ("in use.db", durably.ConflictError, "is open at"),
    ],
)
def test_a_place_that_is_none(
    given: Given, name: str, error: type[Exception], message: str, overwrite: bool
) -> None:
    """The database itself, by whatever name, and what could never be read again, are rejected."""
    folder = given.database.parent
    (folder / "other name.db").symlink_to(given.database)
    (folder / "in use.db-wal").touch()
    before = files(folder)
    with pytest.raises(error, match=message):
        given.app.backup(f"{folder}/{name}", overwrite=overwrite)
    assert files(folder) == before
    assert given.app.count_runs() == 1


def test_an_option_that_is_none(given: Given) -> None:
    """overwrite is a bool: a second path by mistake must not overwrite the first."""
    with pytest.raises(durably.ValidationError, match="overwrite"):
        given.app.backup(given.target, overwrite="copy.db")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="the layout of SQLite's structures")
@pytest.mark.parametrize("number", [1, 9])
@pytest.mark.parametrize("codes", [CODES, FULL_CODES], ids=["fails", "is full"])
def test_a_disk_that_is_full_or_fails(
    given: Given, codes: dict[str, int], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the backup; what was there stays, and nothing is left beside it."""
    given.app.backup(given.target)
    before = given.target.read_bytes()
    given.app.run(copy, 1)
    with FaultyDisk() as disk:
        monkeypatch.setattr(backups, "_VFS", disk.name)
        disk.fail({"open", "write"} if number == 1 else {"write"}, number, 10_000, codes)
        with pytest.raises(durably.DatabaseError, match=r"copy\.db") as raised:
            given.app.backup(given.target, overwrite=True)
        assert disk.hit
    assert raised.value.is_transient
    assert given.target.read_bytes() == before
    assert files(given.target.parent) == ["copy.db"]


def test_a_disk_without_room(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before it fills the disk, which may be the database's own."""
    usage = shutil.disk_usage(given.database.parent)._replace(free=18_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    given.app.backup(given.target)
    given.app.run(copy, 3_000_000)
    with pytest.raises(durably.DatabaseError, match=r"needs \d+ MB, and there are 18 MB"):
        given.app.backup(given.target, overwrite=True)
    assert files(given.target.parent) == ["copy.db"]


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_a_folder_that_may_not_be_written(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the system, and what to do."""

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(temporary, "_made", refuse)
    with pytest.raises(durably.DatabaseError, match=r"Permission denied; check the permissions"):
        given.app.backup(given.target)


def test_a_damaged_database_replaces_no_backup(given: Given) -> None:
    """What SQLite itself finds wrong in the copy keeps the one of before."""
    app, database, target = given
    app.backup(target)
    before = target.read_bytes()
    app.close()
    page = open_database(database)
    ((number,),) = page.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'durably_runs_payload'"
    ).fetchall()
    page.close()
    with database.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(b"\x0a" + b"\xff" * 50)
    with (
        open_read_only(database) as look,
        pytest.raises(durably.DatabaseError, match=r"runs\.db' is damaged"),
    ):
        look.backup(target, overwrite=True)
    assert target.read_bytes() == before
    assert files(target.parent) == ["copy.db"]


def test_a_killed_backup_leaves_nothing_for_long(given: Given) -> None:
    """Nothing is under the final name; what lies beside it is removed by the next one, unless the
    process that makes it lives.
    """
    app, database, target = given
    with Child("backs_up", database, target) as child:
        child.expect("copied")
        (left,) = files(target.parent)
        assert left.startswith("copy.db.backup-")
        app.backup(target)
        assert files(target.parent) == ["copy.db", left]
        child.kill()
    target.with_name(f"{left}-wal").touch()
    app.backup(target, overwrite=True)
    assert files(target.parent) == ["copy.db"]
    assert check(target) == []


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_it(given: Given) -> None:
    """It is noticed between two steps, and leaves nothing."""
    done = execute("backs_up", given.database, given.target, "interrupt")
    assert done.returncode == -2, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert files(given.target.parent) == []
