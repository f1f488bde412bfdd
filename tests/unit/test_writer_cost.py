"""What the writes of a run cost: statements, transactions and syncs, counted; and full disks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from counted import Counted, DiskVFS
from storekit import checkpoint, claim, finish, given_owner, given_running, query, stored, trigger

from durably.errors import DatabaseError
from durably.store.read_rows import Filters, StepRow
from durably.store.rows import Claim, NewRun
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.store.sqlite.sql import owners, queries, runs, steps
from durably.store.sqlite.sql.enqueue import BLOCK, LONGEST_IN_BLOCK

HEARTBEAT = ["BEGIN", "UPDATE", "UPDATE", "COMMIT"]


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[DiskVFS]:
    with DiskVFS.registered(request.node.nodeid) as vfs:
        yield vfs


@pytest.fixture(params=["full", "normal"])
def synchronous(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path, disk: DiskVFS, synchronous: Any) -> Iterator[Database]:
    database = Database(tmp_path / "test.db", synchronous=synchronous, vfs=disk.name)
    yield database
    disk.is_full = disk.sync_fails = False
    database.close()


def test_checkpoint_is_one_statement_one_commit_and_one_sync(
    store: Database, disk: DiskVFS, synchronous: str
) -> None:
    """Alone, a checkpoint calls SQLite once; in mode normal it does not wait for the disk."""
    run = given_running(store, given_owner(store))
    checkpoint(store, run, "first")
    for index in range(1, 4):
        with Counted(store, disk) as counted:
            assert checkpoint(store, run, f"s{index}", index)
        assert (counted.writes, counted.commits) == (["INSERT"], 1)
        assert counted.syncs == (1 if synchronous == "full" else 0)
        assert counted.pages == 2  # the row's, and that of the index on its name


def given_queued(store: Database, checkpoints: list[tuple[Any, ...]], eventually: Any) -> list[Any]:
    """What became of checkpoints that waited for one commit."""
    is_inside, go_on = threading.Event(), threading.Event()

    def hold(db: apsw.Connection) -> None:
        is_inside.set()
        assert go_on.wait(10)

    holder = threading.Thread(target=store.write, args=(hold,))
    holder.start()
    assert is_inside.wait(10)
    results: list[Any] = [None] * len(checkpoints)

    def call(number: int) -> None:
        try:
            results[number] = store.write(steps.complete, *checkpoints[number], None, None)
        except DatabaseError as exc:
            results[number] = exc

    threads = [threading.Thread(target=call, args=(n,)) for n in range(len(checkpoints))]
    for number, thread in enumerate(threads, 1):
        thread.start()
        eventually(lambda number=number: len(store._writer._queue) == number)
    go_on.set()
    for thread in [holder, *threads]:
        thread.join(10)
    return results


@pytest.mark.parametrize("many", [2, 16])
def test_checkpoints_of_several_threads_are_one_statement_one_commit_and_one_sync(
    store: Database, disk: DiskVFS, synchronous: str, eventually: Any, many: int
) -> None:
    """Those that wait for the same commit share all of it."""
    owner = given_owner(store)
    running = [given_running(store, owner) for _ in range(many)]
    waiting = [(run.run, 1, 0, "s", f'"{run.run}"', 21, 22) for run in running]
    with Counted(store, disk) as counted:
        assert given_queued(store, waiting, eventually) == [True] * many
    assert counted.writes == ["BEGIN", "COMMIT", "INSERT"]  # the first two held them up
    assert counted.commits == 1 + 1
    assert counted.syncs == (1 if synchronous == "full" else 0)
    for run in running:
        [row] = store.read(steps.of_run, run.id)
        assert row == StepRow(0, "s", "completed", f'"{run.run}"', None, 21, 22, 1)


def test_each_of_several_checkpoints_has_its_own_fence(store: Database, eventually: Any) -> None:
    """Of those that share a statement only the ones of current attempts are stored."""
    owner = given_owner(store)
    running, lost, cancelled = (given_running(store, owner) for _ in range(3))
    store.write(runs.cancel, cancelled.id, 30)
    checkpoint(store, lost, "s")  # by an attempt that is over by then
    finish(store, lost, output=None)
    waiting = [
        (running.run, 1, 0, "s", "1", 21, 22),
        (lost.run, 1, 1, "t", "2", 21, 22),
        (cancelled.run, 1, 0, "s", "3", 21, 22),
        (running.run, 1, 1, "t", "4", 21, 22),
    ]
    assert given_queued(store, waiting, eventually) == [True, False, False, True]
    assert [row.name for row in store.read(steps.of_run, running.id)] == ["s", "t"]
    assert [row.name for row in store.read(steps.of_run, lost.id)] == ["s"]
    assert store.read(steps.of_run, cancelled.id) == []


def test_completed_step_is_final_among_several_too(store: Database, eventually: Any) -> None:
    """One that is stored already keeps its result; one that failed is replaced."""
    run = given_running(store, given_owner(store))
    checkpoint(store, run, "done", 0, '"first"')
    store.write(steps.fail, run.run, 1, 1, "failed", "{}", 21, 22)
    waiting = [(run.run, 1, 0, "done", '"2"', 21, 22), (run.run, 1, 1, "failed", '"3"', 21, 22)]
    given_queued(store, waiting, eventually)
    rows = store.read(steps.of_run, run.id)
    assert [(row.status, row.output) for row in rows] == [
        ("completed", '"first"'),
        ("completed", '"3"'),
    ]


def test_index_that_is_taken_harms_no_other_of_several(store: Database, eventually: Any) -> None:
    """It is an error of its own, as it is alone, and the others are stored."""
    run = given_running(store, given_owner(store))
    waiting = [(run.run, 1, 0, "a", "1", 21, 22), (run.run, 1, steps.MOST_STEPS, "b", "2", 21, 22)]
    outcomes = given_queued(store, waiting, eventually)
    assert outcomes[0] is True
    assert isinstance(outcomes[1], DatabaseError)
    assert [row.name for row in store.read(steps.of_run, run.id)] == ["a"]


def test_plain_trigger_is_one_statement_and_one_commit(
    store: Database, disk: DiskVFS, synchronous: str
) -> None:
    """A trigger without keys needs no look before it."""
    trigger(store)
    with Counted(store, disk) as counted:
        store.write(enqueueing.enqueue_plain, NewRun("r", "job", "1"), 10)
    assert (counted.writes, counted.commits) == (["INSERT"], 1)
    assert counted.syncs == (1 if synchronous == "full" else 0)


def test_batch_of_triggers_is_one_commit(store: Database, disk: DiskVFS, synchronous: str) -> None:
    """A hundred runs are stored with one wait for the disk."""
    trigger(store)
    with Counted(store, disk) as counted:
        new = [NewRun(f"r{number}", "job", "1") for number in range(100)]
        store.write(enqueueing.enqueue_many, new, 10)
    assert counted.commits == 1
    assert counted.writes == ["BEGIN", *["INSERT"] * 100, "COMMIT"]
    assert counted.syncs == (1 if synchronous == "full" else 0)


def test_large_batch_is_a_statement_for_many_runs(
    store: Database, disk: DiskVFS, synchronous: str
) -> None:
    """Those with long payloads, and those that are left over, have one each."""
    trigger(store)
    short = [NewRun(f"r{number}", "job", "1") for number in range(2 * BLOCK + 3)]
    long = [
        NewRun(f"l{number}", "job", f'"{"x" * LONGEST_IN_BLOCK}"') for number in range(BLOCK + 1)
    ]
    with Counted(store, disk) as counted:
        store.write(enqueueing.enqueue_many, [*short, *long], 10)
    assert counted.writes == ["BEGIN", *["INSERT"] * (2 + 3 + BLOCK + 1), "COMMIT"]
    assert counted.commits == 1
    assert counted.syncs == (1 if synchronous == "full" else 0)


def test_ending_a_run_and_claiming_the_next_is_one_transaction(
    store: Database, disk: DiskVFS, synchronous: str
) -> None:
    """Two statements, one commit: nobody sees the one without the other."""
    owner = given_owner(store)
    run = given_running(store, owner, concurrency_key="k")
    following = trigger(store, concurrency_key="k")
    with Counted(store, disk) as counted:
        ended = finish(store, run, output="1", claim_next=Claim(owner, '["job"]', lambda: 40))
    assert ended.claimed is not None
    assert ended.claimed.id == following.id
    assert (counted.writes, counted.commits) == (["BEGIN", "UPDATE", "UPDATE", "COMMIT"], 1)
    assert counted.syncs == (1 if synchronous == "full" else 0)


def test_heartbeat_is_synced_like_the_commits_around_it(
    store: Database, disk: DiskVFS, synchronous: str
) -> None:
    """Losing one at a power cut loses nothing, but what is acknowledged after it in mode full must
    not be based on frames of the log that nobody has synced.
    """
    owner = given_owner(store)
    given_running(store, owner)
    store.beat(owners.beat, owner, lambda: 50)
    with Counted(store, disk) as counted:
        store.beat(owners.beat, owner, lambda: 51)
    assert (counted.beats, counted.writes) == (HEARTBEAT, [])
    assert counted.syncs == (1 if synchronous == "full" else 0)


@pytest.mark.parametrize("running", [0, 1, 40])
def test_heartbeat_costs_the_same_statements_for_any_number_of_runs(
    store: Database, disk: DiskVFS, running: int
) -> None:
    """One transaction marks the engine and all of its runs."""
    owner = given_owner(store)
    for _ in range(running):
        given_running(store, owner)
    store.beat(owners.beat, owner, lambda: 50)
    with Counted(store, disk) as counted:
        assert len(store.beat(owners.beat, owner, lambda: 51).running) == running
    assert (counted.beats, counted.reads) == (HEARTBEAT, [])


def test_reading_writes_nothing(store: Database, disk: DiskVFS) -> None:
    """A look for work takes no write transaction."""
    trigger(store)
    assert store.read(queries.has_claimable, '["job"]')  # opens the reader
    disk.is_full = True
    with Counted(store, disk) as counted:
        assert store.read(queries.has_claimable, '["job"]')
        assert len(store.read(queries.find_many, Filters(), None, 0)) == 1
    assert (counted.writes, counted.syncs) == ([], 0)
    assert counted.reads == ["SELECT", "SELECT"]


def test_readers_cannot_write(store: Database) -> None:
    """A query that would change something is rejected."""
    run = trigger(store)
    with pytest.raises(DatabaseError):
        store.read(lambda db: db.execute("UPDATE durably_runs SET payload = '2'"))
    assert stored(store, run) == run


# -- full and failing disks ------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["is_full", "sync_fails"])
def test_write_on_a_bad_disk_is_rejected_and_can_be_repeated(
    store: Database, disk: DiskVFS, synchronous: str, fault: str
) -> None:
    """A transient error, nothing stored, and all goes on when the cause is gone."""
    if (fault, synchronous) == ("sync_fails", "normal"):
        return  # it does not sync
    run = given_running(store, given_owner(store))
    checkpoint(store, run, "before")
    setattr(disk, fault, True)
    attempts: list[Callable[[], object]] = [
        lambda: checkpoint(store, run, "a", 1),
        lambda: finish(store, run, output="1"),
        lambda: trigger(store, id="new", idempotency_key="i"),
        lambda: claim(store, 1),
    ]
    for attempt in attempts[:3]:
        with pytest.raises(DatabaseError) as caught:
            attempt()
        assert caught.value.is_transient
    setattr(disk, fault, False)
    assert stored(store, run).status == "running"
    assert [row.name for row in store.read(steps.of_run, run.id)] == ["before"]
    assert store.read(queries.find, "new") is None
    assert checkpoint(store, run, "a", 1)
    assert trigger(store, id="new", idempotency_key="i").id == "new"
    assert finish(store, run, output="1").is_effective


@pytest.mark.parametrize("spills", [False, True])
def test_disk_that_fills_up_fails_the_whole_batch(
    store: Database, disk: DiskVFS, spills: bool, eventually: Any
) -> None:
    """No half of it is stored, if SQLite notices at the commit or in the middle."""
    owner = given_owner(store)
    run = given_running(store, owner)
    if spills:
        store._writer._db.pragma("cache_size", 2)
    is_inside, go_on = threading.Event(), threading.Event()

    def hold(db: apsw.Connection) -> None:
        is_inside.set()
        assert go_on.wait(10)
        disk.is_full = True

    def write_first(db: apsw.Connection) -> None:
        enqueueing.enqueue(db, NewRun("first", "job", "1"), 10)

    def write_much(db: apsw.Connection) -> None:
        for number in range(20):
            new = NewRun(f"much-{number}", "job", json.dumps("x" * 20_000))
            enqueueing.enqueue(db, new, 10)

    outcomes: list[object] = []

    def call(operation: Callable[..., object], *args: object) -> None:
        try:
            outcomes.append(store.write(operation, *args))
        except DatabaseError as exc:
            outcomes.append(exc)

    work: list[tuple[Any, ...]] = [
        (write_first,),
        (write_much,),
        (steps.complete, run.run, 1, 0, "s", "1", 1, 2, None, None),
        (write_first,),
    ]
    threads = [threading.Thread(target=call, args=(hold,))]
    threads[0].start()
    assert is_inside.wait(10)
    for number, args in enumerate(work, 1):
        threads.append(threading.Thread(target=call, args=args))
        threads[-1].start()
        eventually(lambda number=number: len(store._writer._queue) == number)
    go_on.set()
    for thread in threads:
        thread.join(10)
    errors = [each for each in outcomes if isinstance(each, DatabaseError)]
    assert len(errors) >= 4
    assert not store._writer._db.in_transaction
    disk.is_full = False
    assert query(store, "SELECT id FROM durably_runs") == [(run.id,)]
    assert query(store, "SELECT name FROM durably_steps") == []
    assert checkpoint(store, run, "s")
