"""The files of an open database are overwritten in their place: noticed, and nothing is added."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import HANG_S
from children import Child, Eventually
from databases import open_database
from invariants import check

import durably
from durably.store.sqlite import database as store_database

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the index of the log")

FAST = {"heartbeat_interval": 0.05, "stale_threshold": 0.2}


@durably.job
def quick(step: durably.StepContext) -> str:
    """One step, with a result that takes some room."""
    return step.run("one", lambda: "x" * 500)


def shell(command: str, *paths: Path) -> None:
    """What somebody does with the files, in a process of its own as it is everywhere else."""
    subprocess.run(["sh", "-ec", command, "sh", *map(str, paths)], check=True)


def copied(database: Path) -> None:
    """``cp backup.db jobs.db``, of a copy that was made with SQL."""
    shell('cat "$1" > "$2"', database.with_name("backup.db"), database)


def copied_plainly(database: Path) -> None:
    """The same of a plain copy: another size, and nothing else in its header that differs."""
    shell('cat "$1" > "$2"', database.with_name("plain.db"), database)


def synchronised(database: Path) -> None:
    """``rsync --inplace``: not even shorter for a moment, and with the times of the copy."""
    shell('dd if="$1" of="$2" conv=notrunc status=none', database.with_name("plain.db"), database)
    shell('truncate -r "$1" "$2"; touch -r "$1" "$2"', database.with_name("plain.db"), database)


def emptied(database: Path) -> None:
    """``> jobs.db``."""
    shell('truncate -s 0 "$1"', database)


def cut(database: Path) -> None:
    """Cut in half, at the end of a page."""
    shell(f'truncate -s {database.stat().st_size // 8192 * 4096} "$1"', database)


def zeroed(database: Path) -> None:
    """The beginning is zeros."""
    shell('dd if=/dev/zero of="$1" bs=4096 count=4 conv=notrunc status=none', database)


def of_another_program(database: Path) -> None:
    """Another program's database, of the same size."""
    shell('cat "$1" > "$2"', database.with_name("other.db"), database)


def of_another_application(database: Path) -> None:
    """Another database of durably's, whose tables are the same."""
    shell('cat "$1" > "$2"', database.with_name("another.db"), database)


def log_emptied(database: Path) -> None:
    """The log has no more frames."""
    shell('truncate -s 0 "$1"', Path(f"{database}-wal"))


def log_cut(database: Path) -> None:
    """The log lacks its last frame."""
    shell('truncate -s -4096 "$1"', Path(f"{database}-wal"))


def log_zeroed(database: Path) -> None:
    """The beginning of the log is zeros."""
    shell(
        'dd if=/dev/zero of="$1" bs=4096 count=1 conv=notrunc status=none', Path(f"{database}-wal")
    )


OF_THE_FILE = [
    copied,
    copied_plainly,
    synchronised,
    emptied,
    cut,
    zeroed,
    of_another_program,
    of_another_application,
]
OF_THE_LOG = [log_emptied, log_cut, log_zeroed]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with runs whose log is in the file, and copies of it that are older."""
    path = tmp_path / "runs.db"
    for name in ("another.db", "runs.db"):
        with durably.Durably(tmp_path / name, jobs=[quick], synchronous="normal") as app:
            app.jobs["quick"].batch_trigger([None] * 30)
    db = open_database(path)
    db.execute("VACUUM INTO ?", (str(path.with_name("backup.db")),))
    db.close()
    other = open_database(path.with_name("other.db"))
    other.execute("CREATE TABLE t (x)")
    other.execute("INSERT INTO t VALUES (zeroblob(?))", (path.stat().st_size,))
    other.close()
    shell('cp "$1" "$2"', path, path.with_name("plain.db"))
    with durably.Durably(path, jobs=[quick], synchronous="normal") as app:
        app.jobs["quick"].batch_trigger([None] * 60)
    return path


@pytest.mark.parametrize("overwrite", OF_THE_FILE + OF_THE_LOG)
def test_running_engine_notices_within_a_heartbeat(
    database: Path, overwrite: Callable[[Path], None], eventually: Eventually
) -> None:
    """A started engine notices without a call that a file was overwritten, and from then on claims
    nothing and raises DatabaseLostError from every call; closing it copies nothing into the file.
    """
    app = durably.Durably(database, jobs=[quick], **FAST)
    try:
        errors: list[str] = []
        app.on("worker:error", lambda event: errors.append(event.error.type))
        app.start()
        run = app.jobs["quick"].trigger_and_wait(timeout=20)
        overwrite(database)
        eventually(lambda: app._supervisor.file.lost)
        assert not app._supervisor.state.takes_runs
        eventually(lambda: "durably.DatabaseLostError" in errors)
        content = database.stat()
        for call in (
            lambda: app.get_job("quick").trigger(),
            lambda: app.get_run(run),
            lambda: app.purge_runs(older_than=0),
            app.start,
        ):
            with pytest.raises(durably.DatabaseLostError, match="overwritten"):
                call()
        app.stop(timeout=20)
    finally:
        app.close()
    after = database.stat()
    assert (after.st_size, after.st_mtime_ns) == (content.st_size, content.st_mtime_ns)


@pytest.mark.parametrize("overwrite", OF_THE_FILE)
def test_next_call_of_an_engine_that_was_not_started_notices(
    database: Path, overwrite: Callable[[Path], None]
) -> None:
    """The next call of an engine without threads raises, before it stores anything, and closing it
    leaves the file as it is.
    """
    app = durably.Durably(database, jobs=[quick])
    try:
        app.jobs["quick"].trigger()
        overwrite(database)
        content = database.stat()
        for _ in range(2):
            with pytest.raises(durably.DatabaseLostError, match="put the copy in its place"):
                app.jobs["quick"].trigger()
    finally:
        app.close()
    after = database.stat()
    assert (after.st_size, after.st_mtime_ns) == (content.st_size, content.st_mtime_ns)


def test_closing_an_engine_copies_nothing_into_a_file_that_was_overwritten(
    database: Path,
) -> None:
    """Also if nobody has called it since."""
    app = durably.Durably(database, jobs=[quick])
    app.jobs["quick"].trigger()
    copied(database)
    content = database.stat()
    app.close()
    after = database.stat()
    assert (after.st_size, after.st_mtime_ns) == (content.st_size, content.st_mtime_ns)


def test_job_that_stores_step_after_step_notices_before_a_checkpoint(
    database: Path, eventually: Eventually
) -> None:
    """An engine that makes no other calls, between two heartbeats, checks often enough: the log is
    not copied into the foreign content.
    """
    stopped: list[int] = []
    is_copied = threading.Event()

    @durably.job
    def long(step: durably.StepContext) -> None:
        for number in range(100_000):
            step.run(f"s{number}", int)
            if number == 300:
                copied(database)
                is_copied.set()
            if number > 300:
                stopped.append(number)

    app = durably.Durably(database, jobs=[long], heartbeat_interval=60, stale_threshold=120)
    try:
        app.start()
        app.jobs["long"].trigger()
        # Another thread may notice it in the middle of the copy.
        assert is_copied.wait(HANG_S)
        eventually(lambda: app._store.database._open_file.is_suspect)
        assert len(stopped) <= store_database._WRITES_BETWEEN_CHECKS
        assert database.stat().st_size == database.with_name("backup.db").stat().st_size
    finally:
        app.close()


def test_nothing_that_sqlite_does_counts_as_overwriting(database: Path) -> None:
    """Another program's checkpoints, a file that becomes shorter or has other times, a log that is
    begun anew or emptied, and the engine's own purges.
    """
    app = durably.Durably(database, jobs=[quick], synchronous="normal")
    try:
        with Child("checkpoints_the_wal", database) as child:
            child.expect("ready")
            for round_ in range(3):
                for word in ("copy", "shrink", "empty", "vacuum", "copy"):
                    app.jobs["quick"].batch_trigger([None] * 40)
                    assert app.run_until_idle() == 40
                    child.say(word)
                    child.expect(word)
                    app._supervisor.file.check_all()
                    shell('touch "$1"; touch "$1-wal"', database)
                    app._supervisor.file.check_all()
                app.purge_runs(older_than=0, limit=100 * (round_ + 1))
                app._store.database.care.wal_checkpoint(above_bytes=0)
                app._supervisor.file.check_all()
        assert app._supervisor.file.lost is None
    finally:
        app.close()
    assert check(database) == []


def test_checkpoint_that_a_kill_cut_short_is_no_overwriting(database: Path) -> None:
    """A process that is killed after it has copied the first page, and before the others, leaves a
    file that is half new; another engine that had read it before goes on.
    """
    app = durably.Durably(database, jobs=[quick], synchronous="normal")
    try:
        with Child("dies_in_a_wal_checkpoint", database) as child:
            child.expect("ready")
            app.jobs["quick"].batch_trigger([None] * 200)
            app._supervisor.file.check_all()
            before = database.stat()
            child.say()
            assert child.wait() < 0
        assert database.stat().st_mtime_ns != before.st_mtime_ns
        for _ in range(3):
            app._supervisor.file.check_all()
        assert app.run_until_idle() == 200
    finally:
        app.close()
    assert check(database, is_idle=True, is_finished=True) == []
