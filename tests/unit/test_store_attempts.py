"""What is stored of each execution of a run, by whichever verb it begins and ends."""

from __future__ import annotations

import os
from typing import Any

import pytest
from storekit import (
    bring_to,
    claim,
    finish,
    given_owner,
    given_running,
    query,
    stored,
    suspend,
    trigger,
)

from durably._platform.host import host_name
from durably.store.outcome import (
    Interrupted,
    Lost,
    NotExecuted,
    OwnerDead,
    OwnerElsewhere,
    OwnerHung,
    OwnerIdle,
    Suspended,
)
from durably.store.read_rows import AttemptRow
from durably.store.rows import Begin, Claim, NewRun, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import attempts, begin, enqueue, requeue, runs, settle

HERE = host_name()
PID = os.getpid()


def of(store: Database, row: RunRow) -> list[AttemptRow]:
    return store.read(attempts.of_run, row.id)


def short(store: Database, row: RunRow) -> list[tuple[Any, ...]]:
    """The attempt, its outcome, its start and its end, of each."""
    return [(a.attempt, a.outcome, a.started_at_us, a.ended_at_us) for a in of(store, row)]


def test_each_execution_is_there_whatever_ends_it(store: Database) -> None:
    """A run that fails, is put back, cancelled, left by the dead and the hung, and completes.

    The next execution is another attempt after a failure, a retry, a death and a hang, and the
    same one after an interrupt and wherever the run was put back.
    """
    owner = given_owner(store)
    row = trigger(store)
    assert of(store, row) == []
    found: list[tuple[Any, ...]] = []

    def begun(at: int, attempt: int) -> RunRow:
        (claimed,) = claim(store, owner, now_us=at)
        assert short(store, row) == [*found, (attempt, "running", at, None)]
        return claimed

    def ended(at: int, attempt: int, outcome: str, end: int) -> None:
        found.append((attempt, outcome, at, end))
        assert short(store, row) == found

    finish(store, begun(100, 1), error="E", now_us=110)
    ended(100, 1, "failed", 110)
    failed = of(store, row)
    assert failed == [AttemptRow(1, "failed", HERE, PID, 100, 110, stored(store, row).error)]
    store.write(runs.retry, row.id, 120)
    assert of(store, row) == failed
    finish(store, begun(200, 2), now_us=210)
    ended(200, 2, "interrupted", 210)
    finish(store, begun(215, 2), now_us=217)
    ended(215, 2, "interrupted", 217)
    store.write(runs.cancel, row.id, 220)
    assert short(store, row) == found
    store.write(runs.retry, row.id, 230)
    running = begun(300, 3)
    store.write(runs.cancel, row.id, 310)
    ended(300, 3, "cancelled", 310)
    store.write(settle.settle, running.run, running.fence, Lost(), 320)
    store.write(runs.retry, row.id, 330)
    assert short(store, row) == found
    begun(400, 4)
    assert store.write(requeue.requeue, OwnerHung(owner, 0), 410)
    ended(400, 4, "hung", 410)
    begun(500, 5)
    assert store.write(requeue.requeue, OwnerIdle(owner), 510)
    ended(500, 5, "interrupted", 510)
    running = begun(600, 5)
    assert store.write(requeue.requeue, NotExecuted(running.run, running.fence), 610)
    ended(600, 5, "interrupted", 610)
    begun(650, 5)
    assert store.write(requeue.requeue, OwnerElsewhere(owner), 660)
    ended(650, 5, "interrupted", 660)
    owner = given_owner(store)
    begun(700, 5)
    assert store.write(requeue.requeue, OwnerDead(owner), 710)
    ended(700, 5, "died", 710)
    owner = given_owner(store)
    finish(store, begun(800, 6), output="2", now_us=810)
    ended(800, 6, "completed", 810)
    assert [a.error is None for a in of(store, row)] == [False] + [True] * 9
    store.write(runs.delete, row.id)
    assert of(store, row) == query(store, "SELECT * FROM durably_attempts") == []


def test_a_suspended_run_keeps_its_attempt(store: Database) -> None:
    """Both executions have the number of the one attempt that they are."""
    owner = given_owner(store)
    row = given_running(store, owner)
    suspend(store, row, Suspended("time", "nap", 50), now_us=30)
    assert short(store, row) == [(1, "suspended", 20, 30)]
    store.write(requeue.wake_due, 60)
    assert short(store, row) == [(1, "suspended", 20, 30)]
    claim(store, owner, now_us=70)
    assert short(store, row) == [(1, "suspended", 20, 30), (1, "running", 70, None)]


def test_every_way_to_claim_says_who_executes(store: Database) -> None:
    """A trigger that claims, the end of another run, and a run that is begun in its caller."""
    owner = given_owner(store)
    wanted = Claim(owner, '["job"]', lambda: 40)
    started = store.write(enqueue.start, NewRun("started", "job", "1"), 40, wanted)
    assert started is not None
    new = NewRun("begun", "other", "1")
    begun = store.write(begin.begin, Begin(new, Claim(owner, "[]", lambda: 40)))
    waiting = trigger(store)
    next_one = finish(store, started[1], output="1", now_us=40, claim_next=wanted).claimed
    assert next_one is not None
    assert next_one.id == waiting.id
    for row in (begun.row, next_one):
        assert of(store, row) == [AttemptRow(1, "running", HERE, PID, 40, None, None, 0)]
    assert of(store, started[0].row) == [AttemptRow(1, "completed", HERE, PID, 40, 40, None)]


def test_a_completed_session_that_is_opened_again_keeps_what_was(store: Database) -> None:
    """Its end is gone from its row, and stays among its attempts."""
    owner = given_owner(store)
    session = NewRun("s", "job", "null", idempotency_key="k", kind="session")
    new = Begin(session, Claim(owner, "[]", lambda: 40))
    row = store.write(begin.begin, new).row
    finish(store, row, output="1", now_us=50)
    store.write(begin.begin, new)
    assert short(store, row) == [(1, "completed", 40, 50), (2, "running", 40, None)]


def test_an_attempt_that_cannot_be_read_is_left_out(store: Database) -> None:
    """Text that another program has damaged leaves the other attempts readable."""
    row = trigger(store)
    bring_to(store, row, "failed")
    store.write(runs.retry, row.id, 40)
    claim(store, given_owner(store), now_us=50)
    store.write(
        lambda db: db.execute("UPDATE durably_attempts SET error = CAST(x'ff' AS TEXT)") and None
    )
    assert short(store, row) == [(2, "running", 50, None)]


@pytest.mark.parametrize("limit", [1, 3])
def test_the_end_of_a_run_is_one_statement(store: Database, limit: int) -> None:
    """Attempts cost no statement and no row of their own, as long as no run goes on."""
    owner = given_owner(store)
    for _ in range(limit):
        trigger(store)
    changes = store.write(lambda db: db.total_changes())
    for row in claim(store, owner, limit=limit):
        store.write(settle.settle, row.run, row.fence, Interrupted(), 30)
    interrupted = store.write(lambda db: db.total_changes())
    assert interrupted - changes == 3 * limit
    for row in claim(store, owner, limit=limit):
        finish(store, row, output="1")
    assert store.write(lambda db: db.total_changes()) - interrupted == 2 * limit
