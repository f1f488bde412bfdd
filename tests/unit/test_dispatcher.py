"""The dispatcher: it claims what can start now, no more, and loses no slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from storekit import (
    FakeClock,
    claim,
    finish,
    given_owner,
    given_running,
    query,
    suspend,
    trigger,
)

from durably.errors import DatabaseError
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import Emitter
from durably.jobs.registry import Claimed, JobRegistry
from durably.store.outcome import Suspended
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import queries, requeue
from durably.store.sqlite.store import SqliteStore
from durably.worker.claimer import Claimer
from durably.worker.current_runs import CurrentRuns
from durably.worker.dispatcher import PATIENCE_S, Dispatcher
from durably.worker.ownership import Ownership
from durably.worker.state import EngineState, State
from durably.worker.timers import Timers


class Worker:
    """A dispatcher with its claimer, and the runs that were handed over."""

    def __init__(self, store: Database, clock: FakeClock, slots: int) -> None:
        self.store = store
        self.got: list[CurrentRun] = []
        self.heard: list[list[CurrentRun]] = []  # what was handed over when it let listeners hear
        self.on_hand_over: Callable[[CurrentRun], None] = self.got.append
        self.has_threads = True
        self.state = EngineState()
        self.state.become(State.STARTED)
        emitter = Emitter(clock)
        ownership = cast("Ownership", SimpleNamespace(owner=given_owner(store)))
        emitter.wait_for_listeners = lambda: self.heard.append(list(self.got))  # type: ignore[method-assign]
        self.claimer = Claimer(
            slots,
            state=self.state,
            store=SqliteStore(store),
            clock=clock,
            emitter=emitter,
            registry=cast("JobRegistry", SimpleNamespace(claimed=Claimed('["job"]', "{}", "{}"))),
            runs=CurrentRuns(self.state, emitter, store.changes, ownership),
            ownership=ownership,
            labels_of=lambda row: {},
            hand_over=self._hand_over,
            on_none_claimable=lambda: None,
        )
        self.dispatcher = Dispatcher(
            changes=store.changes,
            has_free_slot=self.claimer.has_free_slot,
            dispatch=self.claimer.claim_for_free_slots,
            timers=Timers(SqliteStore(store), clock),
            clock=clock,
            poll_interval_s=1.0,
            on_error=lambda exc, name: None,
        )

    @property
    def free(self) -> int:
        return self.claimer._slots._free()

    def dispatch(self) -> list[str]:
        """Return the ids of the runs that were handed over."""
        before = len(self.got)
        self.dispatcher.tick()
        return [run.id for run in self.got[before:]]

    def _hand_over(self, run: CurrentRun, threads: int) -> None:
        if not self.has_threads:
            raise RuntimeError(threads)
        self.on_hand_over(run)


@pytest.fixture
def worker(store: Database, clock: FakeClock) -> Worker:
    return Worker(store, clock, slots=3)


def test_runs_are_claimed_as_slots_are_free(worker: Worker, store: Database) -> None:
    """As many as there are slots, in the order of their triggers; the others stay pending."""
    ids = [trigger(store).id for _ in range(5)]
    assert worker.dispatch() == ids[:3]
    assert worker.free == 0
    assert worker.dispatch() == []
    worker.claimer.free_slot()
    assert worker.dispatch() == ids[3:4]
    assert query(store, "SELECT status FROM durably_runs WHERE id = ?", ids[4]) == [("pending",)]


def test_slots_that_are_not_needed_are_given_back(worker: Worker, store: Database) -> None:
    """With fewer runs than slots the rest is free again, also with none at all."""
    assert worker.dispatch() == []
    assert worker.free == 3
    run = trigger(store)
    assert worker.dispatch() == [run.id]
    assert worker.free == 2


def test_nothing_is_claimed_while_draining(worker: Worker, store: Database) -> None:
    """What says that nothing is to be claimed is asked each time."""
    trigger(store)
    worker.state.drain()
    worker.dispatcher.tick()
    assert (worker.got, worker.free) == ([], 3)


def test_jobs_that_are_not_known_are_left(worker: Worker, store: Database) -> None:
    """They wait for a process that knows them."""
    trigger(store, "other")
    worker.dispatcher.tick()
    assert (worker.got, worker.free) == ([], 3)


def test_run_with_a_busy_key_is_left(worker: Worker, store: Database) -> None:
    """One of a key at a time, whatever slots are free."""
    first, second = (trigger(store, concurrency_key="k") for _ in range(2))
    assert worker.dispatch() == [first.id]
    assert worker.free == 2
    finish(store, worker.got[0].row, output="1")
    worker.got[0].is_over = True
    assert worker.dispatch() == [second.id]


def test_run_that_somebody_else_was_faster_to_claim_costs_no_slot(
    worker: Worker, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the claim another process may take it."""
    trigger(store)
    look = queries.has_claimable

    def then_lose(*args: str) -> bool:
        found = look(*args)
        claim(store, given_owner(store))
        return found

    monkeypatch.setattr(queries, "has_claimable", then_lose)
    assert worker.dispatch() == []
    assert worker.free == 3


def test_what_is_being_emitted_is_waited_for_first(worker: Worker, store: Database) -> None:
    """A trigger before the start of its run; a check that finds nothing waits for nobody."""
    assert worker.dispatch() == []
    assert worker.heard == []
    run = trigger(store)
    assert worker.dispatch() == [run.id]
    assert worker.heard == [[]]


@pytest.mark.parametrize("verb", ["has_claimable", "claim"])
def test_slots_are_given_back_when_the_database_rejects(
    worker: Worker,
    store: Database,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    """The error goes to the thread's loop, and no slot is lost to it."""
    trigger(store)

    def refuse(*args: object) -> None:
        raise DatabaseError("locked")

    monkeypatch.setattr(SqliteStore, verb, refuse)
    with pytest.raises(DatabaseError):
        worker.dispatcher.tick()
    assert worker.free == 3
    assert isinstance(worker.dispatcher.failure, DatabaseError)
    monkeypatch.undo()
    worker.dispatcher.tick()
    assert (len(worker.got), worker.dispatcher.failure) == (1, None)


def test_failure_that_may_pass_is_raised_to_waiting_threads_only_if_it_does_not(
    worker: Worker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failing sync ends no wait for the last run; a disk that stays full does in the end."""
    full = DatabaseError("full", is_transient=True)

    def refuse(*args: object) -> None:
        raise full

    def tick() -> DatabaseError | None:
        with pytest.raises(DatabaseError):
            worker.dispatcher.tick()
        return worker.dispatcher.failure

    monkeypatch.setattr(queries, "has_claimable", refuse)
    assert tick() is None
    clock.advance(PATIENCE_S - 1)
    assert tick() is None
    clock.advance(1)
    assert tick() is full
    monkeypatch.undo()
    worker.dispatcher.tick()
    monkeypatch.setattr(queries, "has_claimable", refuse)
    assert tick() is None


def test_run_triggered_during_a_tick_is_not_slept_over(
    worker: Worker, store: Database, clock: FakeClock
) -> None:
    """What is committed after the look of a tick ends the wait behind it at once."""
    trigger(store)

    def trigger_another(run: CurrentRun) -> None:
        worker.got.append(run)
        if len(worker.got) == 1:
            trigger(store)

    worker.on_hand_over = trigger_another
    worker.dispatcher.tick()
    before = clock.seconds
    worker.dispatcher.pause()
    assert clock.seconds == before
    worker.dispatcher.tick()
    assert len(worker.got) == 2


@pytest.mark.parametrize("slots", [0, 3])
def test_wake_ends_the_pause(worker: Worker, slots: int) -> None:
    """A wake before the pause counts as well, also where only a free slot can be waited for."""
    worker.dispatcher._poll_interval_s = 1000
    worker.dispatcher.tick()
    worker.claimer._use(0, 3 - slots)
    worker.dispatcher.wake()
    worker.dispatcher.pause()


def test_without_a_free_slot_nothing_is_polled(
    worker: Worker, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others commit is no reason to wake up while nothing can be claimed."""
    worker.claimer._use(0, 3)
    worker.dispatcher.tick()
    trigger(store)
    monkeypatch.setattr(store.changes, "_data_version", lambda: pytest.fail("looked"))
    waking = threading.Thread(target=store.changes.notify_dispatcher)
    worker.dispatcher._poll_interval_s = 1000
    waking.start()
    worker.dispatcher.pause()
    waking.join(10)


def test_run_that_cannot_be_put_back_costs_the_others_nothing(
    worker: Worker, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claimed run is handed over, whatever becomes of the one before it."""
    ids = [trigger(store).id for _ in range(3)]

    def fail_once(run: CurrentRun) -> None:
        worker.got.append(run)
        if len(worker.got) == 1:
            raise RuntimeError("no thread")

    def refuse(*args: object) -> None:
        raise DatabaseError("full")

    worker.on_hand_over = fail_once
    monkeypatch.setattr(requeue, "requeue", refuse)
    with pytest.raises(DatabaseError, match="full"):
        worker.dispatcher.tick()
    assert [run.id for run in worker.got] == ids
    assert worker.free == 1


def test_run_that_no_thread_can_execute_is_not_claimed_again_at_once(
    worker: Worker, store: Database
) -> None:
    """It is put back, and claimed after a poll interval, not in a loop without a pause."""
    run = trigger(store)
    worker.has_threads = False
    worker.dispatcher.tick()
    assert query(store, "SELECT status FROM durably_runs WHERE id = ?", run.id) == [("pending",)]
    assert worker.free == 3
    assert not store.changes._wakeup.is_set()
    assert store.changes.version() == worker.dispatcher._version


@pytest.mark.parametrize("slots", [0, 3])
def test_it_sleeps_no_longer_than_until_a_run_is_due(
    worker: Worker,
    store: Database,
    clock: FakeClock,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where no slot is free; the run is woken then, and goes on with its attempt."""
    monkeypatch.setattr(store.changes, "_clock", clock)
    asleep = given_running(store, given_owner(store))
    suspend(store, asleep, Suspended("time", "nap", clock.us + 300_000))
    worker.dispatcher.tick()
    worker.claimer._use(0, 3 - slots)
    since = clock.us
    for _ in range(100):
        worker.dispatcher.pause()
        worker.dispatcher.tick()
        if clock.us >= since + 300_000:
            break
    assert clock.us == since + 300_000
    assert [run.id for run in worker.got] == [asleep.id] * (slots > 0)
    expected = ("running" if slots else "pending", 1)
    sql = "SELECT status, attempt FROM durably_runs WHERE id = ?"
    assert query(store, sql, asleep.id) == [expected]


def test_a_wall_clock_that_jumps_ends_the_sleep_within_the_poll_interval(
    worker: Worker, store: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is read anew each time, so that a jump delays nothing for longer than that."""
    monkeypatch.setattr(store.changes, "_clock", clock)
    asleep = given_running(store, given_owner(store))
    suspend(store, asleep, Suspended("time", "nap", clock.us + 3_600_000_000))
    worker.dispatcher.tick()
    before = clock.seconds
    worker.dispatcher.pause()
    assert (worker.got, clock.seconds - before) == ([], pytest.approx(1.0))
    clock.us += 3_600_000_000
    assert worker.dispatch() == [asleep.id]
