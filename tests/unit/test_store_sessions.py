"""Sessions are runs like any other, which no worker ever claims."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from storekit import checkpoint, claim, finish, given_owner, query, stored, trigger

from durably.errors import ConflictError
from durably.store.outcome import OwnerDead, OwnerHung
from durably.store.read_rows import Filters
from durably.store.rows import Begin, Claim, NewRun, RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import begin as beginning
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.store.sqlite.sql import queries, requeue, runs

_numbers = itertools.count(1)
# Executes every run of the job that can be claimed, whatever code has begun it.
ANY = '{"job":"mine","job":true}'


def given_session(store: Database, name: str = "job", **options: Any) -> RunRow:
    """A new one, which nobody has open."""
    new = NewRun(f"session-{next(_numbers)}", name, "null", kind="session", **options)
    return store.write(enqueueing.enqueue, new, 10).row


def given_open(
    store: Database, owner: int, origin: str | None = None, key: str | None = None
) -> RunRow:
    """A session with a checkpoint, open in the engine of that owner."""
    new = NewRun(f"open-{next(_numbers)}", "job", "null", idempotency_key=key, kind="session")
    origins = "{}" if origin is None else f'{{"job":"{origin}"}}'
    claim = Claim(owner, "[]", lambda: 20, origins=origins)
    running = store.write(beginning.begin, Begin(new, claim)).row
    assert checkpoint(store, running, "a")
    return running


@pytest.mark.parametrize("origin", [None, "mine", "other"])
def test_no_claim_finds_a_session(store: Database, origin: str | None) -> None:
    """Neither a new one nor one with checkpoints, whatever code the job of its name is."""
    owner = given_owner(store)
    given_session(store)
    begun = given_open(store, owner, origin)
    finish(store, begun)
    wanted = Claim(owner, '["job"]', lambda: 40, 9, origins=ANY)
    assert not store.read(queries.has_claimable, wanted.jobs, "[]", wanted.origins)
    assert claim(store, owner, limit=9) == []
    assert store.read(queries.begun, '["job"]') == []
    assert store.read(queries.begun_of_many, [begun.id]) == []
    new = NewRun("new", "job", "1")
    _, started = store.write(enqueueing.start, new, 41, wanted)
    assert started.id == "new"
    assert finish(store, started, output="1", claim_next=wanted).claimed is None
    keyed = NewRun("keyed", "job", "1", concurrency_key="k", origins=ANY)
    _, next_one = store.write(enqueueing.enqueue_and_claim, keyed, 42, wanted)
    assert next_one is not None
    assert next_one.id == "keyed"


@pytest.mark.parametrize("reason", [OwnerDead, OwnerHung])
def test_a_session_of_a_dead_process_is_pending_again(store: Database, reason: Any) -> None:
    """It keeps its checkpoints, and is in no line afterwards either."""
    owner = given_owner(store)
    session = given_open(store, owner, "mine")
    how = reason(owner) if reason is OwnerDead else reason(owner, 0)
    (back,) = store.write(requeue.requeue, how, 50)
    assert (back.id, back.status, back.kind) == (session.id, "pending", "session")
    assert back.completed_steps == 1
    assert query(store, "SELECT queue_place FROM durably_runs") == [(3,)]
    assert claim(store, given_owner(store), limit=9) == []


def test_a_session_is_listed_cancelled_retried_and_deleted(store: Database) -> None:
    """By the verbs for runs; one that is cancelled while it is open keeps its owner."""
    owner = given_owner(store)
    session = given_open(store, owner)
    listed = store.read(queries.find_many, Filters(jobs='["job"]'), None, 0)
    assert [(row.id, row.kind) for row in listed] == [(session.id, "session")]
    with pytest.raises(ConflictError):
        store.write(runs.delete, session.id)
    cancelled = store.write(runs.cancel, session.id, 50)
    assert (cancelled.status, cancelled.owner) == ("cancelled", owner)
    assert not checkpoint(store, session, "b", 1)
    store.write(requeue.requeue, OwnerDead(owner), 51)
    assert store.write(runs.retry, session.id, 52).status == "pending"
    store.write(runs.cancel, session.id, 53)
    assert store.write(runs.purge, 54, 9)[0].id == session.id


def test_a_completed_session_is_opened_again_and_not_retried(store: Database) -> None:
    """Its output goes, its checkpoints stay."""
    owner = given_owner(store)
    session = given_open(store, owner, key="k")
    assert finish(store, session, output="null").is_effective
    with pytest.raises(ConflictError, match="only a failed or cancelled run"):
        store.write(runs.retry, session.id, 50)
    new = NewRun("new", "job", "null", idempotency_key="k", kind="session")
    again = store.write(beginning.begin, Begin(new, Claim(owner, "[]", lambda: 51))).row
    assert (again.id, again.status, again.output) == (session.id, "running", None)
    assert (again.completed_at_us, again.completed_steps) == (None, 1)


def test_a_key_leads_to_the_session_that_has_it(store: Database) -> None:
    """A name has one run for a key, whether it is a session or a job's."""
    session = given_session(store, idempotency_key="k")
    found = store.write(enqueueing.enqueue, NewRun("x", "job", "1", idempotency_key="k"), 20)
    assert (found.row.id, found.disposition) == (session.id, "idempotent")
    again = NewRun("y", "job", "null", idempotency_key="k", kind="session")
    assert store.write(enqueueing.enqueue, again, 20).row.id == session.id
    assert trigger(store, idempotency_key="l").kind == "job"


def test_sessions_are_stored_among_others_of_a_batch(store: Database) -> None:
    """Each as what it is, however many jobs' runs share a statement."""
    kinds = ["job"] * 130 + ["session"] + ["job"] * 3
    new = [NewRun(f"n{n}", "job", "1", kind=kind) for n, kind in enumerate(kinds)]
    rows = [each.row for each in store.write(enqueueing.enqueue_many, new, 10)]
    assert [row.kind for row in rows] == kinds
    assert [stored(store, row).kind for row in rows] == kinds
