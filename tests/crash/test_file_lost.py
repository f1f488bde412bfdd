"""The database file is moved, deleted or replaced under an open engine: noticed, and said."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from calls import in_thread
from children import Eventually
from invariants import check

import durably
from durably.plugins import LogPersistence


def moved(database: Path) -> None:
    """The file gets another name."""
    database.rename(database.with_suffix(".moved"))


def folder_moved(database: Path) -> None:
    """The folder of the file gets another name."""
    database.parent.rename(database.parent.with_name("elsewhere"))


def deleted(database: Path) -> None:
    """All files of the database are gone."""
    for path in database.parent.glob("runs.db*"):
        path.unlink()


def replaced(database: Path) -> None:
    """Another durably database takes its place."""
    other = database.with_name("other.db")
    durably.Durably(other).close()
    other.replace(database)


LOSSES = pytest.mark.parametrize("lose", [moved, folder_moved, deleted, replaced])


@durably.job
def quick(step: durably.StepContext) -> int:
    """One step."""
    return step.run("one", int)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """In a folder of its own, which can be moved."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "runs.db"


CALLS: dict[str, Callable[[durably.Durably, durably.Run], object]] = {
    "trigger": lambda app, run: app.jobs["quick"].trigger(),
    "trigger_and_wait": lambda app, run: app.jobs["quick"].trigger_and_wait(),
    "batch_trigger": lambda app, run: app.jobs["quick"].batch_trigger([None]),
    "handle.get_run": lambda app, run: app.jobs["quick"].get_run(run.id),
    "handle.get_runs": lambda app, run: app.jobs["quick"].get_runs(),
    "get_run": lambda app, run: app.get_run(run.id),
    "get_runs": lambda app, run: app.get_runs(),
    "count_runs": lambda app, run: app.count_runs(),
    "get_steps": lambda app, run: app.get_steps(run),
    "get_logs": lambda app, run: app.get_logs(run),
    "wait": lambda app, run: app.wait(run),
    "as_completed": lambda app, run: list(app.as_completed([run])),
    "subscribe": lambda app, run: list(app.subscribe(run)),
    "retry": lambda app, run: app.retry(run),
    "retrigger": lambda app, run: app.retrigger(run),
    "cancel": lambda app, run: app.cancel(run),
    "delete_run": lambda app, run: app.delete_run(run),
    "purge_runs": lambda app, run: app.purge_runs(older_than=0),
    "register": lambda app, run: app.register(quick),
    "start": lambda app, run: app.start(),
    "init": lambda app, run: app.init(),
    "with": lambda app, run: app.__enter__(),
    "run_until_idle": lambda app, run: app.run_until_idle(),
    "process_one": lambda app, run: app.process_one(),
    "on": lambda app, run: app.on("*", print),
    "on_error": lambda app, run: app.on_error(print),
    "jobs": lambda app, run: app.jobs,
    "get_job": lambda app, run: app.get_job("quick"),
    "use": lambda app, run: app.use(LogPersistence()),
}


@LOSSES
def test_every_call_of_an_engine_that_was_not_started_checks(
    database: Path, lose: Callable[[Path], None]
) -> None:
    """The next call of an engine that was not started raises DatabaseLostError naming the file, and
    so does each one after it; stop and close do not.
    """
    app = durably.Durably(database, jobs=[quick])
    run = app.jobs["quick"].trigger()
    lose(database)
    try:
        for name, call in CALLS.items():
            with pytest.raises(durably.DatabaseLostError, match="moved, deleted or replaced") as e:
                call(app, run)
            assert str(database) in str(e.value), name
        app.stop()
        app.stop(interrupt=True)
    finally:
        app.close()
    app.close()


@LOSSES
def test_running_engine_notices_within_a_heartbeat(
    database: Path, lose: Callable[[Path], None], eventually: Eventually
) -> None:
    """A started engine notices by its heartbeat, without a call, stops claiming, and rejects every
    call but stop and close from then on, also when the file is back in its place.
    """
    app = durably.Durably(database, jobs=[quick], heartbeat_interval=0.05, stale_threshold=0.2)
    try:
        errors: list[str] = []
        app.on("worker:error", lambda event: errors.append(event.error.type))
        app.start()
        run = app.jobs["quick"].trigger_and_wait(timeout=20)
        lose(database)
        eventually(lambda: "durably.DatabaseLostError" in errors)
        # Another thread than the heartbeat's may report it first.
        eventually(lambda: not app._supervisor.state.takes_runs)
        if lose is moved:
            database.with_suffix(".moved").rename(database)
        for call in CALLS.values():
            with pytest.raises(durably.DatabaseLostError):
                call(app, run)
        app.stop()
    finally:
        app.close()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_running_engine_notices_that_its_log_is_gone(
    database: Path, eventually: Eventually, suffix: str
) -> None:
    """What somebody tidied away beside the file is noticed within a heartbeat: nothing goes on as
    if it were stored, and what is in the file stays whole.
    """
    with durably.Durably(database, jobs=[quick]) as app:
        before = app.jobs["quick"].trigger_and_wait()
    app = durably.Durably(database, jobs=[quick], heartbeat_interval=0.05, stale_threshold=1).init()
    try:
        app.jobs["quick"].trigger_and_wait()
        Path(f"{database}{suffix}").unlink()
        eventually(lambda: app._supervisor.file.lost is not None)
        with pytest.raises(durably.DatabaseLostError, match=f"{suffix}' *, which belongs"):
            app.jobs["quick"].trigger()
    finally:
        app.close()
    assert check(database) == []
    with durably.Durably(database, jobs=[quick]) as app:
        assert app.get_run(before).status == "completed"
        app.jobs["quick"].trigger_and_wait()


@pytest.mark.parametrize("access", ["read", "write", "beat"])
@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_error_that_comes_of_the_loss_names_it(database: Path, access: str, suffix: str) -> None:
    """What SQLite says when its files are gone, between two checks, is reported as their loss."""

    def fail(db: apsw.Connection) -> None:
        raise apsw.IOError("disk I/O error")

    app = durably.Durably(database, jobs=[quick])
    try:
        with pytest.raises(durably.DatabaseError, match="disk I/O error") as caught:
            getattr(app._store.database, access)(fail)
        assert type(caught.value) is durably.DatabaseError
        Path(f"{database}{suffix}").unlink()
        with pytest.raises(durably.DatabaseLostError):
            getattr(app._store.database, access)(fail)
    finally:
        app.close()


@LOSSES
def test_clean_exit_of_the_with_block_raises(database: Path, lose: Callable[[Path], None]) -> None:
    """A with block left cleanly after the file was lost raises DatabaseLostError, and closes."""
    with pytest.raises(durably.DatabaseLostError), durably.Durably(database, jobs=[quick]) as app:
        assert app.jobs["quick"].trigger_and_wait(timeout=20).output == 0
        lose(database)
    with pytest.raises(durably.EngineClosedError):
        app.get_runs()


def test_clean_exit_raises_what_a_heartbeat_noticed(database: Path, eventually: Eventually) -> None:
    """The block's end says so as well where a heartbeat has noticed it before."""
    app = durably.Durably(database, jobs=[quick], heartbeat_interval=0.05, stale_threshold=0.2)
    with pytest.raises(durably.DatabaseLostError), app:
        moved(database)
        eventually(lambda: not app._supervisor.state.takes_runs)


def test_exception_of_the_with_block_is_not_hidden(database: Path) -> None:
    """An exception that leaves the with block goes on, whatever has become of the file."""
    with pytest.raises(ZeroDivisionError), durably.Durably(database, jobs=[quick]):
        deleted(database)
        raise ZeroDivisionError


def test_loss_while_the_with_block_waits_for_its_runs(
    database: Path, eventually: Eventually
) -> None:
    """A file that is lost while a clean exit waits for a run is said at the end of the block, and
    the run stops at its next step.
    """
    entered, leave = threading.Event(), threading.Event()
    stopped: list[BaseException] = []

    @durably.job
    def long(step: durably.StepContext) -> None:
        entered.set()
        assert leave.wait(20)
        try:
            step.run("one", int)
        except BaseException as exc:
            stopped.append(exc)
            raise

    app = durably.Durably(database, jobs=[long], heartbeat_interval=0.05, stale_threshold=0.2)

    def lose_it() -> None:
        eventually(entered.is_set)
        moved(database)
        eventually(lambda: app._supervisor.file.lost is not None)
        leave.set()

    loser = threading.Thread(target=lose_it)
    loser.start()
    try:
        with pytest.raises(durably.DatabaseLostError), app:
            app.jobs["long"].trigger()
    finally:
        loser.join()
    assert [type(exc) for exc in stopped] == [durably.RunInterrupted]


def test_waits_end_when_the_file_is_lost(database: Path, eventually: Eventually) -> None:
    """A wait for a run raises DatabaseLostError, and does not last for ever."""
    entered, leave = threading.Event(), threading.Event()

    @durably.job
    def long(step: durably.StepContext) -> None:
        entered.set()
        assert leave.wait(20)

    app = durably.Durably(database, jobs=[long], heartbeat_interval=0.05, stale_threshold=0.2)
    try:
        app.start()
        run = app.jobs["long"].trigger()
        assert entered.wait(20)
        raised: list[BaseException] = []

        def wait(call: Callable[[], object]) -> None:
            try:
                call()
            except BaseException as exc:
                raised.append(exc)

        calls = [lambda: app.wait(run), lambda: list(app.as_completed([run]))]
        waiting = [threading.Thread(target=wait, args=[call]) for call in calls]
        for thread in waiting:
            thread.start()
        deleted(database)
        for thread in waiting:
            thread.join(20)
        assert [type(exc) for exc in raised] == [durably.DatabaseLostError] * 2
        leave.set()
        app.stop()
    finally:
        leave.set()
        app.close()


def test_moved_file_is_whole_where_it_is(database: Path) -> None:
    """What was committed before the file was moved with its log is there when it is opened in
    its new place, and the run that was interrupted goes on.
    """
    entered, leave = threading.Event(), threading.Event()

    @durably.job
    def two(step: durably.StepContext) -> str:
        first = step.run("first", str, "kept")
        entered.set()
        assert leave.wait(20)
        return step.run("second", str.upper, first)

    app = durably.Durably(database, jobs=[two], heartbeat_interval=0.05, stale_threshold=0.2)
    try:
        app.start()
        run = app.jobs["two"].trigger()
        assert entered.wait(20)
        folder_moved(database)
        with pytest.raises(durably.DatabaseLostError):
            app.wait(run, timeout=20)
        leave.set()
        app.stop()
    finally:
        leave.set()
        app.close()
    there = database.parent.with_name("elsewhere") / database.name
    with durably.Durably(there, jobs=[two], heartbeat_interval=0.05, stale_threshold=0.2) as after:
        assert after.wait(run.id, timeout=20).output == "KEPT"
        assert [step.name for step in after.get_steps(run.id)] == ["first", "second"]
    assert check(there, is_finished=True) == []


def test_file_that_was_copied_and_put_back_is_another_one(database: Path) -> None:
    """A copy in the place of the open file is a replacement, though its bytes are the same."""
    app = durably.Durably(database, jobs=[quick])
    copy = database.with_name("copy.db")
    try:
        shutil.copy(database, copy)
        copy.replace(database)
        with pytest.raises(durably.DatabaseLostError):
            app.get_runs()
    finally:
        app.close()


@LOSSES
def test_run_that_is_executed_here_names_the_loss(
    database: Path, lose: Callable[[Path], None]
) -> None:
    """app.run() raises what has happened, and not that the engine was stopped."""

    @durably.job
    def loses(step: durably.StepContext) -> None:
        step.run("lose", lose, database)
        for number in itertools.count():  # until a heartbeat notices it
            step.run(f"step-{number}", int)

    app = durably.Durably(database, heartbeat_interval=0.02)
    # A file that was replaced may also be read before its place is looked at.
    with pytest.raises(durably.DatabaseLostError, match=r"moved, deleted or replaced|overwritten"):
        app.run(loses)
    app.close()


def test_run_that_is_waited_for_here_names_the_loss(database: Path, eventually: Eventually) -> None:
    """app.run() that waits for another engine's run begins nothing in a file that is gone."""
    let_go = threading.Event()

    @durably.job
    def held(step: durably.StepContext) -> None:
        step.run("held", let_go.wait)

    other = durably.Durably(database, jobs=[held], heartbeat_interval=0.02).start()
    other.trigger(held, idempotency_key="k")
    eventually(lambda: other.count_runs(status="running"))
    app = durably.Durably(database, heartbeat_interval=0.02)
    call, _ = in_thread(lambda: app.run(held, key="k"))
    eventually(lambda: app._supervisor._heartbeat.committed)
    deleted(database)
    ended = call.result()
    let_go.set()
    app.close()
    other.close()
    assert isinstance(ended, durably.DatabaseLostError)


@LOSSES
def test_session_names_the_loss(database: Path, lose: Callable[[Path], None]) -> None:
    """Each step raises it, until the session is opened again."""
    step = durably.session("lost", database, heartbeat_interval=0.02)
    with pytest.raises(durably.DatabaseLostError) as caught:
        step.run("lose", lose, database)
        for number in itertools.count():
            step.run(f"step-{number}", int)
    assert caught.value.__context__ is None
    with pytest.raises(durably.DatabaseLostError):
        step.run("more", int)
    step.close()
