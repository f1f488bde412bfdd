"""``batch_trigger``: all of them or none, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held import finish, other

import durably
from durably import Trigger


@durably.job
def count(step: durably.StepContext, payload: int) -> int:
    """A job with a typed payload."""
    return payload


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[count, finish, other])
    yield opened
    opened.close()


def test_a_batch_gives_a_run_an_item_in_order(app: durably.Durably) -> None:
    """Payloads and Triggers may be mixed; the runs come in the order of the items."""
    heard: list[str] = []
    app.on("run:trigger", lambda event: heard.append(event.run_id))

    runs = app.jobs["count"].batch_trigger(
        [1, Trigger(2, labels={"a": "b"}, concurrency_key="c", idempotency_key="i"), Trigger(3)]
    )

    assert [run.payload for run in runs] == [1, 2, 3]
    assert [run.disposition for run in runs] == ["created"] * 3
    assert (runs[1].labels, runs[1].concurrency_key, runs[1].idempotency_key) == (
        {"a": "b"},
        "c",
        "i",
    )
    assert [run.id for run in reversed(app.get_runs())] == [run.id for run in runs] == heard


def test_a_batch_may_come_from_a_generator(app: durably.Durably) -> None:
    """Any iterable will do, also one that reads the engine while it is used up."""
    runs = app.jobs["count"].batch_trigger(number + app.count_runs() for number in range(5))
    assert [run.payload for run in runs] == [0, 1, 2, 3, 4]


def test_a_generator_that_raises_leaves_nothing(app: durably.Durably) -> None:
    """What an iterable raises goes to the caller, and no run is stored."""

    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        app.jobs["count"].batch_trigger(items())
    assert app.count_runs() == 0


def test_an_empty_batch_is_no_run(app: durably.Durably) -> None:
    """It returns an empty list and stores nothing."""
    assert app.jobs["count"].batch_trigger([]) == []
    assert app.count_runs() == 0


@pytest.mark.parametrize(
    "bad",
    [
        "not an int",
        Trigger("not an int"),
        Trigger(3, idempotency_key=""),
        Trigger(3, concurrency_key="\0"),
        Trigger(3, labels={"": "a"}),
        Trigger(3, coalesce=True),
        Trigger(3, retry_failed=True),
    ],
    ids=repr,
)
def test_one_bad_item_rejects_the_batch_and_is_named(app: durably.Durably, bad: Any) -> None:
    """Nothing is stored or emitted, and the message says which item it was."""
    heard: list[Any] = []
    app.on("*", heard.append)

    with pytest.raises(durably.ValidationError, match="item 2 of the batch"):
        app.jobs["count"].batch_trigger([1, Trigger(2, idempotency_key="i"), bad, 4])

    assert app.count_runs() == 0
    assert heard == []
    assert app.jobs["count"].trigger(2, idempotency_key="i").disposition == "created"


def test_a_key_twice_in_a_batch_is_one_run(app: durably.Durably) -> None:
    """The second item with the same idempotency key gets the first one's run."""
    first, second, third = app.jobs["count"].batch_trigger(
        [Trigger(1, idempotency_key="i"), Trigger(1, idempotency_key="i"), 3]
    )

    assert (first.id, first.payload) == (second.id, second.payload)
    assert [run.disposition for run in (first, second, third)] == [
        "created",
        "idempotent",
        "created",
    ]
    assert app.count_runs() == 2


def test_items_of_a_batch_coalesce_with_each_other(app: durably.Durably) -> None:
    """A coalescing item joins a pending run that an earlier item of the batch made."""
    skipped: list[Any] = []
    app.on("run:coalesced", lambda event: skipped.append((event.run_id, event.skipped_payload)))

    first, second, third = app.jobs["count"].batch_trigger(
        [Trigger(each, concurrency_key="c", coalesce=True) for each in (1, 2, 3)]
    )

    assert first.id == second.id == third.id
    assert [run.disposition for run in (first, second, third)] == [
        "created",
        "coalesced",
        "coalesced",
    ]
    assert third.payload == 1
    assert skipped == [(first.id, 2), (first.id, 3)]


def test_an_item_may_retry_a_failed_run(app: durably.Durably) -> None:
    """retry_failed works per item, and only for the items that ask for it."""
    for key in ("a", "b"):
        app.jobs["finish"].trigger("fail", idempotency_key=key)
    assert app.run_until_idle(raise_failed=False) == 2

    with_retry, without = app.jobs["finish"].batch_trigger(
        [
            Trigger("fail", idempotency_key="a", retry_failed=True),
            Trigger("fail", idempotency_key="b"),
        ]
    )

    assert (with_retry.disposition, with_retry.status) == ("retried", "pending")
    assert (without.disposition, without.status) == ("idempotent", "failed")


def test_a_batch_that_cannot_be_stored_leaves_nothing(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the database rejects one item in the middle, none of the others is there."""
    ids = iter(["01AAAAAAAAAAAAAAAAAAAAAAAA", "01BBBBBBBBBBBBBBBBBBBBBBBB"] * 2)
    monkeypatch.setattr("durably._platform.ids.Ids.new", lambda _: next(ids))

    with pytest.raises(durably.DatabaseError):
        app.jobs["count"].batch_trigger([1, 2, 3])  # the third has the first one's id

    assert app.count_runs() == 0


def test_a_large_batch_is_executed_in_order(tmp_path: Path) -> None:
    """A thousand runs of one batch start in the order of the items."""
    started: list[int] = []
    with durably.Durably(tmp_path / "durably.db", jobs=[count], max_workers=1) as app:
        app.on("run:start", lambda event: started.append(event.payload))
        app.jobs["count"].batch_trigger(range(300))
    assert started == list(range(300))


@pytest.mark.parametrize("items", [5, "abc", b"abc", {"a": 1}, None])
def test_a_batch_is_several_items(app: durably.Durably, items: Any) -> None:
    """What is not several payloads (text, a mapping, a number) is rejected as a batch."""
    with pytest.raises(
        durably.ValidationError,
        match="the items of a batch must be an iterable, such as a list, not ",
    ):
        app.jobs["count"].batch_trigger(items)
