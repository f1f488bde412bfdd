"""A run that came from an engine can be asked; as a value it is what it was."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from engines import engine
from held import HeldJob

import durably
from durably.models import RunList
from durably.models.records import AttemptList, ItemList, LogList, StepList


def squares(step: durably.StepContext, count: int) -> int:
    step.log.info("begun", count=count)
    done = step.map("squares", lambda n: n * n, range(count))
    return step.run("sum", sum, done)


def fails(step: durably.StepContext) -> None:
    step.run("good", int)
    raise ValueError("no")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[durably.Durably]:
    with engine(tmp_path, squares, fails, persist_logs=True) as app:
        yield app


def test_a_run_is_asked_for_its_result_and_all_that_belongs_to_it(app: durably.Durably) -> None:
    """What the engine would answer, as it is now; the run itself stays what it was."""
    run = app.trigger("squares", 5)
    assert run.steps == []
    assert run.refresh().status == "pending"
    with pytest.raises(durably.NoWorkerError):
        run.result()
    with pytest.raises(durably.WaitTimeoutError):
        run.result(0)

    app.run_until_idle()

    assert (run.status, run.refresh().status) == ("pending", "completed")
    assert run.result() == run.result(timeout=5) == run.wait().output == 30
    assert run.steps == app.steps(run) == app.get_steps(run)
    assert [step.name for step in run.steps] == ["squares", "sum"]
    assert [item.output for item in run.items("squares")] == [0, 1, 4, 9, 16]
    assert [item.key for item in run.items("squares", limit=2, offset=1)] == [1, 2]
    assert run.items("squares", status="failed") == run.items("none") == []
    assert [line.message for line in run.logs] == ["begun"]
    assert run.attempts == app.get_attempts(run)
    assert [(each.attempt, each.outcome) for each in run.attempts] == [(1, "completed")]
    seen: list[object] = []
    assert run.wait(timeout=1, on_progress=seen.append, on_log=seen.append) == run
    for each, kind in (
        (run.steps, StepList),
        (run.items("squares"), ItemList),
        (run.logs, LogList),
        (run.attempts, AttemptList),
    ):
        assert type(each) is type(each[:1]) is kind


def test_a_run_is_cancelled_and_retried_by_itself(app: durably.Durably) -> None:
    """Each returns what ``Durably.cancel`` and ``Durably.retry`` would, and raises the same."""
    run = app.trigger("fails")
    assert run.cancel() is None  # type: ignore[func-returns-value]  # as ``Durably.cancel``
    with pytest.raises(durably.RunCancelledError):
        run.result()
    with pytest.raises(durably.ConflictError, match="cancelled"):
        run.cancel()
    again = run.retry()
    assert (again, again.status) == (run, "pending")
    app.run_until_idle(raise_failed=False)
    for call in (run.result, run.wait):
        with pytest.raises(durably.RunFailedError, match="failed after 1 completed step") as failed:
            call()
        # It came from the same engine, and durably's own frames are not shown.
        assert [step.name for step in failed.value.run.steps] == ["good"]
        files = {frame.filename for frame in traceback.extract_tb(failed.value.__traceback__)}
        assert files == {__file__}
    app.delete_run(run)
    asked: list[Callable[[], object]] = [run.refresh, run.result, run.wait, run.retry, run.cancel]
    for ask in [*asked, lambda: run.steps, lambda: run.attempts, lambda: run.items("x")]:
        with pytest.raises(durably.NotFoundError, match="no run"):
            ask()


def test_every_run_that_a_call_hands_out_can_be_asked(tmp_path: Path) -> None:
    """By whatever way it came, with its disposition, and after an engine of one call too."""
    with engine(tmp_path, squares, fails) as app:
        found = [
            app.trigger("squares", 1),
            *app.batch_trigger("squares", [2, 3]),
            *app.jobs["squares"].batch_trigger([4]),
        ]
        app.run_until_idle()
        found += [
            app.run("squares", 5, key="k"),
            app.run("squares", 5, key="k"),
            app.trigger_and_wait("squares", 5, idempotency_key="k"),
            app.wait(found[0]),
            app.retrigger(found[0]),
            *app.as_completed(found[:2]),
            *app.runs(),
            *app.get_runs(),
            *app.jobs["squares"].get_runs(),
        ]
        one = app.get_run(found[0])
        assert one is not None
        app.trigger("fails")
        with pytest.raises(durably.RunsFailedError) as failed:
            app.run_until_idle()
        found += [one, *failed.value.runs]
        for run in found:
            assert run.refresh() == run
        dispositions = [run.disposition for run in found[4:7]]
        assert dispositions == ["created", "idempotent", "idempotent"]
    with pytest.raises(durably.EngineClosedError):
        found[0].refresh()
    with durably.session("s", tmp_path / "durably.db") as step:
        step.run("one", int)
        assert [each.name for each in step.get_run().steps] == ["one"]


def test_as_a_value_a_run_has_no_engine(app: durably.Durably) -> None:
    """It is equal, pickles, copies and shows itself without it, and says so if it is asked."""
    run = app.run("squares", 3)
    values: list[durably.Run[Any, Any]] = [
        pickle.loads(pickle.dumps(run)),
        copy.copy(run),
        copy.deepcopy(run),
        attrs.evolve(run, attempt=2),
        durably.Run(**attrs.asdict(run, recurse=False)),
    ]
    assert "_engine" not in attrs.asdict(run)
    assert "engine" not in repr(run)
    for value in values:
        assert value == run
        assert hash(value) == hash(run)
        assert attrs.evolve(value, attempt=1).to_dict() == run.to_dict()
        asked: list[Callable[[], object]] = [value.result, value.refresh, value.cancel, value.retry]
        for ask in [*asked, value.wait, lambda v=value: v.attempts, lambda v=value: v.logs]:
            with pytest.raises(durably.ConflictError, match=r"came from no engine.*app\.get_run"):
                ask()
    assert pickle.loads(pickle.dumps(app.runs())) == app.runs()
    assert type(pickle.loads(pickle.dumps(app.runs()))) is RunList


def test_a_run_that_is_executed_is_asked_as_well(tmp_path: Path) -> None:
    """It says how far it is, and its result is waited for."""
    with engine(tmp_path) as app, HeldJob() as held:
        app.start()
        run = app.trigger(held.job, "x")
        held.inside()
        assert (run.refresh().status, run.refresh().completed_steps) == ("running", 1)
        assert [step.name for step in run.steps] == ["first"]
        held.let_go()
        assert run.result(timeout=20) == "x"
