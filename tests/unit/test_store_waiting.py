"""Runs that wait for a time, an answer or another run hold nothing, and go on in their turn."""

from __future__ import annotations

from typing import Any

import apsw
import pytest
from storekit import (
    checkpoint,
    claim,
    finish,
    given_owner,
    given_running,
    place,
    query,
    stored,
    suspend,
    trigger,
)

from durably.errors import ConflictError, DatabaseError
from durably.store.outcome import NotExecuted, OwnerDead, Suspended
from durably.store.rows import NewRun, NewWait, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue, requeue, runs, settle
from durably.store.sqlite.sql import waits as waiting
from durably.store.sqlite.sql.requeue import WAKE_BATCH

ASLEEP = Suspended("time", "nap", 100)
ASKING = Suspended("answer", "question")
WAITS = "SELECT waits_for, wait_name, run_at_us, waits_for_run FROM durably_runs WHERE run = ?"
AWAKE = (None, None, None, None)


def change(store: Database, sql: str, *bindings: Any) -> None:
    """Execute a statement for which there is no verb, whatever the constraints say."""

    def operation(db: apsw.Connection) -> None:
        db.pragma("ignore_check_constraints", True)
        db.execute(sql, bindings)
        db.pragma("ignore_check_constraints", False)

    store.write(operation)


def waits(store: Database, row: RunRow) -> object:
    (found,) = query(store, WAITS, row.run)
    return found


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (ASLEEP, ("time", "nap", 100, None)),
        (ASKING, ("answer", "question", None, None)),
        (Suspended("answer", "question", 100), ("answer", "question", 100, None)),
        (Suspended("run", None, None, 1), ("run", None, None, 1)),
        (Suspended("run", "call", 100, 1), ("run", "call", 100, 1)),
    ],
)
def test_a_suspended_run_waits_and_has_no_owner(
    store: Database, outcome: Suspended, expected: object
) -> None:
    """It says for what it waits, keeps its checkpoints and its progress, and is not claimable."""
    owner = given_owner(store)
    trigger(store, "awaited")
    run = given_running(store, owner)
    checkpoint(store, run, "s")
    assert store.write(settle.settle, run.run, run.fence, outcome, 30, '{"current":1}')
    now = stored(store, run)
    assert (now.status, now.owner, now.attempt, now.completed_steps) == ("waiting", None, 1, 1)
    assert (now.progress, now.updated_at_us, now.completed_at_us) == ('{"current":1}', 30, None)
    assert waits(store, run) == expected
    assert claim(store, owner) == []


def test_a_suspension_after_a_take_over_changes_nothing(store: Database) -> None:
    """Only the current claim may suspend its run."""
    run = given_running(store, given_owner(store))
    store.write(requeue.requeue, NotExecuted(run.run, run.fence), 25)
    (again,) = claim(store, given_owner(store))
    assert not store.write(settle.settle, run.run, run.fence, ASLEEP, 30)
    assert stored(store, again) == again


def test_what_is_due_goes_on_before_younger_runs_with_the_same_attempt(store: Database) -> None:
    """The next claim has another fence, so that nothing of the execution before is stored."""
    owner = given_owner(store)
    run = given_running(store, owner)
    suspend(store, run, ASLEEP)
    younger = trigger(store)
    assert store.read(requeue.next_due_us) == 100
    assert store.write(requeue.wake_due, 99) is False
    assert stored(store, run).status == "waiting"
    assert store.write(requeue.wake_due, 100) is True
    assert (stored(store, run).status, waits(store, run)) == ("pending", AWAKE)
    assert store.read(requeue.next_due_us) is None
    again, other = claim(store, owner, limit=2)
    assert (again.id, again.attempt, again.fence) == (run.id, 1, 2)
    assert (other.id, other.attempt, other.fence) == (younger.id, 1, 1)
    assert not checkpoint(store, run, "s")
    assert checkpoint(store, again, "s")


@pytest.mark.parametrize("how", ["fail and retry", "cancel and retry", "die"])
def test_a_claim_after_a_failure_or_a_death_raises_the_attempt(store: Database, how: str) -> None:
    """A claim keeps the attempt right after a wait or an interrupt, and not later."""
    owner = given_owner(store)
    suspend(store, given_running(store, owner), ASLEEP)
    store.write(requeue.wake_due, 100)
    (run,) = claim(store, owner)
    finish(store, run)
    (run,) = claim(store, owner)
    if how == "die":
        store.write(requeue.requeue, OwnerDead(owner), 110)
        owner = given_owner(store)
    else:
        if how == "fail and retry":
            finish(store, run, error="E")
        else:
            suspend(store, run, ASKING)
            store.write(runs.cancel, run.id, 110)
        store.write(runs.retry, run.id, 120)
    (again,) = claim(store, owner)
    assert (again.attempt, again.fence) == (2, 4)


def test_a_waiting_run_gives_its_key_up_and_comes_back_in_front(store: Database) -> None:
    """Others of its key are executed meanwhile, and it is claimed before those that are younger."""
    owner = given_owner(store)
    run = given_running(store, owner, concurrency_key="k")
    second = trigger(store, concurrency_key="k")
    third = trigger(store, concurrency_key="k")
    suspend(store, run, ASLEEP)
    (taken,) = claim(store, owner, limit=3)
    assert taken.id == second.id
    store.write(requeue.wake_due, 100)
    assert [place(store, row) for row in (run, third)] == [2, 1]
    assert claim(store, owner) == []
    finish(store, taken, output="1")
    (again,) = claim(store, owner)
    assert again.id == run.id


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_the_end_of_a_run_wakes_those_that_wait_for_it(store: Database, end: str) -> None:
    """However it ends, in the same transaction; those that wait for others wait on."""
    owner = given_owner(store)
    awaited = given_running(store, owner, "child")
    for_it, for_another = given_running(store, owner, "a"), given_running(store, owner, "b")
    suspend(store, for_it, Suspended("run", None, None, awaited.run))
    suspend(store, for_another, Suspended("run", None, None, for_it.run))
    if end == "cancel":
        store.write(runs.cancel, awaited.id, 40)
    else:
        finish(store, awaited, **{"output": "1"} if end == "complete" else {"error": "E"})
    assert (stored(store, for_it).status, waits(store, for_it)) == ("pending", AWAKE)
    assert stored(store, for_another).status == "waiting"
    (again,) = claim(store, owner, "a")
    assert (again.id, again.attempt) == (for_it.id, 1)


def test_a_run_does_not_wait_for_one_that_has_ended(store: Database) -> None:
    """What ended before the suspension was stored is seen: it is pending at once."""
    owner = given_owner(store)
    awaited, run = given_running(store, owner, "child"), given_running(store, owner)
    finish(store, awaited, output="1")
    suspend(store, run, Suspended("run", None, None, awaited.run))
    assert (stored(store, run).status, waits(store, run)) == ("pending", AWAKE)
    store.write(runs.delete, awaited.id)
    (again,) = claim(store, owner)
    assert (again.id, again.attempt) == (run.id, 1)


@pytest.mark.parametrize("name", [None, "call"])
def test_a_run_does_not_wait_for_one_that_was_deleted(store: Database, name: str | None) -> None:
    """It goes on at once, and finds that out; it would wait for ever."""
    owner = given_owner(store)
    awaited, run = given_running(store, owner, "child"), given_running(store, owner)
    finish(store, awaited, output="1")
    store.write(runs.delete, awaited.id)
    suspend(store, run, Suspended("run", name, 100, awaited.run))
    assert (stored(store, run).status, waits(store, run)) == ("pending", AWAKE)
    (again,) = claim(store, owner)
    assert (again.id, again.attempt) == (run.id, 1)


def test_adopting_an_awaited_run_wakes_nobody(store: Database) -> None:
    """A pending run changes its queue without an end."""
    owner = given_owner(store)
    awaited, run = trigger(store, "child"), given_running(store, owner)
    suspend(store, run, Suspended("run", None, None, awaited.run))
    store.write(runs.adopt, awaited.id, "code", 40)
    assert stored(store, run).status == "waiting"


def test_a_waiting_run_is_cancelled_at_once(store: Database) -> None:
    """It waits for nothing any more, and is not woken; it cannot be deleted before that."""
    run = given_running(store, given_owner(store), concurrency_key="k")
    suspend(store, run, ASLEEP)
    with pytest.raises(ConflictError):
        store.write(runs.retry, run.id, 40)
    with pytest.raises(ConflictError):
        store.write(runs.delete, run.id)
    cancelled = store.write(runs.cancel, run.id, 40)
    assert (cancelled.status, cancelled.owner, waits(store, run)) == ("cancelled", None, AWAKE)
    assert store.write(requeue.wake_due, 200) is False
    store.write(runs.delete, run.id)


def test_a_waiting_run_survives_the_death_of_its_former_owner(store: Database) -> None:
    """It is nobody's: a recovery leaves it, and a live process wakes it."""
    owner = given_owner(store)
    run = given_running(store, owner)
    suspend(store, run, ASLEEP)
    assert store.write(requeue.requeue, OwnerDead(owner), 40) == []
    assert stored(store, run).status == "waiting"
    store.write(requeue.wake_due, 100)
    (again,) = claim(store, given_owner(store))
    assert again.id == run.id


def test_an_answer_wakes_its_run_once(store: Database) -> None:
    """One that runs, has ended or is due already is left as it is."""
    owner = given_owner(store)
    run = given_running(store, owner)
    assert store.write(requeue.wake, run.run, 30) is False
    suspend(store, run, ASKING)
    assert store.write(requeue.wake, run.run, 40) is True
    assert store.write(requeue.wake, run.run, 50) is False
    (again,) = claim(store, owner)
    finish(store, again, output="1")
    assert store.write(requeue.wake, run.run, 60) is False


@pytest.mark.parametrize("is_asked", [True, False])
def test_an_answer_wakes_the_run_that_waits_for_it_and_no_other(
    store: Database, is_asked: bool
) -> None:
    """It wakes the run also if the question itself is not stored."""
    owner = given_owner(store)
    run, other = given_running(store, owner), given_running(store, owner)
    if is_asked:
        new = NewWait("question", "answer", None)
        store.write(waiting.open_wait, run.run, run.fence, new, 20)
    for each in (run, other):
        suspend(store, each, ASKING)
    store.write(waiting.answer, run.id, "another", "1", None, 40)
    assert stored(store, run).status == "waiting"
    store.write(waiting.answer, run.id, "question", "1", None, 50)
    assert (stored(store, run).status, waits(store, run)) == ("pending", AWAKE)
    assert (stored(store, run).updated_at_us, stored(store, other).status) == (50, "waiting")


@pytest.mark.parametrize("key", [None, "k"])
def test_a_pending_run_is_not_claimed_before_it_is_due(store: Database, key: str | None) -> None:
    """Nor does it keep others of its key from being claimed; then it has its own turn."""
    owner = given_owner(store)
    run = trigger(store, concurrency_key=key)
    younger = trigger(store, concurrency_key=key)
    change(store, "UPDATE durably_runs SET run_at_us = 100 WHERE run = ?", run.run)
    (taken,) = claim(store, owner, limit=2)
    assert taken.id == younger.id
    finish(store, taken)
    store.write(requeue.wake_due, 100)
    (first,) = claim(store, owner)
    assert (first.id, first.attempt) == (run.id, 1)


def test_runs_that_are_due_at_once_are_woken_in_batches(store: Database) -> None:
    """A transaction wakes so many, those that were due first before the others."""
    run = given_running(store, given_owner(store))
    suspend(store, run, ASLEEP)
    change(
        store,
        """WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
        INSERT INTO durably_runs (id, job_name, payload, created_at_us, updated_at_us, run_at_us)
        SELECT 'later' || n, 'later', '1', 1, 1, 1000 + n FROM n""",
        2 * WAKE_BATCH,
    )
    left = "SELECT count(*), min(run_at_us) FROM durably_runs WHERE run_at_us IS NOT NULL"
    counts = []
    while store.write(requeue.wake_due, 200_000):
        counts += query(store, left)
    assert [count for count, _ in counts] == [WAKE_BATCH + 1, 1, 0]
    assert stored(store, run).status == "pending"


def test_one_row_that_cannot_be_woken_leaves_the_others(store: Database) -> None:
    """Another program has turned the constraints off: that run alone is cancelled."""
    owner = given_owner(store)
    bad, good = given_running(store, owner), given_running(store, owner)
    for run in (bad, good):
        suspend(store, run, ASLEEP)
    change(store, "UPDATE durably_runs SET completed_at_us = 1 WHERE run = ?", bad.run)
    with pytest.raises(DatabaseError):
        store.write(requeue.wake_due, 2**62)
    assert store.write(requeue.wake_due, 200) is True
    assert (stored(store, bad).status, stored(store, good).status) == ("cancelled", "pending")
    assert store.read(requeue.next_due_us) is None


@pytest.mark.parametrize("answered_at", [99, 100])
def test_a_deadline_and_an_answer_at_the_same_instant_have_one_outcome(
    store: Database, answered_at: int
) -> None:
    """An answer counts until the microsecond before; what both sides see is the same."""
    run = given_running(store, given_owner(store))
    store.write(waiting.open_wait, run.run, run.fence, NewWait("q", "answer", 100), 20)
    is_in_time = answered_at < 100
    reply = (run.id, "q", "1", None, answered_at)
    if is_in_time:
        assert store.write(waiting.answer, *reply) == run.run
    else:
        with pytest.raises(ConflictError, match="deadline"):
            store.write(waiting.answer, *reply)
    closed = store.write(waiting.close_wait, run.run, run.fence, "q", 100)
    assert closed is not None
    expected = ("1", None) if is_in_time else (None, 100)
    assert (closed.answer, closed.closed_at_us) == expected
    # A clock that goes back opens it for nobody.
    with pytest.raises(ConflictError):
        store.write(waiting.answer, run.id, "q", "2", None, 50)


def test_two_engines_that_wake_the_same_run_claim_it_once(store: Database) -> None:
    """The second one finds nothing that is due, and nothing to claim."""
    owners = given_owner(store), given_owner(store)
    run = given_running(store, owners[0])
    suspend(store, run, ASLEEP)
    assert [store.write(requeue.wake_due, 100) for _ in owners] == [True, False]
    assert [len(claim(store, owner)) for owner in owners] == [1, 0]


def test_a_claim_that_is_not_the_current_one_waits_for_nothing(store: Database) -> None:
    """It stores no wait, ends none, and triggers no child."""
    run = given_running(store, given_owner(store))
    store.write(requeue.requeue, NotExecuted(run.run, run.fence), 25)
    claim(store, given_owner(store))
    where = run.run, run.fence
    assert store.write(waiting.open_wait, *where, NewWait("q", "time", 100), 30) is None
    assert store.write(waiting.note_check, *where, "q", 1, 40) is False
    assert store.write(waiting.close_wait, *where, "q", 40) is None
    assert store.write(waiting.discard_answer, *where, "q") is False
    child = NewRun("child", "job", "1", parent=run.run)
    assert store.write(enqueue.spawn, run.fence, child, 40) is None
