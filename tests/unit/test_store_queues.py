"""Queues of concurrency keys: at each moment at most one run of a key can be claimed."""

from __future__ import annotations

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
    trigger,
)

from durably.store.outcome import Lost, OwnerDead, OwnerHung
from durably.store.rows import Claim, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import claims, requeue, runs, settle

CLAIMABLE, BEHIND, HELD = 0, 1, 2


def places(store: Database, *rows: RunRow) -> list[int]:
    return [place(store, row) for row in rows]


def queue(store: Database, count: int, job: str = "job") -> list[RunRow]:
    return [trigger(store, job, concurrency_key="k") for _ in range(count)]


def test_runs_without_a_key_are_in_no_queue(store: Database) -> None:
    """Whatever becomes of them, their place is the claimable one."""
    owner = given_owner(store)
    run = trigger(store)
    assert place(store, run) == CLAIMABLE
    (running,) = claim(store, owner)
    assert place(store, run) == CLAIMABLE
    finish(store, running, error="{}")
    store.write(runs.retry, run.id, 40)
    assert place(store, run) == CLAIMABLE


def test_first_of_a_new_queue_is_claimable(store: Database) -> None:
    """Of runs triggered with a key the first is claimable, the others are behind it."""
    assert places(store, *queue(store, 3)) == [CLAIMABLE, BEHIND, BEHIND]


def test_each_job_has_a_queue_of_its_own(store: Database) -> None:
    """A process that does not know the first run's job can still claim another job's."""
    a, b = queue(store, 1, "a"), queue(store, 2, "b")
    assert places(store, *a, *b) == [CLAIMABLE, CLAIMABLE, BEHIND]
    (taken,) = claim(store, given_owner(store), "b", limit=9)
    assert taken.id == b[0].id
    assert places(store, *a, b[1]) == [HELD, HELD]


def begun(store: Database, origin: str, **options: str) -> RunRow:
    """A pending run with a checkpoint of that origin."""
    run = trigger(store, **options)
    wanted = Claim(given_owner(store), '["job"]', lambda: 20, origins=f'{{"job":"{origin}"}}')
    (row,) = store.write(claims.claim, wanted)
    assert (row.id, row.origin) == (run.id, origin)
    assert checkpoint(store, row, "s")
    finish(store, row)
    return row


def test_each_origin_has_a_queue_of_its_own(store: Database) -> None:
    """A process that skips what other code has begun can still claim the next one of the key."""
    mine, other = (begun(store, origin, concurrency_key="k") for origin in ("mine", "other"))
    fresh = queue(store, 2)
    assert places(store, mine, other, *fresh) == [CLAIMABLE, CLAIMABLE, CLAIMABLE, BEHIND]
    wanted = Claim(given_owner(store), '["job"]', lambda: 20, 9, origins='{"job":"other"}')
    (taken,) = store.write(claims.claim, wanted)
    assert taken.id == other.id
    assert places(store, mine, *fresh) == [HELD, HELD, BEHIND]
    finish(store, taken, output="1")
    assert places(store, mine, *fresh) == [CLAIMABLE, CLAIMABLE, BEHIND]


def test_an_adopted_run_changes_its_queue(store: Database) -> None:
    """It joins that of its new origin at its place, and hands its old place on."""
    first, second, other = (begun(store, origin, concurrency_key="k") for origin in "acb")
    assert places(store, first, second, other) == [CLAIMABLE, CLAIMABLE, CLAIMABLE]
    store.write(runs.adopt, second.id, "a", 40)
    assert places(store, first, second, other) == [CLAIMABLE, BEHIND, CLAIMABLE]
    adopted = store.write(runs.adopt, first.id, "b", 40)
    assert (adopted.status, adopted.origin) == ("pending", "b")
    assert places(store, first, second, other) == [CLAIMABLE, CLAIMABLE, BEHIND]
    assert store.write(runs.adopt, first.id, None, 40).origin is None
    assert places(store, first, second, other) == [CLAIMABLE, CLAIMABLE, CLAIMABLE]


def test_claim_holds_the_key(store: Database) -> None:
    """With a run of the key claimed nobody else of it is claimable, in whatever job."""
    other = queue(store, 1, "other")
    mine = queue(store, 3)
    owner = given_owner(store)
    (taken,) = claim(store, owner, limit=9)
    assert places(store, *mine, *other) == [BEHIND, HELD, BEHIND, HELD]
    late = queue(store, 1) + queue(store, 1, "third")
    assert places(store, *late) == [BEHIND, HELD]
    assert claim(store, owner, "job", "other", "third", limit=9) == []
    assert taken.id == mine[0].id


@pytest.mark.parametrize("how", [{"output": "1"}, {"error": "{}"}])
def test_end_frees_the_key(store: Database, how: dict[str, str]) -> None:
    """A run that completes or fails hands the key on, to the firsts of all queues."""
    mine, other = queue(store, 3), queue(store, 2, "other")
    (taken,) = claim(store, given_owner(store))
    finish(store, taken, **how)
    assert places(store, *mine, *other) == [BEHIND, CLAIMABLE, BEHIND, CLAIMABLE, BEHIND]


def test_interrupted_run_comes_back_to_the_front(store: Database) -> None:
    """It is first again, because it was triggered first."""
    mine, other = queue(store, 3), queue(store, 1, "other")
    (taken,) = claim(store, given_owner(store))
    finish(store, taken)
    assert places(store, *mine, *other) == [CLAIMABLE, BEHIND, BEHIND, CLAIMABLE]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_cancelled_pending_run_leaves_its_queue(store: Database, which: int) -> None:
    """The one behind it moves up if it was the first; else nothing changes for others."""
    mine = queue(store, 3)
    store.write(runs.cancel, mine.pop(which).id, 30)
    assert places(store, *mine) == [CLAIMABLE, BEHIND]


def test_cancelled_pending_run_behind_a_busy_key_leaves_its_queue(store: Database) -> None:
    """The next one is then first, and still waits for the key."""
    mine = queue(store, 3)
    claim(store, given_owner(store))
    store.write(runs.cancel, mine[1].id, 30)
    assert places(store, *mine) == [BEHIND, BEHIND, HELD]


def test_cancelled_running_run_holds_the_key_until_it_is_released(store: Database) -> None:
    """Its job may still be inside a step."""
    mine = queue(store, 2)
    owner = given_owner(store)
    (taken,) = claim(store, owner)
    store.write(runs.cancel, taken.id, 30)
    assert places(store, *mine) == [BEHIND, HELD]
    assert claim(store, owner) == []
    store.write(settle.settle, taken.run, 1, Lost(), 31)
    assert places(store, *mine) == [BEHIND, CLAIMABLE]


@pytest.mark.parametrize("is_busy", [False, True])
def test_retried_run_takes_the_place_of_its_trigger(store: Database, is_busy: bool) -> None:
    """A run that is pending again is first if it was triggered first, else behind."""
    mine = queue(store, 4)
    owner = given_owner(store)
    for _ in range(2):
        (taken,) = claim(store, owner)
        finish(store, taken, error="{}")
    if is_busy:
        (taken,) = claim(store, owner)
        assert taken.id == mine[2].id
    free = HELD if is_busy else CLAIMABLE
    store.write(runs.retry, mine[1].id, 40)
    third = BEHIND
    assert places(store, *mine[1:3]) == [free, third]
    store.write(runs.retry, mine[0].id, 41)
    assert places(store, *mine) == [free, BEHIND, BEHIND, BEHIND]


def test_retried_last_run_is_behind(store: Database) -> None:
    """A retry does not push ahead of what was triggered earlier."""
    mine = queue(store, 2)
    store.write(runs.cancel, mine[1].id, 30)
    store.write(runs.retry, mine[1].id, 31)
    assert places(store, *mine) == [CLAIMABLE, BEHIND]


def test_run_retried_while_owned_holds_its_key_against_itself(store: Database) -> None:
    """It is first in its queue, and becomes claimable when its old job has left."""
    mine = queue(store, 2)
    owner = given_owner(store)
    (taken,) = claim(store, owner)
    store.write(runs.cancel, taken.id, 30)
    store.write(runs.retry, taken.id, 31)
    assert places(store, *mine) == [HELD, BEHIND]
    store.write(settle.settle, taken.run, 1, Lost(), 32)
    assert places(store, *mine) == [CLAIMABLE, BEHIND]


def test_run_cancelled_again_while_owned_hands_its_place_on(store: Database) -> None:
    """The next one is first but held, until the old job has left."""
    mine = queue(store, 2)
    owner = given_owner(store)
    (taken,) = claim(store, owner)
    for verb in (runs.cancel, runs.retry, runs.cancel):
        store.write(verb, taken.id, 30)
    assert places(store, *mine) == [BEHIND, HELD]
    store.write(settle.settle, taken.run, 1, Lost(), 32)
    assert places(store, *mine) == [BEHIND, CLAIMABLE]


@pytest.mark.parametrize("verbs", [[], ["cancel"], ["cancel", "retry"]])
def test_dead_owner_frees_the_key(store: Database, verbs: list[str]) -> None:
    """Recovery lets the next one go: the run whose owner died is behind it."""
    mine, other = queue(store, 2), queue(store, 1, "other")
    owner = given_owner(store)
    (taken,) = claim(store, owner)
    for verb in verbs:
        store.write(getattr(runs, verb), taken.id, 30)
    store.write(requeue.requeue, OwnerDead(owner), 40)
    # One that was retried is put back by its retry, in front, and not by the death.
    is_retried = verbs[-1:] == ["retry"]
    assert places(store, *mine) == ([CLAIMABLE, BEHIND] if is_retried else [BEHIND, CLAIMABLE])
    assert places(store, *other) == [CLAIMABLE]


def test_hung_owner_frees_the_keys_of_its_running_runs_alone(store: Database) -> None:
    """A cancelled run's job may still be inside its step: its key stays held."""
    owner = given_owner(store)
    running = given_running(store, owner, concurrency_key="a")
    cancelled = given_running(store, owner, concurrency_key="b")
    store.write(runs.cancel, cancelled.id, 30)
    behind = [trigger(store, concurrency_key=key) for key in "ab"]
    store.write(requeue.requeue, OwnerHung(owner, 0), 40)
    assert places(store, running, *behind) == [CLAIMABLE, BEHIND, HELD]


def test_deleted_runs_change_no_queue(store: Database) -> None:
    """What has ended was in no queue; the key it once held is its waiters' all the same."""
    mine = queue(store, 3)
    store.write(runs.cancel, mine[0].id, 30)
    store.write(runs.delete, mine[0].id)
    assert places(store, *mine[1:]) == [CLAIMABLE, BEHIND]
    (taken,) = claim(store, given_owner(store))
    finish(store, taken, output="1", now_us=40)
    store.write(runs.purge, 100, 10)
    assert places(store, mine[2]) == [CLAIMABLE]


def test_key_is_handed_on_within_the_transaction_of_the_end(store: Database) -> None:
    """A pool thread that ends a run claims the next one of the same key with it."""
    mine = queue(store, 3)
    owner = given_owner(store)
    (taken,) = claim(store, owner)
    for following in mine[1:]:
        ended = finish(store, taken, output="1", claim_next=Claim(owner, '["job"]', lambda: 40))
        assert ended.claimed is not None
        taken = ended.claimed
        assert taken.id == following.id
    held = query(store, "SELECT id FROM durably_runs WHERE owner IS NOT NULL")
    assert held == [(mine[2].id,)]
    assert stored(store, mine[1]).status == "completed"
