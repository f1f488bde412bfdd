"""Stopping with ``interrupt=True``, and the rejection to stop from inside."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import HANG_S, in_thread, status
from held import HeldJob

import durably
from durably import ConflictError, Durably, WaitTimeoutError
from durably.store.sqlite.sql import claims, settle
from durably.worker.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def app(tmp_path: Path, held: HeldJob) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[held.job])
    yield app
    held.let_all_go()
    app.close()


class TestInterrupt:
    def test_the_run_stops_after_its_step_and_keeps_its_checkpoint(
        self, app: Durably, held: HeldJob, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        """The step in progress finishes and is stored; the job stops right after it."""
        app.start()
        run = app.jobs["held"].trigger()
        held.inside()
        thread, outcome = in_thread(lambda: app.stop(interrupt=True))
        eventually(lambda: not app._supervisor.state.takes_runs)
        held.let_all_go()
        thread.join(HANG_S)

        assert outcome == [None]
        assert status(app, run) == "pending"
        assert [(each.name, each.status) for each in app.get_steps(run)] == [
            ("first", "completed"),
            ("second", "completed"),
        ]
        assert held.calls == ["first", "second"]

    def test_a_job_whose_threads_were_stopped_goes_back(
        self, app: Durably, held: HeldJob, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        """A group of nothing but ``StopRun``, as a task group raises it, is a stop as well."""

        @durably.job
        def grouped(step):
            try:
                held.job.run(step)
            except durably.StopRun as exc:
                raise BaseExceptionGroup("of threads", [exc]) from None

        run = app.register(grouped).trigger()
        app.start()
        held.inside()
        thread, outcome = in_thread(lambda: app.stop(interrupt=True))
        eventually(lambda: not app._supervisor.state.takes_runs)
        held.let_all_go()
        thread.join(HANG_S)

        assert outcome == [None]
        assert status(app, run) == "pending"

    def test_the_next_start_continues_at_once(
        self, app: Durably, held: HeldJob, tmp_path: Path
    ) -> None:
        """Another engine, whose threshold is long, goes on from the next step."""
        app.start()
        run = app.jobs["held"].trigger(7)
        held.inside()
        with pytest.raises(WaitTimeoutError):
            app.stop(interrupt=True, timeout=0)
        held.let_all_go()
        app.stop(interrupt=True)
        with Durably(tmp_path / "x.db", jobs=[held.job], stale_threshold=9999) as other:
            ended = other.wait(run.id, timeout=HANG_S)

        assert (ended.output, ended.attempt) == (7, 1)
        assert held.calls == ["first", "second", "third"]

    def test_a_sleeping_job_wakes_up(self, app: Durably) -> None:
        """step.sleep is a step boundary."""
        inside = threading.Event()

        @durably.job
        def sleeper(step):
            inside.set()
            step.sleep(1000)

        run = app.register(sleeper).trigger()
        app.start()
        assert inside.wait(HANG_S)
        app.stop(interrupt=True)
        assert status(app, run) == "pending"

    def test_a_job_that_reaches_its_end_has_ended(self, app: Durably) -> None:
        """Between two boundaries nobody stops a job: one without any is completed."""
        inside, go = threading.Event(), threading.Event()

        @durably.job
        def stepless(step):
            inside.set()
            assert go.wait(HANG_S)
            return "done"

        run = app.register(stepless).trigger()
        app.start()
        assert inside.wait(HANG_S)
        thread, _ = in_thread(lambda: app.stop(interrupt=True))
        go.set()
        thread.join(HANG_S)
        assert status(app, run) == "completed"

    @pytest.mark.parametrize("point", ["claimed by the dispatcher", "claimed at an end"])
    def test_a_run_that_is_being_claimed_is_interrupted_too(
        self,
        app: Durably,
        monkeypatch: pytest.MonkeyPatch,
        eventually: Callable[[Callable[[], object]], None],
        point: str,
    ) -> None:
        """A run that is claimed while stop(interrupt=True) begins does not run to its end."""
        claimed, go = threading.Event(), threading.Event()
        write = app._store.database.write
        steps: list[str] = []

        @durably.job
        def long(step, payload):
            if payload == "long":
                step.run("never", steps.append, "never")
                pytest.fail("was not stopped")

        def slow(operation: Any, *args: Any, **kwargs: Any) -> Any:
            result = write(operation, *args, **kwargs)
            is_point = (
                operation is claims.claim and result
                if point == "claimed by the dispatcher"
                else operation is settle.settle_and_claim and result.claimed
            )
            if is_point:
                claimed.set()
                assert go.wait(HANG_S)
            return result

        handle = app.register(long)
        if point == "claimed at an end":
            handle.trigger("short")
        run = handle.trigger("long")
        one = Durably(app._store.database.path, jobs=[long], max_workers=1)
        try:
            write = one._store.database.write
            monkeypatch.setattr(one._store.database, "write", slow)
            one.start()
            assert claimed.wait(HANG_S)
            thread, outcome = in_thread(lambda: one.stop(interrupt=True))
            eventually(lambda: one._supervisor.state.now is State.DRAINING)
            go.set()
            thread.join(HANG_S)
            assert outcome == [None]
            assert status(app, run) == "pending"
            assert steps == []
        finally:
            go.set()
            one.close()


class TestFromInside:
    @pytest.mark.parametrize("verb", ["stop", "close", "run_until_idle"])
    def test_a_job_cannot_wait_for_itself(self, app: Durably, verb: str) -> None:
        """stop, close and run_until_idle inside a job raise ConflictError; the engine goes on."""
        raised = []

        @durably.job
        def inside(step):
            call = getattr(app, verb)
            with pytest.raises(ConflictError) as caught:
                call()
            raised.append(caught.value)
            with pytest.raises(ConflictError) as caught:
                step.run("inside a step", call)
            raised.append(caught.value)

        app.register(inside)
        app.start()
        assert app.jobs["inside"].trigger_and_wait(timeout=HANG_S).status == "completed"
        assert len(raised) == 2
        assert app.jobs["inside"].trigger_and_wait(timeout=HANG_S).status == "completed"

    def test_a_job_cannot_leave_the_block_of_its_engine(self, app: Durably) -> None:
        """The end of a with block stops the engine, and inside a job of it is a conflict too."""

        @durably.job
        def inside(step):
            with pytest.raises(ConflictError, match="wait for itself"), app:
                pass

        app.register(inside)
        app.start()
        assert app.jobs["inside"].trigger_and_wait(timeout=HANG_S).status == "completed"
        assert app.jobs["inside"].trigger_and_wait(timeout=HANG_S).status == "completed"

    @pytest.mark.parametrize("verb", ["stop", "close"])
    def test_a_listener_cannot_wait_for_itself(
        self, app: Durably, held: HeldJob, verb: str
    ) -> None:
        """stop and close inside a listener raise ConflictError, in whatever thread it is called."""
        held.let_all_go()
        raised: dict[str, BaseException] = {}

        @app.on("*")
        def listener(event):
            try:
                getattr(app, verb)()
            except ConflictError as exc:
                raised[event.type] = exc

        app.start()
        app.jobs["held"].trigger_and_wait(timeout=HANG_S)
        app.stop()
        assert {"run:trigger", "run:start", "step:complete", "run:complete"} <= raised.keys()

    def test_another_engine_may_be_stopped_inside_a_job(self, app: Durably, tmp_path: Path) -> None:
        """The rejection is about the engine that executes the job, not about all."""

        @durably.job
        def outer(step):
            with Durably(tmp_path / "inner.db", jobs=[durably.job("i")(lambda step: 7)]) as inner:
                return inner.jobs["i"].trigger_and_wait(timeout=HANG_S).output

        app.register(outer)
        app.start()
        assert app.jobs["outer"].trigger_and_wait(timeout=HANG_S).output == 7
