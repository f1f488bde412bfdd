"""Closing an engine, the ``with`` block, and what is left to call after that."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import in_thread

import durably
from durably import Durably, EngineClosedError, RunStatus, WaitTimeoutError
from durably._platform.clock import Clock
from durably.store.sqlite.locks.mutex import WriterMutex

if TYPE_CHECKING:
    from collections.abc import Callable

HANG_S = 30  # only guards against hanging


@durably.job
def quick(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


class Parked:
    """A job that waits inside its first step, and counts how often its second is executed."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()
        self.after = 0
        self.job = durably.job("parked")(self.run)

    def run(self, step: durably.StepContext) -> None:
        step.run("park", self._park)
        step.run("after", self._count)

    def _park(self) -> None:
        self.inside.set()
        assert self.go.wait(HANG_S)

    def _count(self) -> None:
        self.after += 1


def reopened(path: Path, run_id: str) -> durably.Run[Any, Any]:
    app = Durably(path)
    try:
        found = app.get_run(run_id)
        assert found is not None
        return found
    finally:
        app.close()


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if ".owner-" in each.name)


class TestClose:
    def test_a_write_that_comes_meanwhile_is_rejected(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        eventually: Callable[[Callable[[], object]], None],
    ) -> None:
        """It is rejected also while another process is writing, for whose end it would wait."""
        path = tmp_path / "x.db"
        app = Durably(path, jobs=[quick])
        writer, mutex = app._store.database._writer, app._store.database._mutexes[0]
        enqueue, leave_note, close = app._store.enqueue, mutex._leave_note, mutex.close
        is_checked, may_write, waits = threading.Event(), threading.Event(), threading.Event()
        other = WriterMutex(str(path), Clock())

        def enqueue_later(*args: Any) -> Any:
            is_checked.set()
            assert may_write.wait(HANG_S)
            return enqueue(*args)

        def say_that_it_waits(*args: Any) -> None:
            leave_note(*args)
            waits.set()

        def close_later() -> None:
            assert other.acquire(HANG_S)
            may_write.set()
            eventually(lambda: writer._queue or waits.is_set())
            close()

        monkeypatch.setattr(app._store, "enqueue", enqueue_later)
        monkeypatch.setattr(mutex, "_leave_note", say_that_it_waits)
        writing, outcome = in_thread(app.jobs["quick"].trigger)
        assert is_checked.wait(HANG_S)
        monkeypatch.setattr(mutex, "close", close_later)
        app.close()
        writing.join(HANG_S)
        other.close()
        assert [type(each) for each in outcome] == [EngineClosedError]

    def test_it_waits_for_the_runs_in_progress(self, tmp_path: Path) -> None:
        """close() stops without an interrupt: the run in progress completes."""
        parked = Parked()
        app = Durably(tmp_path / "x.db", jobs=[parked.job]).init()
        run = app.jobs["parked"].trigger()
        assert parked.inside.wait(HANG_S)
        closing = threading.Thread(target=app.close)
        closing.start()
        parked.go.set()
        closing.join(HANG_S)
        assert not closing.is_alive()
        assert reopened(tmp_path / "x.db", run.id).status is RunStatus.COMPLETED

    @pytest.mark.parametrize("state", ["open", "started", "stopped", "timed out", "closed"])
    def test_it_is_possible_in_every_state_and_idempotent(self, tmp_path: Path, state: str) -> None:
        """close() works on an engine in any state, again and again, and gives its lock up."""
        parked = Parked()
        app = Durably(tmp_path / "x.db", jobs=[parked.job])
        if state != "open":
            app.start()
        if state == "stopped":
            app.stop()
        if state == "timed out":
            app.jobs["parked"].trigger()
            assert parked.inside.wait(HANG_S)
            with pytest.raises(WaitTimeoutError):
                app.stop(timeout=0)
            parked.go.set()
        if state == "closed":
            app.close()
        app.close()
        app.close()
        assert beside(tmp_path / "x.db") == []

    def test_any_later_call_raises(self, tmp_path: Path) -> None:
        """Every public call but close raises EngineClosedError, on the engine and its handles."""
        app = Durably(tmp_path / "x.db", jobs=[quick])
        handle = app.jobs["quick"]
        run = handle.trigger()
        subscription = app.subscribe(run)
        pending = app.as_completed([run])
        app.close()

        class Plugin:
            name = "plugin"

            def install(self, app: Any) -> None:
                pytest.fail("installed into a closed engine")

        calls: list[Any] = [
            app.start, app.init, app.stop, app.__enter__, app.run_until_idle, app.process_one,
            lambda: app.register(quick), lambda: app.jobs, lambda: app.get_job("quick"),
            lambda: app.get_run(run), app.get_runs, app.count_runs, lambda: app.get_steps(run),
            app.runs, lambda: app.steps(run), app.to_dict, app.to_frame,
            lambda: app.get_attempts(run),
            lambda: app.get_logs(run), lambda: app.wait(run), lambda: app.wait(run, timeout=1),
            lambda: list(app.as_completed([run])), lambda: next(pending), lambda: app.retry(run),
            lambda: app.adopt(run), lambda: app.retrigger(run), lambda: app.cancel(run),
            lambda: app.delete_run(run), lambda: app.purge_runs(older_than=1),
            lambda: app.on("*", print), lambda: app.on("run:fail"), lambda: app.on_error(print),
            lambda: app.subscribe(run),
            lambda: app.answer(run, "q", 1), lambda: app.signal("t", 1), app.get_questions,
            lambda: app.use(Plugin()), lambda: app.trigger(quick), lambda: app.trigger("quick"),
            lambda: app.trigger_and_wait(quick), lambda: app.batch_trigger(quick, []),
            lambda: app.run(quick), lambda: app.get_items(run, "s"),
            lambda: app.get_attempts(run), lambda: app.backup(tmp_path / "copy.db"), app.vacuum,
            lambda: app.redo(run), lambda: app.fork(run), lambda: app.plan(run),
            lambda: app.set_step(run, "s", 1), lambda: app.set_item(run, "m", 0, 1),
            handle.trigger, handle.trigger_and_wait,
            lambda: handle.batch_trigger([None]), lambda: handle.batch_trigger([]),
            lambda: handle.get_run(run), handle.get_runs, handle.to_dict, handle.to_frame,
            run.result, run.wait, run.refresh, lambda: run.steps, lambda: run.items("s"),
            lambda: run.logs, lambda: run.attempts, run.timeline, run.cancel, run.retry,
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(EngineClosedError):
                call()
        assert list(subscription) == []
        app.close()

    def test_every_public_method_is_in_that_list(self) -> None:
        """The test above leaves no public method out."""
        methods = {name for name in dir(Durably) if not name.startswith("_")}
        asked = {
            "start", "init", "stop", "run_until_idle", "process_one", "register", "jobs", "get_job",
            "get_run", "get_runs", "count_runs", "get_steps", "get_logs", "wait", "as_completed",
            "adopt", "trigger", "trigger_and_wait", "batch_trigger",
            "retry", "retrigger", "cancel", "delete_run", "purge_runs", "on", "on_error",
            "subscribe", "use", "run", "get_items", "runs", "steps", "to_dict", "to_frame",
            "get_attempts", "backup", "vacuum", "answer", "signal", "get_questions",
            "redo", "fork", "plan", "set_step", "set_item",
        }  # fmt: skip
        internal = {"close"}
        assert methods == asked | internal

    @pytest.mark.parametrize("how", ["wait", "timed wait", "as_completed", "trigger_and_wait"])
    def test_waiting_threads_are_notified(self, tmp_path: Path, how: str) -> None:
        """A wait in another thread ends with EngineClosedError when the engine is closed."""
        # Another started engine has the file open: a wait without a timeout may go on.
        other = Durably(tmp_path / "x.db").init()
        app = Durably(tmp_path / "x.db", jobs=[quick])
        try:
            run = app.jobs["quick"].trigger()
            calls = {
                "wait": lambda: app.wait(run),
                "timed wait": lambda: app.wait(run, timeout=HANG_S),
                "as_completed": lambda: list(app.as_completed([run])),
                "trigger_and_wait": app.jobs["quick"].trigger_and_wait,
            }
            outcome: list[Any] = []
            begun = threading.Event()
            snapshot = app._store.changes.snapshot

            def noted() -> Any:
                begun.set()
                return snapshot()

            app._store.changes.snapshot = noted  # type: ignore[method-assign]  # a point to wait for

            def call() -> None:
                try:
                    outcome.append(calls[how]())
                except BaseException as exc:
                    outcome.append(exc)

            waiting = threading.Thread(target=call)
            waiting.start()
            assert begun.wait(HANG_S)
            app.close()
            waiting.join(HANG_S)
            assert not waiting.is_alive()
            assert len(outcome) == 1
            assert isinstance(outcome[0], EngineClosedError), traceback.format_exception(outcome[0])
        finally:
            app.close()
            other.close()


class TestWith:
    def test_a_clean_exit_waits_for_what_can_be_claimed(self, tmp_path: Path) -> None:
        """More runs than slots, triggered right before the end of the block, all complete."""
        with Durably(tmp_path / "x.db", jobs=[quick], max_workers=2) as app:
            triggered = app.jobs["quick"].batch_trigger([None] * 20)
        for run in triggered:
            assert reopened(tmp_path / "x.db", run.id).output == 7

    def test_runs_that_runs_trigger_are_waited_for(self, tmp_path: Path) -> None:
        """What is claimable by now counts, also if a job triggered it after the block's end."""
        parked = threading.Event()

        @durably.job
        def parent(step):
            assert parked.wait(HANG_S)
            return app.jobs["quick"].trigger().id

        with Durably(tmp_path / "x.db", jobs=[quick, parent]) as app:
            run = app.jobs["parent"].trigger()
            parked.set()
        child = reopened(tmp_path / "x.db", run.id).output
        assert reopened(tmp_path / "x.db", child).status is RunStatus.COMPLETED

    def test_runs_of_unknown_jobs_are_left(self, tmp_path: Path) -> None:
        """A pending run of a job that is not registered here does not hold the exit up."""
        app = Durably(tmp_path / "x.db", jobs=[quick])
        run = app.jobs["quick"].trigger()
        app.close()
        with Durably(tmp_path / "x.db"):
            pass
        assert reopened(tmp_path / "x.db", run.id).status is RunStatus.PENDING

    def test_runs_that_wait_for_a_key_held_elsewhere_are_left(self, tmp_path: Path) -> None:
        """A run whose concurrency key another engine holds is left to that one."""
        parked = Parked()
        with Durably(tmp_path / "x.db", jobs=[parked.job]) as holder:
            try:
                held = holder.jobs["parked"].trigger(concurrency_key="k")
                assert parked.inside.wait(HANG_S)
                with Durably(tmp_path / "x.db", jobs=[quick]) as app:
                    waiting = app.jobs["quick"].trigger(concurrency_key="k")
                assert reopened(tmp_path / "x.db", waiting.id).status is RunStatus.PENDING
                assert reopened(tmp_path / "x.db", held.id).status is RunStatus.RUNNING
            finally:
                parked.go.set()

    @pytest.mark.parametrize("verb", ["stop", "close"])
    def test_left_stopped_or_closed_inside_it_does_not_wait(
        self, tmp_path: Path, verb: str
    ) -> None:
        """A run that is pending when the engine was stopped inside the block stays so."""
        with Durably(tmp_path / "x.db", jobs=[quick]) as app:
            app.stop()
            run = app.jobs["quick"].trigger()
            getattr(app, verb)()
        assert reopened(tmp_path / "x.db", run.id).status is RunStatus.PENDING
        with pytest.raises(EngineClosedError):
            app.get_runs()

    def test_left_with_a_stop_that_timed_out(self, tmp_path: Path) -> None:
        """The run in progress is still waited for; nothing new is claimed."""
        parked = Parked()
        with Durably(tmp_path / "x.db", jobs=[parked.job, quick]) as app:
            going_on = app.jobs["parked"].trigger()
            assert parked.inside.wait(HANG_S)
            with pytest.raises(WaitTimeoutError):
                app.stop(timeout=0)
            late = app.jobs["quick"].trigger()
            parked.go.set()
        assert reopened(tmp_path / "x.db", going_on.id).status is RunStatus.COMPLETED
        assert reopened(tmp_path / "x.db", late.id).status is RunStatus.PENDING

    @pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_an_exception_interrupts_and_closes(self, tmp_path: Path, raised: Any) -> None:
        """On an exception, Ctrl-C too, runs stop at their next boundary and go back to pending."""
        parked = Parked()
        app = Durably(tmp_path / "x.db", jobs=[parked.job, quick], max_workers=1)
        with pytest.raises(raised) as caught, app:
            run = app.jobs["parked"].trigger()
            waiting = app.jobs["quick"].trigger()
            assert parked.inside.wait(HANG_S)
            # Goes on only when the block has been left.
            (active,) = app._supervisor.current_runs()
            stop = active.stop

            def stopped(reason: Any) -> None:
                stop(reason)
                parked.go.set()

            active.stop = stopped  # type: ignore[method-assign]  # a point to wait for
            raise raised("left")
        assert caught.value.args == ("left",)
        assert parked.after == 0
        found = reopened(tmp_path / "x.db", run.id)
        assert (found.status, found.completed_steps) == (RunStatus.PENDING, 1)
        assert reopened(tmp_path / "x.db", waiting.id).status is RunStatus.PENDING
        with pytest.raises(EngineClosedError):
            app.get_runs()

    def test_an_exception_after_close_comes_through(self, tmp_path: Path) -> None:
        """The exception of the block is raised, whatever state the engine is in."""
        for verb in ("stop", "close"):
            with pytest.raises(ValueError, match="mine"), Durably(tmp_path / "x.db") as app:
                getattr(app, verb)()
                raise ValueError("mine")

    def test_a_block_cannot_be_entered_again(self, tmp_path: Path) -> None:
        """The end of the block closes for good."""
        app = Durably(tmp_path / "x.db")
        with app:
            pass
        with pytest.raises(EngineClosedError), app:
            pytest.fail("entered")
