"""Starting and stopping an engine, in every order, with and without a timeout."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import HANG_S, in_thread, names_of_threads, status
from held import HeldJob

import durably
from durably import Durably, RunStatus, WaitTimeoutError
from durably.store.sqlite.sql import owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def app(tmp_path: Path, held: HeldJob) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[held.job])
    yield app
    held.let_all_go()
    app.close()


class TestStart:
    def test_an_engine_that_was_not_started_executes_nothing(
        self, app: Durably, held: HeldJob
    ) -> None:
        """Opening starts no thread; a trigger is stored and stays pending."""
        run = app.jobs["held"].trigger()
        assert names_of_threads() == []
        assert status(app, run) == "pending"

    def test_start_begins_the_threads(self, app: Durably) -> None:
        """Dispatcher, heartbeat and reaper run when start() has returned, each under its name."""
        app.start()
        expected = {"durably-dispatcher", "durably-heartbeat", "durably-reaper"}
        assert expected <= {*names_of_threads()}

    def test_start_is_idempotent(self, app: Durably) -> None:
        """A second start() changes nothing."""
        app.start()
        before = {each.ident for each in threading.enumerate()}
        app.start()
        app.init()
        assert {each.ident for each in threading.enumerate()} == before

    def test_init_starts_and_returns_the_engine(self, app: Durably, held: HeldJob) -> None:
        """app.start() returns app, and app.init() is the same."""
        assert app.start() is app
        held.let_all_go()
        assert app.init() is app
        assert app.jobs["held"].trigger_and_wait(7, timeout=HANG_S).output == 7

    def test_what_was_triggered_before_is_executed(self, app: Durably, held: HeldJob) -> None:
        """Runs that were pending when the engine started are claimed."""
        held.let_all_go()
        triggered = app.jobs["held"].trigger()
        app.start()
        assert app.wait(triggered, timeout=HANG_S).status is RunStatus.COMPLETED

    def test_a_start_that_fails_can_be_repeated(
        self, app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a start() that the database rejected the engine is stopped, and starts again."""
        held.let_all_go()
        write = app._store.database.write
        for refused in (owners.register, owners.set_started):

            def refuse(operation: Any, *args: Any, refused: Any = refused, **kwargs: Any) -> Any:
                if operation is refused:
                    raise durably.DatabaseError("locked for too long", is_transient=True)
                return write(operation, *args, **kwargs)

            monkeypatch.setattr(app._store.database, "write", refuse)
            with pytest.raises(durably.DatabaseError, match="locked for too long"):
                app.start()
            assert names_of_threads() == []
            monkeypatch.undo()

        app.start()
        assert app.jobs["held"].trigger_and_wait(timeout=HANG_S).status is RunStatus.COMPLETED


class TestStop:
    def test_stop_waits_for_the_runs_in_progress(self, app: Durably, held: HeldJob) -> None:
        """stop() returns when they have ended, and then no thread is left."""
        app.start()
        run = app.jobs["held"].trigger()
        held.inside()
        thread, outcome = in_thread(app.stop)
        held.let_all_go()
        thread.join(HANG_S)

        assert outcome == [None]
        assert names_of_threads() == []
        assert status(app, run) == "completed"

    def test_nothing_new_is_claimed_meanwhile(
        self, app: Durably, held: HeldJob, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        """A run that is triggered while stop() waits stays pending, although slots are free."""
        app.start()
        app.jobs["held"].trigger()
        held.inside()
        thread, outcome = in_thread(app.stop)
        eventually(lambda: not app._supervisor.state.takes_runs)
        late = app.jobs["held"].trigger()
        held.let_all_go()
        thread.join(HANG_S)

        assert outcome == [None]
        found = app.get_run(late)
        assert found is not None
        assert (found.status, found.attempt) == ("pending", 0)

    def test_stop_is_idempotent_and_needs_no_start(self, app: Durably) -> None:
        """Stopping twice, and before a start, is fine, with every option."""
        app.stop()
        app.stop(interrupt=True, timeout=0)
        app.start()
        app.stop()
        app.stop(timeout=timedelta(seconds=1))
        assert names_of_threads() == []

    def test_the_engine_can_be_started_again(self, app: Durably, held: HeldJob) -> None:
        """After stop() the engine is usable, and start() makes it execute again."""
        held.let_all_go()
        for _ in range(3):
            app.start()
            assert app.jobs["held"].trigger_and_wait(timeout=HANG_S).status == "completed"
            app.stop()
        assert app.count_runs(status="completed") == 3

    def test_several_stops_at_once_all_return_when_it_is_stopped(
        self, app: Durably, held: HeldJob
    ) -> None:
        """Each of several threads that stop waits for the same end."""
        app.start()
        app.jobs["held"].trigger()
        held.inside()
        stops = [in_thread(app.stop) for _ in range(3)]
        held.let_all_go()
        for thread, outcome in stops:
            thread.join(HANG_S)
            assert outcome == [None]
        assert names_of_threads() == []

    def test_a_database_that_cannot_be_written_keeps_nobody_from_stopping(
        self, app: Durably, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """stop() and close() end threads and connections also while the disk is full."""
        app.start()

        def refuse(*_: Any, **__: Any) -> Any:
            raise durably.DatabaseError("the disk is full", is_transient=True)

        monkeypatch.setattr(app._store.database, "write", refuse)
        app.stop()
        assert names_of_threads() == []
        app.close()
        assert app._store.database.is_closed

    @pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")], ids=repr)
    def test_a_bad_timeout_is_rejected_and_stops_nothing(self, app: Durably, timeout: Any) -> None:
        """The engine is still started after a ValidationError."""
        app.start()
        with pytest.raises(durably.ValidationError, match="timeout"):
            app.stop(timeout=timeout)
        assert "durably-dispatcher" in names_of_threads()


class TestTimeout:
    def test_when_it_expires_the_runs_go_on(self, app: Durably, held: HeldJob) -> None:
        """stop(timeout=...) raises WaitTimeoutError; the run in progress completes."""
        app.start()
        run = app.jobs["held"].trigger()
        held.inside()
        for timeout in (0, 0.01, timedelta(milliseconds=1)):
            with pytest.raises(WaitTimeoutError):
                app.stop(timeout=timeout)
        assert status(app, run) == "running"
        held.let_all_go()
        assert app.wait(run, timeout=HANG_S).status is RunStatus.COMPLETED

    def test_nothing_new_is_claimed_until_start(self, app: Durably, held: HeldJob) -> None:
        """After the timeout even a run with a free slot waits for the next start()."""
        app.start()
        first = app.jobs["held"].trigger()
        held.inside()
        with pytest.raises(WaitTimeoutError):
            app.stop(timeout=0)
        second = app.jobs["held"].trigger()
        held.let_all_go()
        app.wait(first, timeout=HANG_S)
        with pytest.raises(WaitTimeoutError):
            app.wait(second, timeout=0.1)
        assert status(app, second) == "pending"

        app.start()
        assert app.wait(second, timeout=HANG_S).status is RunStatus.COMPLETED

    def test_a_later_stop_finishes_it(self, app: Durably, held: HeldJob) -> None:
        """stop() after a stop that timed out waits again, and ends the threads."""
        app.start()
        app.jobs["held"].trigger()
        held.inside()
        with pytest.raises(WaitTimeoutError):
            app.stop(timeout=0)
        held.let_all_go()
        app.stop()
        assert names_of_threads() == []

    def test_an_interrupt_that_timed_out_still_holds(self, app: Durably, held: HeldJob) -> None:
        """The step in progress finishes; then the run goes back, although nobody waits."""
        app.start()
        run = app.jobs["held"].trigger()
        held.inside()
        with pytest.raises(WaitTimeoutError):
            app.stop(interrupt=True, timeout=0)
        held.let_all_go()
        app.stop()
        assert status(app, run) == "pending"
        assert held.calls == ["first", "second"]
