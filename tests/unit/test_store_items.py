"""Items of maps: stored by the current claim alone, each result once and for good."""

from __future__ import annotations

import random
from typing import Any

import pytest
from storekit import (
    checkpoint,
    claim,
    finish,
    given_owner,
    given_running,
    query,
    stored,
)

from durably.errors import DatabaseError
from durably.store.item_rows import ItemRow, MapRow, MapState
from durably.store.outcome import OwnerDead
from durably.store.read_rows import StepRow
from durably.store.rows import RunRow
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import items, requeue, runs, steps

ERROR = '{"type":"E","message":"m","traceback":""}'


@pytest.fixture
def run(store: Database) -> RunRow:
    return given_running(store, given_owner(store))


def state(name: str = "m", step_index: int = 3, **changes: Any) -> MapState:
    """Return the state of a map that has not ended."""
    return MapState(step_index, name, True, 0, 0, 0, None, 11)._replace(**changes)


def completed(index: int, key: str | int | None = None, output: str = "1") -> ItemRow:
    return (index, key, output, None, 1, None, 21, 22)


def failed(index: int, key: str | int | None = None, attempts: int = 1) -> ItemRow:
    return (index, key, None, ERROR, attempts, None, 21, 22)


def save(store: Database, run: RunRow, *new: ItemRow, **changes: Any) -> bool:
    return store.write(
        items.save, run.run, run.fence, state(**changes), [(*row, None) for row in new]
    )


def all_of(store: Database, run: RunRow, name: str = "m", **asked: Any) -> list[ItemRow] | None:
    asked = {"status": None, "limit": None, "offset": 0} | asked
    rows = store.read(items.of_map, run.id, name, *asked.values())
    return None if rows is None else [row[:8] for row in rows if not row.is_manual]


def test_items_are_stored_as_given(store: Database, run: RunRow) -> None:
    """Keys of both types, results, errors, tries, hashes and times come back."""
    rows: list[ItemRow] = [
        (0, "a", '{"x": "\\u0000"}', None, 1, -(2**63), 1, 2),
        (1, 7, None, ERROR, 3, None, 5, 4),
        (2, "7", "null", None, 1, 2**32, 1, 2),
        (9, None, "2", None, 1, None, 1, 2),
    ]
    assert save(store, run, *rows)
    assert all_of(store, run) == rows
    found = store.read(items.find_map, run.run, "m")
    layer = run.fence << 24
    assert found == MapRow(1, 3, True, None, 9, layer=layer, old_layer=layer)
    assert [store.read(items.find, found.map, key) for key in (7, "7", "b")] == [*rows[1:3], None]
    assert [store.read(items.at, found.map, index) for index in (9, 8)] == [rows[3], None]


@pytest.mark.parametrize("count", [0, 1, 3, 17, 256, 1000])
def test_any_number_of_items_is_one_batch(store: Database, run: RunRow, count: int) -> None:
    """They are all there, each once and in order, in whatever order they came."""
    rows = [completed(index, f"k{index}") for index in range(count)]
    shuffled = random.Random(count).sample(rows, count)
    assert save(store, run, *shuffled, done=count)
    assert all_of(store, run) == rows


def test_completed_item_is_final_and_nothing_of_its_batch_is_stored(
    store: Database, run: RunRow
) -> None:
    """Neither a result nor an error replaces it, also not of the claim that stored it."""
    assert save(store, run, completed(0, "a"))
    for again in (completed(0, "a", "2"), failed(0, "a")):
        with pytest.raises(DatabaseError, match="is final"):
            save(store, run, completed(1, "b"), again, done=9)
    assert all_of(store, run) == [completed(0, "a")]
    assert query(store, "SELECT done FROM durably_maps") == [(0,)]


def test_failed_item_is_replaced(store: Database, run: RunRow) -> None:
    """A later failure replaces it, and so does its result."""
    save(store, run, failed(4, "a"))
    save(store, run, failed(4, "a", 2))
    assert all_of(store, run) == [failed(4, "a", 2)]
    save(store, run, completed(4, "a"))
    assert all_of(store, run) == [completed(4, "a")]


def test_key_has_one_item(store: Database, run: RunRow) -> None:
    """A second index for a key is rejected, in the same map alone."""
    assert save(store, run, completed(0, "a"))
    with pytest.raises(DatabaseError, match="UNIQUE"):
        save(store, run, completed(1, "a"))
    assert save(store, run, completed(1, "a"), name="other", step_index=4)


def put_aside(store: Database, run: RunRow, since: str) -> None:
    if since == "cancelled":
        store.write(runs.cancel, run.id, 25)
    elif since == "completed":
        finish(store, run, output="1")
    elif since == "failed":
        finish(store, run, error="{}")
    elif since == "recovered":
        assert run.owner is not None
        store.write(requeue.requeue, OwnerDead(run.owner), 25)
    else:
        finish(store, run)
    if since == "taken over":
        (taken,) = claim(store, given_owner(store))
        assert taken.id == run.id


ALL = ["cancelled", "completed", "failed", "recovered", "interrupted", "taken over"]


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("since", ALL)
def test_claim_that_is_not_current_stores_nothing(
    store: Database, run: RunRow, since: str, is_known: bool
) -> None:
    """What an earlier owner still has of a map changes nothing, and it is said."""
    if is_known:
        save(store, run, completed(0, "a"))
    before = all_of(store, run)
    put_aside(store, run, since)
    for status in (None, "completed"):
        ended = {"status": status, "completed_at_us": status and 30}
        assert save(store, run, completed(1, "b"), done=5, **ended) is False
    assert save(store, run._replace(fence=7), completed(1, "b")) is False
    assert all_of(store, run) == before
    assert query(store, "SELECT done, status FROM durably_maps") == [(0, None)] * is_known


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("since", ALL)
def test_map_that_ended_too_late_is_cancelled_by_the_latest_claim_alone(
    store: Database, run: RunRow, since: str, is_known: bool
) -> None:
    """It is recorded unless a later claim has begun."""
    if is_known:
        save(store, run, completed(0, "a"))
    put_aside(store, run, since)
    is_latest = since != "taken over"
    assert save(store, run, status="cancelled", completed_at_us=33) is is_latest
    found = store.read(steps.of_run, run.id)
    assert [row.status for row in found] == ["cancelled"] * is_latest


def test_map_is_one_step(store: Database, run: RunRow) -> None:
    """Its record has its counts, is at its index, and is there once the map has ended."""
    checkpoint(store, run, "a", 2)
    checkpoint(store, run, "b", 4)
    assert save(store, run, completed(0, "k"), done=1, total=9)
    assert [row.name for row in store.read(steps.of_run, run.id)] == ["a", "b"]
    counts = {"done": 2, "failed": 1, "reused": 1, "total": 9}
    assert save(store, run, status="failed", error=ERROR, completed_at_us=44, **counts)
    found = store.read(steps.of_run, run.id)
    assert [row.name for row in found] == ["a", "m", "b"]
    assert found[1] == StepRow(3, "m", "failed", None, ERROR, 11, 44, 1, (2, 1, 1, 9))
    assert stored(store, run).completed_steps == 2
    save(store, run, status="completed", completed_at_us=45, **counts)
    assert store.read(steps.of_run, run.id)[1].output == "null"
    assert stored(store, run).completed_steps == 3


def test_map_keeps_its_index_and_its_last_end(store: Database, run: RunRow) -> None:
    """A later execution finds the index, and changes the record when it ends."""
    save(store, run, completed(0, "a"), status="failed", error=ERROR, completed_at_us=44, done=1)
    finish(store, run, error="E")
    store.write(runs.retry, run.id, 50)
    (later,) = claim(store, given_owner(store))
    window = store.read(steps.window, run.run, 0)
    assert (window.highest_index, window.maps) == (3, {"m": 3})
    save(store, later, completed(1, "b"), done=2, reused=1)
    (record,) = store.read(steps.of_run, run.id)
    assert (record.status, record.completed_at_us, record.attempt) == ("failed", 44, 1)
    assert record.counts == (2, 0, 1, None)
    save(store, later, status="completed", completed_at_us=55, done=2, reused=1)
    (record,) = store.read(steps.of_run, run.id)
    assert (record.status, record.completed_at_us, record.attempt) == ("completed", 55, 2)


def test_run_with_items_has_checkpoints(store: Database, run: RunRow) -> None:
    """Its code is remembered when it goes back, as with a step."""
    save(store, run, completed(0, "a"))
    store.write(lambda db: db.execute("UPDATE durably_runs SET origin = 'o'").get)
    finish(store, run)
    assert stored(store, run).origin == "o"


def test_steps_that_are_not_kept_go_with_their_maps(store: Database, run: RunRow) -> None:
    """A completed run without its steps has no items either."""
    save(store, run, completed(0, "a"))
    finish(store, run, output="1", keep_steps=False)
    assert query(store, "SELECT * FROM durably_items") == []
    assert query(store, "SELECT * FROM durably_maps") == []


def test_deleted_run_takes_its_items_and_no_others(store: Database, run: RunRow) -> None:
    """Maps of other runs stay."""
    other = given_running(store, given_owner(store))
    for each in (run, other):
        save(store, each, completed(0, "a"), completed(1, "b"))
    finish(store, run, error="{}")
    store.write(runs.delete, run.id)
    assert all_of(store, run) is None
    assert all_of(store, other) == [completed(0, "a"), completed(1, "b")]
    assert query(store, "SELECT count(*) FROM durably_items") == [(2,)]


def test_windows_hold_every_item_once(
    store: Database, run: RunRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read window by window, all items come in order, and the last one says so."""
    monkeypatch.setattr(items, "WINDOW_ITEMS", 3)
    monkeypatch.setattr(items, "WINDOW_CHARS", 60)
    outputs = ["1", "2", "3", '"' + "l" * 99 + '"', "4", "5"]
    rows = [completed(2 * index, None, output) for index, output in enumerate(outputs)]
    rows.insert(2, failed(3))
    save(store, run, *rows)
    windows = [store.read(items.window, 1, 0)]
    while (next_index := windows[-1].next_index) is not None:
        windows.append(store.read(items.window, 1, next_index))
        assert len(windows) < 10
    assert [row for window in windows for row in window.items] == rows
    assert all(len(window.items) <= 3 for window in windows)
    assert len(windows) >= 3
    assert store.read(items.window, 2, 0) == ([], None)


def test_items_are_listed_by_status_and_in_parts(store: Database, run: RunRow) -> None:
    """They come in the order of their index."""
    rows = [failed(index) if index % 3 else completed(index) for index in range(9)]
    save(store, run, *reversed(rows))
    assert all_of(store, run, status="failed") == [row for row in rows if row[3]]
    assert all_of(store, run, status="completed") == rows[::3]
    assert all_of(store, run, limit=2, offset=3) == rows[3:5]
    assert all_of(store, run, limit=0) == []
    assert all_of(store, run, "other") is None
    assert store.read(items.of_map, "nowhere", "m", None, None, 0) is None


def test_bytes_that_are_not_text_are_reported_with_their_map(store: Database, run: RunRow) -> None:
    """A damaged item makes its map unreadable and nothing else; a damaged map is left out."""
    save(store, run, completed(0, "a"), status="completed", completed_at_us=44)
    bad = "CAST(x'ff' AS TEXT)"

    def execute(sql: str) -> None:
        store.write(lambda db: db.execute(sql).fetchall())

    execute("DROP TRIGGER durably_completed_item_is_final")
    execute(f"UPDATE durably_items SET output = {bad}")
    for read in (
        lambda: all_of(store, run),
        lambda: store.read(items.window, 1, 0),
        lambda: store.read(items.find, 1, "a"),
        lambda: store.read(items.at, 1, 0),
    ):
        with pytest.raises(DatabaseError, match="an item of map 'm' of run") as caught:
            read()
        assert caught.value.is_of_row
    execute(f"UPDATE durably_maps SET name = {bad}")
    assert store.read(steps.of_run, run.id) == []
    with pytest.raises(DatabaseError, match="a map of run"):
        store.read(steps.window, run.run, 0)
