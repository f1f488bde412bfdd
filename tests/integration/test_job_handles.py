"""Registering jobs, and the handles that trigger and read their runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engines import whole
from held import finish, other
from naming import plainly

import durably


@durably.job
def order(step: durably.StepContext, payload: list[str]) -> None:
    """A job with a typed payload."""


@durably.job
def bare(step: durably.StepContext) -> str:
    """Take no payload."""
    return "done"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(tmp_path / "durably.db", jobs=[order, bare, finish, other])
    yield opened
    opened.close()


def test_the_mapping_of_jobs_is_read_only_and_complete(app: durably.Durably) -> None:
    """``jobs`` has a handle per registered job; ``get_job`` gives ``None`` for another name."""
    assert set(app.jobs) == {"order", "bare", "finish", "other"}
    with pytest.raises(TypeError):
        app.jobs["mine"] = app.jobs["bare"]  # type: ignore[index]  # that is what is rejected
    assert app.get_job("bare") is app.jobs["bare"]
    assert app.get_job("nobody") is None


def test_a_name_that_is_not_registered_lists_those_that_are(app: durably.Durably) -> None:
    """``jobs[...]`` raises a KeyError, and the engine's calls a NotFoundError, that say so."""
    with pytest.raises(KeyError) as caught:
        app.jobs["ordr"]
    assert "no job 'ordr' is registered" in str(caught.value)
    assert "'bare', 'finish', 'order', 'other'" in str(caught.value)
    for call in (
        lambda: app.trigger("ordr", ["nut"]),
        lambda: app.trigger_and_wait("ordr"),
        lambda: app.batch_trigger("ordr", []),
    ):
        with pytest.raises(durably.NotFoundError, match="'bare', 'finish', 'order', 'other'"):
            call()
    assert app.count_runs() == 0


def test_the_mapping_of_jobs_shows_itself(app: durably.Durably, tmp_path: Path) -> None:
    """It is a Mapping whose repr has the names, which a notebook offers with a TAB."""
    jobs = app.jobs
    assert isinstance(jobs, Mapping)
    assert repr(jobs) == "<jobs: 'order', 'bare', 'finish', 'other'>"
    assert jobs._ipython_key_completions_() == ["order", "bare", "finish", "other"]
    assert dict(jobs) == dict(jobs.items())
    assert (len(jobs), "bare" in jobs, "x" in jobs, jobs.get("x")) == (4, True, False, None)
    app.register(durably.Job("late", bare.run))
    assert ("late" in jobs, "late" in app.jobs) == (False, True)
    with durably.Durably(tmp_path / "none.db") as empty:
        assert repr(empty.jobs) == "<jobs: none>"
        with pytest.raises(KeyError, match="register it first"):
            empty.jobs["x"]


def test_a_job_is_not_a_key_of_the_mapping_of_jobs(app: durably.Durably) -> None:
    """The message shows the key, whether the job is registered or not."""
    for job in (order, durably.Job("strange", bare.run)):
        with pytest.raises(KeyError, match=rf"is a job.*app\.jobs\['{job.name}'\]"):
            app.jobs[job]  # type: ignore[index]


def test_a_handle_is_not_a_job(app: durably.Durably) -> None:
    """Calls that take a job say what to do with its handle."""
    with pytest.raises(durably.ValidationError, match="call the handle's own methods"):
        app.trigger(app.jobs["bare"])  # type: ignore[call-overload]


def test_the_engines_calls_take_a_job_or_its_name(app: durably.Durably) -> None:
    """Both trigger the same job, with the same options as its handle."""
    app.start()
    options: dict[str, Any] = {"labels": {"a": "b"}, "timeout": 20}
    for given in (order, "order"):
        run = app.trigger(given, ["nut"], idempotency_key="k", labels={"a": "b"})
        assert (run.job_name, run.payload, run.labels) == ("order", ["nut"], {"a": "b"})
    assert run.disposition == "idempotent"
    for given in (finish, "finish"):
        assert app.trigger_and_wait(given, 7, **options).output == 7
        with pytest.raises(durably.RunFailedError):
            app.trigger_and_wait(given, "fail", **options)
        runs = app.batch_trigger(given, [1, durably.Trigger(2, labels={"n": "2"})])
        assert [each.payload for each in runs] == [1, 2]


def test_a_job_that_is_not_registered_is_registered(app: durably.Durably) -> None:
    """A trigger registers by the rules of ``register``: another function's name is a conflict."""

    def define(result: str) -> durably.Job[None, str]:
        @durably.job
        def fresh(step: durably.StepContext) -> str:
            return result

        return fresh

    first, second = define("old"), define("new")
    run = app.trigger(first)
    assert app.jobs["fresh"].job is first
    app.trigger(second)
    assert app.jobs["fresh"].job is second
    assert app.run_until_idle() == 2
    assert app.get_run(run).output == "new"
    with pytest.raises(durably.ConflictError, match="another function"):
        app.trigger(durably.Job("fresh", bare.run))
    assert app.jobs["fresh"].job is second
    assert app.count_runs() == 2


@pytest.mark.parametrize("value", [bare.run, None, 5, ["bare"]], ids=plainly)
def test_what_is_neither_a_job_nor_a_name_is_rejected(app: durably.Durably, value: Any) -> None:
    """The message says what the call takes, and shows how to make a job of a function."""
    for name, arguments in (("trigger", ()), ("trigger_and_wait", ()), ("batch_trigger", ([],))):
        with pytest.raises(durably.ValidationError, match=f"^{name} takes a Job or its name.*@job"):
            getattr(app, name)(value, *arguments)


def test_the_same_function_again_replaces_the_old_one(app: durably.Durably) -> None:
    """A cell that runs again registers its new function, which pending runs get too."""

    def define(result: str) -> durably.Job[None, str]:
        @durably.job
        def cell(step: durably.StepContext) -> str:
            return result

        return cell

    handle = app.register(define("old"))
    run = handle.trigger()
    app.register(define("new"))

    assert app.process_one()
    assert app.wait(run).output == "new"


def test_another_function_under_a_name_that_is_taken_is_a_conflict(app: durably.Durably) -> None:
    """It is rejected, and the first one stays."""
    with pytest.raises(durably.ConflictError, match="order"):
        app.register(durably.Job("order", bare.run))
    assert app.jobs["order"].job is order


def test_a_handle_reads_the_runs_of_its_job_alone(app: durably.Durably) -> None:
    """``get_run`` and ``get_runs`` of a handle do not see other jobs' runs."""
    mine = app.jobs["bare"].trigger(labels={"a": "1"})
    other_run = app.jobs["other"].trigger(1, labels={"a": "1"})
    unlabelled = app.jobs["bare"].trigger()

    assert app.jobs["bare"].get_run(other_run.id) is None
    assert whole(app.jobs["bare"].get_run(mine.id)) == whole(app.get_run(mine))
    assert [run.id for run in app.jobs["bare"].get_runs(labels={"a": "1"})] == [mine.id]
    assert app.jobs["bare"].get_runs(status="completed") == []
    assert [run.id for run in app.jobs["bare"].get_runs()] == [unlabelled.id, mine.id]
    assert [run.id for run in app.jobs["bare"].get_runs(limit=1)] == [unlabelled.id]
    assert [run.id for run in app.jobs["bare"].get_runs(offset=1)] == [mine.id]
    with pytest.raises(durably.ValidationError):
        app.jobs["bare"].get_runs(limit=-1)


def test_a_run_is_stored_though_nothing_executes_it(app: durably.Durably, tmp_path: Path) -> None:
    """When trigger returns, another engine sees the run."""
    run = app.jobs["order"].trigger(["nut"])
    second = durably.Durably(tmp_path / "durably.db", jobs=[order])
    try:
        assert whole(second.get_run(run.id)) == whole(run)
    finally:
        second.close()


def test_a_closed_engine_triggers_nothing(tmp_path: Path) -> None:
    """Its handles raise EngineClosedError."""
    app = durably.Durably(tmp_path / "durably.db", jobs=[bare])
    handle = app.jobs["bare"]
    app.close()
    for call in (handle.trigger, handle.trigger_and_wait, lambda: handle.batch_trigger([])):
        with pytest.raises(durably.EngineClosedError):
            call()


def test_jobs_is_read_only_and_no_property(app: durably.Durably) -> None:
    """IPython evaluates no property, and would complete no names after ``app.jobs["``."""
    assert not isinstance(inspect.getattr_static(durably.Durably, "jobs"), property)
    assert "versionadded" in (inspect.getdoc(durably.Durably.jobs) or "")
    with pytest.raises(AttributeError, match="jobs is read-only"):
        app.jobs = {}  # type: ignore[assignment]
    assert "order" in app.jobs
