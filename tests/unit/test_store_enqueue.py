"""Triggering in the store: a new run, or the one that the keys lead to."""

from __future__ import annotations

import pytest
from storekit import bring_to, enqueue, finish, given_owner, given_running, query, stored

from durably.errors import DatabaseError
from durably.store.rows import NewRun, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.store.sqlite.sql import runs
from durably.store.sqlite.sql.enqueue import BLOCK

# -- enqueue ---------------------------------------------------------------------------------


def test_enqueue_stores_a_pending_run(store: Database) -> None:
    """What was triggered is stored as given, not yet claimed, and is what is returned."""
    given = enqueue(store, "a", labels='{"k":"v"}', idempotency_key="i", concurrency_key="c")
    assert given.disposition == "created"
    assert given.row == stored(store, given.row)
    assert given.row._replace(run=0) == RunRow(
        run=0,
        id="a",
        job_name="job",
        status="pending",
        payload="1",
        output=None,
        error=None,
        progress=None,
        labels='{"k":"v"}',
        idempotency_key="i",
        concurrency_key="c",
        owner=None,
        attempt=0,
        created_at_us=10,
        started_at_us=None,
        completed_at_us=None,
        updated_at_us=10,
        heartbeat_at_us=None,
        fence=0,
        completed_steps=0,
    )


def test_plain_enqueue_stores_the_same(store: Database) -> None:
    """The short way for runs without keys differs from the long one in nothing."""
    long = enqueue(store, "a", labels='{"k":"v"}')
    short = store.write(enqueueing.enqueue_plain, NewRun("b", "job", "1", '{"k":"v"}'), 10)
    assert short.disposition == "created"
    assert stored(store, short.row) == short.row
    assert short.row._replace(id="a", run=long.row.run) == long.row


@pytest.mark.parametrize("state", ["pending", "running", "completed", "failed", "cancelled"])
def test_same_idempotency_key_returns_the_existing_run(store: Database, state: str) -> None:
    """Whatever its state, the run of a key is returned as it is, and nothing is stored."""
    first = enqueue(store, "a", idempotency_key="i").row
    bring_to(store, first, state)
    before = stored(store, first)
    again = store.write(
        enqueueing.enqueue, NewRun("b", "job", "2", '{"x":"y"}', "i", "key", retry_failed=False), 99
    )
    assert again == enqueueing.Enqueued(before, "idempotent")
    assert query(store, "SELECT id FROM durably_runs") == [("a",)]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_retry_failed_puts_the_existing_run_back(store: Database, state: str) -> None:
    """A run of the key that failed or was cancelled is pending again, with its checkpoints."""
    first = enqueue(store, "a", idempotency_key="i").row
    bring_to(store, first, state)
    again = enqueue(store, "b", 99, idempotency_key="i", retry_failed=True)
    assert again.disposition == "retried"
    assert again.row == stored(store, first)
    assert (again.row.status, again.row.completed_steps) == ("pending", 1)
    assert (again.row.error, again.row.completed_at_us) == (None, None)


@pytest.mark.parametrize("state", ["pending", "running", "completed"])
def test_retry_failed_leaves_other_runs_alone(store: Database, state: str) -> None:
    """A run of the key that did not fail is returned as it is."""
    first = enqueue(store, "a", idempotency_key="i").row
    bring_to(store, first, state)
    before = stored(store, first)
    assert enqueue(store, "b", idempotency_key="i", retry_failed=True) == (before, "idempotent")


def test_coalescing_returns_the_first_pending_run_of_job_and_key(store: Database) -> None:
    """A pending run of this job with this key stands in for a new one; of others it does not."""
    store.write(enqueueing.enqueue, NewRun("o", "other", "1", concurrency_key="c"), 1)
    enqueue(store, "x", concurrency_key="d")
    first = enqueue(store, "a", concurrency_key="c", coalesce=True)
    assert first.disposition == "created"
    enqueue(store, "b", concurrency_key="c")
    assert enqueue(store, "c", concurrency_key="c", coalesce=True) == (first.row, "coalesced")


def test_coalescing_needs_a_pending_run(store: Database) -> None:
    """A run of the key that was claimed, or has ended, does not stand in for a new one."""
    run = given_running(store, given_owner(store), concurrency_key="c")
    assert enqueue(store, "b", concurrency_key="c", coalesce=True).disposition == "created"
    store.write(runs.cancel, "b", 30)
    finish(store, run, output="1")
    assert enqueue(store, "c", concurrency_key="c", coalesce=True).disposition == "created"


def test_idempotency_key_wins_over_coalescing(store: Database) -> None:
    """The run with the key is returned; a key that matches none is not given to the pending."""
    keyed = enqueue(store, "a", idempotency_key="i").row
    pending = enqueue(store, "b", concurrency_key="c").row
    both = {"concurrency_key": "c", "coalesce": True}
    assert enqueue(store, "x", idempotency_key="i", **both) == (keyed, "idempotent")
    assert enqueue(store, "x", idempotency_key="new", **both) == (pending, "coalesced")
    assert stored(store, pending).idempotency_key is None


def test_batch_is_stored_in_order_and_resolved_among_itself(store: Database) -> None:
    """Items of one batch find each other through their keys like separate triggers."""
    items = [
        NewRun("a", "job", "1", idempotency_key="i"),
        NewRun("b", "job", "1", idempotency_key="i"),
        NewRun("c", "job", "1", concurrency_key="k"),
        NewRun("d", "job", "1", concurrency_key="k", coalesce=True),
        NewRun("e", "job", "1"),
    ]
    done = store.write(enqueueing.enqueue_many, items, 10)
    assert [(each.row.id, each.disposition) for each in done] == [
        ("a", "created"),
        ("a", "idempotent"),
        ("c", "created"),
        ("c", "coalesced"),
        ("e", "created"),
    ]
    assert query(store, "SELECT id FROM durably_runs ORDER BY run") == [("a",), ("c",), ("e",)]


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_batch_of_any_size_is_what_single_triggers_are(store: Database, count: int) -> None:
    """Each row is returned as it is stored, in order, with its labels and its place in a queue."""
    items = [
        NewRun(
            f"r{number}",
            f"job-{number % 3}",
            f'"{number}"',
            f'{{"k":"{number}"}}' if number % 5 == 0 else "{}",
            concurrency_key=f"key-{number % 7}" if number % 2 else None,
        )
        for number in range(count)
    ]
    enqueue(store, "before")
    done = store.write(enqueueing.enqueue_many, items, 10)
    assert [each.row.id for each in done] == [item.id for item in items]
    assert {each.disposition for each in done} == {"created"}
    assert [stored(store, each.row) for each in done] == [each.row for each in done]
    of_batch = query(store, STORED_OF_RUNS)

    for each in done:
        store.write(runs.cancel, each.row.id, 20)
        store.write(runs.delete, each.row.id)
    for item in items:
        store.write(enqueueing.enqueue, item, 10)
    assert query(store, STORED_OF_RUNS) == of_batch


STORED_OF_RUNS = """
    SELECT r.id, r.job_name, r.status, r.payload, r.labels, r.concurrency_key, r.queue_place,
           r.attempt, r.created_at_us, r.updated_at_us, l.key, l.value
    FROM durably_runs r LEFT JOIN durably_labels l ON l.run = r.run ORDER BY r.run"""


def test_keys_in_a_large_batch_find_what_stands_before_them(store: Database) -> None:
    """Also where that was stored many runs at a time."""
    plain = [NewRun(f"r{number}", "job", "1", concurrency_key="k") for number in range(BLOCK)]
    more = [NewRun(f"s{number}", "job", "1") for number in range(2 * BLOCK)]
    joining = NewRun("x", "job", "1", concurrency_key="k", coalesce=True)
    keyed = NewRun("y", "job", "1", idempotency_key="i")
    again = keyed._replace(id="z")
    done = store.write(enqueueing.enqueue_many, [*plain, joining, keyed, *more, again], 10)
    found = {"x": (done[0].row, "coalesced"), "z": (done[BLOCK + 1].row, "idempotent")}
    assert done[BLOCK] == found["x"]
    assert done[-1] == found["z"]
    assert query(store, "SELECT id FROM durably_runs ORDER BY run") == [
        (new.id,) for new in (*plain, keyed, *more)
    ]


@pytest.mark.parametrize("position", [0, BLOCK // 2, BLOCK - 1])
def test_large_batch_is_stored_whole_or_not_at_all(store: Database, position: int) -> None:
    """One item among many that the database rejects, and none is stored."""
    items = [NewRun(f"r{number}", "job", "1") for number in range(2 * BLOCK)]
    items[BLOCK + position] = items[0]
    with pytest.raises(DatabaseError):
        store.write(enqueueing.enqueue_many, items, 10)
    assert query(store, "SELECT id FROM durably_runs") == []
    assert enqueue(store, "a").disposition == "created"


def test_batch_is_stored_whole_or_not_at_all(store: Database) -> None:
    """One item that the database rejects, and none is stored."""
    items = [NewRun("a", "job", "1"), NewRun("b", "job", "1"), NewRun("a", "job", "1")]
    with pytest.raises(DatabaseError):
        store.write(enqueueing.enqueue_many, items, 10)
    assert query(store, "SELECT id FROM durably_runs") == []
