"""The reaper: who is dead, who is hung, and what is tidied up."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from storekit import (
    FakeClock,
    checkpoint,
    finish,
    given_owner,
    given_running,
    stored,
    token_of,
    trigger,
)

from durably.errors import DatabaseError
from durably.events import Event, RunFailed
from durably.execution.emitter import Emitter
from durably.execution.unseen_failures import UnseenFailures
from durably.store.outcome import OwnerDead, OwnerHung
from durably.store.read_rows import Filters
from durably.store.rows import Claim
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks import owner_lock as liveness
from durably.store.sqlite.locks.owner_lock import Liveness
from durably.store.sqlite.sql import claims, owners, queries, requeue, runs
from durably.store.sqlite.store import SqliteStore
from durably.worker.reaper import PURGE_BATCH, RETENTION_INTERVAL_S, SWEEP_INTERVAL_S, Reaper


class Engine:
    """A reaper, and what it believes of the world."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.owner = given_owner(store, "own")
        self.committed = 0
        self.states: dict[str, Liveness] = {}
        self.probed: list[str] = []
        self.removed: list[str] = []
        self.swept: list[set[str]] = []
        self.emitter = Emitter(clock)
        self.unseen = UnseenFailures(lambda run_id: False)
        self.events: list[Event] = []
        self.emitter.on("*", self.events.append)

    def reaper(self, **options: Any) -> Reaper:
        given: dict[str, Any] = {
            "heartbeat_interval_s": 5.0,
            "stale_threshold_s": 30.0,
            "retain_runs": None,
            "max_deaths": 2,
            "unseen_failures": self.unseen,
        }
        return Reaper(
            SqliteStore(self.store),
            owner=lambda: self.owner,
            committed_beats=lambda: self.committed,
            emitter=self.emitter,
            changes=self.store.changes,
            labels_of=lambda row: json.loads(row.labels),
            clock=self.clock,
            interval_s=0.25,
            on_error=lambda exc, name: None,
            **(given | options),
        )

    def probe(self, path: str, token: str) -> Liveness:
        self.probed.append(token)
        assert path == self.store.path
        return self.states.get(token, Liveness.ALIVE)

    def told(self) -> list[tuple[str, ...]]:
        return [
            (event.type, event.run_id, getattr(event, "reason", ""))  # type: ignore[attr-defined]
            for event in self.events
        ]


@pytest.fixture
def engine(store: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(store, clock)
    monkeypatch.setattr(liveness, "probe", made.probe)
    monkeypatch.setattr(liveness, "remove_lock", lambda path, token: made.removed.append(token))
    monkeypatch.setattr(
        liveness,
        "sweep_orphans",
        lambda path, known, older_than_s: made.swept.append(set(known)) or [],
    )
    return made


def beats(engine: Engine, reaper: Reaper, count: int, also: Callable[[], object] = int) -> None:
    """The reaper checks after each of so many of its engine's heartbeats."""
    for _ in range(count):
        engine.committed += 1
        also()
        reaper.tick()


# -- the dead --------------------------------------------------------------------------------


def test_runs_of_a_dead_owner_are_recovered_at_once(engine: Engine, store: Database) -> None:
    """With its lock free an owner is dead: no heartbeat and no clock is waited for."""
    dead = given_owner(store, "dead")
    run = given_running(store, dead, labels='{"k":"v"}')
    checkpoint(store, run, "s")
    engine.states[token_of("dead")] = Liveness.DEAD
    seen = store.changes.snapshot()
    assert engine.reaper().recover() == 1
    assert (stored(store, run).status, stored(store, run).completed_steps) == ("pending", 1)
    assert engine.probed == [token_of("dead")]
    assert engine.removed == [token_of("dead")]
    assert [row.token for row in store.read(owners.list_all)] == [token_of("own")]
    assert engine.told() == [("run:recover", run.id, "dead")]
    assert engine.events[0].labels == {"k": "v"}  # type: ignore[attr-defined]
    assert store.changes.snapshot().notified > seen.notified


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_run_that_kills_its_process_is_failed(
    engine: Engine,
    store: Database,
    is_heard: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After as many deaths as allowed run:fail is emitted, and not run:recover; a line says it, and
    it counts as a failure that somebody has to see.
    """
    run = trigger(store, labels='{"k":"v"}')
    events = engine.events
    if not is_heard:
        engine.emitter = Emitter(engine.clock)
    for token in ("dead1", "dead2"):
        owner = given_owner(store, token, boot_id=liveness.current_boot_id())
        store.write(claims.claim, Claim(owner, '["job"]', lambda: 20))
        engine.states[token_of(token)] = Liveness.DEAD
        seen = store.changes.snapshot()
        engine.reaper().recover()
        assert store.changes.snapshot().notified > seen.notified
    if is_heard:
        assert engine.told() == [("run:recover", run.id, "dead"), ("run:fail", run.id, "")]
        failed = events[-1]
        assert isinstance(failed, RunFailed)
        assert "died 2 times without completing another step" in failed.error.message
        assert (failed.labels, failed.failed_step) == ({"k": "v"}, None)
    assert (run.id in engine.unseen.unseen().attempts) is not is_heard
    assert stored(store, run).status == "failed"
    lines = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert len(lines) == 1
    assert "job failed: its process died 2 times" in lines[0]


def test_dead_owner_without_runs_leaves_no_row(engine: Engine, store: Database) -> None:
    """Nothing is emitted, and neither row nor lock file stays."""
    given_owner(store, "dead")
    engine.states[token_of("dead")] = Liveness.DEAD
    assert engine.reaper().recover() == 0
    assert (engine.removed, engine.events) == ([token_of("dead")], [])
    assert [row.token for row in store.read(owners.list_all)] == [token_of("own")]


def test_engine_never_checks_itself(engine: Engine, store: Database) -> None:
    """Whatever its own lock and beat look like, its live runs are its own."""
    run = given_running(store, engine.owner)
    engine.states[token_of("own")] = Liveness.DEAD
    reaper = engine.reaper()
    beats(engine, reaper, 50)
    assert engine.probed == []
    assert stored(store, run) == run


# -- the hung --------------------------------------------------------------------------------

NOT_DEAD = pytest.mark.parametrize("state", [Liveness.ALIVE, Liveness.UNKNOWN])


@NOT_DEAD
def test_hung_owner_loses_its_runs_after_the_threshold(
    engine: Engine, store: Database, state: Liveness
) -> None:
    """Its beat stood still while the reaper's engine committed heartbeats for the threshold."""
    hung = given_owner(store, "hung")
    run = given_running(store, hung)
    engine.states[token_of("hung")] = state
    reaper = engine.reaper()
    reaper.tick()
    beats(engine, reaper, 5)
    assert stored(store, run).status == "running"
    beats(engine, reaper, 1)
    assert stored(store, run).status == "pending"
    assert engine.told() == [("run:recover", run.id, "stale")]
    # One without a lock file is forgotten, since no lock will ever tell that it has died.
    left = {row.token for row in store.read(owners.list_all)}
    assert left == (
        {token_of("own"), token_of("hung")} if state is Liveness.ALIVE else {token_of("own")}
    )
    assert engine.removed == []


@NOT_DEAD
def test_owner_that_beats_keeps_its_runs(engine: Engine, store: Database, state: Liveness) -> None:
    """However slowly, each beat starts the watch anew."""
    slow = given_owner(store, "slow")
    run = given_running(store, slow)
    engine.states[token_of("slow")] = state
    reaper = engine.reaper()
    for _ in range(10):
        beats(engine, reaper, 5)
        store.beat(owners.beat, slow, lambda: 1)
        reaper.tick()
    assert stored(store, run).status == "running"
    assert engine.events == []


def test_no_clock_makes_an_owner_hung(engine: Engine, store: Database, clock: FakeClock) -> None:
    """A machine that slept, or a file that was locked for all: no beat of ours, no verdict."""
    run = given_running(store, given_owner(store, "other"))
    reaper = engine.reaper()
    for _ in range(20):
        clock.advance(86_400)
        reaper.tick()
    clock.us -= 10**15
    reaper.tick()
    assert stored(store, run).status == "running"


def test_watch_begins_when_the_owner_is_first_seen(engine: Engine, store: Database) -> None:
    """What an engine has beaten before it read an owner counts nothing."""
    run = given_running(store, given_owner(store, "other"))
    engine.committed = 1000
    reaper = engine.reaper()
    reaper.tick()
    beats(engine, reaper, 5)
    assert stored(store, run).status == "running"


def test_owner_with_a_long_interval_gets_two_of_its_own(engine: Engine, store: Database) -> None:
    """One who beats seldom is not taken for hung by one who beats often."""
    other = given_owner(store, "other", heartbeat_interval_us=60_000_000)
    run = given_running(store, other)
    reaper = engine.reaper()
    reaper.tick()
    beats(engine, reaper, 23)
    assert stored(store, run).status == "running"
    beats(engine, reaper, 1)
    assert stored(store, run).status == "pending"


def test_two_beats_are_the_least(engine: Engine, store: Database) -> None:
    """However long this engine's own interval is."""
    run = given_running(store, given_owner(store, "other", heartbeat_interval_us=1))
    reaper = engine.reaper(heartbeat_interval_s=100.0, stale_threshold_s=1.0)
    reaper.tick()
    beats(engine, reaper, 1)
    assert stored(store, run).status == "running"
    beats(engine, reaper, 1)
    assert stored(store, run).status == "pending"


def requeue_after_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = requeue.requeue

    def after_a_beat(db: Any, reason: OwnerHung | OwnerDead, *given: Any) -> Any:
        owners.beat(db, reason.owner, lambda: 1)
        return operation(db, reason, *given)

    monkeypatch.setattr(requeue, "requeue", after_a_beat)


def test_owner_that_beats_while_it_is_judged_keeps_its_runs(
    engine: Engine, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict holds only if the beat is the same in the transaction that carries it out."""
    other = given_owner(store, "other")
    run = given_running(store, other)
    reaper = engine.reaper()
    reaper.tick()
    requeue_after_a_beat(monkeypatch)
    beats(engine, reaper, 6)
    assert stored(store, run).status == "running"
    assert engine.events == []


def test_owner_without_a_lock_file_that_beats_while_it_is_judged_stays(
    engine: Engine, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beat must still be the same in the transaction that would forget it."""
    other = given_owner(store, "other")
    run = given_running(store, other)
    engine.states[token_of("other")] = Liveness.UNKNOWN
    reaper = engine.reaper()
    reaper.tick()
    requeue_after_a_beat(monkeypatch)
    beats(engine, reaper, 6)
    assert (stored(store, run).status, stored(store, run).owner) == ("running", other)
    assert engine.events == []


def test_hung_owner_that_dies_is_forgotten(engine: Engine, store: Database) -> None:
    """What it still held is freed then."""
    hung = given_owner(store, "hung")
    given_running(store, hung)
    cancelled = given_running(store, hung)
    store.write(runs.cancel, cancelled.id, 30)
    reaper = engine.reaper()
    reaper.tick()
    beats(engine, reaper, 6)
    assert stored(store, cancelled).owner == hung
    engine.states[token_of("hung")] = Liveness.DEAD
    reaper.tick()
    assert stored(store, cancelled).owner is None
    assert [row.token for row in store.read(owners.list_all)] == [token_of("own")]
    assert len(engine.events) == 1


# -- tidying up ------------------------------------------------------------------------------


def ended(store: Database, owner: int, at_us: int) -> str:
    run = given_running(store, owner)
    finish(store, run, output="1", now_us=at_us)
    return run.id


def test_old_terminal_runs_are_deleted(engine: Engine, store: Database, clock: FakeClock) -> None:
    """Those that ended longer ago than retain_runs are deleted, and nothing else."""
    day = 86_400_000_000
    clock.us = 100 * day
    old = ended(store, engine.owner, 98 * day - 1)
    ended(store, engine.owner, 98 * day)
    trigger(store, now_us=100 * day)
    engine.reaper(retain_runs=timedelta(days=2)).tick()
    assert engine.told() == [("run:delete", old, "")]
    assert store.read(queries.count, Filters()) == 2


def test_deleted_runs_are_reported_also_if_the_file_cannot_shrink(
    engine: Engine, store: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone, whatever becomes of the space they took."""
    clock.us = 10**15
    old = ended(store, engine.owner, 1)
    trigger(store, now_us=10**15)

    def refuse(most_pages: int) -> None:
        raise DatabaseError("the disk is full", is_transient=True)

    monkeypatch.setattr(store.care, "shrink", refuse)
    with pytest.raises(DatabaseError):
        engine.reaper(retain_runs=timedelta(days=2)).tick()
    assert engine.told() == [("run:delete", old, "")]
    assert store.read(queries.count, Filters()) == 1


def test_nothing_is_deleted_unless_asked(engine: Engine, store: Database, clock: FakeClock) -> None:
    """Without retain_runs runs stay for ever."""
    ended(store, engine.owner, 1)
    clock.advance(10**9)
    engine.reaper().tick()
    assert store.read(queries.count, Filters()) == 1


def test_retention_is_checked_once_a_minute(
    engine: Engine, store: Database, clock: FakeClock
) -> None:
    """It is not checked in each tick."""
    clock.us = 10**15
    reaper = engine.reaper(retain_runs=timedelta(seconds=1))
    reaper.tick()
    ended(store, engine.owner, 1)
    trigger(store, now_us=10**15)
    reaper.tick()
    assert engine.events == []
    clock.advance(RETENTION_INTERVAL_S)
    reaper.tick()
    assert len(engine.events) == 1


def test_many_old_runs_are_deleted_batch_by_batch(
    engine: Engine, store: Database, clock: FakeClock
) -> None:
    """After a full batch the next one follows without waiting."""
    clock.us = 10**15

    def fill(db: Any) -> None:
        db.execute(
            """WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
            INSERT INTO durably_runs (id, job_name, status, payload, created_at_us,
                                      updated_at_us, completed_at_us)
            SELECT n, 'job', 'cancelled', '1', 1, 1, 1 FROM n""",
            (PURGE_BATCH + 3,),
        )

    store.write(fill)
    trigger(store, now_us=10**15)
    reaper = engine.reaper(retain_runs=timedelta(seconds=1))
    reaper.tick()
    assert store.read(queries.count, Filters()) == 4
    assert reaper._wake.is_set()
    reaper.tick()
    assert store.read(queries.count, Filters()) == 1
    assert len(engine.events) == PURGE_BATCH + 3


# -- a clock that is not to be believed --------------------------------------------------------

DAY_US = 86_400_000_000
TODAY_US = 20_000 * DAY_US


def kept(engine: Engine, reaper: Reaper) -> int:
    """How many runs are left after another check for old ones."""
    engine.clock.seconds += RETENTION_INTERVAL_S
    reaper.tick()
    return engine.store.read(queries.count, Filters())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        each.message for each in caplog.records if "retain_runs deletes nothing" in each.message
    ]


def test_clock_far_ahead_when_the_engine_is_opened_deletes_nothing(
    engine: Engine, store: Database, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even when runs are claimed, beat and end by it; the warning that says so comes once."""
    ended(store, engine.owner, TODAY_US - DAY_US)
    waiting = trigger(store, now_us=TODAY_US)
    clock.us = TODAY_US + 400 * DAY_US
    reaper = engine.reaper(retain_runs=timedelta(days=30))
    assert kept(engine, reaper) == 2
    (claimed,) = store.write(claims.claim, Claim(engine.owner, '["job"]', clock.now_us))
    assert claimed.run == waiting.run
    store.beat(owners.beat, engine.owner, clock.now_us)
    assert kept(engine, reaper) == 2
    finish(store, claimed, output="1", now_us=clock.us)
    assert kept(engine, reaper) == 2
    (warning,) = warnings(caplog)
    assert "2025-11-08 00:00 UTC" in warning
    assert engine.events == []


def test_clock_that_jumps_while_a_run_is_executed_deletes_nothing(
    engine: Engine, store: Database, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The run's own heartbeats say nothing of the clock; set back, it is believed again."""
    clock.us = TODAY_US
    ended(store, engine.owner, TODAY_US - 20 * DAY_US)
    given_running(store, engine.owner, now_us=TODAY_US)
    reaper = engine.reaper(retain_runs=timedelta(days=30))
    assert kept(engine, reaper) == 2
    clock.us += 400 * DAY_US
    store.beat(owners.beat, engine.owner, clock.now_us)
    assert kept(engine, reaper) == 2
    assert len(warnings(caplog)) == 1
    clock.us -= 389 * DAY_US
    clock.seconds += 11 * 86_400  # days have passed
    assert kept(engine, reaper) == 1


def test_trigger_says_that_the_clock_is_right(
    engine: Engine, store: Database, clock: FakeClock
) -> None:
    """A script that runs once a month deletes what has become old since, when it triggers."""
    clock.us = TODAY_US
    old = ended(store, engine.owner, TODAY_US - 31 * DAY_US)
    reaper = engine.reaper(retain_runs=timedelta(days=30))
    assert kept(engine, reaper) == 1
    trigger(store, now_us=TODAY_US)
    reaper.tick()  # without waiting for the next check
    assert engine.told() == [("run:delete", old, "")]


def test_days_that_pass_need_no_trigger(engine: Engine, store: Database, clock: FakeClock) -> None:
    """An engine that stays open deletes what becomes old although nothing else happens."""
    clock.us = TODAY_US
    ended(store, engine.owner, TODAY_US)
    reaper = engine.reaper(retain_runs=timedelta(days=30))
    assert kept(engine, reaper) == 1
    clock.advance(29 * 86_400)
    assert kept(engine, reaper) == 1
    clock.advance(2 * 86_400)
    assert kept(engine, reaper) == 0


def test_clock_up_to_a_day_ahead_is_believed(
    engine: Engine, store: Database, clock: FakeClock
) -> None:
    """A zone set wrong, or a night without work, is no reason to keep anything."""
    clock.us = TODAY_US
    ended(store, engine.owner, TODAY_US - DAY_US)
    assert kept(engine, engine.reaper(retain_runs=timedelta(hours=1))) == 0


def test_orphaned_locks_are_swept_now_and_then(engine: Engine, clock: FakeClock) -> None:
    """At the first look and every five minutes; the tokens of all owners are spared."""
    given_owner(engine.store, "other")
    reaper = engine.reaper()
    reaper.tick()
    reaper.tick()
    assert engine.swept == [{token_of("own"), token_of("other")}]
    clock.advance(SWEEP_INTERVAL_S)
    reaper.tick()
    assert len(engine.swept) == 2
