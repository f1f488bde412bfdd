"""Runs stop at step boundaries: cancelled, interrupted, taken over."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from engines import GRACE_S, again, engine, execute, record, types

import durably
from durably.store.sqlite.store import SqliteCheckpoints


def steps_of(events):
    return [(e.type, e.step_name) for e in events if e.type.startswith("step:")]


# -- cancelled ---------------------------------------------------------------------------------


def test_a_result_that_comes_after_the_cancellation_is_not_stored(tmp_path):
    """A function that returns after its run was cancelled: step:cancel, recorded as cancelled."""
    after = []

    def work(step):
        app.cancel(step.run_id)
        assert step.cancelled
        return "too late"

    def job(step):
        step.run("before", int)
        step.run("late", work, step)
        after.append("reached")

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert (run.status, run.output) == ("cancelled", None)
        records = [(s.name, s.status, s.output, s.attempt) for s in app.get_steps(run)]
    assert records == [("before", "completed", 0, 1), ("late", "cancelled", None, 1)]
    assert types(events) == [
        *["run:trigger", "run:start", "step:start", "step:complete", "step:start"],
        *["run:cancel", "step:cancel"],
    ]
    assert (events[-1].step_name, events[-1].step_index) == ("late", 1)
    assert after == []


@pytest.mark.parametrize("how", ["check", "sleep", "nested"])
def test_a_step_that_stops_itself_on_cancellation_is_recorded_as_cancelled(tmp_path, how):
    """``step.check`` and ``step.sleep`` inside a function raise RunCancelled: step:cancel."""
    raised = []

    def work(step):
        app.cancel(step.run_id)
        try:
            if how == "check":
                step.check()
            elif how == "sleep":
                step.sleep(600)
            else:
                step.run("inner", int)
        except durably.StopRun as exc:
            raised.append(type(exc))
            raise

    def job(step):
        step.run("s", work, step)

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert run.status == "cancelled"
        assert [(s.name, s.status) for s in app.get_steps(run)] == [("s", "cancelled")]
    assert raised == [durably.RunCancelled]
    assert steps_of(events) == [("step:start", "s"), ("step:cancel", "s")]


def test_a_step_that_fails_after_the_cancellation_is_cancelled(tmp_path):
    """An exception after the cancellation does not make the run failed, nor the step."""

    def work(step):
        app.cancel(step.run_id)
        raise OSError

    def job(step):
        step.run("s", work, step)

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert (run.status, run.error) == ("cancelled", None)
        assert [s.status for s in app.get_steps(run)] == ["cancelled"]
    assert steps_of(events) == [("step:start", "s"), ("step:cancel", "s")]


def test_a_cancelled_run_starts_no_further_step(tmp_path):
    """``step.run`` raises before it calls its function when the run was cancelled between steps."""
    calls = []

    def job(step):
        app.cancel(step.run_id)
        step.run("s", calls.append, 1)

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert (run.status, app.get_steps(run)) == ("cancelled", [])
    assert calls == []
    assert steps_of(events) == []


def test_a_job_that_returns_after_its_cancellation_stays_cancelled(tmp_path):
    """The end of a job that never checked is not stored, and no further event is emitted."""

    def job(step):
        app.cancel(step.run_id)
        return "done"

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert (run.status, run.output) == ("cancelled", None)
        assert types(events) == ["run:trigger", "run:start", "run:cancel"]
        assert app.jobs["job"].trigger().id != run.id


def test_a_cancelled_step_executes_again_on_retry_with_its_index(tmp_path):
    """A cancelled step is not replayed, and keeps its index."""

    def work(step):
        if step.attempt == 1:
            app.cancel(step.run_id)
        return step.attempt

    def job(step):
        step.run("first", int)
        result = step.run("late", work, step)
        step.run("new", int)
        return result

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
        assert run.output == 2
        assert [(s.name, s.index, s.status) for s in app.get_steps(run)] == [
            ("first", 0, "completed"),
            ("late", 1, "completed"),
            ("new", 2, "completed"),
        ]


def test_a_cancellation_by_another_engine_is_learnt_at_the_next_write(tmp_path):
    """An engine that did not cancel finds out when it stores; it emits step:cancel alone."""

    def work(step):
        with durably.Durably(tmp_path / "durably.db") as other:
            other.cancel(step.run_id)
        return 1

    def job(step):
        try:
            step.run("s", work, step)
        except durably.RunCancelled:
            assert step.cancelled
            raise

    with engine(tmp_path, job, heartbeat_interval=10) as app:
        events = record(app)
        run = execute(app)
        assert run.status == "cancelled"
        assert [s.status for s in app.get_steps(run)] == ["cancelled"]
    assert types(events) == ["run:trigger", "run:start", "step:start", "step:cancel"]


def test_a_cancellation_by_another_engine_is_learnt_with_a_heartbeat(tmp_path):
    """A job in a long sleep learns within a heartbeat that another engine cancelled its run."""

    def job(step):
        with durably.Durably(tmp_path / "durably.db") as other:
            other.cancel(step.run_id)
        step.sleep(600)

    with engine(tmp_path, job, heartbeat_interval=0.05, stale_threshold=10) as app:
        assert execute(app).status == "cancelled"


# -- interrupted -------------------------------------------------------------------------------


def test_an_interrupt_keeps_the_step_in_progress(tmp_path):
    """A function that returns after an interrupt is stored; the job stops right after it."""
    is_inside, may_end = threading.Event(), threading.Event()
    calls = []

    def work(step):
        calls.append(step.attempt)
        is_inside.set()
        assert may_end.wait(GRACE_S)
        return "kept"

    def job(step):
        result = step.run("s", work, step)
        calls.append("after")
        return result

    with engine(tmp_path, job) as app:
        events = record(app)
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        stopping = threading.Thread(target=app.stop, kwargs={"interrupt": True})
        stopping.start()
        (active,) = app._supervisor.current_runs()
        assert active.stopped.wait(GRACE_S)
        may_end.set()
        stopping.join(GRACE_S)
        assert app.get_run(run).status == "pending"
        assert [(s.name, s.status) for s in app.get_steps(run)] == [("s", "completed")]
        assert types(events)[-3:] == ["step:start", "step:complete", "run:interrupt"]
        assert calls == [1]
        assert app.process_one()
        assert (app.get_run(run).output, app.get_run(run).attempt) == ("kept", 1)
    assert calls == [1, "after"]


@pytest.mark.parametrize("how", ["check", "sleep"])
def test_a_step_that_stops_itself_on_an_interrupt_leaves_no_record(tmp_path, how):
    """After an interrupt, check and sleep raise RunInterrupted and no step is recorded."""
    is_inside = threading.Event()
    raised = []

    def work(step):
        is_inside.set()
        try:
            if how == "sleep":
                step.sleep(600)
            while True:
                step.check()
        except durably.RunInterrupted as exc:
            raised.append(step.cancelled)
            raise exc

    def job(step):
        step.run("s", work, step)

    with engine(tmp_path, job) as app:
        events = record(app)
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        app.stop(interrupt=True, timeout=GRACE_S)
        assert app.get_run(run).status == "pending"
        assert app.get_steps(run) == []
    assert raised == [True]
    assert types(events) == ["run:trigger", "run:start", "step:start", "run:interrupt"]


# -- check, sleep and listeners ----------------------------------------------------------------


def test_check_and_sleep_return_while_the_run_goes_on(tmp_path):
    """``step.check`` does nothing, and ``step.sleep`` blocks for the time given, in either form."""

    def job(step):
        assert step.check() is None
        waited = []
        for duration in (0.02, timedelta(milliseconds=20)):
            before = time.monotonic()
            assert step.sleep(duration) is None
            waited.append(time.monotonic() - before >= 0.02)
        step.sleep(0)
        return waited

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.output == [True, True], run.error


@pytest.mark.parametrize("seconds", ["1", None, float("nan"), float("inf"), True, -1])
def test_a_bad_duration_is_rejected(tmp_path, seconds):
    """What is no duration is a ValidationError of ``step.sleep``."""

    def job(step):
        step.sleep(seconds)

    with engine(tmp_path, job) as app:
        assert execute(app).error.type == "durably.ValidationError"


def test_a_listener_of_a_step_may_cancel_the_run(tmp_path):
    """A run cancelled at its step:complete keeps that checkpoint, and stops right after it."""
    after = []

    def job(step):
        step.run("s", int)
        after.append("reached")

    with engine(tmp_path, job) as app:
        app.on("step:complete", lambda event: app.cancel(event.run_id))
        run = execute(app)
        assert run.status == "cancelled"
        assert [s.status for s in app.get_steps(run)] == ["completed"]
    assert after == []


def test_a_cancellation_outweighs_an_interrupt(tmp_path):
    """A run that is interrupted and then cancelled is cancelled, and so is its step."""
    is_inside, may_end = threading.Event(), threading.Event()

    def work():
        is_inside.set()
        assert may_end.wait(GRACE_S)

    def job(step):
        step.run("s", work)

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(interrupt=True, timeout=0)
        app.cancel(run)
        may_end.set()
        app.stop()
        assert app.get_run(run).status == "cancelled"
        assert [s.status for s in app.get_steps(run)] == ["cancelled"]


def test_a_ctrl_c_inside_a_step_of_process_one_leaves_no_record(tmp_path):
    """The user's Ctrl-C is no failure of the step: the run is pending, and goes on from there."""

    def work(step):
        if step._run.fence == 1:
            raise KeyboardInterrupt
        return "second"

    def job(step):
        step.run("before", int)
        return step.run("s", work, step)

    with engine(tmp_path, job) as app:
        events = record(app)
        run = app.jobs["job"].trigger()
        with pytest.raises(KeyboardInterrupt):
            app.process_one()
        assert app.get_run(run).status == "pending"
        assert [s.name for s in app.get_steps(run)] == ["before"]
        assert events[-1].type == "run:interrupt"
        assert app.process_one()
        assert app.get_run(run).output == "second"


def test_a_result_waits_in_memory_while_the_database_rejects(tmp_path, monkeypatch):
    """A rejection that may pass costs no work: worker:error, and the result is stored later."""
    real, refused, calls = SqliteCheckpoints.save, [], []

    def refuse_once(*args):
        if not refused:
            refused.append(1)
            raise durably.DatabaseError("the disk is full", is_transient=True)
        return real(*args)

    def job(step):
        return step.run("s", lambda: calls.append(1) or "kept")

    monkeypatch.setattr(SqliteCheckpoints, "save", refuse_once)
    with engine(tmp_path, job) as app:
        errors = record(app, "worker:error")
        run = execute(app)
    assert (run.output, calls) == ("kept", [1])
    assert [(e.run_id, e.context, e.error.message) for e in errors] == [
        (run.id, "storing a step", "the disk is full")
    ]
