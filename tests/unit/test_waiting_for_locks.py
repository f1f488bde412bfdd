"""How long a write waits for locks of others: one limit for mutex and SQLite's lock together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import apsw
import pytest
from storekit import FakeClock

from durably._platform.lock_timeouts import LEAST_S, Hurry, deadline, limited
from durably.errors import DatabaseError
from durably.store.sqlite.connection.batch_executor import BUSY_TIMEOUT_S, BatchExecutor
from durably.store.sqlite.connection.write_request import WriteRequest, single_statement

SLICE_S = 0.25


class LockedDatabase:
    """A connection whose every write fails after a slice of the busy timeout."""

    in_transaction = False

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.is_free = False
        self.committed: list[str] = []

    def execute(self, sql: str) -> None:
        if sql in {"BEGIN", "ROLLBACK", "COMMIT"} or self.is_free:
            return
        self.clock.advance(SLICE_S)
        raise apsw.BusyError("database is locked")


class TakenMutex:
    """Somebody else's, until it is waited for no longer."""

    def __init__(self, clock: FakeClock, *, is_free: bool = False) -> None:
        self.clock = clock
        self.is_free = is_free
        self.waited_s = 0.0
        self.is_patient = True

    def acquire(self, timeout_s: float, patience_s: float) -> bool:
        if self.is_free or not self.is_patient:
            return self.is_free
        self.clock.advance(max(0.0, timeout_s))
        self.waited_s += max(0.0, timeout_s)
        self.is_patient = self.waited_s < patience_s
        return False

    def release(self) -> None:
        pass


@single_statement
def store(db: Any, name: str) -> str:
    db.execute("INSERT")
    db.committed.append(name)
    return name


def store_twice(db: Any, name: str) -> str:
    return store(db, name)


class Waiting:
    """A transactor whose locks are others', and what waiting for them takes."""

    def __init__(self, *, has_mutex: bool) -> None:
        self.clock = FakeClock()
        self.db = LockedDatabase(self.clock)
        self.mutex = TakenMutex(self.clock, is_free=has_mutex)
        self.hurry = Hurry()
        self.transactor = BatchExecutor(
            self.db,  # type: ignore[arg-type]  # stands for a connection
            path="/no/such/runs.db",
            mutex=self.mutex,  # type: ignore[arg-type]  # and this for a mutex
            clock=self.clock,
            fault_point=None,
            hurry=self.hurry,
        )

    def request(self, operation: Any = store_twice, name: str = "a") -> WriteRequest:
        return WriteRequest(operation, (name,), {}, *self.transactor.waits())

    def took(self, call: Callable[[], object]) -> float:
        began_s = self.clock.seconds
        call()
        return self.clock.seconds - began_s


@pytest.fixture(params=[True, False], ids=["mutex obtained", "mutex taken"])
def waiting(request: pytest.FixtureRequest) -> Waiting:
    return Waiting(has_mutex=request.param)


def directly(waiting: Waiting) -> None:
    with pytest.raises(DatabaseError, match="locked by another program") as caught:
        waiting.transactor.execute_directly(store, ("a",), {})
    assert isinstance(caught.value.__cause__, apsw.BusyError)


def together(waiting: Waiting) -> None:
    own = waiting.request()
    waiting.transactor.execute([own], own)
    assert own.is_done
    assert isinstance(own.error, DatabaseError)
    assert isinstance(own.error.__cause__, apsw.BusyError)


def alone(waiting: Waiting) -> None:
    own = waiting.request(store)
    waiting.transactor.execute([own], own)
    assert isinstance(own.error, DatabaseError)


WAYS = pytest.mark.parametrize("way", [directly, together, alone])


@WAYS
def test_write_waits_once(waiting: Waiting, way: Callable[[Waiting], None]) -> None:
    """It does not wait for the mutex first and for SQLite's lock after that."""
    took = waiting.took(lambda: way(waiting))
    assert BUSY_TIMEOUT_S <= took <= BUSY_TIMEOUT_S + 2 * SLICE_S
    assert waiting.db.committed == []


@WAYS
def test_limit_of_the_call_bounds_it(waiting: Waiting, way: Callable[[Waiting], None]) -> None:
    """What a call has left of its own timeout is all that its writes wait, both together."""
    with limited(waiting.clock, 12):
        first = waiting.took(lambda: way(waiting))
        second = waiting.took(lambda: way(waiting))
    assert 12 <= first <= 12 + 2 * SLICE_S
    assert second <= LEAST_S + 2 * SLICE_S


@WAYS
def test_stop_bounds_the_waits_of_other_threads(
    waiting: Waiting, way: Callable[[Waiting], None]
) -> None:
    """All of them end when the time of a stop is over, and wait as ever after it."""
    with waiting.hurry.until(waiting.clock.seconds + 5):
        took = waiting.took(lambda: way(waiting))
    assert 5 <= took <= 5 + 2 * SLICE_S
    assert waiting.hurry.ends_s == math.inf


def test_each_of_a_batch_keeps_to_its_own_limit(waiting: Waiting) -> None:
    """A leader fails those that wait no longer and goes on; where it has none any more to wait
    for, the others lead themselves.
    """
    with limited(waiting.clock, 3):
        short = waiting.request(name="short")
    with limited(waiting.clock, 7):
        own = waiting.request(name="own")
    long = waiting.request(name="long")
    took = waiting.took(lambda: waiting.transactor.execute([short, own, long], own))
    assert 7 <= took <= 7 + 2 * SLICE_S
    assert isinstance(short.error, DatabaseError)
    assert isinstance(own.error, DatabaseError)
    assert "for 3." in str(short.error)
    assert (long.is_done, long.error) == (False, None)
    waiting.db.is_free = True
    waiting.mutex.is_free = True
    waiting.transactor.execute([long], long)
    assert (long.result, waiting.db.committed) == ("long", ["long"])


def test_leader_that_is_done_waits_for_nobody(waiting: Waiting) -> None:
    """A thread that leads once more for others, its own operation done, leaves them to themselves
    where a lock is taken.
    """
    others = [waiting.request(name=name) for name in "ab"]
    assert waiting.took(lambda: waiting.transactor.execute(list(others), None)) <= 3 * SLICE_S
    assert [each.is_done for each in others] == [False, False]


def test_mutex_alone_is_gone_without_after_the_whole_time() -> None:
    """A process with the mutex, without SQLite's lock, is stopped: the write goes on; short calls
    each wait their own time, and add up.
    """
    waiting = Waiting(has_mutex=False)
    waiting.db.is_free = True
    for _ in range(2):
        with limited(waiting.clock, 12):
            directly(waiting)
    assert waiting.transactor.execute_directly(store, ("a",), {}) == "a"
    assert waiting.mutex.waited_s == pytest.approx(BUSY_TIMEOUT_S, abs=2 * SLICE_S)


def test_limits_are_of_a_thread_and_end_with_their_block() -> None:
    """The shorter of two counts, and one that a Ctrl-C has left behind is forgotten."""
    clock = FakeClock()
    now_s = clock.seconds
    assert deadline(now_s, 30) == now_s + 30
    with limited(clock, 10), limited(clock, 20), limited(clock, None):
        assert deadline(now_s, 30) == now_s + 10
        assert deadline(now_s + 10, 30) == now_s + 10 + LEAST_S
        assert deadline(now_s + 60, 30) == now_s + 90
    assert deadline(now_s, 30) == now_s + 30
