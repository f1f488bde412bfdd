"""Registering jobs, and the handles that trigger and read their runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import whole
from held import finish, other

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
        app.jobs["mine"] = app.jobs["bare"]  # type: ignore[index]  # that is what is refused
    assert app.get_job("bare") is app.jobs["bare"]
    assert app.get_job("nobody") is None


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
    """It is refused, and the first one stays."""
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
