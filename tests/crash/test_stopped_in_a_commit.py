"""A process is stopped inside a commit, and holds SQLite's lock: others wait for it once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from calls import Call
from children import Child, Eventually
from invariants import check

import durably
from durably.store.sqlite import database as store_database
from durably.store.sqlite.connection import batch_executor as transactions
from durably.store.sqlite.connection import connections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc names who has a lock")

# Far below the busy timeout of 30 s: what waits that long has not kept to its own.
SOON_S = 20.0


@durably.job
def quick(step: durably.StepContext) -> int:
    """One step."""
    return step.run("one", int)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """A new database, found sound at the end."""
    path = tmp_path / "runs.db"
    durably.Durably(path).close()
    yield path
    assert check(path, is_idle=True) == []


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a process that waits for a lock stop after a second instead of 30."""
    for module in (connections, store_database, transactions):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 1.0)


@pytest.fixture
def stopped(database: Path) -> Iterator[Child]:
    """Another engine, which is stopped when it has written and not committed."""
    with Child("stops_in_a_commit", database, "before commit", 2) as child:
        child.expect("ready")
        yield child


def stop(child: Child) -> None:
    """Stop it, and wait until it has stopped."""
    child.say()
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)


def is_named(error: object, child: Child) -> bool:
    """Return whether an error names the stopped process that has the lock, and what to do."""
    assert isinstance(error, durably.DatabaseError), error
    assert error.is_transient
    assert isinstance(error.__cause__, apsw.BusyError)
    return (
        f"process {child.pid} (python" in str(error)
        and "which is stopped" in str(error)
        and "let that process continue, or end it" in str(error)
        and " s and longer" in str(error)
    )


def test_call_with_a_timeout_keeps_to_it(
    database: Path, stopped: Child, eventually: Eventually
) -> None:
    """A trigger_and_wait that cannot store its run in its time raises DatabaseError and has stored
    nothing; several threads each keep to their own, also behind one that waits longer.
    """
    app = durably.Durably(database, jobs=[quick], heartbeat_interval=0.1, stale_threshold=60)
    try:
        app.start()
        stop(stopped)
        patient = Call(app.jobs["quick"].trigger)
        eventually(app._store.database._writer._lock.locked)
        impatient = [
            Call(lambda: app.jobs["quick"].trigger_and_wait(timeout=0.5)) for _ in range(5)
        ]
        assert all(is_named(each.result(SOON_S), stopped) for each in impatient)
        assert is_named(
            Call(lambda: app.trigger_and_wait(quick, timeout=0.01)).result(SOON_S), stopped
        )
        assert app.get_runs() == []
        stopped.go_on()
        assert patient.result(SOON_S).status in ("pending", "running")
        stopped.expect("stored")
        eventually(lambda: app.count_runs(status="completed") == 3)
        assert app.count_runs() == 3
    finally:
        stopped.go_on()
        app.close()


def test_waits_end_in_time_with_the_runs_they_wait_for(database: Path, stopped: Child) -> None:
    """Waiting for a run that nobody executes meanwhile ends with WaitTimeoutError, as ever."""
    app = durably.Durably(database, jobs=[quick])
    try:
        run = app.jobs["quick"].trigger()
        stop(stopped)
        for call in (
            lambda: app.wait(run, timeout=0.5),
            lambda: list(app.as_completed([run], timeout=0.5)),
        ):
            assert isinstance(Call(call).result(SOON_S), durably.WaitTimeoutError)
        stopped.go_on()
        stopped.expect("stored")
        assert app.run_until_idle() == 3
    finally:
        stopped.go_on()
        app.close()


def test_stop_with_a_timeout_ends(database: Path, stopped: Child) -> None:
    """A stop with a timeout cuts short what its threads wait for."""
    app = durably.Durably(database, jobs=[quick], heartbeat_interval=0.05, stale_threshold=60)
    try:
        app.start()
        stop(stopped)
        assert Call(lambda: app.stop(timeout=0.5)).result(SOON_S) is None
        stopped.go_on()
        stopped.expect("stored")
        # What was cut short waits as long as ever again.
        assert app.run_until_idle() == 2
    finally:
        stopped.go_on()
        app.close()


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("how", ["trigger", "batch", "cancel", "open"])
def test_call_without_a_timeout_names_who_is_in_the_way(
    database: Path, stopped: Child, how: str
) -> None:
    """Any write, and an opening, waits once and names the stopped process."""
    app = durably.Durably(database, jobs=[quick])
    try:
        run = app.jobs["quick"].trigger()
        stop(stopped)
        calls: dict[str, Callable[[], object]] = {
            "trigger": app.jobs["quick"].trigger,
            "batch": lambda: app.jobs["quick"].batch_trigger([None, None]),
            "cancel": lambda: app.cancel(run),
            "open": lambda: durably.Durably(database),
        }
        assert is_named(Call(calls[how]).result(SOON_S), stopped)
        assert [each.id for each in app.get_runs()] == [run.id]
        stopped.kill()
        assert app.run_until_idle() == 1
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_process_that_is_stopped_before_it_has_sqlites_lock_is_in_nobodys_way(
    database: Path,
) -> None:
    """What it holds then is durably's own lock, which is waited for no longer than that."""
    app = durably.Durably(database, jobs=[quick])
    try:
        with Child("stops_in_a_commit", database, "write", 1) as c:
            c.expect("ready")
            stop(c)
            assert isinstance(Call(app.jobs["quick"].trigger).result(SOON_S), durably.Run)
            assert app.run_until_idle() == 1
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_program_that_is_not_durablys_is_named(database: Path) -> None:
    """The process that has SQLite's lock is named; one that is not stopped is to be closed."""
    app = durably.Durably(database, jobs=[quick])
    try:
        with Child("locker", database) as locker:
            locker.expect("ready")
            locker.say("lock")
            locker.expect("lock")
            error = Call(app.jobs["quick"].trigger).result(SOON_S)
            assert f"locked by another program (process {locker.pid} (python" in str(error)
            assert "stopped" not in str(error)
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_another_connection_of_this_process_is_named(database: Path) -> None:
    """A transaction that the script itself has left open is not searched for elsewhere."""
    app = durably.Durably(database, jobs=[quick])
    other = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        other.execute("BEGIN IMMEDIATE")
        error = Call(app.jobs["quick"].trigger).result(SOON_S)
        assert "(another connection of this process)" in str(error)
        other.execute("ROLLBACK")
    finally:
        other.close()
        app.close()


def test_waiting_for_all_runs_ends_while_the_dispatcher_tries_on(database: Path) -> None:
    """A claim that has failed is raised also while the slots are reserved for the next try."""
    app = durably.Durably(database, jobs=[quick]).start()
    supervisor = app._supervisor
    supervisor._dispatcher.stop()  # this test has its part
    claim = supervisor._claimer._reserve(None)
    assert claim is not None
    try:
        supervisor._dispatcher.failure = durably.DatabaseError("locked")
        error = Call(supervisor.wait_until_idle).result(SOON_S)
        assert str(error) == "locked"
    finally:
        supervisor._claimer._use(claim.limit, 0)
        supervisor._dispatcher.failure = None
        app.close()
