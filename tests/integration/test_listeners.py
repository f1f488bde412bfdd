"""Listeners: when and where they are called, and what they can do to a run: nothing."""

from __future__ import annotations

import re
import threading

import pytest
from engines import GRACE_S, again, engine, execute, only, record, take_over, types

import durably


def boom():
    raise ValueError("boom")


def test_a_decorator_of_no_type_is_rejected_at_once(tmp_path):
    """Also without parentheses, where the listener is in the place of the type."""
    with engine(tmp_path) as app:
        with pytest.raises(durably.ValidationError, match=r'@app\.on\("run:fail"\)'):
            app.on(boom)
        for unknown in ("run:failed", durably.RunCancelled, None):
            with pytest.raises(durably.ValidationError, match="unknown event type"):
                app.on(unknown)


# -- after the commit, in the thread where it happened -----------------------------------------


def test_a_listener_finds_its_event_committed(tmp_path):
    """At each event another connection already sees the change."""
    seen = {}

    def look(event):
        run = other.get_run(event.run_id)
        steps = [(s.name, s.status) for s in other.get_steps(event.run_id)] if run else None
        seen[event.type] = (run and str(run.status), steps)

    def job(step):
        step.run("good", int)
        if step.attempt == 1:
            step.run("bad", boom)
        if step.attempt == 2:
            app.cancel(step.run_id)

    done = [("good", "completed")]
    failed = [*done, ("bad", "failed")]
    with engine(tmp_path, job) as app, engine(tmp_path, job) as other:
        app.on("*", look)
        run = execute(app)
        assert seen == {
            "run:trigger": ("pending", []),
            "run:start": ("running", []),
            "step:start": ("running", done),
            "step:complete": ("running", done),
            "step:fail": ("running", failed),
            "run:fail": ("failed", failed),
        }
        again(app, run)
        assert seen["run:retry"] == ("pending", failed)
        assert seen["run:cancel"] == ("cancelled", failed)
        again(app, run)
        assert seen["run:complete"] == ("completed", failed)
        app.delete_run(run)
        assert seen["run:delete"] == (None, None)


def test_events_are_reported_in_the_thread_where_it_happened(tmp_path):
    """Triggers are emitted in the caller's thread, what a job does in its pool thread."""
    heard = []

    def job(step):
        step.run("s", int)

    with engine(tmp_path, job) as app:
        app.on("*", lambda event: heard.append((event.type, threading.current_thread().name)))
        app.start()
        app.jobs["job"].trigger_and_wait(timeout=GRACE_S)
        app.stop()
    main = {type_ for type_, thread in heard if thread == threading.current_thread().name}
    pool = {type_ for type_, thread in heard if re.match("durably-worker", thread)}
    assert main == {"run:trigger"}
    assert pool == {"run:start", "step:start", "step:complete", "run:complete"}


# -- listeners ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, durably.RunCancelled])
def test_a_listener_that_raises_harms_no_run(tmp_path, error):
    """Exceptions of listeners at every event leave the run as it is, and reach ``on_error``."""
    handled = []

    def fail(event):
        raise error(event.type)

    def job(step):
        step.progress(1)
        step.log.info("line")
        return step.run("s", int)

    with engine(tmp_path, job) as app:
        app.on("*", fail)
        app.on_error(lambda exc, event: handled.append((type(exc), str(exc) == event.type)))
        run = execute(app)
        assert (run.status, run.output) == ("completed", 0), run.error
    assert set(handled) == {(error, True)}
    assert len(handled) == 7


def test_a_listener_may_call_the_engine(tmp_path):
    """A listener triggers, reads and cancels runs inside an event, and both ends are emitted."""

    def first(step):
        return 1

    def second(step):
        return 2

    with engine(tmp_path, first, second) as app:
        events = record(app)

        @app.on("run:complete")
        def go_on(event):
            if event.job_name == "first":
                app.jobs["second"].trigger(labels={"after": event.run_id})
                app.cancel(app.jobs["second"].trigger())
                with pytest.raises(durably.ConflictError):
                    app.stop()
                with pytest.raises(durably.ConflictError):
                    app.close()

        failures = []
        app.on_error(lambda exc, event: failures.append(exc))
        run = execute(app, job="first")
        assert failures == []
        assert app.run_until_idle() == 1
        (found,) = app.get_runs(labels={"after": run.id})
        assert found.output == 2
    assert types(events).count("run:complete") == 2
    assert types(events).count("run:cancel") == 1


def test_a_listener_that_blocks_holds_up_its_own_run_alone(tmp_path):
    """While a listener of one run blocks, other runs are executed, and heartbeats go on."""
    may_go_on = threading.Event()

    def job(step, payload):
        step.run("s", int)

    with engine(tmp_path, job, heartbeat_interval=0.02, stale_threshold=0.05) as app:
        app.start()
        first = app.jobs["job"].trigger(1)
        blocked = threading.Event()

        def block(event):
            if event.run_id == first.id:
                blocked.set()
                assert may_go_on.wait(GRACE_S)

        app.wait(first, timeout=GRACE_S)
        app.on("step:complete", block)
        first = app.jobs["job"].trigger(2)
        assert blocked.wait(GRACE_S)
        beat = app.get_run(first).heartbeat_at
        for number in range(10):
            assert app.jobs["job"].trigger_and_wait(number, timeout=GRACE_S).status == "completed"
        assert app.get_run(first).status == "running"
        while app.get_run(first).heartbeat_at == beat:
            threading.Event().wait(0.005)  # polled; the test's timeout guards it
        may_go_on.set()
        assert app.wait(first, timeout=GRACE_S).attempt == 1


def test_on_is_a_decorator(tmp_path):
    """``@app.on(type)`` subscribes the function and leaves it as it is."""

    def job(step):
        boom()

    with engine(tmp_path, job) as app:
        heard = []

        @app.on("run:fail")
        def heard_of(event):
            heard.append(event.type)

        execute(app)
        assert heard == ["run:fail"]
        assert heard_of.__name__ == "heard_of"
        with pytest.raises(durably.ValidationError, match="run:fail"):
            app.on("run:failed")(heard_of)
        with pytest.raises(durably.ValidationError, match="run:fail"):
            app.on("run:failed", heard_of)


def test_on_returns_what_unsubscribes(tmp_path):
    """``app.on(type, listener)`` returns a function that ends the subscription."""

    def job(step):
        pass

    with engine(tmp_path, job) as app:
        heard = []
        unsubscribe = app.on("run:complete", heard.append)
        execute(app)
        unsubscribe()
        execute(app)
    assert len(heard) == 1


def test_what_the_job_does_to_its_values_does_not_show_in_events(tmp_path):
    """Events keep the payload and results as they were, and listeners cannot change the job's."""

    def spoil(event):
        for name in ("payload", "output", "labels"):
            getattr(event, name, {}).clear()

    def job(step, payload):
        result = step.run("s", lambda: {"a": 1})
        seen = [dict(payload), dict(result), dict(step.labels)]
        payload.clear()
        result.clear()
        return {"seen": seen}

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app, {"p": 1}, labels={"l": "1"})
        assert run.output == {"seen": [{"p": 1}, {"a": 1}, {"l": "1"}]}
        assert only(events, "run:start").payload == {"p": 1}
        assert only(events, "step:complete").output == {"a": 1}
        app.on("*", spoil)
        assert execute(app, {"p": 1}, labels={"l": "1"}).output == run.output


def test_a_run_that_was_taken_over_reports_no_progress(tmp_path):
    """Progress that the database rejects is not emitted."""

    def job(step):
        if step.attempt == 1:
            take_over(app)
            step.progress(1)
            app._flusher.tick()

    with engine(tmp_path, job, heartbeat_interval=10) as app:
        events = record(app, "run:progress")
        run = execute(app)
        assert (run.status, run.progress) == ("pending", None)
    assert events == []
