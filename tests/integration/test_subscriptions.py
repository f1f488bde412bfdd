"""``app.subscribe``: the events of one run, from now on, to its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from children import held
from engines import GRACE_S, engine, execute
from held import HeldJob

import durably
from durably.plugins import LogPersistence


def collect(subscription: Iterator[durably.Event]) -> tuple[threading.Thread, list[durably.Event]]:
    """Iterate in a thread of its own; the thread, and what has come so far."""
    heard: list[durably.Event] = []
    thread = threading.Thread(target=lambda: heard.extend(subscription), daemon=True)
    thread.start()
    return thread, heard


def ended(thread: threading.Thread) -> bool:
    thread.join(GRACE_S)
    return not thread.is_alive()


def job(step, payload):
    step.run("s", int)
    step.progress(1, 2)
    step.log.info("line")
    if payload == "fail":
        step.run("bad", lambda: 1 // 0)
    return payload


@pytest.mark.parametrize("payload", ["done", "fail"])
def test_a_subscription_yields_the_events_of_its_run_to_the_end(tmp_path, payload):
    """All events of the run and of no other come in order, and the iteration ends with the run."""
    with engine(tmp_path, job) as app:
        run, other = app.jobs["job"].batch_trigger([payload, "other"])
        subscription = app.subscribe(run)
        app.start()
        heard = list(subscription)
        app.wait(other, timeout=GRACE_S)
        assert next(subscription, None) is None
    assert {event.run_id for event in heard} == {run.id}
    kinds = [event.type for event in heard if event.type != "run:progress"]
    assert kinds == [
        *["run:start", "step:start", "step:complete", "log:write"],
        *(["step:start", "step:fail", "run:fail"] if payload == "fail" else ["run:complete"]),
    ]
    assert [event.sequence for event in heard] == sorted(event.sequence for event in heard)


def test_a_subscription_takes_a_run_or_its_id(tmp_path):
    """A ``Run`` and its id are both accepted; an unknown id is a NotFoundError."""
    with engine(tmp_path, job) as app:
        run = execute(app, 1)
        assert [event.run_id for event in app.subscribe(run)] == [run.id]
        assert [event.run_id for event in app.subscribe(run.id)] == [run.id]
        with pytest.raises(durably.NotFoundError):
            app.subscribe("nobody")


def test_events_before_the_subscription_are_not_heard(tmp_path):
    """A subscription to a run in progress hears what comes from then on."""
    inside, may_end = threading.Event(), threading.Event()

    def hold(step):
        step.run("before", int)
        inside.set()
        assert may_end.wait(GRACE_S)
        step.run("after", int)

    with engine(tmp_path, hold) as app:
        app.start()
        run = app.jobs["hold"].trigger()
        assert inside.wait(GRACE_S)
        with app.subscribe(run) as subscription:
            may_end.set()
            heard = [event.type for event in subscription]
    assert heard == ["step:start", "step:complete", "run:complete"]


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_a_terminal_run_yields_its_one_event(tmp_path, outcome):
    """A run that has ended yields its terminal event, with the fields of the real one."""
    with engine(tmp_path, job) as app:
        real = []
        for type_ in ("run:complete", "run:fail", "run:cancel"):
            app.on(type_, real.append)
        if outcome == "cancelled":
            run = app.jobs["job"].trigger("x", labels={"a": "b"})
            app.cancel(run)
        else:
            run = execute(app, "fail" if outcome == "failed" else "x", labels={"a": "b"})
        assert run.id
        (event,) = list(app.subscribe(run))
        (again,) = list(app.subscribe(run))

    def told(event):
        names = [field.name for field in type(event).__attrs_attrs__]
        return {n: getattr(event, n) for n in names if n not in ("timestamp", "sequence")}

    assert type(event) is type(real[0])
    assert told(event) == told(again) == told(real[0])
    assert again.sequence > event.sequence > real[0].sequence


def test_a_cancelled_run_whose_job_goes_on_yields_one_event(tmp_path):
    """A run that is terminal while its job is still in a step yields run:cancel alone, at once."""
    inside, may_end = threading.Event(), threading.Event()

    def hold(step):
        step.run("s", lambda: inside.set() or may_end.wait(GRACE_S))

    with engine(tmp_path, hold) as app:
        app.start()
        run = app.jobs["hold"].trigger()
        assert inside.wait(GRACE_S)
        app.cancel(run)
        subscription = app.subscribe(run)
        assert next(subscription).type == "run:cancel"
        may_end.set()
        app.stop()
        assert list(subscription) == []


def test_a_run_that_is_cancelled_ends_its_subscription(tmp_path):
    """Cancelling a pending run yields run:cancel as the last event."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        thread, heard = collect(app.subscribe(run))
        app.cancel(run)
        assert ended(thread)
    assert [event.type for event in heard] == ["run:cancel"]


def test_an_interrupt_does_not_end_a_subscription(tmp_path):
    """A run that goes back to pending and is claimed again is heard to its end."""
    inside = threading.Event()

    def hold(step):
        inside.set()
        if step._run.fence == 1:
            step.sleep(600)

    with engine(tmp_path, hold) as app:
        run = app.jobs["hold"].trigger()
        thread, heard = collect(app.subscribe(run))
        app.start()
        assert inside.wait(GRACE_S)
        app.stop(interrupt=True)
        app.start()
        assert ended(thread)
    assert [event.type for event in heard] == [
        *["run:start", "run:interrupt", "run:start", "run:complete"]
    ]


def test_leaving_the_block_unsubscribes(tmp_path):
    """A subscription is a context manager; after it nothing is heard or kept any more."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        with app.subscribe(run) as subscription:
            assert iter(subscription) is subscription
            assert app._emitter.wants("step:start")
        assert not app._emitter.wants("step:start")
        app.process_one()
        assert list(subscription) == []


def test_the_end_of_the_run_unsubscribes(tmp_path):
    """A subscription that has yielded the terminal event listens no more."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        subscription = app.subscribe(run)
        app.process_one()
        assert [event.type for event in subscription][-1] == "run:complete"
        assert not app._emitter.wants("step:start")


def test_an_unknown_run_leaves_no_listener(tmp_path):
    """A rejected subscription listens to nothing."""
    with engine(tmp_path, job) as app:
        with pytest.raises(durably.NotFoundError):
            app.subscribe("nobody")
        assert not app._emitter.wants("step:start")


def test_two_subscribers_hear_the_same(tmp_path):
    """Each subscription of a run yields all events, however slowly the other is read."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        first, second = app.subscribe(run), app.subscribe(run)
        app.process_one()
        heard = list(first)
        assert len(heard) >= 5
        assert list(second) == heard


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_deleted_run_ends_its_subscription(tmp_path, where):
    """The iteration ends, and does not raise, when the run is deleted by whomever."""
    with engine(tmp_path, job) as app, engine(tmp_path, job) as other:
        deleting = app if where == "here" else other
        run = app.jobs["job"].trigger(1)
        subscription = app.subscribe(run)
        deleting.cancel(run)
        deleting.delete_run(run)
        kinds = [event.type for event in subscription]
    assert kinds == (["run:cancel"] if where == "here" else [])


@pytest.mark.parametrize("has_started", [False, True])
def test_closing_the_engine_ends_a_subscription(tmp_path, has_started):
    """A waiting subscription ends, and does not raise, when its engine is closed."""
    with engine(tmp_path, job) as app:
        blocked = app.jobs["job"].trigger(1, concurrency_key="k")
        if has_started:
            app.start()
            app.wait(blocked, timeout=GRACE_S)

            def unknown(step):
                pass

            with engine(tmp_path, unknown) as other:
                blocked = other.jobs["unknown"].trigger()
        threads = [collect(app.subscribe(blocked)) for _ in range(4)]
        app.close()
        for thread, heard in threads:
            assert ended(thread)
            assert heard == []
        with pytest.raises(durably.EngineClosedError):
            app.subscribe(blocked)


def test_events_heard_before_the_engine_closed_are_still_yielded(tmp_path):
    """What was emitted before the close can be read after it."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        subscription = app.subscribe(run)
        app.process_one()
        app.close()
        assert [event.type for event in subscription][-1] == "run:complete"


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_of_a_run_that_another_engine_executes_the_end_is_heard(tmp_path, outcome):
    """The terminal event is built from the database, typed by the job registered here."""
    with engine(tmp_path, job) as app, engine(tmp_path, job) as other:
        payload = "fail" if outcome == "failed" else "x"
        run = app.jobs["job"].trigger(payload)
        thread, heard = collect(app.subscribe(run))
        if outcome == "cancelled":
            other.cancel(run)
        else:
            assert other.process_one()
        assert ended(thread)
        run = app.get_run(run)
    assert run.status == outcome
    (event,) = heard
    if outcome == "completed":
        assert (event.type, event.output, event.duration) == ("run:complete", "x", run.duration)
    elif outcome == "failed":
        assert (event.type, event.error, event.duration) == ("run:fail", run.error, run.duration)
        assert event.failed_step == "bad"
    else:
        assert event.type == "run:cancel"


def raised_from_a_step(step):
    try:
        step.run("a", lambda: 1 // 0)
    except ZeroDivisionError as exc:
        raise KeyError("b") from exc


def raised_like_a_step(step):
    with suppress(ZeroDivisionError):
        step.run("a", lambda: 1 // 0)
    1 // 0  # noqa: B018 - raises the same once more


def raised_again(step):
    step.run("a", lambda: 1 // (step.attempt - 1))
    raise OSError("later")


@pytest.mark.parametrize("function", [raised_from_a_step, raised_like_a_step, raised_again])
def test_the_failed_step_is_the_same_for_those_who_were_not_there(tmp_path, function):
    """run:fail built from the database names the step that the engine that executed it named."""
    with engine(tmp_path, function) as app:
        real = []
        app.on("run:fail", real.append)
        run = app.jobs[function.__name__].trigger()
        for _ in range(2):
            assert app.process_one()
            (event,) = app.subscribe(run)
            assert (event.failed_step, event.error) == (real[-1].failed_step, real[-1].error)
            app.retry(run)
    assert [event.failed_step for event in real] == {
        raised_from_a_step: ["a", "a"],
        raised_like_a_step: [None, None],
        raised_again: ["a", None],
    }[function]


def test_of_a_run_in_another_process_the_end_is_heard(tmp_path):
    """A subscription to a run that another process executes yields its terminal event."""
    path = tmp_path / "durably.db"
    with held(path, 1, 10) as (child, run_id), engine(tmp_path, job) as app:
        thread, heard = collect(app.subscribe(run_id))
        child.say()
        assert ended(thread)
        assert [(e.type, e.job_name, e.output) for e in heard] == [
            ("run:complete", "hold", "by the first")
        ]


def test_a_subscription_may_be_read_in_the_thread_that_executes(tmp_path):
    """Nothing is lost between two reads: what was emitted meanwhile is waiting."""
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger(1)
        subscription = app.subscribe(run)
        app.process_one()
        first = next(subscription)
        rest = list(subscription)
    assert first.type == "run:start"
    assert rest[-1].type == "run:complete"


def test_a_subscription_can_be_closed_while_it_is_read(tmp_path):
    """``close`` in another thread ends an iteration that waits for the next event."""
    with engine(tmp_path, job) as app:
        subscription = app.subscribe(app.jobs["job"].trigger(1))
        thread, heard = collect(subscription)
        subscription.close()
        subscription.close()
        assert ended(thread)
    assert heard == []


def test_a_closed_engine_takes_no_listeners_and_plugins(tmp_path):
    """After ``close`` on, on_error, use and get_logs raise EngineClosedError."""
    with engine(tmp_path, job) as app:
        run = execute(app, 1)
        app.close()
        for call in (
            lambda: app.on("*", print),
            lambda: app.on("*"),
            lambda: app.on_error(print),
            lambda: app.use(LogPersistence()),
            lambda: app.get_logs(run),
            lambda: app.get_steps(run),
        ):
            with pytest.raises(durably.EngineClosedError):
                call()


def test_a_cancel_of_another_process_ends_it_before_the_step_is_left(tmp_path):
    """The run has ended: nothing more of it is emitted here, however long its job goes on."""
    held = HeldJob()
    with (
        durably.Durably(tmp_path / "x.db", jobs=[held.job], heartbeat_interval=0.1) as app,
        durably.Durably(tmp_path / "x.db") as other,
    ):
        run = app.jobs["held"].trigger()
        held.inside()
        thread, heard = collect(app.subscribe(run))
        other.cancel(run)
        assert ended(thread)
        held.let_all_go()
    assert [event.type for event in heard] == ["run:cancel"]
