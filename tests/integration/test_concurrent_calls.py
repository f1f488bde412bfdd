"""Calls of the engine that land between two parts of another one, or of a run's execution."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from calls import HANG_S, in_thread, later, names_of_threads, operation_later, status
from children import left_by_the_dead
from held import HeldJob

import durably
from durably import Durably
from durably.execution import emitter
from durably.store.outcome import Lost
from durably.store.sqlite.sql import claims, owners, settle
from durably.worker.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@durably.job("quick", origin="any")
def quick(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


@pytest.fixture
def app(tmp_path: Path, held: HeldJob) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[held.job, quick], max_workers=2)
    yield app
    held.let_all_go()
    app.close()


class TestStartingAndStopping:
    def test_a_start_that_overtakes_the_stop_of_an_engine_that_was_not_started(
        self, app: Durably, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Either call may count as the last, and the engine is what that one leaves."""
        stops, may_stop = later(monkeypatch, app._supervisor._claimer, "drain")
        stopping, outcome = in_thread(app.stop)
        assert stops.wait(HANG_S)
        app.start()
        may_stop.set()
        stopping.join(HANG_S)
        assert outcome == [None]
        assert app._supervisor.state.takes_runs or names_of_threads() == []

    def test_a_start_that_overtakes_the_stop_of_a_busy_engine(
        self, app: Durably, held: HeldJob, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        """The stop interrupts what has begun since as well: it does not wait without end."""
        is_over = threading.Event()

        @durably.job("endless")
        def endless(step: durably.StepContext) -> None:
            number = 0
            while not is_over.is_set():
                step.run(f"step-{number}", is_over.wait, 0.01)
                number += 1

        app.register(endless)
        app.start()
        app.jobs["held"].trigger()
        held.inside()
        stopping, outcome = in_thread(lambda: app.stop(interrupt=True))
        eventually(lambda: app._supervisor.state.now is State.DRAINING)
        app.start()
        run = app.jobs["endless"].trigger()
        held.let_all_go()
        stopping.join(HANG_S)
        is_over.set()
        assert outcome == [None]
        assert status(app, run) == "pending"

    def test_a_listener_that_starts_the_engine_that_is_being_started(self, app: Durably) -> None:
        """It hears of what was recovered; the engine is started once, and can be closed."""
        left_by_the_dead(app._store.database.path, "quick")
        app.on("run:recover", lambda event: app.start())
        app.start()
        app.stop()
        assert names_of_threads() == []
        assert app._supervisor.lifecycle._leases == {}

    def test_a_listener_that_blocks_what_is_being_started(self, app: Durably) -> None:
        """It holds up no other call."""
        left_by_the_dead(app._store.database.path, "quick")
        inside, may_leave = threading.Event(), threading.Event()

        def block(event: Any) -> None:
            inside.set()
            assert may_leave.wait(HANG_S)

        app.on("run:recover", block)
        starting, outcome = in_thread(app.start)
        assert inside.wait(HANG_S)
        app.stop(timeout=0)
        assert app.process_one()
        may_leave.set()
        starting.join(HANG_S)
        assert outcome == [app]


def test_a_run_that_was_triggered_during_its_claim_has_begun_after_that(
    app: Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim takes what is pending when it comes to it, and the time of then."""
    inside, may_go_on = operation_later(monkeypatch, app, "write", claims.claim)
    app.jobs["quick"].trigger()
    app.start()
    assert inside.wait(HANG_S)
    late = app.jobs["quick"].trigger()
    may_go_on.set()
    ended = app.wait(late, timeout=HANG_S)
    assert ended.created_at <= ended.started_at <= ended.completed_at


def test_a_run_that_has_begun_during_a_heartbeat_was_alive_after_that(
    app: Durably,
    held: HeldJob,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    """The heartbeat marks what is running when it comes to it, with the time of then."""
    inside, may_go_on = operation_later(monkeypatch, app, "beat", owners.beat)
    app.start()
    assert inside.wait(HANG_S)
    run = app.jobs["held"].trigger()
    held.inside()
    may_go_on.set()
    eventually(lambda: app._supervisor._heartbeat.committed)
    found = app.get_run(run)
    assert found.started_at <= found.heartbeat_at


class TestProcessOneInListeners:
    def test_of_the_reaper_while_the_engine_stops(
        self, app: Durably, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The stop waits for it, and nothing is left."""
        supervisor = app._supervisor
        can_claim = supervisor._claimer.can_claim
        inside = threading.Event()

        def look_later() -> bool:
            if supervisor._reaper.is_current_thread:
                inside.set()
                assert supervisor._reaper._stopping.wait(HANG_S)
            return can_claim()

        app.on("run:recover", lambda event: app.process_one())
        app.start()
        monkeypatch.setattr(supervisor._claimer, "can_claim", look_later)
        left_by_the_dead(app._store.database.path, "unknown")
        assert inside.wait(HANG_S)
        app.stop()
        assert (names_of_threads(), supervisor.lifecycle._leases) == ([], {})

    def test_of_the_flusher_after_the_last_other_call(
        self, app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is waited for by the call that ends the flusher."""
        supervisor = app._supervisor
        raised: list[Any] = []
        app.on_error(lambda exc, event: raised.append(exc))
        can_claim = supervisor._claimer.can_claim
        inside = threading.Event()

        def look_later() -> bool:
            if supervisor.flusher.is_current_thread:
                inside.set()
                assert supervisor.flusher._stopping.wait(HANG_S)
            return can_claim()

        app.on("worker:error", lambda event: app.process_one())
        app.jobs["held"].trigger()
        calling, outcome = in_thread(app.process_one)
        held.inside()
        monkeypatch.setattr(supervisor._claimer, "can_claim", look_later)
        supervisor._on_heartbeat_error(ValueError("noticed"), "heartbeat")
        assert inside.wait(HANG_S)
        held.let_all_go()
        calling.join(HANG_S)
        assert (outcome, raised, names_of_threads()) == ([True], [], [])


class TestCallsThatExecute:
    @pytest.mark.parametrize("call", ["process_one", "run_until_idle"])
    def test_each_recovers_what_the_dead_left(self, app: Durably, held: HeldJob, call: str) -> None:
        """Every call recovers, and not only the first one."""
        app.jobs["held"].trigger()
        first, _ = in_thread(app.process_one)
        held.inside()
        left_by_the_dead(app._store.database.path, "quick")
        second, outcome = in_thread(getattr(app, call))
        if call == "run_until_idle":
            held.let_all_go()  # it waits for all that is executed here
        second.join(HANG_S)
        held.let_all_go()
        first.join(HANG_S)
        assert [int(each) for each in outcome] == [1]

    @pytest.mark.parametrize("most", [(1, None), (None, 1), (1, 2)])
    def test_a_second_call_raises_where_one_of_the_two_counts_its_runs(
        self, app: Durably, held: HeldJob, most: tuple[int | None, int | None]
    ) -> None:
        """The first call executes as many as without the second, which may be made again later."""
        app.jobs["held"].trigger()
        calling, outcome = in_thread(lambda: app.run_until_idle(max_runs=most[0]))
        held.inside()
        app.jobs["quick"].batch_trigger([None] * 5)
        with pytest.raises(durably.ConflictError, match="max_runs"):
            app.run_until_idle(max_runs=most[1])
        held.let_all_go()
        calling.join(HANG_S)
        expected = 6 if most[0] is None else most[0]
        assert outcome == [expected]
        assert app.run_until_idle() == 6 - expected

    def test_a_job_may_wait_for_a_run_that_the_same_call_executes(self, app: Durably) -> None:
        """The engine was not started, and yet something executes the run."""

        @durably.job("parent")
        def parent(step: durably.StepContext) -> Any:
            return app.jobs["quick"].trigger_and_wait().output

        app.register(parent)
        run = app.jobs["parent"].trigger()
        assert app.run_until_idle() == 2
        assert status(app, run) == "completed"

    def test_a_job_may_not_wait_for_a_run_beyond_the_last_that_is_counted(
        self, app: Durably
    ) -> None:
        """Nothing would execute it."""

        @durably.job("parent")
        def parent(step: durably.StepContext) -> Any:
            return app.jobs["quick"].trigger_and_wait().output

        app.register(parent)
        run = app.jobs["parent"].trigger()
        assert app.run_until_idle(max_runs=1, raise_failed=False) == 1
        found = app.get_run(run)
        assert found is not None
        assert found.error is not None
        assert found.error.type == "durably.NoWorkerError"

    def test_process_one_is_not_counted_for_another_call(self, app: Durably, held: HeldJob) -> None:
        """A call executes its own number of runs beside it."""
        app.jobs["held"].trigger()
        app.jobs["quick"].batch_trigger([None] * 4)
        calling, outcome = in_thread(lambda: app.run_until_idle(max_runs=2))
        held.inside()
        assert app.process_one()
        held.let_all_go()
        calling.join(HANG_S)
        assert outcome == [2]
        assert app.count_runs(status="completed") == 3

    def test_one_that_recovers_while_the_engine_is_closed(self, app: Durably) -> None:
        """It claims nothing any more."""
        left_by_the_dead(app._store.database.path, "quick")
        inside, may_leave = threading.Event(), threading.Event()

        def block(event: Any) -> None:
            inside.set()
            assert may_leave.wait(HANG_S)

        app.on("run:recover", block)
        calling, outcome = in_thread(app.run_until_idle)
        assert inside.wait(HANG_S)
        app._supervisor.stop(interrupt=False, timeout_s=None)
        may_leave.set()
        calling.join(HANG_S)
        assert outcome == [0]
        assert app.count_runs(status="pending") == 1


class TestJobsThatWaitForRuns:
    @pytest.fixture
    def waiting(self, app: Durably) -> durably.Run[Any, Any]:
        """A job that waits for another one, in a step."""

        @durably.job("parent")
        def parent(step: durably.StepContext) -> Any:
            child = step.run("child", lambda: app.jobs["held"].trigger("child's").id)
            return step.run("wait", lambda: app.wait(child).output)

        app.register(parent)
        return app.jobs["parent"].trigger()

    def test_a_stop_that_interrupts_puts_them_back(
        self, app: Durably, held: HeldJob, waiting: durably.Run[Any, Any]
    ) -> None:
        """Waiting is a step boundary; the run goes on with it after the next start."""
        app.start()
        held.inside()
        stopping, outcome = in_thread(lambda: app.stop(interrupt=True))
        held.let_all_go()
        stopping.join(HANG_S)
        assert outcome == [None]
        assert status(app, waiting) in ("pending", "completed")
        app.start()
        assert app.wait(waiting, timeout=HANG_S).output == "child's"

    @pytest.mark.parametrize("how", ["itself", "in a thread"])
    def test_a_stop_puts_back_who_waits_for_what_is_not_begun_any_more(
        self, app: Durably, eventually: Callable[[Callable[[], object]], None], how: str
    ) -> None:
        """It neither fails nor holds up the stop."""
        is_begun = threading.Event()

        def output(child: str) -> Any:
            if how == "itself":
                return app.wait(child).output
            with ThreadPoolExecutor(1) as threads:
                return threads.submit(app.wait, child).result().output

        @durably.job("late")
        def late(step: durably.StepContext) -> Any:
            is_begun.set()
            eventually(lambda: app._supervisor.state.now is State.DRAINING)
            child = step.run("child", lambda: app.jobs["quick"].trigger().id)
            return step.run("wait", output, child)

        app.register(late)
        app.start()
        run = app.jobs["late"].trigger()
        assert is_begun.wait(HANG_S)
        app.stop()
        assert status(app, run) == "pending"

    def test_a_cancel_reaches_them(
        self,
        app: Durably,
        held: HeldJob,
        waiting: durably.Run[Any, Any],
        eventually: Callable[[Callable[[], object]], None],
    ) -> None:
        """The job leaves its thread, whatever the run that it waits for does."""
        app.start()
        held.inside()
        app.cancel(waiting)
        eventually(lambda: waiting.id not in [each.id for each in app._supervisor.current_runs()])
        assert held.calls == ["first"]
        assert status(app, waiting) == "cancelled"

    @pytest.mark.parametrize("how", ["subscribes", "has a thread wait"])
    def test_a_stop_that_interrupts_puts_back_one_that(
        self, app: Durably, held: HeldJob, how: str
    ) -> None:
        """Whatever it waits with."""

        def subscribe(run_id: str) -> list[str]:
            return [event.type for event in app.subscribe(run_id)]

        def wait_in_a_thread(run_id: str) -> str:
            with ThreadPoolExecutor(1) as threads:
                return threads.submit(app.wait, run_id).result().status

        wait = subscribe if how == "subscribes" else wait_in_a_thread

        @durably.job("follows")
        def follows(step: durably.StepContext) -> Any:
            child = step.run("child", lambda: app.jobs["held"].trigger().id)
            return wait(child)

        app.register(follows)
        app.start()
        run = app.jobs["follows"].trigger()
        held.inside()
        stopping, outcome = in_thread(lambda: app.stop(interrupt=True))
        held.let_all_go()
        stopping.join(HANG_S)
        assert outcome == [None]
        assert status(app, run) in ("pending", "completed")


class TestCancelling:
    def test_one_that_comes_late_does_not_stop_a_later_attempt(
        self, app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run was retried, and is executed, before the cancel had reached this engine."""
        run = app.jobs["held"].trigger()
        tells, may_tell = later(monkeypatch, app._supervisor.local, "stop_run")
        cancelling, outcome = in_thread(lambda: app.cancel(run))
        assert tells.wait(HANG_S)
        app.retry(run)
        app.start()
        held.inside()
        may_tell.set()
        cancelling.join(HANG_S)
        held.let_all_go()
        assert outcome == [None]
        assert app.wait(run, timeout=HANG_S).attempt == 1
        assert held.calls == ["first", "second", "third"]

    def test_one_between_a_claim_and_the_beginning(
        self, app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run never begins."""
        heard: list[str] = []
        app.on("*", lambda event: heard.append(event.type))
        enters, may_enter = later(monkeypatch, app._supervisor._claimer, "enter")
        run = app.jobs["held"].trigger()
        app.start()
        assert enters.wait(HANG_S)
        app.cancel(run)
        may_enter.set()
        app.stop()
        assert heard == ["run:trigger", "run:cancel"]
        assert held.calls == []

    def test_a_release_that_fails_is_made_up_for(
        self, app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The concurrency key is free as soon as the database can be written again."""
        app.start()
        run = app.jobs["held"].trigger(concurrency_key="k")
        held.inside()
        app.cancel(run)
        write = app._store.database.write
        failed: list[Any] = []

        def fail_twice(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if operation is settle.settle and isinstance(args[2], Lost) and len(failed) < 2:
                failed.append(args)
                raise durably.DatabaseError("locked for too long", is_transient=True)
            return write(operation, *args, **kwargs)

        monkeypatch.setattr(app._store.database, "write", fail_twice)
        held.let_all_go()
        after = app.jobs["quick"].trigger(concurrency_key="k")
        assert app.wait(after, timeout=HANG_S).output == 7
        assert len(failed) == 2


class TestListeners:
    def test_one_of_progress_may_wait_for_its_run(self, tmp_path: Path) -> None:
        """The end is stored before the event of it waits for the listener."""
        listens = threading.Event()
        heard: list[str] = []

        @durably.job("talks")
        def talks(step: durably.StepContext) -> int:
            step.progress(1)
            assert listens.wait(HANG_S)
            return 1

        with Durably(tmp_path / "x.db", jobs=[talks]) as app:

            def wait(event: Any) -> None:
                listens.set()
                heard.append(app.wait(event.run_id, timeout=HANG_S).status)
                heard.append(event.type)

            app.on("run:progress", wait)
            app.on("run:complete", lambda event: heard.append(event.type))
            app.jobs["talks"].trigger()
        assert heard == ["completed", "run:progress", "run:complete"]

    def test_one_of_an_end_may_wait_for_the_progress_of_another_run(self, tmp_path: Path) -> None:
        """The run that has ended had reported some that was not stored yet."""
        is_told, has_ended = threading.Event(), threading.Event()

        @durably.job("short")
        def short(step: durably.StepContext) -> None:
            step.progress(1)

        @durably.job("long")
        def long(step: durably.StepContext) -> None:
            assert has_ended.wait(HANG_S)
            step.progress(1)
            assert is_told.wait(HANG_S)

        def hear_end(event: Any) -> None:
            if event.job_name == "short":
                has_ended.set()
                assert is_told.wait(HANG_S)

        def hear_progress(event: Any) -> None:
            if event.job_name == "long":
                is_told.set()

        with Durably(tmp_path / "y.db", jobs=[short, long]) as app:
            app.on("run:complete", hear_end)
            app.on("run:progress", hear_progress)
            runs = [app.jobs[name].trigger() for name in ("long", "short")]
        with Durably(tmp_path / "y.db") as app:
            assert [status(app, run) for run in runs] == ["completed"] * 2

    def test_the_last_errors_are_reported(self, app: Durably) -> None:
        """What the heartbeat met with right before the stop, too."""
        heard: list[str] = []
        app.on("worker:error", lambda event: heard.append(event.error.message))
        app.start()
        for number in range(20):
            app._supervisor._on_heartbeat_error(ValueError(str(number)), "heartbeat")
        app.stop()
        assert heard == [str(number) for number in range(20)]

    def test_a_block_that_another_thread_closes_while_it_ends(
        self, app: Durably, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends like one that was closed within."""
        claimer = app._supervisor._claimer
        claim = claimer._claim

        def close_after(limit: int) -> Any:
            result = claim(limit)
            if threading.current_thread() is threading.main_thread():
                monkeypatch.setattr(claimer, "_claim", claim)
                closing, outcome = in_thread(app.close)
                closing.join(HANG_S)
                assert outcome == [None]
            return result

        with app:
            monkeypatch.setattr(claimer, "_claim", close_after)

    def test_a_trigger_is_reported_before_the_start(
        self, tmp_path: Path, held: HeldJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where a slot gets free between its commit and its event."""
        heard: list[str] = []
        with Durably(tmp_path / "y.db", jobs=[held.job, quick], max_workers=1) as app:
            app.jobs["held"].trigger()
            held.inside()
            triggering = app.jobs["quick"]._submitter
            tell = triggering.emit

            def tell_after_a_slot_is_free(*args: Any) -> Any:
                held.let_all_go()
                app.wait(first, timeout=HANG_S)
                return tell(*args)

            [first] = app.get_runs()
            app.on("run:trigger", lambda event: heard.append(event.type))
            app.on("run:start", lambda event: heard.append(event.type))
            monkeypatch.setattr(triggering, "emit", tell_after_a_slot_is_free)
            monkeypatch.setattr(emitter, "LISTENER_POLLS", 1_000_000)
            app.jobs["quick"].trigger()
        assert heard == ["run:trigger", "run:start"]
