"""A process that only reads a file takes no part: nothing is made, migrated, locked or written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import ENVIRONMENT, execute
from clikit import objects, printed, refused
from databases import open_database

import durably
from durably.entry.read_only import open_read_only
from durably.store.sqlite.sql import schema


@durably.job
def adds(step: durably.StepContext, number: int) -> int:
    return step.run("add", lambda: number + 1)


def around(path: Path) -> dict[str, tuple[int, int]]:
    """The files beside a database and itself: their size and when they were written last."""
    found = {}
    for each in path.parent.iterdir():
        status = each.stat()
        found[each.name] = (status.st_size, status.st_mtime_ns)
    return found


def with_a_run(path: Path) -> None:
    with durably.Durably(path, jobs=[adds]) as app:
        app.trigger_and_wait(adds, 1, idempotency_key="one")


def test_a_look_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    """The files are those that were there, byte for byte, whether a WAL was left or not."""
    path = tmp_path / "x.db"
    with_a_run(path)
    (tmp_path / "x.db.writer").unlink()
    before = around(path)
    assert [run["key"] for run in objects(path, "ls")] == ["one"]
    assert "add" in printed(path, "show", "one")
    assert around(path) == before == {"x.db": before["x.db"]}
    # A process that dies leaves its WAL, with what it has committed last.
    assert execute("leaves_its_wal", path).returncode == 0
    before = around(path)
    assert before["x.db-wal"][0] > 0
    assert [run["key"] for run in objects(path, "ls")] == ["two", "one"]
    after = around(path)
    del before["x.db-shm"], after["x.db-shm"]  # the index of the WAL, in which readers are noted
    assert after == before


def test_a_look_beside_an_engine_sees_what_is_committed(tmp_path: Path) -> None:
    """It has no owner, no lock, and sees each commit; it can change nothing."""
    path = tmp_path / "x.db"
    with durably.Durably(path, jobs=[adds]) as app, open_read_only(path) as look:
        seen = look.changes.snapshot()
        run = app.trigger_and_wait(adds, 1)
        assert look.changes.wait(seen, 10)
        found = look.get_run(run.id)
        assert found is not None
        assert (found.status, found.output) == ("completed", 2)
        assert [step.name for step in look.get_steps(run)] == ["add"]
        owners = app._store.owners()
        assert len(owners) == 1
        with pytest.raises(durably.DatabaseError, match="read only"):
            look.retry(run)
        with pytest.raises(durably.DatabaseError, match="read only"):
            look.vacuum()
        assert [name for name in around(path) if ".owner-" in name] == [
            f"x.db.owner-{owners[0].token}"
        ]
    look.close()
    with pytest.raises(durably.EngineClosedError):
        look.get_run(run.id)


def test_a_file_that_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default one is missing, the sentence says how to name another; none is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DURABLY_DB", raising=False)
    missing = f"there is no file {str(tmp_path / 'durably.db')!r}"
    for verb in (["ls"], ["retry", "x"], ["check"]):
        said = refused(None, *verb)
        assert said == f"{missing}: name the database with --db FILE or DURABLY_DB=FILE"
    monkeypatch.setenv("DURABLY_DB", "durably.db")
    assert refused(None, "ls") == missing
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("DURABLY_DB")
    with_a_run(tmp_path / "crawl.db")
    (tmp_path / "notes.db").write_text("of something else")
    (tmp_path / "folder.db").mkdir()
    assert refused(None, "ls").endswith("or DURABLY_DB=FILE; this folder has crawl.db")
    assert refused(None, "ls", "crawl.db").endswith(
        "; a database is named by --db crawl.db, behind the verb"
    )
    assert "crawl.db" in printed(Path("crawl.db"), "du")


def test_a_file_that_cannot_be_looked_at_is_one_sentence(tmp_path: Path) -> None:
    """Missing, empty, foreign, old, new, changed, damaged: exit 2, and the file is left alone."""
    missing = tmp_path / "missing" / "x.db"
    missing.parent.mkdir()
    assert refused(missing, "ls") == f"there is no file {str(missing)!r}"
    assert list(missing.parent.iterdir()) == []

    def made(name: str) -> Path:
        path = tmp_path / name / "x.db"
        path.parent.mkdir()
        return path

    empty, text, foreign = made("empty"), made("text"), made("foreign")
    empty.touch()
    text.write_text("not a database, but a text of some length\n" * 100)
    db = open_database(foreign)
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    good = made("good")
    with_a_run(good)
    newer, older, changed, damaged, folder = map(
        made, ("newer", "older", "changed", "damaged", "folder")
    )
    for path in (newer, changed, damaged):
        shutil.copy(good, path)
    for path, statement in (
        (newer, f"PRAGMA user_version = {len(schema.migrations()) + 1}"),
        (changed, "DROP INDEX durably_runs_ended"),
    ):
        db = open_database(path)
        db.execute(statement)
        db.close()
    db = open_database(older)
    db.execute(schema.migrations()[0]).fetchall()
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.close()
    content = bytearray(good.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    damaged.write_bytes(content)
    folder.mkdir()

    for path, said in (
        (empty, "is empty"),
        (text, "is not an SQLite database"),
        (foreign, "is a database of another program"),
        (newer, "was written by a newer durably"),
        (older, "was written by an older durably"),
        (changed, "durably_runs_ended' is missing"),
        (damaged, "is damaged"),
        (folder, "is a directory"),
    ):
        before = {} if path is folder else around(path)
        for verb in (["ls"], ["show", "one"]):
            sentence = refused(path, *verb)
            assert said in sentence
            assert "\n" not in sentence
        assert path is folder or around(path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_file_that_may_not_be_used_is_one_sentence(tmp_path: Path) -> None:
    """The sentence says who runs the command, whose the file is, and what to do."""
    path = tmp_path / "x.db"
    with_a_run(path)
    path.chmod(0o400)
    assert "may only be read here" in refused(path, "ls")
    path.chmod(0)
    assert "may not be read by" in refused(path, "ls")


LARGE = durably.Job("large", lambda step: step.run("large", lambda: b"x" * 4_000_000))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_file_on_a_read_only_medium(tmp_path: Path) -> None:
    """It is read, also by a path that SQLite could take for parameters; a change is rejected."""
    folder = tmp_path / "a?mode=rwc&#%20"
    folder.mkdir()
    path = folder / "x.db"
    with_a_run(path)
    with durably.Durably(path, jobs=[LARGE]) as app:
        app.trigger_and_wait(LARGE, idempotency_key="large")
    before = around(path)
    copy = tmp_path / "copy.db"
    script = """
        mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99
        for verb in "ls --json" "show large" "steps large --json" "du" "check" "doctor" \
            "export large --html $3.html" "backup $3"; do
            "$2" -m durably $verb --db "$1/x.db" || exit 98
        done
        exec "$2" -m durably retry one --db "$1/x.db"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", folder, sys.executable, copy],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or done.returncode == 99:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["key"] == "large"
    (sentence,) = done.stderr.splitlines()
    assert "is on a file system that is mounted read-only" in sentence
    assert around(path) == before
    assert [run["key"] for run in objects(copy, "ls")] == ["large", "one"]
