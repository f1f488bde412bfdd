"""Deadlines of runs and of steps: for code that checks them, and for code that does not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pooled
import pytest
from children import Eventually
from engines import engine, only, record, types
from held import HeldJob
from invariants import check

import durably
from durably import Retry
from durably.worker.deadlines import GRACE_S

SHORT_S = 0.2
OVER = "the time of run .* is over: an execution may take 0.2 s"


def error_of(run: Any) -> str:
    assert run.error is not None
    assert run.error.type == "durably.StepTimeoutError"
    return str(run.error.message)


@pytest.mark.parametrize("how", ["check", "sleep", "run", "retry", "map", "nested"])
@pytest.mark.parametrize("is_of_trigger", [False, True])
def test_a_job_that_looks_at_its_deadline_fails_there(
    tmp_path: Path, how: str, is_of_trigger: bool
) -> None:
    """step.check, step.sleep, step.run, maps and the waits of retries raise when it is over; the
    run has failed with that error, and its own traceback.
    """
    raised = []

    def fail() -> None:
        raise ValueError

    def job(step: durably.StepContext) -> None:
        assert step.remaining is not None
        assert 0 < step.remaining <= SHORT_S
        try:
            if how == "check":
                while True:
                    step.check()
            elif how == "sleep":
                step.sleep(60)
            elif how == "retry":
                step.options(retry=Retry(attempts=9, wait=60)).run("wait", fail)
            elif how == "nested":
                step.run("outer", lambda: step.run("inner", step.sleep, 60))
            elif how == "map":
                step.map("map", lambda number: time.sleep(0.001), range(10**9))
            for number in range(10**9):
                step.run(f"s{number}", time.sleep, 0.001)
        except durably.StepTimeoutError as exc:
            raised.append(exc)
            assert step.remaining == 0
            raise

    limit = timedelta(seconds=SHORT_S)
    made = durably.Job("job", job) if is_of_trigger else durably.Job("job", job, timeout=limit)
    with engine(tmp_path, made, raise_failed=False) as app:
        app.start()
        run = app.trigger("job", **({"timeout": limit} if is_of_trigger else {}))
        with pytest.raises(durably.RunFailedError, match=OVER):
            app.wait(run, timeout=20)
    assert len(raised) == 1
    assert check(tmp_path / "durably.db", is_finished=True) == []


def test_there_is_no_deadline_without_a_timeout(tmp_path: Path) -> None:
    """step.remaining is None then."""
    with engine(tmp_path, durably.Job("job", lambda step: step.remaining)) as app:
        assert app.run("job").output is None


@pytest.mark.parametrize("where", ["pool", "process_one", "run"])
@pytest.mark.parametrize("inside", ["step", "job"])
def test_a_job_that_does_not_look_is_failed_at_its_deadline(
    tmp_path: Path, where: str, inside: str
) -> None:
    """While it is inside a step or its own code; what it does afterwards is rejected, and the
    first step boundary raises the same, the next ones StopRun, which it cannot swallow.
    """
    let_go = threading.Event()
    seen: list[Any] = []
    raised: list[str] = []

    def blind() -> None:
        assert let_go.wait(20)

    def job(step: durably.StepContext) -> None:
        step.run("first", int)
        step.run("blind", blind) if inside == "step" else blind()
        for name in "abc":
            try:
                step.run(name, seen.append, name)
            except durably.StepTimeoutError as exc:
                raised.append(str(exc))
            except durably.OwnershipLost as exc:
                raised.append(str(exc))
                raise

    with engine(tmp_path, durably.Job("job", job, timeout=SHORT_S), raise_failed=False) as app:
        events = record(app)

        def on_fail(event: Any) -> None:
            # It is failed although its job goes on.
            found = app.get_run(event.run_id)
            seen.append((found.status, found.error == event.error, found.completed_steps))
            with pytest.raises(durably.ConflictError, match="still inside a step"):
                app.delete_run(found)
            let_go.set()

        app.on("run:fail", on_fail)
        if where == "run":
            with pytest.raises(durably.RunFailedError, match=OVER):
                app.run("job")
        else:
            run = app.trigger("job")
            if where == "pool":
                app.start()
                assert let_go.wait(20)
                app.stop()
            else:
                app.process_one()
        [run] = app.get_runs()
        assert seen == [("failed", True, 1)]
        error_of(run)
        told = only(events, "run:fail")
        assert told.failed_step == ("blind" if inside == "step" else None)
        assert [each.outcome for each in run.attempts] == ["failed"]
        ends = {step.name: step.status for step in app.get_steps(run)}
        assert ends == {"first": "completed"} | ({"blind": "cancelled"} if inside == "step" else {})
        # Inside a step, its end is the first boundary.
        assert len(raised) == (0 if inside == "step" else 2)
        app.delete_run(run)
    assert check(tmp_path / "durably.db", is_finished=True) == []


def test_an_overdue_run_holds_its_slot_and_its_key_until_a_boundary(
    tmp_path: Path, eventually: Eventually
) -> None:
    """Another run of its key, and itself after a retry, wait until its job has left its step."""
    held = HeldJob()
    job = durably.Job("held", held.run, timeout=SHORT_S)
    with engine(tmp_path, job, raise_failed=False) as app, held:
        app.start()
        run = app.trigger("held", 1, concurrency_key="k")
        held.inside()
        with pytest.raises(durably.RunFailedError):
            app.wait(run, timeout=20)
        other = app.trigger("held", 2, concurrency_key="k", timeout=60)
        app.retry(run)
        assert not app._supervisor._claimer.can_claim()
        assert (app.get_run(other).status, app.get_run(run).status) == ("pending", "pending")
        assert held.most_inside == 1
        held.let_go()
        assert held.inside() in (1, 2)
        assert held.most_inside == 1
        held.let_go()
        eventually(lambda: app.get_run(other).status in ("running", "completed"))
    assert held.most_inside == 1


def test_an_overdue_run_is_tried_again(tmp_path: Path) -> None:
    """As after any failure that matches, and not before its old job has left its thread."""
    let_go = threading.Event()
    inside = []

    def job(step: durably.StepContext) -> int:
        inside.append(step.attempt)
        step.run("first", int)
        if step.attempt == 1:
            assert let_go.wait(20)
            with pytest.raises(durably.StepTimeoutError):
                step.check()
            with pytest.raises(durably.OwnershipLost, match="the time of run"):
                step.check()
        return step.attempt

    made = durably.Job(
        "job", job, timeout=SHORT_S, retry=Retry(wait=0, on=durably.StepTimeoutError)
    )
    with engine(tmp_path, made) as app:
        events = record(app)
        app.on("run:retry", lambda event: let_go.set())
        app.start()
        run = app.trigger_and_wait("job", concurrency_key="k")
        assert (run.output, run.failures, inside) == (2, 1, [1, 2])
        assert [each.outcome for each in run.attempts] == ["failed", "completed"]
        done = [(each.steps_completed, each.steps_reused) for each in run.attempts]
        assert done == [(1, 0), (0, 1)]
        told = only(events, "run:retry")
        assert (told.error.type, told.delay) == ("durably.StepTimeoutError", 0.0)
        assert "run:fail" not in types(events)
        assert app.runs()[0].attempts[0].error == told.error
    assert check(tmp_path / "durably.db", is_finished=True) == []


@pytest.mark.parametrize("is_broken", [False, True])
def test_functions_of_a_retry_decide_about_overdue_runs(tmp_path: Path, is_broken: bool) -> None:
    """They are called by the thread that calls listeners, and not by the heartbeat's; what they
    raise is the error of the run.
    """
    let_go = threading.Event()
    threads = []

    def on(exc: Exception) -> bool:
        threads.append(threading.current_thread().name)
        assert isinstance(exc, durably.StepTimeoutError)
        if is_broken:
            raise LookupError
        return False

    def job(step: durably.StepContext) -> None:
        assert let_go.wait(20)

    made = durably.Job("job", job, timeout=SHORT_S, retry=Retry(on=on))
    with engine(tmp_path, made, raise_failed=False) as app:
        app.on("run:fail", lambda event: let_go.set())
        app.start()
        with pytest.raises(durably.RunFailedError) as raised:
            app.wait(app.trigger("job"), timeout=20)
        kind = "LookupError" if is_broken else "durably.StepTimeoutError"
        assert raised.value.run.error.type == kind
    assert threads == ["durably-flusher"]


@pytest.mark.parametrize("end", ["completes", "fails", "is cancelled"])
def test_a_run_that_ends_before_its_deadline_is_not_failed_by_it(tmp_path: Path, end: str) -> None:
    """Whichever way it ends, the deadline that comes afterwards changes nothing."""
    held = HeldJob()

    def job(step: durably.StepContext) -> None:
        if end == "fails":
            raise ValueError
        if end == "is cancelled":
            held.run(step, 1)

    with (
        engine(tmp_path, durably.Job("job", job, timeout=SHORT_S), raise_failed=False) as app,
        held,
    ):
        events = record(app)
        app.start()
        run = app.trigger("job")
        if end == "is cancelled":
            held.inside()
            app.cancel(run)
        while app.get_run(run).is_active:
            time.sleep(0.01)
        threading.Event().wait(SHORT_S + 2 * GRACE_S)
        held.let_go()
        app.stop()
        status = {"completes": "completed", "fails": "failed", "is cancelled": "cancelled"}[end]
        assert app.get_run(run).status == status
        ends = [t for t in types(events) if t in ("run:complete", "run:fail", "run:cancel")]
        assert len(ends) == 1


def test_the_time_of_waits_does_not_count(tmp_path: Path) -> None:
    """A wait that keeps its thread, as in run, takes no time of an execution, as one that leaves
    it takes none.
    """

    def job(step: durably.StepContext) -> str:
        step.sleep_until("wait", 2 * SHORT_S + GRACE_S)
        assert step.remaining is not None
        assert step.remaining > 0
        return "in time"

    with engine(tmp_path, durably.Job("job", job, timeout=SHORT_S)) as app:
        assert app.run("job").output == "in time"


def test_each_execution_has_its_own_time(tmp_path: Path) -> None:
    """After a retry by hand the deadline is a new one."""

    def job(step: durably.StepContext) -> float | None:
        if step.attempt == 1:
            step.sleep(60)
        return step.remaining

    with engine(tmp_path, durably.Job("job", job, timeout=2), raise_failed=False) as app:
        with pytest.raises(durably.RunFailedError):
            app.wait(_at_once(app, timeout=SHORT_S))
        [run] = app.get_runs()
        app.retry(run)
        assert app.process_one()
        assert 0 < app.get_run(run).output <= SHORT_S


def _at_once(app: durably.Durably, **options: Any) -> Any:
    run = app.trigger("job", **options)
    assert app.process_one()
    return run


@pytest.mark.skipif(sys.platform != "linux", reason="starts processes")
def test_items_in_processes_are_ended_at_the_deadline_of_their_run(
    tmp_path: Path, eventually: Eventually
) -> None:
    """What is killable is killed: no process of the map goes on, and nothing holds the slot."""
    pytest.importorskip("loky")

    def job(step: durably.StepContext) -> None:
        step.map("map", pooled.never_ends, range(4), executor="process", max_workers=2)

    with engine(tmp_path, durably.Job("job", job), raise_failed=False) as app:
        app.start()
        with pytest.raises(durably.RunFailedError, match="the time of run"):
            app.wait(app.trigger("job", timeout=3), timeout=20)
        eventually(lambda: app._supervisor._claimer.is_idle)


def test_an_unseen_failure_at_a_deadline_is_raised(tmp_path: Path) -> None:
    """Nothing fails unseen: the end of a with block raises it."""
    let_go = threading.Event()
    job = durably.Job("job", lambda step: let_go.wait(20), timeout=SHORT_S)
    with (
        pytest.raises(durably.RunsFailedError, match="StepTimeoutError"),
        durably.Durably(tmp_path / "durably.db", jobs=[job]) as app,
    ):
        run = app.trigger("job")
        while app._store.get_run(run.id).status != "failed":
            time.sleep(0.01)
        let_go.set()


@pytest.mark.parametrize("value", [0, -1, "1", True, timedelta(0), float("nan")])
def test_a_timeout_that_is_not_positive_is_rejected(tmp_path: Path, value: Any) -> None:
    """Of a job, of a trigger and of a step, which name it."""

    def job(step: durably.StepContext) -> None:
        with pytest.raises(durably.ValidationError, match="timeout"):
            step.options(timeout=value)

    with pytest.raises(durably.ValidationError, match="timeout of a job"):
        durably.job(timeout=value)(job)
    with engine(tmp_path, job) as app:
        with pytest.raises(durably.ValidationError, match="timeout"):
            app.trigger("job", timeout=value)
        assert app.get_runs() == []
        assert app.run("job").status == "completed"


# -- the time of a step --------------------------------------------------------------------------


def slow(step: durably.StepContext, how: str) -> Callable[[], Any]:
    """A function that takes longer than it may."""

    def call() -> Any:
        assert step.remaining is not None
        assert step.remaining <= SHORT_S
        if how == "check":
            while True:
                step.check()
        if how == "sleep":
            step.sleep(60)
        if how == "inner":
            step.sleep(SHORT_S - 0.01)
            threading.Event().wait(0.02)
            step.run("inner", int)
        return step.remaining

    return call


@pytest.mark.parametrize("how", ["check", "sleep", "inner"])
def test_a_step_may_have_a_deadline(tmp_path: Path, how: str) -> None:
    """Inside it step.check, step.sleep and step.run raise then; after it there is none."""

    def job(step: durably.StepContext) -> str:
        with pytest.raises(durably.StepTimeoutError, match="the time of step 's' is over"):
            step.options(timeout=SHORT_S).run("s", slow(step, how))
        assert step.remaining is None
        return "gone on"

    with engine(tmp_path, job) as app:
        run = app.run("job")
        assert run.output == "gone on"
        assert app.get_steps(run)[0].status == "failed"


def test_each_call_of_a_retried_step_has_its_own_time(tmp_path: Path) -> None:
    """A call that takes too long is a failure like any other."""
    called = []

    def job(step: durably.StepContext) -> int:
        def call() -> int:
            called.append(step.remaining)
            if len(called) == 1:
                step.sleep(60)
            return len(called)

        return step.options(retry=Retry(wait=0), timeout=SHORT_S).run("s", call)

    with engine(tmp_path, job) as app:
        assert app.run("job").output == 2
    assert all(left is not None and SHORT_S / 2 < left <= SHORT_S for left in called)


def test_the_nearest_deadline_counts(tmp_path: Path) -> None:
    """``step.remaining`` is that of the run, of the outer step or of the inner one."""

    def job(step: durably.StepContext) -> list[bool]:
        def left(most: float) -> bool:
            return step.remaining is not None and most / 2 < step.remaining <= most

        def inner() -> list[bool]:
            return [
                step.options(timeout=1000).run("long", left, 50),
                step.options(timeout=10).run("short", left, 10),
                left(50),
            ]

        return [*step.options(timeout=50).run("outer", inner), left(100)]

    with engine(tmp_path, durably.Job("job", job, timeout=100)) as app:
        assert app.run("job").output == [True] * 4


def test_a_step_that_does_not_look_is_stored_late(tmp_path: Path) -> None:
    """A thread cannot be killed: its result counts nevertheless."""

    def late() -> int:
        threading.Event().wait(2 * SHORT_S)
        return 1

    def job(step: durably.StepContext) -> int:
        return step.options(timeout=SHORT_S).run("s", late)

    with engine(tmp_path, job) as app:
        assert app.run("job").output == 1
