"""Checkpoints: stored by the running attempt alone, each result once and for good."""

from __future__ import annotations

import pytest
from storekit import checkpoint, claim, finish, given_owner, given_running, query, trigger

from durably.errors import DatabaseError
from durably.store.outcome import OwnerDead
from durably.store.read_rows import StepRow
from durably.store.rows import RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import requeue, runs, steps


@pytest.fixture
def run(store: Database) -> RunRow:
    return given_running(store, given_owner(store))


def all_of(store: Database, run: RunRow) -> list[StepRow]:
    return store.read(steps.of_run, run.id)


def fail(store: Database, run: RunRow, name: str, index: int = 0) -> bool:
    return store.write(steps.fail, run.run, run.fence, index, name, '{"e":1}', 31, 32)


def cancel(store: Database, run: RunRow, name: str, index: int = 0) -> bool:
    return store.write(steps.cancel, run.run, run.fence, index, name, 41, 42)


def test_checkpoint_is_stored_as_given(store: Database, run: RunRow) -> None:
    """Name, index, result, times and attempt come back."""
    assert checkpoint(store, run, "a", 3, '{"x": "\\u0000"}')
    assert all_of(store, run) == [StepRow(3, "a", "completed", '{"x": "\\u0000"}', None, 21, 22, 1)]
    assert store.read(steps.find, run.run, "a") == (3, '{"x": "\\u0000"}', "a", None)


@pytest.mark.parametrize(
    "name", ["'; DROP TABLE durably_runs; --", "%", "ключ", "a\u202eb", "🦆" * 500, " "]
)
def test_any_name_is_a_name(store: Database, run: RunRow, name: str) -> None:
    """No name changes what a statement does."""
    assert checkpoint(store, run, name)
    assert checkpoint(store, run, "other", 1)
    found = store.read(steps.find, run.run, name)
    assert found is not None
    assert found == (0, "1", name, None)
    assert [row.name for row in all_of(store, run)] == [name, "other"]


@pytest.mark.parametrize("again", [checkpoint, fail, cancel])
def test_completed_step_is_final(store: Database, run: RunRow, again: object) -> None:
    """Nothing replaces a result, also not the attempt that stored it."""
    checkpoint(store, run, "a", output='"first"')
    before = all_of(store, run)
    assert again(store, run, "a") is False
    assert again(store, run, "a", 5) is False
    assert all_of(store, run) == before


@pytest.mark.parametrize("first", [fail, cancel])
def test_step_that_did_not_complete_is_replaced_in_its_place(
    store: Database, run: RunRow, first: object
) -> None:
    """It keeps the index it was stored with and takes the rest of the later record."""
    assert first(store, run, "a", 2)
    finish(store, run, error="E")
    store.write(runs.retry, run.id, 40)
    (later,) = claim(store, given_owner(store))
    assert checkpoint(store, later, "a", 7, '"done"')
    assert all_of(store, run) == [
        StepRow(2, "a", "completed", '"done"', None, 21, 22, 2, attempts=2)
    ]


def test_failed_step_is_replaced_by_a_later_failure(store: Database, run: RunRow) -> None:
    """The newest error is the one that is kept."""
    fail(store, run, "a")
    assert store.write(steps.fail, run.run, 1, 0, "a", '"later"', 51, 52)
    assert all_of(store, run) == [StepRow(0, "a", "failed", None, '"later"', 51, 52, 1, attempts=2)]


@pytest.mark.parametrize("taken", ["completed", "failed"])
def test_index_of_another_step_is_not_overwritten(store: Database, run: RunRow, taken: str) -> None:
    """Two steps never share a place: the second is rejected, not stored over the first."""
    (checkpoint if taken == "completed" else fail)(store, run, "a")
    before = all_of(store, run)
    assert checkpoint(store, run, "b") is False
    assert all_of(store, run) == before


def put_aside(store: Database, run: RunRow, since: str) -> None:
    if since == "cancelled":
        store.write(runs.cancel, run.id, 25)
    elif since == "completed":
        finish(store, run, output="1")
    elif since == "failed":
        finish(store, run, error="{}")
    elif since == "deleted":
        finish(store, run, error="{}")
        store.write(runs.delete, run.id)
    elif since == "recovered":
        store.write(requeue.requeue, OwnerDead(run.owner), 25)
    else:
        finish(store, run)
    if since == "taken over":
        (taken,) = claim(store, given_owner(store))
        assert taken.id == run.id


ALL = ["cancelled", "completed", "failed", "deleted", "recovered", "interrupted", "taken over"]


@pytest.mark.parametrize("since", ALL)
@pytest.mark.parametrize("write", [checkpoint, fail])
def test_attempt_that_is_not_running_stores_nothing(
    store: Database, run: RunRow, write: object, since: str
) -> None:
    """What an earlier owner still writes changes nothing, and the write says so."""
    put_aside(store, run, since)
    assert write(store, run, "a") is False
    assert query(store, "SELECT * FROM durably_steps") == []


@pytest.mark.parametrize("since", ALL)
def test_late_step_is_recorded_as_cancelled_by_the_latest_attempt_alone(
    store: Database, run: RunRow, since: str
) -> None:
    """A step that came too late is recorded unless a later attempt has begun."""
    put_aside(store, run, since)
    is_latest = since not in ("taken over", "deleted")
    assert cancel(store, run, "a") is is_latest
    if is_latest:
        assert all_of(store, run) == [StepRow(0, "a", "cancelled", None, None, 41, 42, 1)]


@pytest.mark.parametrize("fence", [0, 2, -1])
def test_claim_that_never_was_stores_nothing(store: Database, run: RunRow, fence: int) -> None:
    """A write takes effect only with the fence of the run's current claim."""
    assert checkpoint(store, run._replace(fence=fence), "a") is False
    assert cancel(store, run._replace(fence=fence), "a") is False
    assert all_of(store, run) == []


def test_steps_of_a_run_are_reported_in_the_order_of_their_index(
    store: Database, run: RunRow
) -> None:
    """Only the run's own, whatever lies beside them."""
    other = given_running(store, given_owner(store))
    for index in (5, 0, 2):
        checkpoint(store, run, f"s{index}", index)
        checkpoint(store, other, f"o{index}", index)
    assert [row.name for row in all_of(store, run)] == ["s0", "s2", "s5"]
    assert store.read(steps.of_run, "nowhere") == []


def test_highest_index_is_the_runs_own(store: Database, run: RunRow) -> None:
    """It counts every record, and none of the neighbours'."""
    other = given_running(store, given_owner(store))
    fresh = trigger(store)
    checkpoint(store, run, "a", steps.MOST_STEPS - 1)
    fail(store, other, "b", 4)
    assert store.read(steps.highest_index, run.run) == steps.MOST_STEPS - 1
    assert store.read(steps.highest_index, other.run) == 4
    assert store.read(steps.highest_index, fresh.run) == -1


def test_index_beyond_the_last_is_rejected(store: Database, run: RunRow) -> None:
    """It would lie in the place of another run's step."""
    other = given_running(store, given_owner(store))
    assert other.run == run.run + 1
    with pytest.raises(DatabaseError, match="CHECK"):
        checkpoint(store, run, "a", steps.MOST_STEPS)
    assert all_of(store, other) == []


def test_windows_hold_every_checkpoint_once(
    store: Database, run: RunRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read window by window, all checkpoints come in order, and the last one says so."""
    monkeypatch.setattr(steps, "WINDOW_STEPS", 3)
    monkeypatch.setattr(steps, "WINDOW_CHARS", 10)
    outputs = ['"x"', '"y"', '"z"', '"' + "l" * 20 + '"', "1", "2", "3", '"' + "m" * 8 + '"']
    for number, output in enumerate(outputs):
        checkpoint(store, run, f"s{number}", 2 * number, output)
    windows = [store.read(steps.window, run.run, 0)]
    while (next_index := windows[-1].next_index) is not None:
        windows.append(store.read(steps.window, run.run, next_index))
        assert len(windows) < 10
    found = [each for window in windows for each in window.checkpoints.values()]
    assert [each[:3] for each in found] == [
        (2 * number, output, f"s{number}") for number, output in enumerate(outputs)
    ]
    assert all(len(window.checkpoints) <= 3 for window in windows)
    assert len(windows) >= 4


def test_window_of_a_run_without_steps_is_empty(store: Database, run: RunRow) -> None:
    """There is nothing to read, and nothing after it."""
    assert store.read(steps.window, run.run, 0) == ({}, None, -1, {})


def test_window_that_is_cut_leaves_no_cursor_open(
    store: Database, run: RunRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that stops early holds no snapshot: the next look sees what came meanwhile."""
    monkeypatch.setattr(steps, "WINDOW_CHARS", 1)
    for index in range(3):
        checkpoint(store, run, f"s{index}", index)
    assert len(store.read(steps.window, run.run, 0).checkpoints) == 1
    checkpoint(store, run, "s3", 3)
    assert store.read(steps.highest_index, run.run) == 3
