"""Owners with their heartbeats, and persisted log lines."""

from __future__ import annotations

import pytest
from storekit import claim, finish, given_owner, given_running, query, stored, token_of, trigger

from durably.errors import DatabaseError, EngineClosedError
from durably.store.outcome import OwnerDead, OwnerHung
from durably.store.owners import Beat, OwnerRow
from durably.store.rows import LogLine
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import logs, owners, queries, requeue, runs

# -- owners ----------------------------------------------------------------------------------


def only(store: Database, owner: int) -> OwnerRow:
    (row,) = [row for row in store.read(owners.list_all) if row.owner == owner]
    return row


def test_owner_is_listed_as_it_registered(store: Database) -> None:
    """A new owner has not started, has not beaten, and has no runs."""
    owner = given_owner(store, "t", heartbeat_interval_us=7)
    assert store.read(owners.list_all) == [
        OwnerRow(
            owner=owner,
            token=token_of("t"),
            heartbeat_interval_us=7,
            is_started=0,
            beat=0,
            has_runs=0,
        )
    ]


def test_token_belongs_to_one_owner(store: Database) -> None:
    """Two owners never share a lock file."""
    given_owner(store, "t")
    with pytest.raises(DatabaseError):
        given_owner(store, "t")


def test_owner_that_has_started_says_so(store: Database) -> None:
    """Those who wait elsewhere see whether somebody takes runs by itself."""
    owner, other = given_owner(store), given_owner(store)
    store.write(owners.set_started, owner, is_started=True)
    assert (only(store, owner).is_started, only(store, other).is_started) == (1, 0)
    store.write(owners.set_started, owner, is_started=False)
    assert only(store, owner).is_started == 0


def test_first_beat_after_the_close_raises(store: Database) -> None:
    """It says that the engine is closed, as each later one does."""
    store.close()
    for _ in range(2):
        with pytest.raises(EngineClosedError):
            store.beat(owners.list_all)


def test_beat_marks_the_owner_and_its_running_runs(store: Database) -> None:
    """One beat counts once, and returns which runs are running under this owner."""
    owner, other = given_owner(store), given_owner(store)
    run, second = given_running(store, owner), given_running(store, owner)
    cancelled = given_running(store, owner)
    store.write(runs.cancel, cancelled.id, 30)
    foreign = given_running(store, other)
    beat = store.beat(owners.beat, owner, lambda: 77)
    assert beat == Beat(True, frozenset({(run.run, 1), (second.run, 1)}))
    assert stored(store, run).heartbeat_at_us == 77
    assert stored(store, cancelled).heartbeat_at_us == 20
    assert stored(store, foreign) == foreign
    assert [row.beat for row in store.read(owners.list_all)] == [1, 0]
    store.beat(owners.beat, owner, lambda: 78)
    assert only(store, owner).beat == 2


def test_owner_that_was_found_dead_claims_nothing(store: Database) -> None:
    """It is alive, and another engine has removed its row: a claim leaves the runs to others."""
    owner, other = given_owner(store), given_owner(store)
    run = trigger(store)
    assert store.read(queries.is_registered, owner)
    store.write(requeue.requeue, OwnerDead(owner), 30)
    assert not store.read(queries.is_registered, owner)
    assert claim(store, owner) == []
    assert stored(store, run).status == "pending"
    assert [row.id for row in claim(store, other)] == [run.id]


def test_beat_does_not_count_as_a_change_of_the_run(store: Database) -> None:
    """The time of the last change stays what it was."""
    owner = given_owner(store)
    run = given_running(store, owner)
    store.beat(owners.beat, owner, lambda: 77)
    assert stored(store, run)._replace(heartbeat_at_us=20) == run


def test_beat_of_a_removed_owner_says_so(store: Database) -> None:
    """An engine that others took for dead learns it from its own heartbeat."""
    owner = given_owner(store)
    given_running(store, owner)
    store.write(requeue.requeue, OwnerDead(owner), 30)
    assert store.beat(owners.beat, owner, lambda: 40) == Beat(False, frozenset())


def test_beat_of_an_owner_whose_runs_were_taken_reports_the_rest(store: Database) -> None:
    """Runs that were taken over or ended are not among its own."""
    owner = given_owner(store)
    taken = given_running(store, owner)
    ended = given_running(store, owner)
    store.write(requeue.requeue, OwnerHung(owner, 0), 30)
    (kept,) = claim(store, owner)
    claim(store, given_owner(store))
    assert (kept.id, kept.attempt) == (taken.id, 2)
    assert stored(store, ended).owner != owner
    assert store.beat(owners.beat, owner, lambda: 40).running == {(kept.run, 2)}


def test_owner_with_runs_is_not_removed(store: Database) -> None:
    """An owner leaves when nothing refers to it any more."""
    owner = given_owner(store)
    run = given_running(store, owner)
    assert only(store, owner).has_runs == 1
    assert store.write(owners.remove, owner) is False
    finish(store, run, output="1")
    assert only(store, owner).has_runs == 0
    assert store.write(owners.remove, owner) is True
    assert store.write(owners.remove, owner) is False
    assert store.read(owners.list_all) == []


# -- log lines -------------------------------------------------------------------------------


def line(run_id: str, message: str, owner: int = 1, step: str | None = None) -> LogLine:
    return LogLine(run_id, owner, "info", message, '{"a":1}', step, 5)


def test_lines_are_kept_in_order(store: Database) -> None:
    """A run's lines come back as written, oldest first, without those of other runs."""
    run, other = trigger(store), trigger(store)
    lines = [line(run.id, '"1"'), line(other.id, '"2"'), line(run.id, '"3"', step="s")]
    store.write(logs.append, lines)
    found = store.read(logs.of_run, run.id)
    assert [row[1:] for row in found] == [
        ("info", '"1"', '{"a":1}', None, 5),
        ("info", '"3"', '{"a":1}', "s", 5),
    ]
    assert found[0].log < found[1].log == store.read(logs.newest)


def test_lines_newer_than_one_are_found_without_ones_own(store: Database) -> None:
    """A waiter gets what is new, and not what its own process has notified it of already."""
    run = trigger(store)
    store.write(logs.append, [line(run.id, '"1"', 1), line(run.id, '"2"', 2)])
    after = store.read(logs.newest)
    store.write(logs.append, [line(run.id, '"3"', 1), line(run.id, '"4"', 2)])
    found = store.read(logs.of_run, run.id, after=after, except_owners=[1])
    assert [row.message for row in found] == ['"4"']


def test_lines_of_deleted_runs_are_dropped_alone(store: Database) -> None:
    """A run that is gone costs no other run its lines."""
    run = trigger(store)
    store.write(logs.append, [line("nowhere", '"1"'), line(run.id, '"2"')])
    assert query(store, "SELECT message FROM durably_logs") == [('"2"',)]


def test_no_lines_are_no_error(store: Database) -> None:
    """Nothing to store stores nothing."""
    store.write(logs.append, [])
    assert store.read(logs.newest) == 0
