"""Reads, among what other threads, other processes and the user do to the file meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from calls import HANG_S, in_thread, status
from children import execute

import durably
from durably import DatabaseLostError, Durably, EngineClosedError
from durably.store.sqlite.connection import wal
from durably.store.sqlite.sql import steps as stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@durably.job("keeps")
def keeps(step: durably.StepContext, payload: str) -> int:
    return len(payload)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[keeps], synchronous="normal")
    yield app
    app.close()


class SlowRead:
    """A read of all payloads that waits after the first row until a test lets it go on."""

    def __init__(self, app: Durably) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.thread, self.outcome = in_thread(lambda: app._store.database.read(self._query))
        assert self.inside.wait(HANG_S)

    def _query(self, db: Any) -> list[str]:
        cursor = db.execute("SELECT payload FROM durably_runs")
        rows = [next(cursor)]
        self.inside.set()
        assert self.go_on.wait(HANG_S)
        return [payload for (payload,) in rows + cursor.fetchall()]

    def end(self) -> list[Any]:
        self.go_on.set()
        self.thread.join(HANG_S)
        return self.outcome


def test_close_waits_for_the_reads_in_progress(
    app: Durably, tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """What one gives is a state that the file was in, whatever other processes write until then;
    who comes later is rejected.
    """
    app.jobs["keeps"].batch_trigger(["a" * 1000] * 3000)
    slow = SlowRead(app)
    closing, closed = in_thread(app.close)
    eventually(lambda: app._store.database.is_closed)
    with pytest.raises(EngineClosedError):
        app.count_runs()
    done = execute("triggers_large_runs", tmp_path / "x.db", timeout_s=HANG_S)
    assert done.returncode == 0, done.stderr
    assert closing.is_alive()
    [payloads] = slow.end()
    closing.join(HANG_S)

    assert closed == [None]
    assert payloads == [f'"{"a" * 1000}"'] * 3000


def test_read_that_is_still_to_open_its_connection_is_waited_for(
    app: Durably,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    """It must not make the file anew that was there when it began."""
    app.jobs["keeps"].trigger("a")
    connections = app._store.database._connections
    opens, may_open = threading.Event(), threading.Event()
    new_reader = connections.new_reader

    def open_later() -> Any:
        opens.set()
        assert may_open.wait(HANG_S)
        return new_reader()

    monkeypatch.setattr(connections, "new_reader", open_later)
    app._store.database._readers._spare.clear()
    reading, outcome = in_thread(app.count_runs)
    assert opens.wait(HANG_S)
    closing, _ = in_thread(app.close)
    eventually(lambda: app._store.database.is_closed)
    may_open.set()
    for thread in (reading, closing):
        thread.join(HANG_S)
    assert outcome == [1]


def test_read_of_a_file_that_was_moved_away_leaves_its_log(tmp_path: Path) -> None:
    """SQLite deletes a log that lies beside an empty file; who puts the file back finds all."""
    path = tmp_path / "x.db"
    ended = execute("moves_its_file", path, timeout_s=HANG_S)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "lost\n"), ended.stderr
    assert not path.exists()
    (tmp_path / "x.db.moved").rename(path)
    with Durably(path) as app:
        assert app.count_runs() == 21


def test_file_that_takes_the_place_while_a_read_opens_it_is_not_read(
    app: Durably, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it is not this engine's."""
    app.jobs["keeps"].trigger("a")
    other = tmp_path / "other.db"
    Durably(other).close()
    connections = app._store.database._connections
    new_reader = connections.new_reader

    def replace_and_open() -> Any:
        shutil.move(other, tmp_path / "x.db")
        return new_reader()

    monkeypatch.setattr(connections, "new_reader", replace_and_open)
    app._store.database._readers._spare.clear()
    with pytest.raises(DatabaseLostError):
        app.count_runs()


def test_interrupted_replay_leaves_no_snapshot_behind(tmp_path: Path) -> None:
    """A notebook keeps the traceback of a Ctrl-C, and with it the rows that were being read."""
    fails = [True]

    @durably.job("long")
    def long(step: durably.StepContext) -> int:
        for number in range(20):
            step.run(f"step-{number}", int, "7")
        if fails[0]:
            raise ValueError("the first time")
        return 1

    def press(frame: Any, event: str, arg: Any) -> Any:
        """Ctrl-C in the loop over a window of checkpoints."""
        return press_inside if frame.f_code is stored._window.__code__ else None

    def press_inside(frame: Any, event: str, arg: Any) -> Any:
        if len(frame.f_locals.get("checkpoints", ())) == 3:
            sys.settrace(None)
            raise KeyboardInterrupt
        return press_inside

    with Durably(tmp_path / "x.db", jobs=[long]) as app, Durably(tmp_path / "x.db") as other:
        app.stop()
        run = app.jobs["long"].trigger()
        assert app.process_one()
        app.retry(run)
        before = sys.gettrace()
        sys.settrace(press)
        try:
            app.process_one()
        except KeyboardInterrupt as exc:
            kept = exc
        finally:
            sys.settrace(before)
        assert kept.__traceback__ is not None
        fails[0] = False
        other.stop()
        other.register(long)
        other.run_until_idle()
        assert status(app, run) == "completed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_fork_waits_for_the_reads_in_progress_alone(
    app: Durably, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """Those that come meanwhile wait for it: reads that overlap without end do not hold it up."""
    app.jobs["keeps"].trigger("a")
    readers = app._store.database._readers

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    slow = SlowRead(app)
    forking, forked = in_thread(fork)
    eventually(lambda: readers._blocks)
    later, outcome = in_thread(app.count_runs)
    slow.end()
    for thread in (forking, later):
        thread.join(HANG_S)
    assert (forked, outcome) == ([7], [1])
    assert not readers._blocks


def test_reads_that_overlap_without_end_do_not_keep_the_log_growing(
    app: Durably, tmp_path: Path
) -> None:
    """Each begins before another one ends, so that the snapshot's lock is never let go."""
    is_over = threading.Event()
    begun = [threading.Semaphore(0), threading.Semaphore(0)]

    def overlapping(number: int) -> None:
        def query(db: Any) -> None:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM durably_runs").fetchall()
            begun[1 - number].release()
            begun[number].acquire(timeout=0.01)
            db.execute("COMMIT")

        while not is_over.is_set():
            app._store.database.read(query)

    threads = [in_thread(lambda number=number: overlapping(number)) for number in (0, 1)]
    size = 0
    try:
        for _ in range(12):
            for _ in range(4):
                app.jobs["keeps"].batch_trigger(["x" * 3000] * 100)
            app._store.database.care.wal_checkpoint(above_bytes=0)
            size = (tmp_path / "x.db-wal").stat().st_size
    finally:
        is_over.set()
        for thread, _ in threads:
            thread.join(HANG_S)
    assert [outcome for _, outcome in threads] == [[None], [None]]
    # Twelve times as much was written.
    assert size < 8 * 1024 * 1024


def test_one_long_read_holds_off_no_others_for_long(
    app: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log that it keeps from being copied must double before it is tried again."""
    app.jobs["keeps"].batch_trigger(["x" * 3000] * 100)
    slow = SlowRead(app)
    app.jobs["keeps"].batch_trigger(["x" * 3000] * 100)
    block_new_reads: list[float] = []
    original = app._store.database._readers.block_new_reads

    def hold_off(timeout_s: float) -> Any:
        block_new_reads.append(timeout_s)
        return original(timeout_s)

    monkeypatch.setattr(app._store.database._readers, "block_new_reads", hold_off)
    for _ in range(5):
        app._store.database.care.wal_checkpoint(above_bytes=0)
    assert len(block_new_reads) == 1
    slow.end()
    app._store.database.care.wal_checkpoint(above_bytes=0)
    assert len(block_new_reads) == 1
    assert app.count_runs() == 200


def test_log_that_another_process_reads_holds_off_no_reads_for_long(
    app: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of this process come to rest, and the log cannot begin anew all the same."""
    app.jobs["keeps"].batch_trigger(["x" * 3000] * 100)
    modes: list[int] = []
    monkeypatch.setattr(wal, "run_wal_checkpoint", lambda db, mode: modes.append(mode))
    for _ in range(5):
        app._store.database.care.wal_checkpoint(above_bytes=0)
    assert modes.count(apsw.SQLITE_CHECKPOINT_TRUNCATE) == 1


def test_reads_go_on_while_a_checkpoint_waits_for_its_turn_to_write(
    app: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held off for the checkpoint alone."""
    app.jobs["keeps"].batch_trigger(["x" * 3000] * 100)
    maintain = app._store.database._writer.maintain
    waits, may_go_on = threading.Event(), threading.Event()

    def wait_in_the_second(operation: Any, *args: Any) -> Any:
        if args:
            return False  # not all could be copied
        waits.set()
        assert may_go_on.wait(HANG_S)
        return maintain(operation)

    monkeypatch.setattr(app._store.database._writer, "maintain", wait_in_the_second)
    checkpoint, outcome = in_thread(lambda: app._store.database.care.wal_checkpoint(above_bytes=0))
    assert waits.wait(HANG_S)
    assert app.count_runs() == 100
    may_go_on.set()
    checkpoint.join(HANG_S)
    assert outcome == [None]


def test_engine_that_is_closed_within_a_read_of_the_same_thread(app: Durably) -> None:
    """As a signal handler does that ends the process: what it raises comes out."""

    def close(db: Any) -> None:
        app.close()
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        app._store.database.read(close)


@pytest.mark.parametrize("what", ["close", "fork"])
def test_ctrl_c_in_the_wait_for_reads(
    app: Durably, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A close closes all the same; a fork leaves nothing held off."""
    readers = app._store.database._readers

    def press(timeout_s: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(readers, "wait_until_idle", press)
        (app.close if what == "close" else app._store.database.before_fork)()
    if what == "close":
        assert list(app._store.database._connections.open) == []
    else:
        assert app.count_runs() == 0
        assert not app._store.database._versions.lock.locked()


def test_what_is_not_found_costs_no_connection(app: Durably) -> None:
    """The next read has the same one."""
    app.count_runs()
    before = [*app._store.database._readers._spare]
    with pytest.raises(durably.NotFoundError):
        app.get_steps("none")
    assert app._store.database._readers._spare == before
