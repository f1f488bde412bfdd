"""A database that another program keeps locked: waited for, then a clear error, then on it goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from calls import Call, names_of_threads
from children import Child, Eventually
from engines import whole
from invariants import check

import durably
from durably.store.sqlite import database as store_database
from durably.store.sqlite.connection import batch_executor as transactions
from durably.store.sqlite.connection import connections

pytestmark = pytest.mark.slow

LOCKS = pytest.mark.parametrize("how", ["lock", "exclude"])


@durably.job
def job(step: durably.StepContext, payload: int) -> int:
    """One step that returns what it was given."""
    return step.run("one", abs, payload)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """A new database, found sound and left by everybody at the end."""
    path = tmp_path / "runs.db"
    durably.Durably(path).close()
    yield path
    assert check(path, is_idle=True) == []


@pytest.fixture
def locker(database: Path) -> Iterator[Child]:
    """Another program that has the database open."""
    with Child("locker", database) as child:
        child.expect("ready")
        yield child


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a process that waits for a lock stop after half a second instead of 30."""
    for module in (connections, store_database, transactions):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.5)


def do(locker: Child, what: str) -> None:
    """Make the other program take the lock, or release it."""
    locker.say(what)
    locker.expect(what)


def test_lock_is_waited_for(database: Path, locker: Child) -> None:
    """A trigger while another program has the write lock succeeds when the lock is let go, and
    reads do not wait for it.
    """
    app = durably.Durably(database, jobs=[job])
    try:
        do(locker, "lock")
        trigger = Call(lambda: app.jobs["job"].trigger(1))
        trigger.join(1.0)  # longer than a slice of the busy timeout
        assert trigger.is_alive()
        assert app.get_runs() == []
        do(locker, "free")
        trigger.join(20)
        run = trigger.result()
        assert isinstance(run, durably.Run)
        assert [whole(each) for each in app.get_runs()] == [whole(run)]
        assert app.run_until_idle() == 1
    finally:
        app.close()


@LOCKS
@pytest.mark.usefixtures("short_timeout")
def test_lock_that_stays_is_a_clear_error(database: Path, locker: Child, how: str) -> None:
    """A database that is locked for longer than the busy timeout is a DatabaseError that says so
    and carries its cause; nothing is stored, and the same engine goes on afterwards.
    """
    app = durably.Durably(database, jobs=[job])
    try:
        first = app.jobs["job"].trigger(1)
        do(locker, how)
        calls = {
            "trigger": lambda: app.jobs["job"].trigger(2),
            "batch": lambda: app.jobs["job"].batch_trigger([3, 4]),
            "cancel": lambda: app.cancel(first),
            "purge": lambda: app.purge_runs(older_than=0),
            "start": app.start,
            "one": app.process_one,
        }
        for name, call in calls.items():
            with pytest.raises(durably.DatabaseError, match="locked by another program") as caught:
                call()
            assert str(database) in str(caught.value), name
            assert isinstance(caught.value.__cause__, apsw.BusyError), name
        assert [run.id for run in app.get_runs()] == [first.id]
        assert app.get_run(first.id).status == "pending"
        do(locker, "free")
        assert app.jobs["job"].trigger(5).status == "pending"
        assert app.run_until_idle() == 2
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_opening_a_locked_database(tmp_path: Path, locker: Child, database: Path) -> None:
    """Opening a database that another program locks waits, and is a clear error after that."""
    do(locker, "lock")
    with pytest.raises(durably.DatabaseError, match="locked by another program"):
        durably.Durably(database)
    do(locker, "free")
    durably.Durably(database).close()


def test_opening_waits_for_the_lock(database: Path, locker: Child) -> None:
    """Opening succeeds when the other program lets go in time."""
    do(locker, "lock")
    opening = Call(lambda: durably.Durably(database))
    opening.join(1.0)
    assert opening.is_alive(), opening.outcome
    do(locker, "free")
    opening.join(20)
    opened = opening.result()
    assert isinstance(opened, durably.Durably)
    opened.close()


@pytest.mark.usefixtures("short_timeout")
def test_result_of_a_step_is_kept_until_it_can_be_stored(
    database: Path, locker: Child, eventually: Eventually
) -> None:
    """A step whose result cannot be stored for a lock that stays is not executed again: the result
    waits, every rejection is emitted, and it is stored when the lock is gone.
    """
    executed: list[int] = []
    errors: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def work() -> int:
        executed.append(1)
        entered.set()
        assert leave.wait(20)
        return 7

    @durably.job
    def one_step(step: durably.StepContext) -> int:
        return step.run("work", work)

    app = durably.Durably(database, jobs=[one_step])
    try:
        app.on("worker:error", lambda event: errors.append(event.context))
        app.start()
        run = app.jobs["one_step"].trigger()
        assert entered.wait(20)
        do(locker, "lock")
        leave.set()
        eventually(lambda: errors.count("storing a step") >= 2)
        assert app.get_steps(run) == []
        do(locker, "free")
        run = app.wait(run, timeout=20)
        assert (run.output, run.attempt, executed) == (7, 1, [1])
        app.stop()
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_end_of_a_run_is_kept_until_it_can_be_stored(
    database: Path, locker: Child, eventually: Eventually
) -> None:
    """A run that ends while the database is locked completes when the lock is gone, at its first
    attempt.
    """
    errors: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    @durably.job
    def no_step(step: durably.StepContext) -> int:
        entered.set()
        assert leave.wait(20)
        return 7

    app = durably.Durably(database, jobs=[no_step])
    try:
        app.on("worker:error", lambda event: errors.append(event.context))
        app.start()
        run = app.jobs["no_step"].trigger()
        assert entered.wait(20)
        do(locker, "lock")
        leave.set()
        eventually(lambda: "storing the end of a run" in errors)
        assert app.get_run(run.id).status == "running"
        do(locker, "free")
        assert (app.wait(run, timeout=20).output, app.get_run(run.id).attempt) == (7, 1)
        app.stop()
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_started_engine_survives_a_lock(
    database: Path, locker: Child, eventually: Eventually
) -> None:
    """An engine whose threads meet a locked database goes on claiming and beating afterwards."""
    errors: list[str] = []
    app = durably.Durably(
        database, jobs=[job], heartbeat_interval=0.05, stale_threshold=0.2, poll_interval=0.1
    )
    try:
        app.on("worker:error", lambda event: errors.append(event.context))
        app.start()
        waiting = app.jobs["job"].batch_trigger([1] * 20)
        do(locker, "lock")
        eventually(lambda: "the heartbeat thread" in errors)
        do(locker, "free")
        assert [run.output for run in app.as_completed(waiting, timeout=20)] == [1] * 20
        assert app.jobs["job"].trigger_and_wait(-3, timeout=20).output == 3
        app.stop()
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_stopping_under_a_lock(database: Path, locker: Child) -> None:
    """``stop`` ends the threads although nothing can be written, and the engine starts again."""
    app = durably.Durably(database, jobs=[job])
    try:
        app.start()
        do(locker, "lock")
        app.stop()
        assert not app._supervisor.state.is_started
        assert names_of_threads() == []
        do(locker, "free")
        app.start()
        assert app.jobs["job"].trigger_and_wait(1, timeout=20).output == 1
        app.stop()
    finally:
        app.close()


@pytest.mark.parametrize("is_stopped", [True, False])
@pytest.mark.usefixtures("short_timeout")
def test_closing_under_a_lock_leaves_nothing(
    database: Path, locker: Child, is_stopped: bool
) -> None:
    """``close`` closes although nothing can be written, and the owner row that it has to leave is
    taken out by the next engine.
    """
    app = durably.Durably(database, jobs=[job])
    app.start()
    if is_stopped:
        app.stop()
    do(locker, "lock")
    app.close()
    with pytest.raises(durably.EngineClosedError):
        app.get_runs()
    assert names_of_threads() == []
    do(locker, "free")
    with durably.Durably(database, jobs=[job]) as after:
        assert after.jobs["job"].trigger_and_wait(1, timeout=20).output == 1


def test_many_wait_for_one_lock(database: Path, locker: Child) -> None:
    """All threads that wait for a lock get through when it is free."""
    app = durably.Durably(database, jobs=[job])
    try:
        do(locker, "lock")
        triggers = [Call(lambda: app.jobs["job"].trigger(1)) for _ in range(8)]
        triggers[0].join(1.0)
        do(locker, "free")
        for trigger in triggers:
            trigger.join(20)
        assert len({trigger.result().id for trigger in triggers}) == 8
        assert app.run_until_idle() == 8
    finally:
        app.close()


@pytest.mark.usefixtures("short_timeout")
def test_process_that_hangs_with_the_mutex_hangs_nobody(database: Path) -> None:
    """A process that was stopped while it held the mutex of writers is waited for no longer than
    the busy timeout; then everybody goes on without it.
    """
    with Child("holds_the_mutex", database) as hung:
        hung.expect("ready")
        with durably.Durably(database, jobs=[job]) as app:
            assert app.jobs["job"].trigger_and_wait(-3, timeout=20).output == 3
            runs = app.jobs["job"].batch_trigger([1] * 20)
            assert len(list(app.as_completed(runs, timeout=20))) == 20
