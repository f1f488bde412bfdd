"""The verbs of a run: each takes effect in one transaction, or says that it did not."""

from __future__ import annotations

import json

import pytest
from storekit import (
    bring_to,
    checkpoint,
    claim,
    enqueue,
    finish,
    given_owner,
    given_running,
    query,
    stored,
    stored_status,
    trigger,
)

from durably.errors import ConflictError, NotFoundError
from durably.store.outcome import Lost, OwnerDead, OwnerHung, OwnerIdle
from durably.store.read_rows import Filters
from durably.store.rows import Claim
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import claims, queries, requeue, runs, settle, steps

# -- claim -----------------------------------------------------------------------------------


def test_claim_takes_the_runs_triggered_first(store: Database) -> None:
    """Across all jobs of the claim, runs are taken in the order of their triggers."""
    for number, job in enumerate(["b", "a", "unknown", "c", "a"]):
        trigger(store, job, id=f"r{number}")
    owner = given_owner(store)
    assert [row.id for row in claim(store, owner, "a", "b", limit=2)] == ["r0", "r1"]
    assert [row.id for row in claim(store, owner, "c", "a", limit=9)] == ["r3", "r4"]
    assert claim(store, owner, "a", "b", "c", limit=9) == []
    assert stored_status(store, "r2") == "pending"


def test_claim_sets_owner_attempt_and_times(store: Database) -> None:
    """The first claim is attempt 1 and the start; one after an interrupt keeps both."""
    run, owner = trigger(store), given_owner(store)
    (first,) = claim(store, owner, now_us=20)
    assert first == stored(store, run)
    assert (first.status, first.owner, first.attempt) == ("running", owner, 1)
    assert (first.started_at_us, first.heartbeat_at_us, first.updated_at_us) == (20, 20, 20)
    finish(store, first)
    (second,) = claim(store, given_owner(store), now_us=50)
    assert (second.attempt, second.started_at_us, second.heartbeat_at_us) == (1, 20, 50)


@pytest.mark.parametrize("limit", [0, -1])
def test_claim_for_no_slot_takes_nothing(store: Database, limit: int) -> None:
    """With nothing free, nothing is claimed."""
    trigger(store)
    assert claim(store, given_owner(store), limit=limit) == []


@pytest.mark.parametrize("jobs", ["[]", '["JOB"]', '["job "]', '["%"]', '["j\' OR 1 --"]'])
def test_claim_knows_jobs_by_their_exact_names(store: Database, jobs: str) -> None:
    """A name is compared as it is, whatever it holds."""
    trigger(store)
    assert store.write(claims.claim, Claim(given_owner(store), jobs, lambda: 1)) == []
    assert store.read(queries.has_claimable, jobs) is False


def test_polling_agrees_with_claiming(store: Database) -> None:
    """What a query calls claimable is claimed, and what it does not is not."""
    owner = given_owner(store)
    assert not store.read(queries.has_claimable, '["job"]')
    trigger(store, concurrency_key="k")
    trigger(store, concurrency_key="k")
    assert store.read(queries.has_claimable, '["job"]')
    assert len(claim(store, owner, limit=5)) == 1
    assert not store.read(queries.has_claimable, '["job"]')


def test_claim_passes_over_the_runs_that_it_names(store: Database) -> None:
    """A run that a thread of the claiming owner is inside of is left, and the next one taken."""
    owner = given_owner(store)
    old, new = given_running(store, owner), trigger(store)
    store.write(requeue.requeue, OwnerHung(owner, 0), 30)
    inside = f"[{old.run}]"
    wanted = Claim(owner, '["job"]', lambda: 40, 5, inside=lambda: inside)
    assert [row.id for row in store.write(claims.claim, wanted)] == [new.id]
    assert not store.read(queries.has_claimable, '["job"]', inside)
    assert store.read(queries.has_claimable, '["job"]')
    assert [row.id for row in claim(store, owner)] == [old.id]


@pytest.mark.parametrize("way", ["interrupt", "retry", "hung", "dead", "put back"])
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_run_that_goes_back_keeps_its_origin_with_its_checkpoints(
    store: Database, way: str, has_checkpoint: bool
) -> None:
    """The first claim stores whose code it is; without a completed step it is anybody's again."""
    trigger(store)
    owner = given_owner(store)
    origins = '{"job":"mine","job":"alias","other":"x"}'
    (row,) = store.write(claims.claim, Claim(owner, '["job"]', lambda: 20, origins=origins))
    assert (row.origin, stored(store, row).origin) == ("mine", "mine")
    store.write(steps.fail, row.run, 1, 1, "failed", "{}", 1, 1)
    if has_checkpoint:
        assert checkpoint(store, row, "s")
    if way == "interrupt":
        finish(store, row)
    elif way == "retry":
        finish(store, row, error="{}")
        store.write(runs.retry, row.id, 30)
    elif way == "hung":
        store.write(requeue.requeue, OwnerHung(owner, 0), 30)
    elif way == "dead":
        store.write(requeue.requeue, OwnerDead(owner), 30)
    else:
        store.write(requeue.requeue, OwnerIdle(owner), 30)
    assert stored(store, row).origin == ("mine" if has_checkpoint else None)
    owner = given_owner(store)
    for origins, is_claimed in (
        ("{}", False),
        ('{"job":"another"}', False),
        ('{"other":"mine","other":true}', False),
        ('{"job":"alias","job":"mine"}', True),
    ):
        wanted = is_claimed or not has_checkpoint
        assert store.read(queries.has_claimable, '["job"]', "[]", origins) is wanted
        claimed = store.write(claims.claim, Claim(owner, '["job"]', lambda: 40, origins=origins))
        assert bool(claimed) is wanted
        if claimed:
            assert claimed[0].origin == {"{}": None}.get(origins, "alias")
            break


def test_claims_of_all_origins_are_in_turn(store: Database) -> None:
    """``true`` takes the runs of each origin and those of none, in the order of their triggers."""
    owner, rows = given_owner(store), []
    for origin in ("b", "a", None, "c"):
        rows.append(trigger(store))
        if origin is not None:
            wanted = Claim(owner, '["job"]', lambda: 20, 9, origins=f'{{"job":"{origin}"}}')
            for row in store.write(claims.claim, wanted):
                checkpoint(store, row, "s")
                finish(store, row)
    wanted = Claim(owner, '["job"]', lambda: 20, 9, origins='{"job":"me","job":true}')
    assert [row.id for row in store.write(claims.claim, wanted)] == [row.id for row in rows]


def test_of_each_origin_one_begun_run_is_named(store: Database) -> None:
    """Those with checkpoints that nobody executes, job by job."""
    owner, first = given_owner(store), {}
    for number in range(9):
        job, origin = f"job{number % 2}", f"origin{number % 3}"
        trigger(store, job)
        wanted = Claim(owner, f'["{job}"]', lambda: 20, origins=f'{{"{job}":"{origin}"}}')
        (row,) = store.write(claims.claim, wanted)
        checkpoint(store, row, "s")
        finish(store, row)
        first.setdefault((job, origin), row.id)
    trigger(store, "job0")
    for jobs in ([], ["job0"], ["job0", "job1", "nobody's"]):
        found = store.read(queries.begun, json.dumps(jobs))
        assert sorted(found) == sorted((*key, run) for key, run in first.items() if key[0] in jobs)


def test_claim_by_an_unknown_owner_claims_nothing(store: Database) -> None:
    """A run cannot belong to an engine that has no owner row."""
    run = trigger(store)
    assert claim(store, 99) == []
    assert stored(store, run) == run


# -- the end of an execution -----------------------------------------------------------------


FAILURE = '{"type":"E","message":"","traceback":"","failed_step":null}'


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"output": "[1]"}, ("completed", "[1]", None, 30)),
        ({"error": "E"}, ("failed", None, FAILURE, 30)),
        ({}, ("pending", None, None, None)),
    ],
)
def test_finish_ends_the_attempt(store: Database, how: dict[str, str], expected: object) -> None:
    """Completing, failing and interrupting store what they are given and free the run."""
    run = given_running(store, given_owner(store))
    assert finish(store, run, **how, progress='{"current":1}').is_effective
    now = stored(store, run)
    assert (now.status, now.output, now.error, now.completed_at_us) == expected
    assert (now.owner, now.attempt, now.progress, now.updated_at_us) == (
        None,
        1,
        '{"current":1}',
        30,
    )


def test_finish_without_progress_keeps_the_last(store: Database) -> None:
    """Progress stays what it was if the end brings none."""
    run = given_running(store, given_owner(store))
    store.write(runs.set_progress, [(run.run, 1, "5")], 25)
    finish(store, run, output="1")
    assert stored(store, run).progress == "5"


@pytest.mark.parametrize("how", [{"output": "1"}, {"error": "{}"}, {}])
@pytest.mark.parametrize("since", ["taken over", "put back", "cancelled", "ended", "deleted"])
def test_stale_attempt_cannot_end_a_run(store: Database, since: str, how: dict[str, str]) -> None:
    """An end that comes too late changes nothing and says so."""
    run = given_running(store, given_owner(store))
    if since == "cancelled":
        store.write(runs.cancel, run.id, 25)
    elif since == "ended":
        finish(store, run, output='"first"')
    elif since == "deleted":
        finish(store, run, error="{}")
        store.write(runs.delete, run.id)
    else:
        finish(store, run)
        if since == "taken over":
            claim(store, given_owner(store))
    before = query(store, "SELECT * FROM durably_runs")
    assert not finish(store, run, **how, progress="9", keep_steps=False).is_effective
    assert query(store, "SELECT * FROM durably_runs") == before


def test_steps_of_a_completed_run_are_dropped_only_if_asked(store: Database) -> None:
    """keep_steps=False drops the checkpoints at completion, never at another end."""
    owner = given_owner(store)
    left = {}
    for keep in (True, False):
        for how in ({"output": "1"}, {"error": "{}"}, {}):
            run = given_running(store, owner)
            checkpoint(store, run, "s")
            finish(store, run, **how, keep_steps=keep)
            left[keep, next(iter(how), None)] = len(store.read(steps.of_run, run.id))
            if not how:
                store.write(runs.cancel, run.id, 40)
    assert left.pop((False, "output")) == 0
    assert set(left.values()) == {1}


def test_stale_completion_drops_no_steps(store: Database) -> None:
    """The checkpoints of a run that was taken over stay."""
    run = given_running(store, given_owner(store))
    checkpoint(store, run, "s")
    finish(store, run)
    claim(store, given_owner(store))
    finish(store, run, output="1", keep_steps=False)
    assert [row.name for row in store.read(steps.of_run, run.id)] == ["s"]


@pytest.mark.parametrize("is_stale", [False, True])
def test_finish_claims_the_next_run(store: Database, is_stale: bool) -> None:
    """The end of a run and the next claim are one call, also if the end comes too late."""
    owner = given_owner(store)
    run = given_running(store, owner, concurrency_key="k")
    if is_stale:
        store.write(runs.cancel, run.id, 25)
        store.write(settle.settle, run.run, run.fence, Lost(), 26)
    waiting = trigger(store, concurrency_key="k")
    ended = finish(store, run, output="1", claim_next=Claim(owner, '["job"]', lambda: 40))
    assert ended.is_effective is not is_stale
    assert ended.claimed == stored(store, waiting)
    assert ended.claimed.status == "running"


def test_finish_with_nothing_to_claim_says_so(store: Database) -> None:
    """With no other run waiting, the end claims nothing."""
    owner = given_owner(store)
    run = given_running(store, owner)
    ended = finish(store, run, output="1", claim_next=Claim(owner, '["job"]', lambda: 40))
    assert ended == (True, None)


# -- cancel, release, retry, delete, purge ---------------------------------------------------


def test_cancelling_a_pending_run_ends_it(store: Database) -> None:
    """A run that nobody executes is cancelled and has no owner."""
    run = trigger(store)
    assert store.write(runs.cancel, run.id, 30) == stored(store, run)
    now = stored(store, run)
    assert (now.status, now.owner, now.attempt, now.completed_at_us) == ("cancelled", None, 0, 30)


def test_cancelling_a_running_run_keeps_its_owner_until_it_is_released(store: Database) -> None:
    """It is cancelled at once; that its job has left is stored later, once, with that fence."""
    owner = given_owner(store)
    run = given_running(store, owner)
    store.write(runs.cancel, run.id, 30)
    assert (stored(store, run).status, stored(store, run).owner) == ("cancelled", owner)
    assert not store.write(settle.settle, run.run, run.fence + 1, Lost(), 40)
    assert store.write(settle.settle, run.run, run.fence, Lost(), 40)
    assert not store.write(settle.settle, run.run, run.fence, Lost(), 40)
    assert stored(store, run).owner is None


def test_release_of_a_running_run_changes_nothing(store: Database) -> None:
    """Only a run that was cancelled is released."""
    owner = given_owner(store)
    run = given_running(store, owner)
    assert not store.write(settle.settle, run.run, run.fence, Lost(), 40)
    assert stored(store, run) == run


def test_retry_of_an_owned_run_waits_for_its_release(store: Database) -> None:
    """A run that was cancelled and retried cannot be claimed while its old job is inside."""
    owner = given_owner(store)
    run = given_running(store, owner)
    store.write(runs.cancel, run.id, 30)
    assert store.write(runs.retry, run.id, 35).owner == owner
    assert claim(store, given_owner(store)) == []
    assert not store.read(queries.has_claimable, '["job"]')
    store.write(settle.settle, run.run, run.fence, Lost(), 40)
    (again,) = claim(store, given_owner(store))
    assert (again.id, again.attempt) == (run.id, 2)


STATES = ["pending", "running", "completed", "failed", "cancelled"]
ALLOWED = {
    "cancel": {"pending", "running"},
    "retry": {"failed", "cancelled"},
    "delete": {"completed", "failed", "cancelled"},
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", ALLOWED)
def test_verb_that_does_not_fit_the_state_is_a_conflict(
    store: Database, verb: str, state: str
) -> None:
    """A rejected verb changes nothing and says which state the run has."""
    run = trigger(store)
    bring_to(store, run, state)
    if state == "cancelled":
        now = stored(store, run)
        store.write(settle.settle, run.run, now.fence, Lost(), 40)
    before = stored(store, run)
    arguments = (run.id,) if verb == "delete" else (run.id, 50)
    if state in ALLOWED[verb]:
        store.write(getattr(runs, verb), *arguments)
        assert store.read(queries.find, run.id) != before
    else:
        with pytest.raises(ConflictError, match=f"{run.id} is {state}"):
            store.write(getattr(runs, verb), *arguments)
        assert stored(store, run) == before


@pytest.mark.parametrize("verb", ALLOWED)
def test_verb_on_an_unknown_run_is_not_found(store: Database, verb: str) -> None:
    """An id that leads to nothing is named."""
    with pytest.raises(NotFoundError, match="nowhere"):
        store.write(getattr(runs, verb), "nowhere", *(() if verb == "delete" else (1,)))


def test_retry_clears_the_end_and_keeps_the_rest(store: Database) -> None:
    """Error and end are gone; attempt, start, key and completed steps stay."""
    run = given_running(store, given_owner(store), idempotency_key="i")
    checkpoint(store, run, "s")
    finish(store, run, error="{}", progress="7")
    again = store.write(runs.retry, run.id, 50)
    assert again == stored(store, run)
    assert (again.status, again.error, again.completed_at_us) == ("pending", None, None)
    assert (again.attempt, again.started_at_us, again.completed_steps) == (1, 20, 1)
    assert (again.idempotency_key, again.progress, again.updated_at_us) == ("i", "7", 50)


def test_run_whose_job_is_still_inside_cannot_be_deleted(store: Database) -> None:
    """A cancelled run with an owner stays until its job has left."""
    owner = given_owner(store)
    run = given_running(store, owner)
    store.write(runs.cancel, run.id, 30)
    with pytest.raises(ConflictError, match="still inside a step"):
        store.write(runs.delete, run.id)
    assert stored_status(store, run.id) == "cancelled"
    store.write(settle.settle, run.run, run.fence, Lost(), 40)
    assert store.write(runs.delete, run.id).id == run.id
    assert store.read(queries.find, run.id) is None


def test_key_of_a_deleted_run_is_free(store: Database) -> None:
    """An idempotency key holds as long as its run exists."""
    run = enqueue(store, "a", idempotency_key="i").row
    store.write(runs.cancel, run.id, 30)
    store.write(runs.delete, run.id)
    assert enqueue(store, "b", idempotency_key="i").disposition == "created"


def test_purge_deletes_what_ended_before_oldest_first(store: Database) -> None:
    """Terminal runs that ended before the instant go, up to the limit; others stay."""
    owner = given_owner(store)
    for number, end in enumerate([50, 30, 40, 99, 60]):
        run = given_running(store, owner, id=f"r{number}")
        checkpoint(store, run, "s")
        finish(store, run, now_us=end, **({"output": "1"} if number % 2 else {"error": "{}"}))
    busy = given_running(store, owner, id="busy")
    store.write(runs.cancel, busy.id, 10)
    trigger(store, id="pending")
    given_running(store, owner, "other", id="running")
    assert [row.id for row in store.write(runs.purge, 60, 2)] == ["r1", "r2"]
    assert [row.id for row in store.write(runs.purge, 60, 500)] == ["r0"]
    assert store.write(runs.purge, 60, 500) == []
    left = [row.id for row in store.read(queries.find_many, Filters(), None, 0)]
    assert left == ["running", "pending", "busy", "r4", "r3"]
    assert query(store, "SELECT count(*) FROM durably_steps") == [(2,)]
