"""``get_run``, ``get_runs`` and ``count_runs``: filters, order, limits, and ids that are none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engines import whole
from held import finish, other

import durably
from durably import RunStatus


@durably.job("naïve-😀")
def emoji(step: durably.StepContext, payload: int) -> int:
    """A job whose name is not ASCII."""
    return payload


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[durably.Durably]:
    """An engine with runs of every status but running, of three jobs, with labels."""
    opened = durably.Durably(
        tmp_path_factory.mktemp("runs") / "durably.db", jobs=[finish, other, emoji]
    )
    labels: list[dict[str, str]] = [{}, {"a": "1"}, {"a": "1", "b": "2"}, {"a": "2"}]
    for name, each in itertools.product(opened.jobs, labels):
        opened.jobs[name].trigger(1, labels=each)
        if name == "finish":
            opened.jobs[name].trigger("fail", labels=each)
    opened.run_until_idle(raise_failed=False)
    for name, each in itertools.product(opened.jobs, labels):
        opened.cancel(opened.jobs[name].trigger(2, labels=each))
        opened.jobs[name].trigger(3, labels=each)
    yield opened
    opened.close()


STATUSES: list[Any] = [
    None,
    [],
    "pending",
    RunStatus.FAILED,
    ["completed", RunStatus.CANCELLED],
    {"failed", "completed"},
    tuple(RunStatus),
    "running",
]
NAMES: list[Any] = [None, [], "finish", "naïve-😀", ("finish", "other"), "nobody", "", "finish\0x"]
LABELS: list[Any] = [
    None,
    {},
    {"a": "1"},
    {"a": "1", "b": "2"},
    {"b": "2"},
    {"a": "2", "b": "2"},
    {"a": ""},
    {"A": "1"},
    {"a": "1\0"},
    {"a": "\ud800"},
    {"": "1"},
]


@pytest.mark.parametrize("wanted", LABELS, ids=ascii)
def test_filters_find_what_fits_newest_first(
    app: durably.Durably, wanted: dict[str, str] | None
) -> None:
    """Whatever the combination, the list is that of a plain filter, and the count is its length."""
    everything = app.get_runs()
    for status, name in itertools.product(STATUSES, NAMES):
        statuses = {status} if isinstance(status, str) else status
        names = {name} if isinstance(name, str) else name
        expected = [
            run.id
            for run in everything
            if (statuses is None or run.status in statuses)
            and (names is None or run.job_name in names)
            and (wanted or {}).items() <= run.labels.items()
        ]
        filters = {"status": status, "job_name": name, "labels": wanted}
        assert [run.id for run in app.get_runs(**filters)] == expected, filters
        assert app.count_runs(**filters) == len(expected), filters


def test_statuses_that_many_runs_have_find_the_same(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few runs are found by an index, many among all: the lists are equal."""
    statuses = [*RunStatus, [RunStatus.FAILED, RunStatus.PENDING]]
    by_index = [app.get_runs(status=each) for each in statuses]
    assert by_index[-1]
    monkeypatch.setattr("durably.store.sqlite.sql.by_status._FEW", 0)
    assert [app.get_runs(status=each) for each in statuses] == by_index


def test_the_newest_comes_first(app: durably.Durably, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order is that of the triggers, though a clock that was set back gives ids in another one."""
    ids = (f"00{999 - n:024}" for n in itertools.count())
    monkeypatch.setattr("durably._platform.ids.Ids.new", lambda _: next(ids))
    runs = app.jobs["other"].batch_trigger(range(50))
    try:
        assert [run.id for run in app.get_runs(limit=50)] == [run.id for run in reversed(runs)]
    finally:
        for run in runs:
            app.cancel(run)
            app.delete_run(run)


def test_limit_and_offset_cut_a_window(app: durably.Durably) -> None:
    """They count after the filters, with or without each other."""
    ids = [run.id for run in app.get_runs(status="completed")]
    for limit, offset in itertools.product([None, 0, 1, 3, 10**9, 2**63 - 1], [0, 1, 5, 10**9]):
        window = app.get_runs(status="completed", limit=limit, offset=offset)
        end = None if limit is None else offset + limit
        assert [run.id for run in window] == ids[offset:end]


def test_filters_may_be_generators(app: durably.Durably) -> None:
    """Any iterable of several will do."""
    found = app.get_runs(status=(s for s in ["failed"]), job_name=iter(["finish"]))
    assert {run.status for run in found} == {"failed"}
    assert len(found) == 4


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "unknown"},
        {"status": ""},
        {"status": "PENDING"},
        {"status": ["pending", "unknown"]},
        {"status": 5},
        {"status": [None]},
        {"status": [["pending"]]},
        {"job_name": 5},
        {"job_name": [5]},
        {"job_name": b"finish"},
        {"labels": [("a", "b")]},
        {"labels": "a"},
        {"labels": {1: "b"}},
        {"labels": {"a": 1}},
    ],
    ids=repr,
)
def test_filters_that_mean_nothing_are_rejected(
    app: durably.Durably, filters: dict[str, Any]
) -> None:
    """get_runs and count_runs raise, rather than match nothing."""
    with pytest.raises(durably.ValidationError):
        app.get_runs(**filters)
    with pytest.raises(durably.ValidationError):
        app.count_runs(**filters)


@pytest.mark.parametrize("number", [-1, -(2**70), 2**70, 1.0, "1", True])
@pytest.mark.parametrize("name", ["limit", "offset"])
def test_limits_that_are_no_count_are_rejected(
    app: durably.Durably, name: str, number: Any
) -> None:
    """A negative one above all: SQLite would take it for no limit."""
    with pytest.raises(durably.ValidationError, match=name):
        app.get_runs(**{name: number})


UNKNOWN_IDS = [
    "01AAAAAAAAAAAAAAAAAAAAAAAA",
    "",
    "\0",
    "é",
    "\ud800",
    "'; --",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("run_id", UNKNOWN_IDS, ids=lambda text: ascii(text[:10]))
def test_an_id_of_no_run(app: durably.Durably, run_id: str) -> None:
    """``get_run`` gives ``None``; every other call raises NotFoundError that names it."""
    calls: list[Callable[[str], object]] = [
        app.get_steps,
        app.get_logs,
        app.wait,
        app.retry,
        app.retrigger,
        app.cancel,
        app.delete_run,
        app.subscribe,
        lambda run_id: list(app.as_completed([run_id])),
        lambda run_id: app.wait(run_id, timeout=5),
        lambda run_id: app.wait(run_id, on_progress=print, on_log=print),
    ]
    assert app.get_run(run_id) is None
    assert app.jobs["other"].get_run(run_id) is None
    for call in calls:
        with pytest.raises(durably.NotFoundError) as caught:
            call(run_id)
        assert ascii(run_id)[1:-1][:20] in str(caught.value).replace("\\\\", "\\")


@pytest.mark.parametrize("run", [None, 5, b"01AAAAAAAAAAAAAAAAAAAAAAAA", object(), ["id"]])
def test_what_is_no_run_and_no_id_is_rejected(app: durably.Durably, run: Any) -> None:
    """It is a ValidationError everywhere."""
    calls: list[Callable[[Any], object]] = [
        app.get_run,
        app.get_steps,
        app.get_logs,
        app.wait,
        app.retry,
        app.retrigger,
        app.cancel,
        app.delete_run,
        app.subscribe,
        lambda run: app.as_completed([run]),
    ]
    for call in calls:
        with pytest.raises(durably.ValidationError):
            call(run)


def test_a_nul_behind_an_id_makes_it_another(app: durably.Durably) -> None:
    """An id is compared whole, not up to what SQLite would take for its end."""
    [run] = app.get_runs(limit=1)
    assert app.get_run(run.id + "\0") is None
    assert app.get_run(run.id + "\0x") is None
    assert app.get_run(run.id.lower()) is None
    with pytest.raises(durably.NotFoundError):
        list(app.as_completed([run.id + "\0"]))


def test_a_run_is_as_good_as_its_id(app: durably.Durably) -> None:
    """Every call takes both."""
    [run] = app.get_runs(limit=1, status="completed")
    assert whole(app.get_run(run)) == whole(app.get_run(run.id)) == whole(run)
    assert app.get_steps(run) == app.get_steps(run.id)
    assert whole(app.wait(run)) == whole(app.wait(run.id)) == whole(run)
    assert list(app.as_completed([run, run.id])) == [run]
