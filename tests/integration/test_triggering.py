"""Triggering: what is checked, what is stored, and what comes back."""

from __future__ import annotations

import copy
import enum
import math
import pickle
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from engines import whole
from held import finish, other
from naming import plainly

import durably


@attrs.define
class Order:
    """A typed payload."""

    item: str
    count: int = attrs.field(default=1, validator=attrs.validators.gt(0))


@durably.job
def order(step: durably.StepContext, payload: Order) -> Order:
    """Return the order."""
    return payload


@durably.job
def bare(step: durably.StepContext) -> str:
    """Take no payload."""
    return "done"


class Text(str):
    """A str of the user's whose ``str()`` is another text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


class Name(str, enum.Enum):  # noqa: UP042 - the kind whose str() is not its value
    """An enum of texts of the older kind."""

    ONE = "one"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[order, bare, finish, other])
    yield opened
    opened.close()


def test_a_triggered_run_reports_all_that_is_known_of_it(app: durably.Durably) -> None:
    """A fresh run is pending, was never started, and carries what it was triggered with."""
    run = app.jobs["order"].trigger(
        Order("nut", 3), idempotency_key="i", concurrency_key="c", labels={"team": "a"}
    )

    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", run.id)  # a ULID
    assert run.created_at.utcoffset() == timedelta(0)
    assert run == durably.Run(
        id=run.id,
        job_name="order",
        status=durably.RunStatus.PENDING,
        payload=Order("nut", 3),
        output=None,
        error=None,
        progress=None,
        labels={"team": "a"},
        idempotency_key="i",
        concurrency_key="c",
        attempt=0,
        completed_steps=0,
        created_at=run.created_at,
        started_at=None,
        completed_at=None,
        updated_at=run.created_at,
        heartbeat_at=None,
        disposition="created",
    )
    assert (run.is_active, run.is_terminal, run.duration) == (True, False, None)
    assert whole(app.get_run(run.id)) == whole(run)
    assert app.get_run(run.id).disposition is None


def test_an_instance_and_the_mapping_that_makes_it_are_the_same_payload(
    app: durably.Durably,
) -> None:
    """Both are accepted, and the run has an instance."""
    by_instance = app.jobs["order"].trigger(Order("nut", 2))
    by_mapping = app.jobs["order"].trigger({"item": "nut", "count": 2})

    assert by_instance.payload == by_mapping.payload == Order("nut", 2)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {},
        {"item": 1},
        {"item": "a", "count": "1"},
        {"item": "a", "count": True},
        {"item": "a", "count": 0},
        {"item": "a", "extra": 1},
        "order",
        [Order("a")],
        object(),
    ],
)
def test_a_payload_that_does_not_fit_is_rejected_and_not_stored(
    app: durably.Durably, payload: Any
) -> None:
    """It is a ValidationError that names the job, and no run exists."""
    with pytest.raises(durably.ValidationError, match="order"):
        app.jobs["order"].trigger(payload)
    with pytest.raises(durably.ValidationError):
        app.jobs["order"].trigger_and_wait(payload)
    assert app.count_runs() == 0


def endless() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    """A list deeper than any that can be stored."""
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize("make", [object, endless, deep, lambda: {1: len}, lambda: iter("a")])
def test_untyped_data_without_a_faithful_form_is_rejected(app: durably.Durably, make: Any) -> None:
    """What has no stored form is a ValidationError; no run exists."""
    payload = make()
    with pytest.raises(durably.ValidationError):
        app.jobs["other"].trigger(payload)
    assert app.count_runs() == 0


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("order", Order("nut", 2)),
        ("order", {"item": "nut"}),
        ("other", {"rows": [1, (2, 3.0), Text("a")], "same": [[]] * 2}),
        ("other", Name.ONE.value),
        ("other", "x" * 5000),
        ("other", None),
        ("bare", None),
    ],
)
def test_a_triggered_run_is_the_run_that_can_be_read(
    app: durably.Durably, name: str, payload: Any
) -> None:
    """However it was triggered, in all that is known of it but its disposition."""
    told: list[Any] = []
    app.on("run:trigger", told.append)
    handle = app.jobs[name]
    options: dict[str, Any] = {"concurrency_key": "c", "labels": {"a": "b"}}
    runs = [
        handle.trigger(payload),
        handle.trigger(payload, idempotency_key="i", **options),
        *handle.batch_trigger([payload, durably.Trigger(payload, **options)] * 3),
        *handle.batch_trigger([payload] * 300),
    ]

    for run, event in zip(runs, told, strict=True):
        assert run.disposition == "created"
        read = handle.get_run(run)
        assert whole(read) == whole(run)
        assert read.disposition is None
        assert repr(read.payload) == repr(run.payload) == repr(event.payload)


def test_no_two_runs_of_a_batch_share_what_can_be_changed(app: durably.Durably) -> None:
    """Nor does a run share anything with the item that it was made of."""
    payload = {"rows": [1]}
    of_order = Order("nut")
    first, second = app.jobs["other"].batch_trigger([payload, payload])
    one, another = app.jobs["order"].batch_trigger([of_order, of_order])
    first.payload["rows"].append(2)
    one.payload.count = 7

    assert payload == second.payload == {"rows": [1]}
    assert of_order == another.payload == Order("nut")
    assert app.get_run(first).payload == {"rows": [1]}


@pytest.mark.parametrize("payload", [{}, [], 0, False, "", {"a": 1}])
def test_a_job_without_payload_rejects_any(app: durably.Durably, payload: Any) -> None:
    """A payload for ``def f(step)`` is a ValidationError, an empty one too."""
    with pytest.raises(durably.ValidationError, match="takes no payload"):
        app.jobs["bare"].trigger(payload)
    assert app.count_runs() == 0
    assert app.jobs["bare"].trigger().payload is None


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "a\0b",
        "lone \ud800 surrogate",
        "\u2028 \x7f \x1b[31m '\"; DROP TABLE durably_runs; --",
        "x" * 2_000_000,
        10**400,
        -(2**63) - 1,
        math.inf,
        [None, True, 1, 1.0, -0.0, {"": {"\0": []}}],
        {"durably": "type", "$": 1, "__class__": "x"},
    ],
    ids=lambda payload: repr(payload)[:20].encode("ascii", "replace").decode(),
)
def test_hostile_payloads_reach_the_job_as_they_were(app: durably.Durably, payload: Any) -> None:
    """Whatever JSON-like data is triggered is what the job gets, and what it returns."""
    run = app.jobs["other"].trigger(payload)

    assert app.process_one()

    done = app.wait(run)
    assert (repr(done.payload), repr(done.output)) == (repr(payload), repr(payload))


def test_nan_reaches_the_job(app: durably.Durably) -> None:
    """A NaN stays one."""
    app.jobs["other"].trigger([math.nan])
    assert app.process_one()
    [done] = app.get_runs()
    assert math.isnan(done.output[0])


@pytest.mark.parametrize("call", ["trigger", "batch_trigger", "engine", "batch of engine"])
def test_the_default_of_the_payloads_parameter_is_its_default(
    app: durably.Durably, call: str
) -> None:
    """Without a payload the run has the default, validated as any payload; ``None`` is one."""

    @durably.job
    def typed(step: durably.StepContext, number: int = 3) -> int:
        return number

    @durably.job
    def optional(step: durably.StepContext, order: Order | None = Order("x", 2)) -> Order | None:  # noqa: B008 - what is under test
        return order

    @durably.job
    def untyped(step, found=(1, [2])):  # type: ignore[no-untyped-def]  # what is under test
        return found

    def trigger(job: durably.Job[Any, Any], *payload: Any) -> Any:
        handle = app.register(job)
        if call == "trigger":
            return handle.trigger(*payload)
        if call == "engine":
            return app.trigger(job, *payload)
        items = [durably.Trigger(*payload, labels={"a": "b"})]
        return (
            handle.batch_trigger(items)[0]
            if call == "batch_trigger"
            else app.batch_trigger(job, items)[0]
        )

    runs = [trigger(typed), trigger(optional), trigger(optional, None), trigger(untyped)]
    expected = [3, Order("x", 2), None, (1, [2])]
    assert [run.payload for run in runs] == expected
    assert app.run_until_idle() == 4
    assert [app.get_run(run).payload for run in runs] == expected
    assert [app.get_run(run).output for run in runs] == expected
    with pytest.raises(durably.ValidationError, match="expected int, found None"):
        trigger(typed, None)


def test_a_payload_that_was_left_out_is_said_to_be(app: durably.Durably) -> None:
    """Of a job whose payload has neither a default nor a type with None."""
    handle = app.register(durably.Job("strict", lambda step, payload: payload, input=int))
    for left_out in (handle.trigger, lambda: handle.batch_trigger([durably.Trigger()])):
        with pytest.raises(durably.ValidationError, match="was left out; pass one"):
            left_out()
    with pytest.raises(durably.ValidationError, match=r"of strict: \$: expected int, found None"):
        handle.trigger(None)


def test_a_default_that_does_not_fit_is_rejected(app: durably.Durably) -> None:
    """The default of a payload is validated when it is used; the message says what it was."""

    @durably.job
    def careless(step: durably.StepContext, number: int = None) -> int:  # type: ignore[assignment]  # noqa: RUF013 - what is under test
        return number

    handle = app.register(careless)
    with pytest.raises(durably.ValidationError, match="the default payload of careless"):
        handle.trigger()
    assert app.count_runs() == 0
    assert handle.trigger(5).payload == 5


def test_a_trigger_without_a_payload_can_be_copied() -> None:
    """What stands for a payload that was not given stays what it is."""
    trigger = durably.Trigger(idempotency_key="k")
    for same in (copy.deepcopy(trigger), pickle.loads(pickle.dumps(trigger))):
        assert same == trigger
        assert same.payload is trigger.payload
    assert "not given" in repr(trigger)


def test_what_is_changed_after_the_trigger_does_not_reach_the_run(app: durably.Durably) -> None:
    """The run has what the payload and the labels were when it was triggered."""
    payload = {"rows": [1]}
    labels = {"a": "1"}
    typed = Order("nut")

    run = app.jobs["other"].trigger(payload, labels=labels)
    of_type = app.jobs["order"].trigger(typed)
    payload["rows"].append(2)
    labels["a"] = "2"
    typed.count = 9

    assert (run.payload, run.labels, of_type.payload) == ({"rows": [1]}, {"a": "1"}, Order("nut"))
    assert app.run_until_idle() == 2
    assert app.wait(run).output == {"rows": [1]}
    assert app.wait(of_type).output == Order("nut")


BAD_KEYS = ["", "a\0b", "\0", "\ud800", "a\udfff", 5, b"key", ["k"], object(), True]


@pytest.mark.parametrize("key", BAD_KEYS, ids=plainly)
@pytest.mark.parametrize("option", ["idempotency_key", "concurrency_key"])
def test_a_bad_key_is_rejected_by_name_and_nothing_is_stored(
    app: durably.Durably, option: str, key: Any
) -> None:
    """A key is text that is not empty, without NUL and lone surrogates."""
    with pytest.raises(durably.ValidationError, match=option):
        app.jobs["bare"].trigger(**{option: key})
    with pytest.raises(durably.ValidationError, match=option):
        app.jobs["bare"].batch_trigger([durably.Trigger(), durably.Trigger(**{option: key})])
    assert app.count_runs() == 0


@pytest.mark.parametrize(
    "key", ["'; DROP TABLE durably_runs; --", "%", "\n\x1b", "😀é\u202e", " ", "k" * 100_000]
)
def test_any_other_key_is_kept_as_it_is(app: durably.Durably, key: str) -> None:
    """A key of any other text finds its run again, and only that one."""
    run = app.jobs["bare"].trigger(idempotency_key=key, concurrency_key=key)

    again = app.jobs["bare"].trigger(idempotency_key=key)
    another = app.jobs["bare"].trigger(idempotency_key=key + "x")

    assert (again.id, again.disposition) == (run.id, "idempotent")
    assert (another.disposition, run.idempotency_key, run.concurrency_key) == ("created", key, key)


@pytest.mark.parametrize("text", [Text("one"), Name.ONE])
def test_subclasses_of_str_are_taken_for_their_characters(app: durably.Durably, text: str) -> None:
    """Keys and labels of a str subclass are plain text everywhere, whatever its ``str()`` says."""
    run = app.jobs["bare"].trigger(idempotency_key=text, concurrency_key=text, labels={text: text})

    read = app.get_run(run.id)
    assert read is not None
    for each in (run, read):
        assert (each.idempotency_key, each.concurrency_key) == ("one", "one")
        assert type(each.idempotency_key) is type(each.concurrency_key) is str
        assert each.labels == {"one": "one"}
    assert app.count_runs(labels={text: text}) == app.count_runs(labels={"one": "one"}) == 1
    assert app.jobs["bare"].trigger(idempotency_key="one").id == run.id


@pytest.mark.parametrize(
    "labels",
    [
        {"": "a"},
        {"_a": "a"},
        {"-": "a"},
        {"a b": "a"},
        {"é": "a"},
        {"a\n": "a"},
        {"a\0": "a"},
        {"k" * 64: "a"},
        {1: "a"},
        {"a": 1},
        {"a": None},
        {"a": b"b"},
        {"a": "x\0"},
        {"a": "\ud800"},
        [("a", "b")],
        "a=b",
    ],
    ids=ascii,
)
def test_bad_labels_are_rejected_and_nothing_is_stored(app: durably.Durably, labels: Any) -> None:
    """Label keys have a pattern, values are storable text; all else is a ValidationError."""
    with pytest.raises(durably.ValidationError, match="label"):
        app.jobs["bare"].trigger(labels=labels)
    assert app.count_runs() == 0


def test_label_values_may_be_any_storable_text(app: durably.Durably) -> None:
    """The longest key, an empty value, quotes and control characters come back."""
    labels = {"k" * 63: "", "a./_-Z9": "\"\\\n\x01'", "0": "😀" * 1000}

    run = app.jobs["bare"].trigger(labels=labels)

    assert run.labels == labels
    assert [whole(read) for read in app.get_runs(labels=labels)] == [whole(run)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry_failed": True}, "idempotency_key"),
        ({"retry_failed": True, "concurrency_key": "c"}, "idempotency_key"),
        ({"coalesce": True}, "concurrency_key"),
        ({"coalesce": True, "idempotency_key": "i"}, "concurrency_key"),
        ({"coalesce": 1, "concurrency_key": "c"}, "coalesce"),
        ({"retry_failed": "yes", "idempotency_key": "i"}, "retry_failed"),
    ],
)
def test_options_without_what_they_need_are_rejected(
    app: durably.Durably, options: dict[str, Any], message: str
) -> None:
    """retry_failed needs an idempotency key and coalesce a concurrency key."""
    with pytest.raises(durably.ValidationError, match=message):
        app.jobs["bare"].trigger(**options)
    with pytest.raises(durably.ValidationError, match=message):
        app.jobs["bare"].trigger_and_wait(**options)
    with pytest.raises(durably.ValidationError, match=message):
        app.jobs["bare"].batch_trigger([durably.Trigger(**options)])
    assert app.count_runs() == 0


def test_a_run_triggered_here_starts_without_waiting_for_the_poll(tmp_path: Path) -> None:
    """Runs triggered in this process start at once, however long the poll interval is."""
    with durably.Durably(tmp_path / "durably.db", jobs=[bare], poll_interval=3600) as app:
        assert app.jobs["bare"].trigger_and_wait(timeout=20).output == "done"


def test_jobs_and_listeners_may_trigger(tmp_path: Path) -> None:
    """A job that triggers another, and a listener that does, are like anybody else."""
    ended = threading.Event()

    @durably.job
    def outer(step: durably.StepContext) -> str:
        return app.jobs["other"].trigger("from the job").id

    with durably.Durably(tmp_path / "durably.db", jobs=[outer, other, bare]) as app:

        @app.on("run:complete")
        def follow(event: Any) -> None:
            if event.job_name == "other":
                app.jobs["bare"].trigger()
            elif event.job_name == "bare":
                ended.set()

        inner = app.jobs["outer"].trigger_and_wait().output
        assert app.wait(inner).output == "from the job"
        assert ended.wait(20)


def test_what_a_listener_does_to_its_event_does_not_reach_the_run(app: durably.Durably) -> None:
    """The labels of the event are a copy."""
    app.on("run:trigger", lambda event: event.labels.update(evil="1"))
    run = app.jobs["other"].trigger(1, labels={"a": "b"})
    [in_batch] = app.jobs["other"].batch_trigger([durably.Trigger(1, labels={"a": "b"})])
    assert run.labels == in_batch.labels == {"a": "b"}


def test_triggers_of_many_threads_are_all_stored(tmp_path: Path) -> None:
    """Eight threads that trigger at once lose nothing and get different runs."""
    with durably.Durably(tmp_path / "durably.db", jobs=[other]) as app:
        barrier = threading.Barrier(8)
        found: list[str] = []

        def trigger(number: int) -> None:
            barrier.wait()
            found.extend(app.jobs["other"].trigger([number, each]).id for each in range(10))

        threads = [threading.Thread(target=trigger, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 80
        outputs = [run.output for run in app.as_completed(found)]
        assert sorted(outputs) == [[number, each] for number in range(8) for each in range(10)]


@pytest.mark.parametrize("value", [5, 1.5, b"x", timedelta(1), Path("x")], ids=str)
def test_what_is_not_text_is_to_be_converted(app: durably.Durably, value: Any) -> None:
    """As a key or a label; ``None`` and functions are not what anybody wants the text of."""
    handle = app.register(durably.Job("free", lambda step, payload: payload))
    options: list[dict[str, Any]] = [
        {"idempotency_key": value},
        {"concurrency_key": value},
        {"labels": {"k": value}},
    ]
    for option in options:
        with pytest.raises(durably.ValidationError, match=r"must be a str, not .*; convert it"):
            handle.trigger(1, **option)
    with pytest.raises(durably.ValidationError, match=r"must be a str, not None$"):
        handle.trigger(1, labels={"k": None})  # type: ignore[dict-item]
