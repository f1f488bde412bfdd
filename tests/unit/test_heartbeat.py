"""One heartbeat: what it marks, and which runs it stops that are no longer this engine's."""

from __future__ import annotations

from typing import Any

import pytest
from storekit import FakeClock, claim, finish, given_owner, given_running, query, stored

import durably
from durably.errors import DatabaseLostError, OwnershipLost, RunCancelled, RunInterrupted
from durably.execution.current_run import CurrentRun
from durably.store.outcome import OwnerDead, OwnerHung
from durably.store.rows import RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import requeue, runs
from durably.store.sqlite.store import SqliteStore
from durably.worker.deadlines import Deadlines
from durably.worker.heartbeat import Heartbeat


class Engine:
    """As much of an engine as a heartbeat sees."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.store = store
        self.owner = given_owner(store)
        self.active: list[CurrentRun] = []
        self.unregistered = 0
        self.lost: Exception | None = None
        self.overdue: list[CurrentRun] = []
        self.deadlines = Deadlines(clock, lambda run, retry: self.overdue.append(run))
        self.heartbeat = Heartbeat(
            SqliteStore(store),
            owner=lambda: self.owner,
            runs=lambda: list(self.active),
            on_unregistered=self._on_unregistered,
            check_file=self._check_file,
            deadlines=self.deadlines,
            clock=clock,
            interval_s=5.0,
            on_error=lambda exc, name: None,
        )

    def _on_unregistered(self) -> None:
        self.unregistered += 1

    def _check_file(self) -> None:
        if self.lost is not None:
            raise self.lost

    def running(self, **options: Any) -> CurrentRun:
        return self.enter(given_running(self.store, self.owner, **options))

    def enter(self, row: RunRow) -> CurrentRun:
        self.active.append(CurrentRun(row, {}))
        return self.active[-1]


@pytest.fixture
def engine(store: Database, clock: FakeClock) -> Engine:
    return Engine(store, clock)


def test_all_running_runs_are_marked(engine: Engine, clock: FakeClock) -> None:
    """Every run and the owner get the time of the beat, and go on."""
    active = [engine.running() for _ in range(3)]
    clock.advance(5)
    engine.heartbeat.tick()
    assert [stored(engine.store, each.row).heartbeat_at_us for each in active] == [clock.us] * 3
    assert query(engine.store, "SELECT beat, beat_at_us FROM durably_owners") == [(1, clock.us)]
    assert [each.stop_reason for each in active] == [None] * 3


def test_beats_are_counted_when_they_are_committed(engine: Engine, clock: FakeClock) -> None:
    """An engine that judges others by their beats counts only its own that were stored."""
    for _ in range(3):
        engine.heartbeat.tick()
        clock.advance(5)
    assert engine.heartbeat.committed == 2
    engine.lost = DatabaseLostError("gone")
    with pytest.raises(DatabaseLostError):
        engine.heartbeat.tick()
    engine.lost = None
    engine.store.write(requeue.requeue, OwnerDead(engine.owner), 1)
    engine.heartbeat.tick()
    assert (engine.heartbeat.committed, engine.unregistered) == (2, 1)


def test_beats_within_an_interval_count_once(engine: Engine, clock: FakeClock) -> None:
    """Calls that start the thread again and again make no time pass for those it watches."""
    for _ in range(50):
        engine.heartbeat.tick()
        clock.advance(0.3)
    assert engine.heartbeat.committed == 2  # in 14.7 seconds, of intervals of 5
    clock.advance(3600)
    engine.heartbeat.tick()
    assert engine.heartbeat.committed == 3


def test_a_beat_is_due_an_interval_after_the_last_one(engine: Engine, clock: FakeClock) -> None:
    """Whether or not the thread was ended in between; the stored row of the owner is one too."""
    heartbeat = engine.heartbeat
    assert heartbeat.is_due()
    heartbeat.note_registered()
    for _ in range(2):
        clock.advance(4.5)
        assert not heartbeat.is_due()
        began = clock.monotonic()
        heartbeat.pause()
        assert clock.monotonic() - began == pytest.approx(0.5)
        assert heartbeat.is_due()
        heartbeat.tick()
    assert heartbeat.committed == 2


def test_file_that_is_gone_gets_no_beat(engine: Engine) -> None:
    """The look at the file comes first."""
    engine.lost = DatabaseLostError("gone")
    with pytest.raises(DatabaseLostError):
        engine.heartbeat.tick()
    assert query(engine.store, "SELECT beat FROM durably_owners") == [(0,)]


def test_cancelled_run_is_reported(engine: Engine) -> None:
    """A run that was cancelled from anywhere stops at its next boundary; others do not."""
    active, other = engine.running(), engine.running()
    engine.store.write(runs.cancel, active.id, 30)
    engine.heartbeat.tick()
    assert (active.stop_reason, other.stop_reason) == (RunCancelled, None)
    assert active.stopped.is_set()


@pytest.mark.parametrize("how", ["put back", "taken over", "retried", "deleted"])
def test_run_of_somebody_else_is_reported(engine: Engine, how: str) -> None:
    """A run that is not this attempt's any more stops, whichever engine has it now."""
    active = engine.running()
    store = engine.store
    if how == "retried":
        store.write(runs.cancel, active.id, 30)
        store.write(runs.retry, active.id, 31)
    else:
        store.write(requeue.requeue, OwnerHung(engine.owner, 0), 30)
    if how == "taken over":
        (taken,) = claim(store, given_owner(store))
        assert taken.id == active.id
    if how == "deleted":
        store.write(runs.cancel, active.id, 31)
        store.write(runs.delete, active.id)
    engine.heartbeat.tick()
    assert active.stop_reason is OwnershipLost


def test_run_that_this_engine_has_claimed_again_is_reported(engine: Engine) -> None:
    """The old attempt stops, the new one goes on, also under one owner."""
    old = engine.running()
    engine.store.write(requeue.requeue, OwnerHung(engine.owner, 0), 30)
    (row,) = claim(engine.store, engine.owner)
    new = engine.enter(row)
    assert (new.id, new.attempt) == (old.id, 2)
    engine.heartbeat.tick()
    assert (old.stop_reason, new.stop_reason) == (OwnershipLost, None)


@pytest.mark.parametrize("how", [{"output": "1"}, {"error": "{}"}])
def test_run_that_has_just_ended_is_left_alone(engine: Engine, how: dict[str, str]) -> None:
    """Its end is stored and its thread about to leave: nobody took it."""
    active = engine.running()
    finish(engine.store, active.row, **how)
    engine.heartbeat.tick()
    assert active.stop_reason is None


def test_run_whose_job_is_over_is_not_reported(engine: Engine) -> None:
    """Between the end of the job and its leaving there is nothing to stop."""
    active = engine.running()
    active.is_over = True
    engine.store.write(runs.cancel, active.id, 30)
    engine.heartbeat.tick()
    assert active.stop_reason is None


def test_loss_outweighs_an_interrupt(engine: Engine) -> None:
    """A run that was to be put back is not, if it is somebody else's by now."""
    active = engine.running()
    active.stop(RunInterrupted)
    engine.store.write(runs.cancel, active.id, 30)
    engine.heartbeat.tick()
    assert active.stop_reason is RunCancelled


def test_run_claimed_after_the_list_of_current_ones_is_not_missed(engine: Engine) -> None:
    """A run that enters while the beat is being written is not taken for lost."""
    ask = engine.heartbeat._runs
    late: list[CurrentRun] = []

    def then_claim() -> list[CurrentRun]:
        before = ask()
        if not late:
            late.append(engine.running())
        return before

    engine.heartbeat._runs = then_claim
    engine.heartbeat.tick()
    assert late[0].stop_reason is None
    assert stored(engine.store, late[0].row).status == "running"


def test_run_without_a_job_here_is_put_back_at_the_second_beat(engine: Engine) -> None:
    """A run of this owner that nobody executes goes back, with its key, and is claimable."""
    stray = given_running(engine.store, engine.owner, concurrency_key="k")
    active = engine.running()
    engine.heartbeat.tick()
    assert stored(engine.store, stray).status == "running"
    engine.heartbeat.tick()
    assert (stored(engine.store, stray).status, stored(engine.store, stray).owner) == (
        "pending",
        None,
    )
    assert stored(engine.store, active.row).status == "running"
    assert [row.id for row in claim(engine.store, given_owner(engine.store))] == [stray.id]


def test_run_that_enters_between_two_beats_is_not_put_back(engine: Engine) -> None:
    """One that was claimed a moment ago is on its way to its thread."""
    row = given_running(engine.store, engine.owner)
    engine.heartbeat.tick()
    active = engine.enter(row)
    engine.heartbeat.tick()
    engine.heartbeat.tick()
    assert stored(engine.store, row).status == "running"
    assert active.stop_reason is None


def test_engine_without_a_row_is_reported_and_its_runs_are_not_touched(engine: Engine) -> None:
    """Others took it for dead: what to do is the engine's decision."""
    active = engine.running()
    engine.store.write(requeue.requeue, OwnerDead(engine.owner), 30)
    (taken,) = claim(engine.store, given_owner(engine.store))
    engine.heartbeat.tick()
    assert engine.unregistered == 1
    assert stored(engine.store, active.row) == taken


def test_the_heartbeat_looks_after_deadlines_between_two_beats(
    store: Database, clock: FakeClock
) -> None:
    """It ends overdue runs in its pause, which is as long as ever; a wake ends it."""
    engine = Engine(store, clock)
    run = engine.running()
    job = durably.Job("job", lambda step: None, timeout=2)
    with engine.deadlines.limiting(run, job):
        began = clock.monotonic()
        engine.heartbeat._wake.clear()  # the new deadline has woken it
        engine.heartbeat.pause()
        assert engine.overdue == [run]
        assert clock.monotonic() == began + 5
        engine.heartbeat.wake()
        engine.heartbeat.pause()
        assert clock.monotonic() == began + 5
