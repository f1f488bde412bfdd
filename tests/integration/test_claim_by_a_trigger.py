"""A trigger into a free slot claims in the commit that stores it; nothing else changes by that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import durably
from durably.errors import DatabaseError
from durably.store.outcome import OwnerDead
from durably.store.rows import Claim
from durably.store.sqlite.sql import claims, requeue
from durably.store.sqlite.sql import enqueue as enqueueing

HANG_S = 30.0  # only guards against hanging


@durably.job
def work(step: durably.StepContext, number: int) -> int:
    return step.run("only", int, number)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[durably.Durably]:
    """An engine with one worker, which starts what triggers claim, and nothing else."""
    app = durably.Durably(tmp_path / "test.db", jobs=[work], max_workers=1, synchronous="normal")
    with monkeypatch.context() as patch:
        patch.setattr(app._supervisor._dispatcher, "dispatch", lambda: True)
        yield app
    app.close()


def until_slot_is_free(app: durably.Durably) -> None:
    """Wait for that: it comes a little after the end of the run."""
    deadline = time.monotonic() + HANG_S
    assert app._supervisor._claimer.wait_until_idle(lambda: None, deadline)


def take_slot(app: durably.Durably) -> None:
    """Reserve the slot, which the dispatcher reserves for a moment too when it polls."""
    deadline = time.monotonic() + HANG_S
    while app._supervisor._claimer._reserve(1) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_run_first_in_line_is_started(app: durably.Durably) -> None:
    """Not the one that was triggered, if others came before; that one follows."""
    first = app.jobs["work"].trigger(1)  # not started yet: it stays pending
    app.start()
    second = app.jobs["work"].trigger(2)
    ended = [app.wait(run, timeout=HANG_S) for run in (first, second)]
    assert [run.output for run in ended] == [1, 2]
    assert ended[0].started_at <= ended[1].started_at
    assert [run.attempt for run in ended] == [1, 1]


def test_what_trigger_returns_is_a_pending_run(app: durably.Durably) -> None:
    """It reports the trigger, whatever has become of the run meanwhile."""
    app.start()
    run = app.jobs["work"].trigger(1)
    assert (run.status, run.attempt, run.disposition) == ("pending", 0, "created")
    assert app.wait(run, timeout=HANG_S).output == 1


def test_trigger_that_finds_its_run_takes_no_slot(app: durably.Durably) -> None:
    """A key that is known, again and again, leaves the slot to the next new run."""
    app.start()
    first = app.jobs["work"].trigger(1, idempotency_key="k")
    app.wait(first, timeout=HANG_S)
    until_slot_is_free(app)
    for _ in range(3):
        assert app.jobs["work"].trigger(1, idempotency_key="k").disposition == "idempotent"
    assert app.wait(app.jobs["work"].trigger(2), timeout=HANG_S).output == 2


def test_retried_run_is_started_too(app: durably.Durably) -> None:
    """``retry_failed`` makes it pending, and so claimable."""

    @durably.job
    def fails_once(step: durably.StepContext) -> int:
        if step.attempt == 1:
            raise ValueError
        return step.attempt

    handle = app.register(fails_once)
    app.start()
    with pytest.raises(durably.RunFailedError):
        handle.trigger_and_wait(idempotency_key="k", timeout=HANG_S)
    until_slot_is_free(app)
    run = handle.trigger_and_wait(idempotency_key="k", retry_failed=True, timeout=HANG_S)
    assert (run.disposition, run.output) == ("retried", 2)


def test_concurrency_key_is_respected(app: durably.Durably) -> None:
    """A run whose key is held is not started by its trigger."""
    owner = app._supervisor
    app.start()
    held = app.jobs["work"].trigger(1, concurrency_key="k")
    app.wait(held, timeout=HANG_S)
    claim = Claim(owner.local.owner or 0, '["work"]', lambda: 1)
    take_slot(app)
    waiting = [app.jobs["work"].trigger(n, concurrency_key="k") for n in (2, 3)]
    [row] = app._store.database.write(claims.claim, claim)
    app._supervisor._claimer._use(1, 0)
    other = app.jobs["work"].trigger(4)
    assert app.wait(other, timeout=HANG_S).output == 4
    assert app.get_run(waiting[1]).status == "pending"
    take_slot(app)
    claimer = app._supervisor._claimer
    claimer.has_free_slot()  # that none is makes the thread that frees the slot claim a run
    claimer._use(1, 1)
    claimer._start(claimer.enter(row, time.monotonic()))
    assert [app.wait(run, timeout=HANG_S).output for run in waiting] == [2, 3]


def test_engine_taken_for_dead_stores_and_starts_later(app: durably.Durably) -> None:
    """Others have forgotten it: until it has registered anew it may claim nothing."""
    app.start()
    owner = app._supervisor.local.owner
    assert owner is not None
    app._store.database.write(requeue.requeue, OwnerDead(owner), 1)
    plain, keyed = (app.jobs["work"].trigger(1, idempotency_key=key) for key in (None, "k"))
    assert [app.get_run(run).status for run in (plain, keyed)] == ["pending", "pending"]
    app._supervisor._heartbeat.tick()
    third = app.jobs["work"].trigger(3)
    assert [app.wait(run, timeout=HANG_S).output for run in (plain, keyed, third)] == [1, 1, 3]


def test_rejected_trigger_takes_no_slot(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored leaves everything as it was."""
    app.start()

    def refuse(*args: Any) -> None:
        raise DatabaseError("full")

    with monkeypatch.context() as patch:
        patch.setattr(enqueueing, "start", refuse)
        with pytest.raises(DatabaseError):
            app.jobs["work"].trigger(1)
    assert app.count_runs() == 0
    assert app.wait(app.jobs["work"].trigger(2), timeout=HANG_S).output == 2


def test_listener_of_the_trigger_may_wait_for_the_run(tmp_path: Path) -> None:
    """It is not the run that waits for the listener."""
    seen: list[Any] = []
    with durably.Durably(tmp_path / "test.db", jobs=[work], max_workers=1) as app:
        app.on("run:trigger", lambda event: seen.append(app.wait(event.run_id, timeout=HANG_S)))
        app.jobs["work"].trigger(7)
    assert [run.output for run in seen] == [7]


def test_listener_of_a_retry_may_wait_for_the_run(tmp_path: Path) -> None:
    """It is not the run that waits for the listener."""
    seen: list[Any] = []
    results = [ValueError("the first time"), None]

    @durably.job
    def flaky(step: durably.StepContext) -> None:
        result = results.pop(0)
        if result is not None:
            raise result

    with durably.Durably(tmp_path / "test.db", jobs=[flaky], max_workers=1) as app:
        app.on("run:retry", lambda event: seen.append(app.wait(event.run_id, timeout=HANG_S)))
        with pytest.raises(durably.RunFailedError):
            app.jobs["flaky"].trigger_and_wait(idempotency_key="k", timeout=HANG_S)
        retried = app.jobs["flaky"].trigger(idempotency_key="k", retry_failed=True)
    assert retried.disposition == "retried"
    assert [run.status for run in seen] == ["completed"]


def test_listener_of_a_coalesced_trigger_may_wait_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the run, which was first in line, that waits for the listener."""
    seen: list[Any] = []
    may_claim = threading.Event()
    app = durably.Durably(tmp_path / "test.db", jobs=[work], max_workers=1)
    dispatcher = app._supervisor._dispatcher
    dispatch = dispatcher.dispatch
    monkeypatch.setattr(dispatcher, "dispatch", lambda: not may_claim.is_set() or dispatch())

    def wait(event: durably.Event) -> None:
        may_claim.set()
        dispatcher.wake()
        seen.append(app.wait(event.run_id, timeout=HANG_S))

    app.on("run:coalesced", wait)
    app.jobs["work"].trigger(7, concurrency_key="k")
    with app:
        joined = app.jobs["work"].trigger(8, concurrency_key="k", coalesce=True)
    assert joined.disposition == "coalesced"
    assert [run.output for run in seen] == [7]


def test_triggers_of_many_threads_each_start_once(tmp_path: Path) -> None:
    """However slots are taken and given back, each run is executed, once."""
    effects: list[int] = []

    @durably.job
    def effect(step: durably.StepContext, number: int) -> None:
        step.run("effect", effects.append, number)

    with durably.Durably(
        tmp_path / "test.db", jobs=[effect], max_workers=3, synchronous="normal"
    ) as app:

        def trigger(first: int) -> None:
            for number in range(first, first + 25):
                app.jobs["effect"].trigger(number)

        threads = [threading.Thread(target=trigger, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
    assert sorted(effects) == [100 * n + each for n in range(4) for each in range(25)]
