"""What dead and hung owners leave behind goes on, and what reading finds."""

from __future__ import annotations

import json
import os

import pytest
from storekit import (
    checkpoint,
    claim,
    finish,
    given_owner,
    given_running,
    query,
    stored,
    stored_status,
    trigger,
)

from durably._platform.host import host_name
from durably.store.item_rows import MapState
from durably.store.outcome import OwnerDead, OwnerHung, OwnerIdle
from durably.store.read_rows import Filters
from durably.store.rows import Begin, Claim, NewRun, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks.owner_lock import current_boot_id
from durably.store.sqlite.sql import (
    attempts,
    begin,
    enqueue,
    items,
    owners,
    queries,
    requeue,
    runs,
    steps,
)

# -- recovery --------------------------------------------------------------------------------


def test_dead_owner_leaves_nothing_behind(store: Database) -> None:
    """Its running runs are pending, its cancelled ones free, its row is gone; others' stay."""
    dead, alive = given_owner(store), given_owner(store)
    one, two = (given_running(store, dead) for _ in range(2))
    cancelled = given_running(store, dead)
    store.write(runs.cancel, cancelled.id, 30)
    again = given_running(store, dead)
    store.write(runs.cancel, again.id, 30)
    store.write(runs.retry, again.id, 31)
    other = given_running(store, alive, "other")
    recovered = store.write(requeue.requeue, OwnerDead(dead), 60)
    assert [row.id for row in recovered] == [one.id, two.id]
    assert [(row.status, row.owner, row.attempt) for row in recovered] == [("pending", None, 1)] * 2
    assert stored(store, cancelled).owner is None
    assert stored_status(store, cancelled.id) == "cancelled"
    assert stored(store, other) == other
    assert query(store, "SELECT owner FROM durably_owners") == [(alive,)]
    taken = claim(store, alive, limit=9)
    assert [row.id for row in taken] == [again.id, one.id, two.id]
    assert store.write(requeue.requeue, OwnerDead(dead), 70) == []


def test_a_run_that_kills_its_process_comes_after_those_not_tried_since(store: Database) -> None:
    """Each death of its owner puts it last, behind what was triggered until then, so that all
    others complete; and what is triggered later does not come before it.
    """
    poison, *others = [trigger(store) for _ in range(4)]
    first = claim(store, dead := given_owner(store))
    store.write(requeue.requeue, OwnerDead(dead), 60)
    late = trigger(store)
    order = [row.id for row in first]
    for _ in range(3):
        (taken,) = claim(store, dead := given_owner(store))
        order.append(taken.id)
        finish(store, taken, output="1")
    (taken,) = claim(store, given_owner(store))
    assert (taken.id, taken.attempt) == (poison.id, 2)
    assert order == [poison.id, *(run.id for run in others)]
    assert [row.id for row in claim(store, given_owner(store), limit=9)] == [late.id]


def test_runs_that_died_together_keep_their_order(store: Database) -> None:
    """Also when they die again, and whichever of their jobs is asked for."""
    rows = [trigger(store, job) for job in ("b", "a", "b", "a")]
    for _ in range(3):
        dead = given_owner(store)
        taken = claim(store, dead, "a", "b", limit=9)
        assert [row.id for row in taken] == [row.id for row in rows]
        recovered = store.write(requeue.requeue, OwnerDead(dead), 60)
        assert [row.id for row in recovered] == [row.id for row in rows]
    (of_b,) = claim(store, given_owner(store), "b")
    assert of_b.id == rows[0].id


@pytest.mark.parametrize("verb", ["recover_hung", "interrupt", "put_back"])
def test_a_run_whose_owner_did_not_die_keeps_its_turn(store: Database, verb: str) -> None:
    """One that was interrupted, or whose owner hangs, was triggered first and stays first."""
    run, _ = trigger(store), trigger(store)
    (taken,) = claim(store, owner := given_owner(store))
    if verb == "interrupt":
        finish(store, taken)
    elif verb == "recover_hung":
        store.write(requeue.requeue, OwnerHung(owner, 0), 60)
    else:
        store.write(requeue.requeue, OwnerIdle(owner), 60)
    assert [row.id for row in claim(store, given_owner(store))] == [run.id]


def test_within_a_key_a_run_whose_owner_died_is_behind(store: Database) -> None:
    """The queue of a concurrency key goes on with the next one, death by death."""
    rows = [trigger(store, concurrency_key="k") for _ in range(3)]
    died = []
    for _ in range(6):
        (taken,) = claim(store, dead := given_owner(store), limit=9)
        store.write(requeue.requeue, OwnerDead(dead), 60)
        died.append(taken.id)
    assert died == [row.id for row in rows] * 2
    assert trigger(store, concurrency_key="k", coalesce=True).id == rows[0].id


@pytest.mark.parametrize("row", ["DELETE FROM", "UPDATE"])
def test_a_death_is_recovered_when_there_are_no_numbers_left(store: Database, row: str) -> None:
    """A sequence that somebody spoilt costs a run its turn, and does not keep it from going on."""
    run = given_running(store, dead := given_owner(store))
    change = "SET seq = 9223372036854775807 WHERE" if row == "UPDATE" else "WHERE"
    sql = f"{row} sqlite_sequence {change} name = 'durably_runs'"
    store.write(lambda db: db.execute(sql) and None)
    assert [each.id for each in store.write(requeue.requeue, OwnerDead(dead), 60)] == [run.id]


def test_hung_owner_loses_its_running_runs_alone(store: Database) -> None:
    """It may still be inside a cancelled run's step, and may come back: row and keys stay."""
    hung = given_owner(store)
    run, cancelled = given_running(store, hung), given_running(store, hung)
    store.write(runs.cancel, cancelled.id, 30)
    assert [row.id for row in store.write(requeue.requeue, OwnerHung(hung, 0), 60)] == [run.id]
    assert (stored(store, run).status, stored(store, run).owner) == ("pending", None)
    assert stored(store, cancelled).owner == hung
    assert query(store, "SELECT owner FROM durably_owners") == [(hung,)]


@pytest.mark.parametrize("beat", [1, -1])
def test_owner_that_has_beaten_meanwhile_is_not_hung(store: Database, beat: int) -> None:
    """The beat that the decision was made on must still be the same in the transaction."""
    hung = given_owner(store)
    run = given_running(store, hung)
    assert store.write(requeue.requeue, OwnerHung(hung, beat), 60) == []
    assert store.write(requeue.requeue, OwnerHung(hung + 1, 0), 60) == []
    assert stored(store, run) == run


def test_owner_is_forgotten_only_if_its_beat_still_stands(store: Database) -> None:
    """Where a beat is what the decision was made on, another one undoes it."""
    owner = given_owner(store)
    run = given_running(store, owner)
    assert store.write(requeue.requeue, OwnerDead(owner, 1), 60) == []
    assert stored(store, run) == run
    assert [row.id for row in store.write(requeue.requeue, OwnerDead(owner, 0), 60)] == [run.id]
    assert query(store, "SELECT count(*) FROM durably_owners") == [(0,)]


# -- reading ---------------------------------------------------------------------------------


def test_progress_of_a_stale_attempt_is_not_stored(store: Database) -> None:
    """Only the running attempt's progress is stored, the newest last."""
    run = given_running(store, given_owner(store))
    store.write(runs.set_progress, [(run.run, 1, "1"), (run.run, 2, "2"), (99, 1, "3")], 25)
    assert stored(store, run).progress == "1"
    finish(store, run)
    store.write(runs.set_progress, [(run.run, 1, "4")], 26)
    assert stored(store, run).progress == "1"


def test_briefs_are_of_the_runs_that_exist(store: Database) -> None:
    """Those asked for and there are returned, by id; the others are left out."""
    owner = given_owner(store)
    running = given_running(store, owner)
    pending = trigger(store)
    trigger(store)
    found = store.read(queries.briefs, [running.id, "nowhere", pending.id])
    assert found == {
        running.id: (running.id, "running", owner, None, "job"),
        pending.id: (pending.id, "pending", None, None, "job"),
    }
    assert store.read(queries.brief, running.id) == found[running.id]
    assert store.read(queries.brief, "nowhere") is None
    assert store.read(queries.state_of, running.run) == ("running", 1)
    assert store.read(queries.state_of, 99) is None


def test_filters_restrict_and_count_alike(store: Database) -> None:
    """Every filter that is given must fit; what is listed is what is counted."""
    a = trigger(store, "a", labels='{"x":"1","y":"2"}')
    b = trigger(store, "b", labels='{"x":"1"}')
    c = trigger(store, "a", labels='{"x":"2"}')
    store.write(runs.cancel, c.id, 30)
    cases = [
        (Filters(), [c, b, a]),
        (Filters(statuses='["pending"]'), [b, a]),
        (Filters(statuses='["cancelled","failed"]'), [c]),
        (Filters(statuses="[]"), []),
        (Filters(jobs='["a"]'), [c, a]),
        (Filters(jobs="[]"), []),
        (Filters(labels='{"x":"1"}'), [b, a]),
        (Filters(labels='{"x":"1","y":"2"}'), [a]),
        (Filters(labels='{"y":"1"}'), []),
        (Filters(labels="{}"), [c, b, a]),
        (Filters('["pending"]', '["a"]', '{"x":"1"}'), [a]),
    ]
    for filters, expected in cases:
        found = store.read(queries.find_many, filters, None, 0)
        assert [row.id for row in found] == [row.id for row in expected], filters
        assert store.read(queries.count, filters) == len(expected)
    assert [row.id for row in store.read(queries.find_many, Filters(), 1, 1)] == [b.id]
    assert store.read(queries.find_many, Filters(), 0, 0) == []


def test_completed_steps_are_counted_alone(store: Database) -> None:
    """A run's count is of its own steps that completed."""
    owner = given_owner(store)
    run, other = given_running(store, owner), given_running(store, owner)
    for index in range(3):
        checkpoint(store, run, f"s{index}", index)
    store.write(steps.fail, run.run, 1, 3, "bad", "{}", 1, 2)
    checkpoint(store, other, "s")
    assert stored(store, run).completed_steps == 3
    assert json.loads(stored(store, run).payload) == 1


# -- runs that kill their process ------------------------------------------------------------


def dead_in(store: Database, name: str = "job", **values: str) -> int:
    """An owner that has claimed the first run of a job, and is dead."""
    owner = given_owner(store, **{"boot_id": current_boot_id()} | values)
    claim(store, owner, name)
    return owner


def bury(store: Database, owner: int, most: int | None = 3) -> RunRow:
    """What its death makes of its run."""
    (row,) = store.write(requeue.requeue, OwnerDead(owner, max_deaths=most), 60)
    return row


def test_a_run_whose_process_died_as_often_as_allowed_is_failed(store: Database) -> None:
    """It has an error that says so, its executions are deaths, and a retry begins anew."""
    run = trigger(store)
    seen = []
    for _ in range(3):
        owner = dead_in(store)
        store.beat(owners.beat, owner, lambda: 1_000_000)
        seen.append(bury(store, owner))
    assert [(row.status, row.deaths) for row in seen] == [
        ("pending", 1),
        ("pending", 2),
        ("failed", 3),
    ]
    error = json.loads(seen[-1].error or "")
    assert error["type"] == "durably.WorkerDiedError"
    assert error["message"] == (
        f"its process died 3 times without completing another step; host {host_name()}, pid "
        f"{os.getpid()}, last seen 1970-01-01 00:00:01 UTC. Find out what kills it (a crash in "
        "native code, the system's memory), then retry it"
    )
    tries = store.read(attempts.of_run, run.id)
    assert [(each.attempt, each.outcome) for each in tries] == [(n, "died") for n in (1, 2, 3)]
    assert stored(store, run).failures == 0
    store.write(runs.retry, run.id, 70)
    assert bury(store, dead_in(store)).deaths == 1


@pytest.mark.parametrize("what", ["step", "item"])
def test_a_new_checkpoint_begins_the_count_of_deaths_anew(store: Database, what: str) -> None:
    """A run that gets on is not failed; one that has got stuck later is, and its step is named."""
    trigger(store)
    deaths = []
    for number in range(4):
        owner = dead_in(store)
        (row,) = store.read(queries.find_many, Filters(), None, 0)
        if number in (1, 2) and what == "step":
            checkpoint(store, row, f"s{number}", number)
        elif number in (1, 2):
            state = MapState(0, "m", True, number, 0, 0, 9, 1)
            new = [(number, number, "1", None, 1, None, 1, 2, None)]
            store.write(items.save, row.run, row.fence, state, new)
        last = bury(store, owner, 2)
        deaths.append(last.deaths)
    assert deaths == [1, 1, 1, 2]
    assert last.status == "failed"
    assert ("the last step completed was 's2'" in str(last.error)) is (what == "step")


def test_what_is_no_death_of_a_run_does_not_count(store: Database) -> None:
    """A hung owner, a restart of the machine, a lost lock file, an interrupt, and a session."""
    trigger(store)
    for reason in (OwnerHung, OwnerIdle):
        owner = dead_in(store)
        store.write(requeue.requeue, reason(owner, 0) if reason is OwnerHung else reason(owner), 60)
    finish(store, claim(store, given_owner(store))[0])
    assert bury(store, dead_in(store, boot_id="before"), 1).deaths == 0
    assert bury(store, dead_in(store), None).deaths == 0
    new = NewRun("session", "job", "null", kind="session")
    owner = given_owner(store, boot_id=current_boot_id())
    store.write(begin.begin, Begin(new, Claim(owner, "[]", lambda: 50)))
    assert (bury(store, owner, 1).status, bury(store, dead_in(store), 1).status) == (
        "pending",
        "failed",
    )


def test_deaths_on_both_sides_of_a_checkpoint_and_a_restart_are_told_apart(store: Database) -> None:
    """A checkpoint that was stored before the machine was restarted counts as one."""
    trigger(store)
    assert bury(store, dead_in(store)).deaths == 1
    owner = dead_in(store, boot_id="before")
    (row,) = store.read(queries.find_many, Filters(), None, 0)
    checkpoint(store, row, "s")
    assert bury(store, owner).deaths == 0
    assert bury(store, dead_in(store)).deaths == 1


def test_an_extended_run_begins_the_count_of_deaths_anew(store: Database) -> None:
    """A completed run that gets another payload is tried as one that was never executed."""
    new = NewRun("r", "job", "1", idempotency_key="k")
    store.write(enqueue.enqueue, new, 10)
    bury(store, dead_in(store))
    finish(store, claim(store, given_owner(store))[0], output="1")
    other = new._replace(payload="2", on_payload_change="extend")
    assert store.write(enqueue.enqueue, other, 80).row.deaths == 0
