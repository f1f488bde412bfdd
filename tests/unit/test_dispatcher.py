"""The dispatcher: it claims what can start now, no more, and loses no slot."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from storekit import FakeClock, claim, finish, given_owner, query, trigger

from durably.errors import DatabaseError
from durably.store.rows import Claim, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import queries as lookups
from durably.store.sqlite.store import SqliteStore
from durably.worker.dispatcher import PATIENCE_S, Dispatcher


class Pool:
    """Slots, and the runs that were handed over."""

    def __init__(self, store: Database, clock: FakeClock, slots: int) -> None:
        self.store = store
        self.free = slots
        self.jobs: tuple[str, ...] = ("job",)
        self.owner = given_owner(store)
        self.got: list[RunRow] = []
        self.told: list[list[RunRow]] = []  # what was handed over when it let listeners hear
        self.on_hand_over: Callable[[RunRow], None] = self.got.append
        self.is_draining = False
        self.has_threads = True
        self.dispatcher = Dispatcher(
            SqliteStore(store),
            changes=store.changes,
            has_free_slot=lambda: self.free > 0,
            reserve_slots=self._reserve,
            return_slots=self._return,
            want_slot=lambda: None,
            hand_over=self._hand_over,
            on_none_claimable=lambda: None,
            wait_for_listeners=lambda: self.told.append(list(self.got)),
            clock=clock,
            poll_interval_s=1.0,
            on_error=lambda exc, name: None,
        )

    def _reserve(self) -> Claim | None:
        if self.free <= 0 or self.is_draining:
            return None
        reserved, self.free = self.free, 0
        return Claim(self.owner, json.dumps(self.jobs), lambda: 20, reserved)

    def _hand_over(self, row: RunRow) -> bool:
        self.on_hand_over(row)
        return self.has_threads

    def _return(self, slots: int) -> None:
        assert slots >= 0
        self.free += slots


@pytest.fixture
def pool(store: Database, clock: FakeClock) -> Pool:
    return Pool(store, clock, slots=3)


def test_runs_are_claimed_as_slots_are_free(pool: Pool, store: Database) -> None:
    """As many as there are slots, in the order of their triggers; the others stay pending."""
    ids = [trigger(store).id for _ in range(5)]
    assert pool.dispatcher.dispatch() == 3
    assert [row.id for row in pool.got] == ids[:3]
    assert pool.free == 0
    assert pool.dispatcher.dispatch() == 0
    pool.free = 1
    assert pool.dispatcher.dispatch() == 1
    assert [row.id for row in pool.got] == ids[:4]
    assert query(store, "SELECT status FROM durably_runs WHERE id = ?", ids[4]) == [("pending",)]


def test_slots_that_are_not_needed_are_given_back(pool: Pool, store: Database) -> None:
    """With fewer runs than slots the rest is free again, also with none at all."""
    assert pool.dispatcher.dispatch() == 0
    assert pool.free == 3
    trigger(store)
    assert pool.dispatcher.dispatch() == 1
    assert pool.free == 2


def test_nothing_is_claimed_while_draining(pool: Pool, store: Database) -> None:
    """What says that nothing is to be claimed is asked each time."""
    trigger(store)
    pool.is_draining = True
    pool.dispatcher.tick()
    assert (pool.got, pool.free) == ([], 3)


def test_jobs_that_are_not_known_are_left(pool: Pool, store: Database) -> None:
    """They wait for a process that knows them."""
    trigger(store, "other")
    pool.dispatcher.tick()
    assert (pool.got, pool.free) == ([], 3)


def test_run_with_a_busy_key_is_left(pool: Pool, store: Database) -> None:
    """One of a key at a time, whatever slots are free."""
    first, second = (trigger(store, concurrency_key="k") for _ in range(2))
    assert pool.dispatcher.dispatch() == 1
    assert pool.free == 2
    finish(store, pool.got[0], output="1")
    assert pool.dispatcher.dispatch() == 1
    assert [row.id for row in pool.got] == [first.id, second.id]


def test_run_that_somebody_else_was_faster_to_claim_costs_no_slot(
    pool: Pool, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the claim another process may take it."""
    trigger(store)
    look = lookups.has_claimable

    def then_lose(*args: str) -> bool:
        found = look(*args)
        claim(store, given_owner(store))
        return found

    monkeypatch.setattr(lookups, "has_claimable", then_lose)
    assert pool.dispatcher.dispatch() == 0
    assert (pool.got, pool.free) == ([], 3)


def test_what_is_being_emitted_is_waited_for_first(pool: Pool, store: Database) -> None:
    """A trigger before the start of its run; a look that finds nothing waits for nobody."""
    assert pool.dispatcher.dispatch() == 0
    assert pool.told == []
    trigger(store)
    assert pool.dispatcher.dispatch() == 1
    assert pool.told == [[]]


@pytest.mark.parametrize("verb", ["has_claimable", "claim"])
def test_slots_are_given_back_when_the_database_rejects(
    pool: Pool,
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
        pool.dispatcher.tick()
    assert pool.free == 3
    assert isinstance(pool.dispatcher.failure, DatabaseError)
    monkeypatch.undo()
    pool.dispatcher.tick()
    assert (len(pool.got), pool.dispatcher.failure) == (1, None)


def test_failure_that_may_pass_is_raised_to_waiting_threads_only_if_it_does_not(
    pool: Pool, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failing sync ends no wait for the last run; a disk that stays full does in the end."""
    full = DatabaseError("full", is_transient=True)

    def refuse(*args: object) -> None:
        raise full

    def tick() -> DatabaseError | None:
        with pytest.raises(DatabaseError):
            pool.dispatcher.tick()
        return pool.dispatcher.failure

    monkeypatch.setattr(lookups, "has_claimable", refuse)
    assert tick() is None
    clock.advance(PATIENCE_S - 1)
    assert tick() is None
    clock.advance(1)
    assert tick() is full
    monkeypatch.undo()
    pool.dispatcher.tick()
    monkeypatch.setattr(lookups, "has_claimable", refuse)
    assert tick() is None


def test_run_triggered_during_a_tick_is_not_slept_over(
    pool: Pool, store: Database, clock: FakeClock
) -> None:
    """What is committed after the look of a tick ends the wait behind it at once."""
    trigger(store)

    def trigger_another(row: RunRow) -> None:
        pool.got.append(row)
        if len(pool.got) == 1:
            trigger(store)

    pool.on_hand_over = trigger_another
    pool.dispatcher.tick()
    before = clock.seconds
    pool.dispatcher.pause()
    assert clock.seconds == before
    pool.dispatcher.tick()
    assert len(pool.got) == 2


@pytest.mark.parametrize("slots", [0, 3])
def test_wake_ends_the_pause(pool: Pool, slots: int) -> None:
    """A wake before the pause counts as well, also where only a free slot can be waited for."""
    pool.dispatcher._poll_interval_s = 1000
    pool.dispatcher.tick()
    pool.free = slots
    pool.dispatcher.wake()
    pool.dispatcher.pause()


def test_without_a_free_slot_nothing_is_polled(
    pool: Pool, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others commit is no reason to wake up while nothing can be claimed."""
    pool.free = 0
    pool.dispatcher.tick()
    trigger(store)
    monkeypatch.setattr(store.changes, "_data_version", lambda: pytest.fail("looked"))
    waking = threading.Thread(target=store.changes.offer)
    pool.dispatcher._poll_interval_s = 1000
    waking.start()
    pool.dispatcher.pause()
    waking.join(10)


def test_run_that_cannot_be_put_back_costs_the_others_nothing(pool: Pool, store: Database) -> None:
    """Each claimed run is handed over, whatever becomes of the one before it."""
    ids = [trigger(store).id for _ in range(3)]

    def fail_once(row: RunRow) -> None:
        pool.got.append(row)
        if len(pool.got) == 1:
            raise DatabaseError("full")

    pool.on_hand_over = fail_once
    with pytest.raises(DatabaseError, match="full"):
        pool.dispatcher.dispatch()
    assert [row.id for row in pool.got] == ids


def test_what_no_thread_can_be_had_for_is_not_claimed_again_at_once(
    pool: Pool, store: Database, clock: FakeClock
) -> None:
    """What is put back is looked at in a poll interval, not in a loop that never rests."""
    trigger(store)
    pool.has_threads = False
    pool.on_hand_over = lambda row: store.changes.offer()
    pool.dispatcher.tick()
    assert not store.changes._offered.is_set()
    assert store.changes.version() == pool.dispatcher._version
