"""The deadlines of runs whose jobs do not look at them, as the heartbeat's thread sees them."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pytest
from storekit import FakeClock, given_owner, given_running

import durably
from durably.errors import DatabaseError
from durably.execution.current_run import CurrentRun
from durably.store.sqlite.database import Database
from durably.worker.deadlines import GRACE_S, Deadlines


def job(timeout: float | None) -> durably.Job[Any, Any]:
    return durably.Job("job", lambda step: None, timeout=timeout)


class Watched:
    """Deadlines, and which runs they have ended."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.store, self.owner = store, given_owner(store)
        self.ended: list[CurrentRun] = []
        self.woken = 0
        self.failing = False
        self.all = Deadlines(clock, self.expire)
        self.all.wake = self.wake
        self.entered = ExitStack()

    def expire(self, run: CurrentRun, retry: object) -> None:
        if self.failing:
            raise DatabaseError("full")
        self.ended.append(run)

    def wake(self) -> None:
        self.woken += 1

    def enter(self, timeout: float | None) -> CurrentRun:
        run = CurrentRun(given_running(self.store, self.owner), {})
        self.entered.enter_context(self.all.limiting(run, job(timeout)))
        return run


@pytest.fixture
def watched(store: Database, clock: FakeClock) -> Watched:
    return Watched(store, clock)


def test_a_run_is_ended_at_its_deadline_and_no_other(watched: Watched, clock: FakeClock) -> None:
    """Once, a moment after it, so that a job that checks it ends by itself."""
    soon, late, never = watched.enter(10), watched.enter(20), watched.enter(None)
    assert never.deadline_s is None
    assert watched.all.next_s() == clock.monotonic() + 10 + GRACE_S
    clock.advance(10)
    watched.all.end_overdue()
    assert watched.ended == []
    clock.advance(GRACE_S)
    for _ in range(2):
        watched.all.end_overdue()
        assert watched.ended == [soon]
    watched.entered.close()
    clock.advance(100)
    watched.all.end_overdue()
    assert (watched.ended, watched.all.next_s()) == ([soon], math.inf)
    assert late.timeout_s == 20


def test_the_thread_is_woken_for_an_earlier_deadline_alone(watched: Watched) -> None:
    """A later one is seen when it is next checked."""
    watched.enter(10)
    assert watched.woken == 1
    watched.all.next_s()
    watched.enter(20)
    assert watched.woken == 1
    watched.enter(5)
    assert watched.woken == 2


def test_a_run_that_only_waits_is_not_ended(watched: Watched, clock: FakeClock) -> None:
    """Its deadline is postponed; it is checked again soon."""
    run = watched.enter(10)
    run.is_paused = True
    clock.advance(50)
    watched.all.end_overdue()
    assert watched.ended == []
    assert watched.all.next_s() == clock.monotonic() + 1
    run.is_paused = False
    watched.all.end_overdue()
    assert watched.ended == [run]


def test_what_cannot_be_stored_is_tried_again(watched: Watched, clock: FakeClock) -> None:
    """The error is raised to the thread, which reports it."""
    run = watched.enter(10)
    clock.advance(11)
    watched.failing = True
    with pytest.raises(DatabaseError):
        watched.all.end_overdue()
    watched.failing = False
    watched.all.end_overdue()
    assert watched.ended == [run]
