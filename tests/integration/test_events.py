"""Events: what each type reports, in which order and thread, and after what."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import attrs
import pytest
from children import held
from engines import GRACE_S, again, engine, execute, only, record, types

import durably
from durably.events import EVENT_TYPES
from durably.store.sqlite.store import SqliteStore


@attrs.define
class Order:
    amount: int


def fields(event):
    """The fields of an event that only its type has."""
    common = {"timestamp", "sequence", "run_id", "job_name", "labels"}
    return {name: value for name, value in vars_of(event).items() if name not in common}


def vars_of(event):
    return {field.name: getattr(event, field.name) for field in attrs.fields(type(event))}


# -- each type and its fields ------------------------------------------------------------------


def test_the_events_of_a_run_that_completes(tmp_path):
    """Trigger, start, steps and completion are emitted in order, each with its fields."""

    def pay(amount):
        began = time.monotonic()
        threading.Event().wait(0.02)  # a duration that can be told from none
        spent.append(time.monotonic() - began)
        return (amount, "paid")

    def job(step, order: Order) -> Order:
        step.run("pay", pay, order.amount)
        step.progress(1, 2, "half")
        step.log.warning("careful", left=3)
        return Order(order.amount + 1)

    spent = []
    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app, {"amount": 1}, labels={"team": "x"})
    assert {(e.run_id, e.job_name, *e.labels.items()) for e in events} == {
        (run.id, "job", ("team", "x"))
    }
    assert all(e.timestamp.utcoffset() == timedelta(0) for e in events)
    assert [e.sequence for e in events] == sorted({e.sequence for e in events})
    assert types(events) == [
        *["run:trigger", "run:start", "step:start", "step:complete", "run:complete"]
    ]
    assert fields(only(events, "run:trigger")) == {"payload": Order(1)}
    assert fields(only(events, "run:start")) == {"payload": Order(1), "attempt": 1}
    assert fields(only(events, "step:start")) == {"step_name": "pay", "step_index": 0}
    complete = fields(only(events, "step:complete"))
    assert spent[0] <= complete.pop("duration") < GRACE_S
    assert complete == {"step_name": "pay", "step_index": 0, "output": (1, "paid")}
    assert fields(only(events, "run:progress")) == {"progress": durably.Progress(1, 2, "half")}
    assert fields(only(events, "log:write")) == {
        "level": "warning",
        "message": "careful",
        "data": {"left": 3},
        "step_name": None,
    }
    assert fields(only(events, "run:complete")) == {
        "output": Order(2),
        "duration": run.duration,
        "unused_steps": (),
    }


def test_the_events_of_a_run_that_fails_and_is_retried(tmp_path):
    """Failure and retry are emitted; in the second attempt a completed step is a skipped one."""

    def job(step):
        step.run("good", int)
        step.run("bad", lambda: 1 // (step.attempt - 1))

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert fields(only(events, "step:fail")) == {
            "step_name": "bad",
            "step_index": 1,
            "error": app.get_steps(run)[1].error,
        }
        assert fields(only(events, "run:fail")) == {
            "error": run.error,
            "failed_step": "bad",
            "duration": run.duration,
        }
        assert str(run.error) == "ZeroDivisionError: integer division or modulo by zero"
        del events[:]
        run = again(app, run)
    assert types(events) == [
        *["run:retry", "run:start", "step:skip", "step:start", "step:complete", "run:complete"]
    ]
    assert fields(events[0]) == {"error": None, "delay": None}
    assert fields(events[1]) == {"payload": None, "attempt": 2}
    assert fields(events[2]) == {"step_name": "good", "step_index": 0}
    assert events[-1].duration == run.duration


@pytest.mark.filterwarnings("ignore::durably.PayloadChangedWarning")
def test_the_events_of_triggers_that_find_a_run(tmp_path):
    """Only a created run is emitted as run:trigger; a coalesced one has the skipped payload."""

    def job(step, order: Order):
        raise ValueError

    with engine(tmp_path, job) as app:
        events = record(app)
        handle = app.jobs["job"]
        first = handle.trigger(Order(1), idempotency_key="i", concurrency_key="c")
        handle.trigger(Order(2), idempotency_key="i")
        handle.trigger({"amount": 3}, concurrency_key="c", coalesce=True)
        app.process_one()
        handle.trigger(Order(1), idempotency_key="i", retry_failed=True)
        handle.batch_trigger([Order(4), durably.Trigger(Order(5), labels={"a": "b"})])
    assert [(e.type, e.run_id == first.id) for e in events] == [
        ("run:trigger", True),
        ("run:coalesced", True),
        ("run:start", True),
        ("run:fail", True),
        ("run:retry", True),
        ("run:trigger", False),
        ("run:trigger", False),
    ]
    assert events[1].skipped_payload == Order(3)
    assert [(e.payload, e.labels) for e in events[-2:]] == [(Order(4), {}), (Order(5), {"a": "b"})]


def test_cancel_and_delete_are_reported(tmp_path):
    """``cancel``, ``delete_run`` and ``purge_runs`` emit run:cancel and run:delete."""

    def job(step):
        pass

    with engine(tmp_path, job) as app:
        first, second = app.jobs["job"].batch_trigger([None, durably.Trigger(labels={"a": "b"})])
        events = record(app)
        app.cancel(first)
        app.delete_run(first)
        app.cancel(second)
        app.purge_runs(older_than=0)
    assert [(e.type, e.run_id, e.labels, fields(e)) for e in events] == [
        ("run:cancel", first.id, {}, {}),
        ("run:delete", first.id, {}, {}),
        ("run:cancel", second.id, {"a": "b"}, {}),
        ("run:delete", second.id, {"a": "b"}, {}),
    ]


@pytest.mark.parametrize("reason", ["dead", "stale"])
def test_a_recovery_is_reported_where_the_reaper_ran(tmp_path, reason):
    """``run:recover`` says whether the run's process was dead or hung."""

    @durably.job(origin="any")
    def hold(step):
        pass

    path = tmp_path / "durably.db"
    options = {"heartbeat_interval": 0.05, "stale_threshold": 0.1}
    with held(path, 0.05, 0.1) as (child, run_id), engine(tmp_path, hold, **options) as app:
        recovered = threading.Event()
        events = record(app)
        app.on("run:recover", lambda _: recovered.set())
        if reason == "dead":
            child.kill()
        else:
            child.stop(path)
        app.start()
        assert recovered.wait(GRACE_S)
        app.wait(run_id, timeout=GRACE_S)
    # Nothing keeps the dispatcher from finding what was put back before that is told.
    told = only(events, "run:recover")
    assert (told.run_id, told.job_name, told.reason) == (run_id, "hold", reason)
    assert only(events, "run:start").attempt == 2


def test_an_interrupt_and_a_late_step_are_reported_by_the_engine_they_concern(tmp_path):
    """run:interrupt and step:cancel come from the engine that executed, from no other."""
    inside = threading.Event()

    def job(step):
        step.run("s", hold, step)

    def hold(step):
        inside.set()
        step.sleep(600)

    late = threading.Event()
    options = {"heartbeat_interval": 0.05, "stale_threshold": 10}
    with engine(tmp_path, job, **options) as app, engine(tmp_path, job) as other:
        events, of_other = record(app), record(other)
        app.on("step:cancel", lambda _: late.set())
        app.start()
        run = app.jobs["job"].trigger()
        assert inside.wait(GRACE_S)
        app.stop(interrupt=True)
        assert (events[-1].type, fields(events[-1])) == ("run:interrupt", {})
        inside.clear()
        app.start()
        assert inside.wait(GRACE_S)
        other.cancel(run)
        assert late.wait(GRACE_S)
        app.stop()
    assert types(events)[4:] == ["run:start", "step:start", "step:cancel"]
    assert fields(events[-1]) == {"step_name": "s", "step_index": 0}
    assert types(of_other) == ["run:cancel"]


def test_an_error_of_durablys_own_threads_is_reported(tmp_path, monkeypatch):
    """worker:error has the error, what it happened in, and the run, if it was about one."""

    def refuse(*_):
        raise durably.DatabaseError("the disk is on fire")

    def job(step):
        step.progress(1)
        assert told.wait(GRACE_S)

    told = threading.Event()
    monkeypatch.setattr(SqliteStore, "set_progress", refuse)
    with engine(tmp_path, job) as app:
        errors = record(app, "worker:error")
        app.on("worker:error", lambda _: told.set())
        run = execute(app)
        assert (run.status, run.progress) == ("completed", durably.Progress(1))
    error = errors[0]
    assert not hasattr(error, "job_name")
    assert str(error.error) == "durably.DatabaseError: the disk is on fire"
    assert "flusher" in error.context
    assert error.run_id is None


def test_no_event_type_is_unknown_to_these_tests():
    """The types are those of the contract."""
    assert set(EVENT_TYPES) == {
        *("run:trigger", "run:coalesced", "run:start", "run:progress", "run:complete", "run:fail"),
        *("run:cancel", "run:retry", "run:delete", "run:recover", "run:interrupt"),
        *(
            "run:redo",
            "run:fork",
            "step:start",
            "step:skip",
            "step:complete",
            "step:fail",
            "step:cancel",
        ),
        *("item:complete", "item:fail", "log:write", "worker:error"),
    }


# -- the failed step ---------------------------------------------------------------------------


def boom(text="boom"):
    raise ValueError(text)


def raised_from(step):
    try:
        step.run("a", boom)
    except ValueError as exc:
        raise KeyError from exc


def cleaned_up_after(step):
    try:
        step.run("a", boom)
    except ValueError:
        try:
            step.run("cleanup", boom, "cleanup")
        except ValueError:
            step.run("b", int)
        raise


def cleanup_fails(step):
    try:
        step.run("a", boom)
    finally:
        step.run("cleanup", boom, "cleanup")


def dealt_with(step):
    try:
        step.run("a", boom)
    except ValueError:
        step.run("b", int)
    raise KeyError


@pytest.mark.parametrize(
    ("job", "failed_step"),
    [
        (lambda step: step.run("a", boom), "a"),
        (lambda step: boom(), None),
        (raised_from, "a"),
        (cleaned_up_after, "a"),
        (cleanup_fails, "cleanup"),
        (dealt_with, None),
        (lambda step: step.run("outer", lambda: step.run("inner", boom)), "outer"),
    ],
    ids=["step", "job", "from", "cleanup", "finally", "handled", "nested"],
)
def test_run_fail_names_the_step_that_the_run_failed_in(tmp_path, job, failed_step):
    """``failed_step`` is the step whose exception ended the run, None if there is none."""
    with durably.Durably(tmp_path / "durably.db", jobs=[durably.Job("job", job)]) as app:
        events = record(app, "run:fail")
        with pytest.raises(durably.RunFailedError):
            app.jobs["job"].trigger_and_wait(timeout=GRACE_S)
    assert [event.failed_step for event in events] == [failed_step]
