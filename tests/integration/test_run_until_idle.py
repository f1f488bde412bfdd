"""run_until_idle and process_one: executing without start(), for cron and debuggers."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import names_of_threads
from children import left_by_the_dead
from interrupting import press_in_a_wait

import durably
from durably import Durably, RunStatus, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_S = 30  # only guards against hanging


@durably.job("two-steps", origin="any")
def two_steps(step: durably.StepContext) -> list[int]:
    return [step.run("first", os.getpid), step.run("second", os.getpid)]


@durably.job("square")
def square(step: durably.StepContext, payload: int) -> int:
    return payload * payload


@durably.job("fails")
def fails(step: durably.StepContext) -> None:
    raise ValueError("always")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[two_steps, square, fails], max_workers=3)
    yield app
    app.close()


def found_running(app: Durably) -> durably.Run[Any, Any]:
    run = app.get_run(left_by_the_dead(app._store.database.path, "two-steps"))
    assert run is not None
    assert (run.status, run.completed_steps) == ("running", 1)
    return run


class TestRunUntilIdle:
    def test_it_executes_all_and_says_how_many(self, app: Durably) -> None:
        """More runs than slots are executed, failures count, and no thread is left."""
        triggered = app.jobs["square"].batch_trigger(list(range(10)))
        app.jobs["fails"].trigger()

        assert app.run_until_idle(raise_failed=False) == 11
        assert [app.get_run(run).output for run in triggered] == [n * n for n in range(10)]
        assert app.count_runs(status="failed") == 1
        assert names_of_threads() == []

    def test_with_nothing_to_do_it_returns_zero(self, app: Durably) -> None:
        """It does so again and again."""
        assert [app.run_until_idle() for _ in range(3)] == [0, 0, 0]

    def test_an_engine_without_jobs_executes_nothing(self, tmp_path: Path, app: Durably) -> None:
        """Runs of jobs that are not registered stay pending."""
        app.jobs["square"].trigger(2)
        other = Durably(tmp_path / "x.db")
        try:
            assert other.run_until_idle() == 0
            assert other.process_one() is False
        finally:
            other.close()
        assert app.count_runs(status="pending") == 1

    @pytest.mark.parametrize("most", [0, 1, 2, 5, 7, 8])
    def test_max_runs_bounds_it(self, app: Durably, most: int) -> None:
        """At most so many runs are executed, the first triggered; the rest stays pending."""
        triggered = app.jobs["square"].batch_trigger(list(range(7)))
        assert app.run_until_idle(max_runs=most) == min(most, 7)
        done = [app.get_run(run).status == "completed" for run in triggered]
        assert done == [number < most for number in range(7)]
        assert app.run_until_idle() == max(0, 7 - most)

    def test_what_its_runs_trigger_is_executed_too(self, app: Durably) -> None:
        """Until none can be claimed: runs triggered meanwhile count."""

        @durably.job
        def spawning(step, payload):
            if payload:
                app.jobs["spawning"].trigger(payload - 1)

        app.register(spawning).trigger(5)
        assert app.run_until_idle() == 6

    def test_it_executes_on_the_pool(self, app: Durably) -> None:
        """Several are executed at once, none of them in the calling thread."""
        barrier = threading.Barrier(3, timeout=HANG_S)

        @durably.job
        def together(step):
            barrier.wait()
            return threading.current_thread().name

        triggered = app.register(together).batch_trigger([None] * 3)
        assert app.run_until_idle() == 3
        names = {app.get_run(run).output for run in triggered}
        assert len(names) == 3
        assert all(name.startswith("durably-worker") for name in names)

    def test_it_recovers_what_the_dead_left(self, app: Durably) -> None:
        """A run of a dead process is put back first and goes on from its checkpoint."""
        run = found_running(app)
        heard = []
        app.on("run:recover", heard.append)

        assert app.run_until_idle() == 1
        ended = app.get_run(run)
        assert ended is not None
        assert ended.status is RunStatus.COMPLETED
        assert ended.output[0] != os.getpid()
        assert ended.output[1] == os.getpid()
        assert [(each.run_id, each.reason) for each in heard] == [(run.id, "dead")]

    def test_it_recovers_although_it_may_execute_nothing(self, app: Durably) -> None:
        """Recovery is not counted, and happens with max_runs=0 too."""
        run = found_running(app)
        assert app.run_until_idle(max_runs=0) == 0
        assert app.get_run(run).status == "pending"

    def test_on_a_started_engine_it_waits_for_what_is_pending(self, app: Durably) -> None:
        """The pool is shared with the dispatcher; when it returns nothing is left to claim."""
        app.start()
        triggered = app.jobs["square"].batch_trigger(list(range(20)))
        app.run_until_idle()
        assert all(app.get_run(run).status == "completed" for run in triggered)
        assert app.jobs["square"].trigger_and_wait(3, timeout=HANG_S).output == 9

    def test_it_works_after_a_stop(self, app: Durably) -> None:
        """A stopped engine is one that was not started."""
        app.start()
        app.stop(interrupt=True)
        app.jobs["square"].trigger(2)
        assert app.run_until_idle() == 1

    def test_the_engine_can_be_started_afterwards(self, app: Durably) -> None:
        """max_runs bounds that call alone."""
        app.jobs["square"].batch_trigger([1, 2, 3])
        assert app.run_until_idle(max_runs=1) == 1
        app.start()
        assert app.jobs["square"].trigger_and_wait(3, timeout=HANG_S).output == 9
        app.run_until_idle()
        assert app.count_runs(status="completed") == 4

    def test_ctrl_c_puts_back_what_it_executes(
        self, app: Durably, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        """KeyboardInterrupt comes out; its runs stop at their next boundary and are pending."""
        inside = threading.Event()

        @durably.job
        def slow(step):
            step.run("first", int, "1")
            inside.set()
            step.sleep(1000)

        run = app.register(slow).trigger()

        def interrupt() -> None:
            assert inside.wait(HANG_S)
            _thread.interrupt_main()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            app.run_until_idle()
        thread.join()
        found = app.get_run(run)
        assert (found.status, found.completed_steps) == ("pending", 1)
        # The pool may not know of a thread in whose start the Ctrl-C landed; it ends as well.
        eventually(lambda: names_of_threads() == [])

    @pytest.mark.parametrize("most", [-1, True, 1.0, "1"], ids=repr)
    def test_a_bad_bound_is_rejected(self, app: Durably, most: Any) -> None:
        """max_runs is an int that is not negative."""
        app.jobs["square"].trigger(2)
        with pytest.raises(ValidationError, match="max_runs"):
            app.run_until_idle(max_runs=most)
        assert app.count_runs(status="pending") == 1


class TestProcessOne:
    def test_it_executes_one_run_in_the_calling_thread(self, app: Durably) -> None:
        """True for one, in the order of triggering, until there is none: False."""
        seen = []

        @durably.job
        def where(step, payload):
            seen.append((payload, threading.current_thread()))

        app.register(where).batch_trigger([1, 2])
        assert [app.process_one() for _ in range(3)] == [True, True, False]
        assert seen == [(1, threading.current_thread()), (2, threading.current_thread())]
        assert names_of_threads() == []

    def test_a_failure_stays_in_the_run(self, app: Durably) -> None:
        """The exception of a job does not come out: the run is failed, and one was executed."""
        run = app.jobs["fails"].trigger()
        assert app.process_one() is True
        assert app.get_run(run).status == "failed"

    @pytest.mark.parametrize("raised", [SystemExit, GeneratorExit, durably.StopRun])
    def test_control_flow_of_a_job_stays_in_the_run_too(self, app: Durably, raised: Any) -> None:
        """SystemExit and a StopRun that a job raises by itself fail the run."""

        @durably.job
        def raising(step):
            raise raised

        run = app.register(raising).trigger()
        assert app.process_one() is True
        assert app.get_run(run).status == "failed"

    def test_it_recovers_what_the_dead_left(self, app: Durably) -> None:
        """It first recovers, then claims what was recovered."""
        run = found_running(app)
        assert app.process_one() is True
        ended = app.get_run(run)
        assert (ended.status, ended.attempt) == ("completed", 2)
        assert ended.output[0] != os.getpid()

    @pytest.mark.parametrize("place", ["inside a step", "between steps", "while sleeping"])
    def test_ctrl_c_puts_the_run_back_and_goes_on(self, app: Durably, place: str) -> None:
        """KeyboardInterrupt reaches the caller; the run is pending with its checkpoints."""

        @durably.job
        def interrupted(step):
            step.run("first", int, "1")
            if step._run.fence > 1:
                return "done"
            if place == "inside a step":
                step.run("second", signal.raise_signal, signal.SIGINT)
            elif place == "between steps":
                signal.raise_signal(signal.SIGINT)
            else:
                press_in_a_wait()
                step.sleep(1000)
            return "not interrupted"

        run = app.register(interrupted).trigger()
        with pytest.raises(KeyboardInterrupt):
            app.process_one()
        found = app.get_run(run)
        assert (found.status, found.completed_steps, found.error) == ("pending", 1, None)
        assert [each.name for each in app.get_steps(run)] == ["first"]
        assert names_of_threads() == []

        assert app.process_one() is True
        assert app.get_run(run).output == "done"

    def test_a_run_that_is_cancelled_meanwhile_is_not_an_error(self, app: Durably) -> None:
        """A StopRun never reaches the caller of the engine."""

        @durably.job
        def cancels_itself(step):
            app.cancel(step.run_id)
            step.check()

        run = app.register(cancels_itself).trigger()
        assert app.process_one() is True
        assert app.get_run(run).status == "cancelled"

    def test_it_may_be_used_beside_a_started_engine(self, app: Durably) -> None:
        """On a started engine it takes a run if the dispatcher leaves one."""
        app.start()
        while app.process_one():
            pass
        app.jobs["square"].batch_trigger([1, 2, 3])
        while app.process_one():
            pass
        app.run_until_idle()
        assert app.count_runs(status="completed") == 3

    def test_inside_a_job_it_executes_another_run(self, app: Durably) -> None:
        """It waits for nobody but the run it executes, so a job may call it."""

        @durably.job
        def outer(step):
            inner = app.jobs["square"].trigger(4)
            assert app.process_one()
            return app.get_run(inner).output

        run = app.register(outer).trigger()
        assert app.process_one() is True
        assert app.get_run(run).output == 16
