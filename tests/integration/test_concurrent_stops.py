"""Stops, starts and ends of ``run_until_idle`` that threads make in between each other's parts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from calls import HANG_S, in_thread, later, names_of_threads, operation_later, status
from held import HeldJob

import durably
from durably import ConflictError, Durably, WaitTimeoutError
from durably.store.sqlite.sql import claims, settle
from durably.store.sqlite.sql import enqueue as enqueueing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@durably.job("quick")
def quick(step: durably.StepContext) -> int:
    return step.run("only", int, "7")


@pytest.fixture
def app(tmp_path: Path, held: HeldJob) -> Iterator[Durably]:
    app = Durably(tmp_path / "x.db", jobs=[held.job, quick], max_workers=2)
    yield app
    held.let_all_go()
    app.close()


def after_first_call(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, then: Callable[[], None]
) -> threading.Event:
    """Call *then* when *target.name* has returned for the first time; set when called again."""
    original = getattr(target, name)
    is_called_again = threading.Event()
    calls: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) > 1:
            is_called_again.set()
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        then()
        return result

    monkeypatch.setattr(target, name, call)
    return is_called_again


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_trigger_that_a_start_let_in_during_a_stop_is_waited_for(
    app: Durably, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The stop found the engine idle; then another thread started it and triggered a run.

    What the trigger has begun comes to its end before the stop does, and nothing is left.
    """
    app.start()
    enters, may_enter = later(monkeypatch, app._supervisor._claimer, "enter")
    threads = []

    def start_and_trigger() -> None:
        app.start()
        threads.append(in_thread(app.jobs["quick"].trigger))
        assert enters.wait(HANG_S)

    waits_again = after_first_call(
        monkeypatch, app._supervisor._claimer, "wait_until_idle", start_and_trigger
    )
    stopping, outcome = in_thread(getattr(app, how))
    assert waits_again.wait(HANG_S)
    assert stopping.is_alive()
    may_enter.set()
    stopping.join(HANG_S)

    assert outcome == [None]
    [(triggering, triggered)] = threads
    triggering.join(HANG_S)
    if how == "close":
        assert [each.name for each in tmp_path.iterdir() if ".owner-" in each.name] == []
    else:
        assert not app._supervisor.state.is_started
    with Durably(tmp_path / "x.db") as reopened:
        found = reopened.get_run(triggered[0])
        assert found is not None
        assert (found.status, found.attempt) == ("completed", 1)


@pytest.mark.parametrize(
    "verb", [claims.claim, settle.settle_and_claim, enqueueing.enqueue_and_claim]
)
def test_a_claim_that_a_stop_overtakes_takes_nothing(
    app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch, verb: Callable[..., Any]
) -> None:
    """By the dispatcher, at a run's end, by a trigger: what comes after the stop stays pending."""

    def trigger() -> durably.Run[Any, Any]:
        return app.jobs["quick"].trigger(concurrency_key="k")

    inside, may_go_on = operation_later(monkeypatch, app, "write", verb)
    threads = []
    if verb is claims.claim:
        before = [trigger()]
        app.start()
    elif verb is settle.settle_and_claim:
        app.start()
        app.jobs["held"].batch_trigger([None] * 2)
        held.inside()
        before = [trigger()]
        held.let_all_go()
    else:
        before = []
        # Or it might have the slots at that moment.
        monkeypatch.setattr(app._supervisor._dispatcher, "dispatch", lambda: True)
        app.start()
        threads.append(in_thread(trigger))
    assert inside.wait(HANG_S)
    with pytest.raises(WaitTimeoutError):
        app.stop(timeout=0)
    late = trigger()
    may_go_on.set()
    for thread, triggered in threads:
        thread.join(HANG_S)
        before += triggered
    app.stop()

    assert [status(app, run) for run in [*before, late]] == ["pending"] * 2


def test_one_run_until_idle_that_ends_does_not_end_another(
    app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call that came before the first had ended goes on claiming."""
    drain = app._supervisor._until_idle.wait
    second_waits, is_triggered = threading.Event(), threading.Event()
    threads = []

    def first(*args: Any) -> None:
        drain(*args)
        monkeypatch.setattr(app._supervisor._until_idle, "wait", second)
        threads.append(in_thread(app.run_until_idle))
        assert second_waits.wait(HANG_S)
        app.jobs["held"].trigger()
        is_triggered.set()
        held.inside()

    def second(*args: Any) -> None:
        second_waits.set()
        assert is_triggered.wait(HANG_S)
        drain(*args)

    monkeypatch.setattr(app._supervisor._until_idle, "wait", first)
    app.run_until_idle()
    app.jobs["quick"].trigger()
    held.let_all_go()
    [(thread, outcome)] = threads
    thread.join(HANG_S)

    assert outcome == [2]
    assert [each.status for each in app.get_runs()] == ["completed"] * 2
    assert names_of_threads() == []


def test_what_is_claimed_while_run_until_idle_polls_is_not_all_there_is(
    app: Durably, held: HeldJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the engine idle; then the dispatcher claimed the run that the others wait for."""
    claimer, dispatcher = app._supervisor._claimer, app._supervisor._dispatcher
    can_claim, dispatch = claimer.can_claim, dispatcher.dispatch
    is_looking = threading.Event()

    def dispatch_later() -> bool:
        assert is_looking.wait(HANG_S)
        return dispatch()

    def look_later() -> bool:
        if not is_looking.is_set():
            is_looking.set()
            held.inside()
        result = can_claim()
        held.let_all_go()
        return result

    monkeypatch.setattr(dispatcher, "dispatch", dispatch_later)
    monkeypatch.setattr(claimer, "can_claim", look_later)
    runs = [app.jobs[name].trigger(concurrency_key="k") for name in ("held", "quick")]
    assert app.run_until_idle() == 2
    assert [status(app, run) for run in runs] == ["completed"] * 2


def test_a_start_while_run_until_idle_ends_keeps_its_dispatcher(
    app: Durably, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is started, whichever comes first: it executes what others trigger."""
    begins = threading.Event()
    threads = []
    locked = app._supervisor.lifecycle.locked

    def begin() -> Any:
        begins.set()
        return locked()

    def start_in_another_thread() -> None:
        monkeypatch.setattr(app._supervisor.lifecycle, "locked", begin)
        threads.append(in_thread(app.start))
        assert begins.wait(HANG_S)

    after_first_call(monkeypatch, app._supervisor._until_idle, "wait", start_in_another_thread)
    assert app.run_until_idle(max_runs=1) == 0
    [(thread, outcome)] = threads
    thread.join(HANG_S)
    assert outcome == [app]

    other = Durably(tmp_path / "x.db", jobs=[quick])
    try:
        runs = other.jobs["quick"].batch_trigger([None] * 3)
        assert [app.wait(run, timeout=HANG_S).output for run in runs] == [7] * 3
    finally:
        other.close()


@pytest.mark.parametrize("ends", ["process_one", "run_until_idle"])
def test_a_listener_that_the_end_waits_for_may_not_start_the_engine(
    app: Durably, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Called by a thread of durably's, it would wait for the call that waits for its own end."""
    raised: list[BaseException] = []
    is_called = threading.Event()

    def start(event: Any) -> None:
        is_called.set()
        assert app._supervisor.flusher._stopping.wait(HANG_S)
        with pytest.raises(ConflictError) as caught:
            app.start()
        raised.append(caught.value)

    app.on("worker:error", start)

    def fail_beside_it(event: Any) -> None:
        app._supervisor._on_heartbeat_error(ValueError("noticed"), "heartbeat")
        assert is_called.wait(HANG_S)

    app.on("run:complete", fail_beside_it)
    app.jobs["quick"].trigger()
    thread, outcome = in_thread(getattr(app, ends))
    thread.join(HANG_S)

    assert outcome == [1]
    [refused] = raised
    assert "waits for the job or listener that makes this call" in str(refused)
