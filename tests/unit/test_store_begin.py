"""Beginning in the store: a certain run is found, created or continued, and claimed."""

from __future__ import annotations

from typing import Any

import pytest
from storekit import (
    bring_to,
    checkpoint,
    claim,
    enqueue,
    finish,
    given_owner,
    given_running,
    stored,
)

from durably.errors import ConflictError, DatabaseError
from durably.store.outcome import Lost
from durably.store.rows import Begin, Beginning, Claim, NewRun, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import begin, runs, settle


def begin_run(
    store: Database,
    owner: int,
    run_id: str = "new",
    *,
    payload: str = "1",
    inside: str = "[]",
    origins: str = "{}",
    now_us: int = 50,
    key: str | None = None,
    concurrency_key: str | None = None,
    kind: Any = "job",
    **options: Any,
) -> Beginning:
    new = NewRun(
        run_id,
        "job",
        payload,
        idempotency_key=key,
        concurrency_key=concurrency_key,
        kind=kind,
    )
    wanted = Claim(owner, "[]", lambda: now_us, inside=lambda: inside, origins=origins)
    return store.write(begin.begin, Begin(new, wanted, **options))


def leave(store: Database, row: RunRow, state: str) -> None:
    """End an execution, and the run with it in that state."""
    if state == "cancelled":
        store.write(runs.cancel, row.id, 30)
        store.write(settle.settle, row.run, row.fence, Lost(), 30)
    else:
        finish(store, row, error="{}" if state == "failed" else None)


@pytest.mark.parametrize("key", [None, "k"])
def test_a_run_that_is_not_there_is_created_and_claimed(store: Database, key: str | None) -> None:
    """One transaction stores the run and makes it the owner's."""
    owner = given_owner(store)
    done = begin_run(store, owner, key=key, origins='{"job":"m:f"}')
    assert (done.how, done.before, done.executor) == ("created", None, None)
    assert done.row == stored(store, done.row)
    assert (done.row.status, done.row.owner, done.row.attempt) == ("running", owner, 1)
    assert (done.row.idempotency_key, done.row.origin) == (key, "m:f")


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("state", ["pending", "failed", "cancelled"])
def test_what_has_not_completed_is_continued(store: Database, state: str, key: str | None) -> None:
    """A run in any of these states is put back and claimed, with its checkpoints and attempts."""
    run = enqueue(store, "a", idempotency_key=key).row
    owner = given_owner(store)
    (row,) = claim(store, owner)
    assert checkpoint(store, row, "s")
    leave(store, row, state)
    before = stored(store, run)
    done = begin_run(store, owner, key=key)
    assert (done.how, done.before) == ("continued", before)
    assert done.row == stored(store, run)
    assert (done.row.status, done.row.owner, done.row.completed_steps) == ("running", owner, 1)
    assert done.row.attempt == before.attempt + (state != "pending")
    assert (done.row.error, done.row.completed_at_us) == (None, None)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_others_have_ended_meanwhile_is_not_tried_again(store: Database, state: str) -> None:
    """By a call that has begun the run or waited for it, and knows it by its number."""
    first = begin_run(store, given_owner(store), key="k").row
    leave(store, first, state)
    owner = given_owner(store)

    done = begin_run(store, owner, "b", key="k", run_pk=first.run)

    assert (done.how, done.row, done.row.status) == ("ended", stored(store, first), state)
    assert begin_run(store, owner, "b", key="k").how == "continued"


def test_completed_run_of_a_key_is_returned_as_it_is(store: Database) -> None:
    """A key has one run; once it has completed nothing is stored."""
    run = enqueue(store, "a", idempotency_key="k").row
    bring_to(store, run, "completed")
    done = begin_run(store, given_owner(store), key="k")
    assert (done.how, done.row, done.before) == ("completed", stored(store, run), done.row)


def test_only_the_newest_run_without_a_key_counts(store: Database) -> None:
    """After a completed run of the payload a new one is begun, although an older one has failed."""
    bring_to(store, enqueue(store, "failed").row, "failed")
    completed = enqueue(store, "completed").row
    bring_to(store, completed, "completed")
    owner = given_owner(store)
    assert begin_run(store, owner).how == "created"


def test_a_run_of_another_payload_does_not_count(store: Database) -> None:
    """Without a key the payload says which run is meant."""
    run = enqueue(store, "a").row
    owner = given_owner(store)
    assert begin_run(store, owner, "b", payload="2").how == "created"
    assert begin_run(store, owner, "c").row.id == run.id


def test_a_fresh_run_takes_the_key_over(store: Database) -> None:
    """The old run keeps its record, without the key."""
    old = enqueue(store, "a", idempotency_key="k").row
    bring_to(store, old, "failed")
    done = begin_run(store, given_owner(store), key="k", is_fresh=True)
    assert (done.how, done.row.id, done.row.idempotency_key) == ("created", "new", "k")
    assert (stored(store, old).status, stored(store, old).idempotency_key) == ("failed", None)


def test_a_run_that_is_executed_is_left_to_its_owner(store: Database) -> None:
    """Nothing is stored, and the result says who executes it."""
    owner = given_owner(store, pid=4711, now_us=7)
    run = given_running(store, owner, idempotency_key="k")
    before = stored(store, run)
    done = begin_run(store, given_owner(store), key="k")
    assert (done.how, done.row) == ("elsewhere", before)
    assert done.executor == (owner, 4711, 7)
    assert stored(store, run) == before


def test_a_cancelled_run_in_its_last_step_is_put_back_only(store: Database) -> None:
    """It is not executed a second time while the first execution is inside a step."""
    owner = given_owner(store)
    run = given_running(store, owner, idempotency_key="k")
    store.write(runs.cancel, run.id, 30)
    done = begin_run(store, given_owner(store), key="k")
    assert (done.how, done.row.status, done.row.owner) == ("elsewhere", "pending", owner)
    assert done.executor is not None
    assert done.executor.owner == owner


def test_a_run_whose_old_job_is_still_inside_here_is_not_claimed(store: Database) -> None:
    """Another engine has put it back while a thread of this one is still inside its job."""
    run = enqueue(store, "a", idempotency_key="k").row
    owner = given_owner(store)
    done = begin_run(store, owner, key="k", inside=f"[{run.run}]")
    assert (done.how, done.row.status) == ("elsewhere", "pending")
    assert done.executor is not None
    assert done.executor.owner == owner


@pytest.mark.parametrize("state", ["new", "pending", "failed"])
def test_a_run_waits_for_the_holder_of_its_concurrency_key(store: Database, state: str) -> None:
    """It is pending, in its queue, and the result says which run is in the way."""
    other = given_owner(store, pid=4711)
    if state != "new":
        run = enqueue(store, "a", idempotency_key="k", concurrency_key="c").row
        bring_to(store, run, state)
    holder = given_running(store, other, "other", concurrency_key="c")
    done = begin_run(store, given_owner(store), key="k", concurrency_key="c")
    assert (done.how, done.row.status, done.row.owner) == ("queued", "pending", None)
    assert done.row == stored(store, done.row)
    assert done.holder == stored(store, holder)
    assert done.executor is not None
    assert done.executor.pid == 4711
    finish(store, holder)
    assert begin_run(store, given_owner(store), key="k").how == "continued"


def test_a_run_waits_for_no_pending_one(store: Database) -> None:
    """It is claimed although others are before it in the queue of its concurrency key."""
    first = enqueue(store, "first", concurrency_key="c").row
    enqueue(store, "a", idempotency_key="k", concurrency_key="c")
    owner = given_owner(store)
    done = begin_run(store, owner, key="k")
    assert (done.how, done.row.id) == ("continued", "a")
    assert claim(store, owner) == []
    finish(store, done.row, output="1")
    assert [row.id for row in claim(store, owner)] == [first.id]


def test_what_other_code_has_begun_is_continued(store: Database) -> None:
    """From then on the run has the origin of the code that it was begun with."""
    owner = given_owner(store)
    first = begin_run(store, owner, key="k", origins='{"job":"old:f"}').row
    assert checkpoint(store, first, "s")
    finish(store, first)
    done = begin_run(store, owner, key="k", origins='{"job":"new:f"}')
    assert (done.how, done.row.origin) == ("continued", "new:f")


@pytest.mark.parametrize("state", ["pending", "running", "completed", "failed"])
def test_another_payload_is_rejected_if_asked(store: Database, state: str) -> None:
    """Nothing is stored, whatever the state of the run; a payload that counts as equal is fine."""
    run = enqueue(store, "a", idempotency_key="k").row
    bring_to(store, run, state)
    before = stored(store, run)
    owner = given_owner(store)
    refusing = {"key": "k", "payload": "2", "on_payload_change": "refuse"}
    done = begin_run(store, owner, **refusing)
    assert (done.how, done.row, stored(store, run)) == ("changed", before, before)
    done = begin_run(store, owner, same_payloads=frozenset("1"), **refusing)
    assert done.how != "changed"


@pytest.mark.parametrize("state", ["pending", "failed", "cancelled"])
def test_a_run_gets_another_payload_if_asked(store: Database, state: str) -> None:
    """It is continued with the new one."""
    run = enqueue(store, "a", idempotency_key="k").row
    (row,) = claim(store, given_owner(store))
    leave(store, row, state)
    done = begin_run(store, given_owner(store), key="k", payload="2", on_payload_change="extend")
    assert (done.how, done.row.payload) == ("continued", "2")
    assert done.row == stored(store, run)


def test_a_completed_run_goes_on_with_another_payload(store: Database) -> None:
    """It keeps its checkpoints; with the same payload it is returned as it is."""
    run = enqueue(store, "a", idempotency_key="k").row
    bring_to(store, run, "completed")
    owner = given_owner(store)
    extending = {"key": "k", "on_payload_change": "extend"}
    assert begin_run(store, owner, **extending).how == "completed"
    done = begin_run(store, owner, payload="2", **extending)
    assert (done.how, done.row) == ("continued", stored(store, run))
    assert (done.row.payload, done.row.output, done.row.completed_steps) == ("2", None, 1)


def test_a_run_keeps_its_payload_while_it_is_executed(store: Database) -> None:
    """What its job has read must not change."""
    run = given_running(store, given_owner(store), idempotency_key="k")
    done = begin_run(store, given_owner(store), key="k", payload="2", on_payload_change="extend")
    assert (done.how, stored(store, run).payload) == ("elsewhere", "1")


def test_a_run_that_cannot_be_executed_is_named(store: Database) -> None:
    """The error says which run it is; nothing is stored."""
    run = enqueue(store, "a", idempotency_key="k").row
    store.write(lambda db: db.execute("""UPDATE durably_runs SET progress = '"half"'""") and None)
    with pytest.raises(DatabaseError, match=r"run 'a' cannot be read: its progress"):
        begin_run(store, given_owner(store), key="k")
    assert stored(store, run).status == "pending"


# -- sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"])
def test_a_session_is_begun_like_a_run(store: Database, key: str | None) -> None:
    """It is continued until it has completed, and with a key also after that."""
    owner = given_owner(store)
    enqueue(store, "a")
    first = begin_run(store, owner, "s1", key=key, kind="session")
    assert (first.how, first.row.kind, first.row.status) == ("created", "session", "running")
    assert checkpoint(store, first.row, "s")
    finish(store, first.row)
    again = begin_run(store, owner, "s2", key=key, kind="session")
    assert (again.how, again.row.id) == ("continued", "s1")
    finish(store, again.row, output="null")
    last = begin_run(store, owner, "s3", key=key, kind="session")
    assert (last.how, last.row.id) == (("created", "s3") if key is None else ("continued", "s1"))
    assert last.row.output is None


@pytest.mark.parametrize("kind", ["job", "session"])
def test_the_key_of_a_run_of_another_kind_is_a_conflict(store: Database, kind: str) -> None:
    """A session and a run of a job with one name cannot share a key."""
    owner = given_owner(store)
    begin_run(store, owner, "a", key="k", kind=kind)
    other = "session" if kind == "job" else "job"
    with pytest.raises(ConflictError, match="'k' of 'job' is that of a "):
        begin_run(store, owner, "b", key="k", kind=other)
