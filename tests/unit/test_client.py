"""A client without a worker in its process: it triggers, reads, changes and waits for runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from storekit import checkpoint, claim, finish, given_owner

import durably
from durably._platform.clock import Clock
from durably.client.client import Client
from durably.codec import Codec
from durably.execution.emitter import Emitter
from durably.jobs.registry import JobRegistry
from durably.models import RunStatus
from durably.store.sqlite.database import Database
from durably.store.sqlite.store import SqliteStore

SHORT_S = 0.01


@durably.job
def job(step: durably.StepContext, number: int) -> int:
    raise AssertionError("nothing is executed here")


@pytest.fixture
def client(store: Database) -> Iterator[Client]:
    """A client over a store alone, in which no thread is started."""
    before = set(threading.enumerate())
    codec = Codec()
    registry, clock = JobRegistry(codec, [job]), Clock()
    yield Client(SqliteStore(store), codec, registry, Emitter(clock), clock)
    assert set(threading.enumerate()) == before


def complete(store: Database, run: durably.Run, output: str = "7") -> None:
    """Execute the run as the engine of another process does."""
    (row,) = claim(store, given_owner(store))
    assert row.id == run.id
    assert checkpoint(store, row, "step")
    finish(store, row, output=output)


def test_runs_are_triggered_and_read(client: Client, store: Database) -> None:
    """A trigger stores a pending run; keys, labels and batches work as in an engine."""
    handle = client.handles.find("job", "trigger")
    run = handle.trigger(1, idempotency_key="k", labels={"a": "b"})
    assert (run.status, run.payload, run.disposition) == (RunStatus.PENDING, 1, "created")
    assert handle.trigger(1, idempotency_key="k").id == run.id
    batch = handle.batch_trigger([2, 3])
    reader = client.reader
    assert reader.count(None, None, None) == 3
    assert [each.id for each in reader.find_many(None, None, {"a": "b"}, None, 0)] == [run.id]
    assert [each.id for each in handle.get_runs(limit=2)] == [batch[1].id, batch[0].id]
    assert handle.get_run(run).labels == {"a": "b"}
    complete(store, run)
    assert [step.name for step in reader.steps_of(run)] == ["step"]
    assert reader.logs_of(run) == []
    assert reader.find(run.id).output == 7
    assert reader.find("none") is None


def test_runs_are_changed(client: Client, store: Database) -> None:
    """Cancel, retry, adopt, retrigger, delete and purge take effect in the database."""
    control, handle = client.control, client.handles.find("job", "trigger")
    run = handle.trigger(1)
    control.cancel(run)
    assert client.reader.find(run).status is RunStatus.CANCELLED
    assert control.retry(run).status is RunStatus.PENDING
    assert control.adopt(run).id == run.id
    control.cancel(run)
    again = control.retrigger(run)
    assert (again.payload, again.id != run.id) == (1, True)
    control.delete(run)
    assert client.reader.find(run) is None
    complete(store, again)
    assert control.purge(older_than=0, limit=10, keep_failed=False) == 1
    assert client.reader.count(None, None, None) == 0


def test_a_running_run_is_cancelled_for_its_owner(client: Client, store: Database) -> None:
    """The owner in another process finds that out by itself."""
    run = client.handles.find("job", "trigger").trigger(1)
    claim(store, given_owner(store))
    client.control.cancel(run)
    assert client.reader.find(run).status is RunStatus.CANCELLED


def test_a_wait_ends_with_the_run(client: Client, store: Database) -> None:
    """``wait``, ``as_completed`` and a subscription return what another process has executed."""
    run = client.handles.find("job", "trigger").trigger(1)
    subscription = client.subscribe(run)
    complete(store, run)
    assert client.waiter.wait_for(run, None, None, None).output == 7
    assert [each.output for each in client.waiter.as_completed([run], None)] == [7]
    assert [event.type for event in subscription] == ["run:complete"]
    assert [event.type for event in client.subscribe(run)] == ["run:complete"]


def test_a_wait_calls_back(client: Client, store: Database) -> None:
    """Progress that another process has stored reaches the callback of a wait."""
    run = client.handles.find("job", "trigger").trigger(1)
    (row,) = claim(store, given_owner(store))
    finish(store, row, output="1", progress='{"current":1,"total":2,"message":null}')
    seen: list[object] = []
    callbacks = client.waiter.callbacks(seen.append, seen.append)
    try:
        with client.waiter.watching(run.id) as watch:
            client.waiter.wait(run.id, None, callbacks, watch)
    finally:
        callbacks.close()
    assert seen == [durably.Progress(1, 2, None)]


def test_a_wait_ends_with_its_timeout(client: Client) -> None:
    """Nothing executes the run, and the timeout is over."""
    handle = client.handles.find("job", "trigger")
    run = handle.trigger(1)
    with pytest.raises(durably.WaitTimeoutError):
        client.waiter.wait_for(run, SHORT_S, None, None)
    with pytest.raises(durably.WaitTimeoutError):
        list(client.waiter.as_completed([run], SHORT_S))
    with pytest.raises(durably.WaitTimeoutError):
        handle.trigger_and_wait(1, timeout=SHORT_S)


def test_a_wait_without_timeout_needs_an_engine(client: Client) -> None:
    """Without a started engine on the database the wait would never end, and raises."""
    run = client.handles.find("job", "trigger").trigger(1)
    with pytest.raises(durably.NoWorkerError, match="no started engine"):
        client.waiter.wait_for(run, None, None, None)
    with pytest.raises(durably.NoWorkerError, match="no started engine"):
        list(client.waiter.as_completed([run], None))


def test_a_lost_file_ends_a_wait(client: Client, store: Database) -> None:
    """A wait raises when the file is moved away, and so does a trigger."""
    handle = client.handles.find("job", "trigger")
    run = handle.trigger(1)
    Path(store.path).rename(f"{store.path}.moved")
    with pytest.raises(durably.DatabaseLostError):
        handle.trigger(2)
    with pytest.raises(durably.DatabaseLostError):
        client.waiter.wait_for(run, 20, None, None)
