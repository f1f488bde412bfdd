"""The verbs that care for the file, each as a terminal or cron would see it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from children import Child, held
from clikit import command, objects, printed, refused
from databases import open_database

import durably
from durably.entry.read_only import open_read_only
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import filing
from durably.testing import check


@durably.job
def large(step: durably.StepContext, size: int) -> str:
    step.log.info("done")
    step.run("a", lambda: "x" * size)
    step.map("m", str, range(3))
    return "1" if size else int("x")


def forgotten(step: durably.StepContext, size: int) -> None:
    """What a job of another program does."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file with a completed run, one that was tried twice without success, and a session."""
    path = tmp_path / "x.db"
    with durably.Durably(path, jobs=[large], raise_failed=False, persist_logs=True) as app:
        app.trigger(large, 1000)
        failed = app.trigger(large, 0)
        app.run_until_idle()
        app.retry(failed)
        app.run_until_idle()
    with durably.session("notes", path) as step:
        step.run("b", int)
    return path


def in_terminal(path: Path, *args: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("durably.cli.care.is_terminal", lambda: True)
    return printed(path, *args)


def test_du(path: Path) -> None:
    """A line for the file, and a table of the jobs, where there are several."""
    first, titles, *jobs = printed(path, "du").splitlines()
    assert re.fullmatch(
        rf"{re.escape(str(path))} \d+ kB   3 runs \(1 failed\), 3 steps, 6 items   "
        r"largest: large \d\.\d kB   oldest \d{4}-\d\d-\d\d",
        first,
    )
    assert titles.split()[:5] == ["JOB", "RUNS", "FAILED", "STEPS", "ITEMS"]
    assert [job.split()[:5] for job in jobs] == [
        ["large", "2", "1", "2", "6"],
        ["notes", "1", "0", "1", "0"],
    ]
    (stored,) = objects(path, "du", "--older-than", "0s")
    assert stored["file_bytes"] == path.stat().st_size
    assert stored["purgeable_runs"] == 3
    large, notes = stored["jobs"]
    assert large["step_bytes"] == 2 * len("a") + 1000 + 2 * len('""')
    assert (large["item_bytes"], notes["item_bytes"]) == (2 * 3 * len('"0"'), 0)
    with closing(sqlite3.connect(path)) as db:
        errors = db.execute("SELECT length(error) FROM attempts WHERE error IS NOT NULL").fetchall()
    assert len(errors) == 2
    assert large["run_bytes"] > sum(size for (size,) in errors)
    assert large["log_bytes"] > 0 == notes["log_bytes"]
    assert large["text_bytes"] == sum(
        large[f"{part}_bytes"] for part in ("run", "step", "item", "log")
    )
    assert printed(path, "du", "--csv").splitlines()[1].startswith("large,2,1,2,6,")
    last = printed(path, "du", "--older-than", "0s").splitlines()[-1]
    assert re.match(r"a purge of what ended before \S+ would delete 3 runs \(", last)


def test_du_of_an_empty_file(tmp_path: Path) -> None:
    """There is nothing in it."""
    durably.Durably(tmp_path / "x.db").close()
    assert "   0 runs (0 failed), 0 steps\n" in printed(tmp_path / "x.db", "du")


def test_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is printed for cron if nothing is wrong; each finding is a line, of its file."""
    assert printed(path, "check") == printed(None, "check", str(path)) == ""
    assert in_terminal(path, "check", monkeypatch=monkeypatch) == "no problems found\n"
    other = path.with_name("o\x1b.db")
    with open_read_only(path) as look:
        look.backup(other)
    with closing(open_database(other)) as db:
        db.execute("PRAGMA ignore_check_constraints = 1; UPDATE durably_runs SET labels = '[]'")
    lines = printed(None, "check", str(path), str(other), status=1).splitlines()
    assert all(line.startswith(rf"{path.parent}/o\x1b.db: ") for line in lines)
    assert any("labels and label rows do not agree: id=" in line for line in lines)
    (*_, last) = printed(other, "check", "--json", status=1).splitlines()
    assert json.loads(last).keys() == {"path", "problem", "where"}
    assert "there is no file" in refused(path.with_name("no.db"), "check")
    path.with_name("text").write_text("text " * 1000)
    assert "not an SQLite database" in refused(path.with_name("text"), "check")


def test_doctor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines for each thing that is unusual, and exit status 1."""
    what, advice = printed(path, "doctor", status=1).splitlines()
    assert what.startswith("failed runs: 1 run of job 'large' failed with ValueError: invalid")
    assert advice == (
        f"    durably ls --status failed --db {path} names them, durably show RUN --db {path} says "
        f"where; fix the cause, then durably retry RUN --db {path}"
    )
    found = command(path, "doctor", "--json").stdout
    assert json.loads(found).keys() == {"kind", "what", "advice"}
    with durably.Durably(path) as app:
        app.purge_runs(older_than=0)
    assert printed(path, "doctor") == ""
    folder = Path(f"{path}.blobs")
    folder.mkdir(exist_ok=True)
    for name, age_s in (("a" * 64, 7200), ("b" * 64, 0), ("theirs", 7200)):
        file = folder / name
        file.write_bytes(b"x" * 3_000_000)
        os.utime(file, (time.time() - age_s,) * 2)
    what, _ = printed(path, "doctor", status=1).splitlines()
    assert what.startswith("large results: 1 file beside the database, with 3 MB, is of no run")
    shutil.rmtree(folder)
    (facts,) = printed(path, "doctor", "-v").splitlines()
    assert re.search(
        r"x\.db \d+ kB   log .*   0 processes executing   schema \d+, SQLite 3\.", facts
    )
    assert in_terminal(path, "doctor", monkeypatch=monkeypatch) == "nothing unusual\n"


@pytest.mark.skipif(sys.platform != "linux", reason="what /proc reports")
def test_doctor_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped, one that reads for long, and one that was killed."""
    path = tmp_path / "x.db"
    with held(path, 5, 30) as (child, _):
        assert printed(path, "doctor") == ""
        child.stop(path)
        (stopped,) = printed(path, "doctor", status=1).splitlines()[::2]
        assert f"process {child.pid} (python" in stopped
        assert "which has 1 running run, is stopped" in stopped
        child.go_on()
        monkeypatch.setattr("durably.client.doctor._LARGE_WAL", 0)
        with Child("reads_for_long", path) as reader:
            reader.expect("reads")
            (large,) = printed(path, "doctor", status=1).splitlines()[::2]
            assert f"is read by process {reader.pid} (python" in large
        child.kill()
    monkeypatch.undo()
    (died,) = printed(path, "doctor", status=1).splitlines()[::2]
    assert f"process {child.pid} has died with 1 running run" in died
    assert len(list(tmp_path.glob("x.db.owner-*"))) == 1  # nothing was recovered by looking


def test_doctor_of_runs_that_nobody_executes(tmp_path: Path) -> None:
    """A job that no process has any more, with a name that no terminal should act on."""
    path = tmp_path / "x.db"
    app = durably.Durably(path, jobs=[durably.Job("old\u202e", forgotten)])
    app.trigger("old\u202e", 1)
    app.close()
    assert printed(path, "doctor") == ""
    with closing(open_database(path)) as db:
        db.execute("UPDATE durably_runs SET created_at_us = created_at_us - 36e8 * 50")
    (what, advice) = printed(path, "doctor", status=1).splitlines()
    assert what == (
        r"nobody executes: 1 run of job 'old\u202e': pending for 2 days, and no process is alive "
        "that executes runs of this file"
    )
    assert r"durably work module:old\u202e" in advice


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_doctor_of_a_file_that_is_open_to_others(tmp_path: Path) -> None:
    """It says who may read and replace the file."""
    durably.Durably(tmp_path / "x.db").close()
    (tmp_path / "x.db").chmod(0o664)
    tmp_path.chmod(0o777)
    what = printed(tmp_path / "x.db", "doctor", status=1).splitlines()[::2]
    assert [line.partition(":")[0] for line in what] == ["permissions"] * 2
    assert "the file (0664)" in what[0]


def test_backup(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is made once; to replace it takes a word."""
    target = path.with_name("b.db")
    assert printed(path, "backup", str(target)) == ""
    assert check(target) == []
    assert refused(path, "backup", str(target), status=1).endswith("or add --overwrite")
    said = in_terminal(path, "backup", "--overwrite", str(target), monkeypatch=monkeypatch)
    assert said == f"backed up to {target}\n"
    assert "make it first" in refused(path, "backup", str(path / "no" / "b.db"), status=1)
    assert "the database itself" in refused(path, "backup", str(path))


def test_vacuum(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file gets smaller, and a terminal shows by how much."""
    with durably.Durably(path, jobs=[large]) as app:
        run = app.run(large, 300_000)
        app.delete_run(run)
    before = path.stat().st_size
    assert printed(path, "vacuum", "--max-seconds", "0") == ""
    assert path.stat().st_size == before
    said = in_terminal(path, "vacuum", monkeypatch=monkeypatch)
    assert re.fullmatch(r"gave \d+ kB back\n", said)
    assert path.stat().st_size < before - 200_000


def test_a_look_changes_nothing(path: Path, tmp_path: Path) -> None:
    """What only reads makes no file beside the database and writes nothing to it."""
    path.with_name("copies").mkdir()
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    for args in (["du"], ["check"], ["doctor"], ["backup", f"{tmp_path}/copies/b.db"]):
        command(path, *args)
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    assert after == before


def test_large_results_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--blobs`` or DURABLY_BLOBS names the folder. Else a purge leaves files to an engine."""
    for module in (filing, checkpoints):
        monkeypatch.setattr(module, "LARGE", 1000)
    path, folder = tmp_path / "x.db", tmp_path / "folder"

    def files() -> list[str]:
        return [each.name for each in folder.iterdir() if each.name != "database"]

    with durably.Durably(path, jobs=[large], blobs=folder) as app:
        run, other = app.trigger(large, 2000), app.trigger(large, 3000)
        run.wait()
        other.wait()
    assert len(files()) == 2
    named = ("--blobs", str(folder))
    assert "is missing" in printed(path, "show", run.id)
    assert "xxxxxxx" in printed(path, "show", run.id, *named)
    assert "xxxxxxx" in command(path, "show", run.id, DURABLY_BLOBS=str(folder)).stdout
    assert "a file of a run is missing" in printed(path, "check", status=1)
    assert printed(path, "check", *named) == ""
    assert (
        "is missing; restore it from a backup, put its folder back, or name the folder with "
        in (refused(path, "backup", str(tmp_path / "none.db"), status=1))
    )
    printed(path, "backup", str(tmp_path / "copy.db"), *named)
    assert check(tmp_path / "copy.db") == []
    assert "of no run" not in command(path, "doctor", *named).stdout
    printed(path, "rm", run.id, *named)
    assert len(files()) == 1
    printed(path, "purge", "--older-than", "0s")
    assert len(files()) == 1
    with durably.Durably(path, blobs=folder) as app:
        app._store.sweep_files()
    assert files() == []
