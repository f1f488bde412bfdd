"""Child runs: triggered once, waited for without a thread, cancelled with their parent."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from engines import engine, execute, take_over

import durably
from durably.entry.read_only import open_read_only
from durably.errors import RunCancelledError, RunFailedError


def child(step: durably.StepContext, number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number * 2


def test_a_parent_waits_for_its_children_without_a_thread(tmp_path: Path) -> None:
    """Their outputs come in the order of the runs; they know their parent."""

    def parent(step: durably.StepContext) -> list[int]:
        runs = [step.trigger(f"child {n}", "child", n, concurrency_key="k") for n in (1, 2)]
        return [*step.wait_for(runs), step.wait_for(runs[0]), step.call("third", "child", 3)]

    with engine(tmp_path, parent, child) as app:
        run = app.jobs["parent"].trigger()
        assert app.process_one()
        waiting = app.get_run(run)
        assert waiting is not None
        children = app.get_runs(parent=run)
        assert [each.parent_id for each in children] == [run.id, run.id]
        assert waiting.waiting_for is not None
        assert (waiting.waiting_for.kind, waiting.waiting_for.run_id) == ("run", children[1].id)
        app.run_until_idle()
        done = app.get_run(run)
        assert done is not None
        assert (done.output, done.attempt) == ([2, 4, 2, 6], 1)
        assert len(app.get_runs(parent=run)) == 3
        app.delete_run(run)
        assert app.count_runs() == 3
        assert app.get_runs(parent=run) == []


def test_all_that_are_waited_for_have_ended_when_one_has_failed(tmp_path: Path) -> None:
    """The first one that has failed, in their order, is raised."""
    raised: list[Any] = []

    def parent(step: durably.StepContext) -> None:
        runs = [step.trigger(f"child {n}", "child", n) for n in (1, -2, -3)]
        runs.append(step.trigger("later", "child", 4, delay=3600))
        try:
            step.wait_for(runs)
        except RunFailedError as exc:
            raised.append(exc.run.payload)

    with engine(tmp_path, parent, child) as app:
        run = app.jobs["parent"].trigger()
        app.run_until_idle(raise_failed=False)
        [later] = app.get_runs(parent=run, status="pending")
        waiting = app.get_run(run)
        assert waiting is not None
        assert waiting.waiting_for is not None
        assert (raised, waiting.waiting_for.run_id) == ([], later.id)
        app.cancel(later)
        app.run_until_idle(raise_failed=False)
        assert raised == [-2]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_number_of_waiting_parents_blocks_their_children(tmp_path: Path, workers: int) -> None:
    """More parents than workers, each with a child that is a parent, in a started engine."""

    def parent(step: durably.StepContext, depth: int) -> int:
        return depth and 1 + step.call("child", "parent", depth - 1)

    with engine(tmp_path, parent, max_workers=workers) as app:
        app.start()
        runs = app.jobs["parent"].batch_trigger([3] * 5)
        assert [app.wait(run, timeout=60).output for run in runs] == [3] * 5
        app.stop()
        assert app.count_runs() == 20


def test_app_run_executes_the_children_that_it_waits_for(tmp_path: Path) -> None:
    """On an engine that is not started, in its thread, and theirs; not what else is pending."""
    threads = set()

    def parent(step: durably.StepContext, depth: int) -> int:
        threads.add(threading.get_ident())
        runs = [step.trigger(f"c{n}", "parent", depth - 1) for n in range(2)] if depth else []
        return 1 + sum(step.wait_for(runs))

    with engine(tmp_path, parent, child) as app:
        other = app.jobs["child"].trigger(1)
        assert app.run("parent", 2).output == 7
        assert threads == {threading.get_ident()}
        assert app.get_run(other).status == "pending"


@pytest.mark.parametrize("how", ["fails", "is cancelled", "is deleted"])
def test_what_becomes_of_a_child_is_raised_in_its_parent(tmp_path: Path, how: str) -> None:
    """The parent is not cancelled by it, and may go on."""
    errors = {
        "fails": RunFailedError,
        "is cancelled": RunCancelledError,
        "is deleted": durably.NotFoundError,
    }

    def parent(step: durably.StepContext) -> str:
        run = step.trigger("c", "child", -1)
        with pytest.raises(errors[how]):
            step.wait_for(run)
        return step.run("go on", lambda: "went on")

    with engine(tmp_path, parent, child, raise_failed=False) as app:
        run = execute(app, job="parent")
        [made] = app.get_runs(parent=run)
        if how == "fails":
            assert app.process_one()
            assert app.get_run(made).status == "failed"
        else:
            app.cancel(made)
        assert app.get_run(run).status == "pending"
        if how == "is deleted":
            app.delete_run(made)
        app.run_until_idle()
        # A deleted one cannot even be found at its step.
        assert app.get_run(run).status == ("failed" if how == "is deleted" else "completed")


def test_a_cancel_reaches_all_descendants_that_have_not_ended(tmp_path: Path) -> None:
    """Those that are executed stop at their next step; ended ones stay; each has its event."""
    inside, leave = threading.Event(), threading.Event()

    def parent(step: durably.StepContext, depth: int) -> None:
        step.call("done", "child", 1)
        if depth:
            step.call("next", "parent", depth - 1)
        inside.set()
        assert leave.wait(20)
        step.check()

    with engine(tmp_path, parent, child) as app:
        cancelled: list[str] = []
        app.on("run:cancel", lambda event: cancelled.append(event.run_id))
        app.start()
        run = app.jobs["parent"].trigger(2)
        assert inside.wait(20)
        app.cancel(run)
        leave.set()
        app.stop()
        statuses = [(each.job_name, each.status) for each in app.get_runs()]
        assert sorted(statuses) == [("child", "completed")] * 3 + [("parent", "cancelled")] * 3
        assert len(cancelled) == 3
        with pytest.raises(durably.ConflictError):
            app.cancel(run)


def test_a_child_is_triggered_once_whatever_is_lost_in_between(tmp_path: Path) -> None:
    """After a death between the trigger and its checkpoint; and not by a claim that is lost."""
    dies = [1]

    def parent(step: durably.StepContext) -> int:
        return step.call("c", "child", 4)

    with engine(tmp_path, parent, child) as app:
        children = app._client.children
        trigger = children.trigger

        def and_die(run: Any, *args: Any) -> Any:
            if not dies:
                return trigger(run, *args)
            dies.clear()
            triggered = trigger(run, *args)
            take_over(app)
            assert trigger(run, *args) is None
            return triggered

        class Dying:
            read, ended = children.read, children.ended

        Dying.trigger = staticmethod(and_die)
        app._supervisor.family.runs = lambda: Dying
        run = app.jobs["parent"].trigger()
        app.run_until_idle()
        assert app.get_run(run).output == 8
        assert app.count_runs() == 2


def test_a_child_that_ends_before_its_parent_waits_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the parent has checked, and before that is suspended."""

    def parent(step: durably.StepContext) -> int:
        run = step.trigger("c", "child", 4)
        try:
            return step.wait_for(run)
        finally:
            if not ended:
                ended.append(1)
                with engine(tmp_path, child) as other:
                    assert other.process_one()

    ended: list[int] = []
    with engine(tmp_path, parent, child) as app:
        run = execute(app, job="parent")
        assert run.status == "pending"
        assert app.process_one()
        assert app.get_run(run).output == 8


@pytest.mark.parametrize("wrong", ["x", 1, [1], "self", "job"])
def test_what_cannot_be_waited_for_is_rejected(tmp_path: Path, wrong: Any) -> None:
    """It is no run, or the run itself; or the job is not known."""

    def parent(step: durably.StepContext) -> None:
        expected = {"self": durably.ConflictError, "job": durably.NotFoundError}
        with pytest.raises(expected.get(str(wrong), durably.ValidationError)):
            if wrong == "job":
                step.trigger("c", "no such job")
            else:
                step.wait_for(app.get_run(step.run_id) if wrong == "self" else wrong)

    with engine(tmp_path, parent) as app:
        assert execute(app, job="parent").status == "completed"


def test_children_are_not_purged_before_their_parent(tmp_path: Path) -> None:
    """A parent that still waits, or is retried after a failure, finds the outputs of all."""
    failing = [True]

    def parent(step: durably.StepContext) -> list[int]:
        runs = [step.trigger(f"child {n}", "child", n) for n in (1, 2)]
        step.wait_for(runs)
        step.ask("go on")
        if failing:
            raise ValueError(failing.pop())
        return step.wait_for(runs)

    with engine(tmp_path, parent, child, raise_failed=False) as app:
        run = app.jobs["parent"].trigger()
        app.run_until_idle()
        between = datetime.now(UTC)
        with open_read_only(tmp_path / "durably.db") as look:
            assert look.purgeable(between, keep_failed=False)[0] == 0
        assert app.purge_runs(older_than=between) == 0
        app.answer(run, "go on", 1)
        app.run_until_idle()
        assert app.purge_runs(older_than=between) == 0
        assert app.purge_runs(older_than=0, keep_failed=True) == 0
        app.retry(run)
        app.run_until_idle()
        done = app.get_run(run)
        assert done is not None
        assert done.output == [2, 4]
        assert app.purge_runs(older_than=0) == 3


def test_a_retry_of_a_parent_retries_its_children_that_failed(tmp_path: Path) -> None:
    """It retries theirs too, at every depth; what has completed is not executed again."""
    executed: list[str] = []
    is_mended = threading.Event()

    def parent(step: durably.StepContext, depth: int) -> int:
        executed.append(f"parent {depth}")
        good = step.call("good", "leaf", 1)
        return good + step.call("next", "parent" if depth else "leaf", depth - 1)

    def leaf(step: durably.StepContext, number: int) -> int:
        executed.append(f"leaf {number}")
        if number < 0 and not is_mended.is_set():
            raise ValueError(number)
        return number

    with engine(tmp_path, parent, leaf) as app:
        retried: list[str] = []
        app.on("run:retry", lambda event: retried.append(event.run_id))
        run = app.jobs["parent"].trigger(1)
        app.run_until_idle(raise_failed=False)
        assert app.get_run(run).status == "failed"
        failed = {each.id for each in app.get_runs(status="failed")}
        assert len(failed) == 3
        is_mended.set()
        executed.clear()
        app.retry(run)
        assert set(retried) == failed
        app.run_until_idle()
        assert app.get_run(run).output == 1
        assert executed.count("leaf 1") == 0
        assert executed.count("leaf -1") == 1


def test_a_retry_of_a_cancelled_parent_takes_its_children_along(tmp_path: Path) -> None:
    """They were cancelled with it."""

    def parent(step: durably.StepContext) -> list[int]:
        return step.wait_for([step.trigger(f"c{n}", "child", n) for n in (1, 2)])

    with engine(tmp_path, parent, child) as app:
        run = app.jobs["parent"].trigger()
        assert app.process_one()
        app.cancel(run)
        assert {each.status for each in app.get_runs()} == {"cancelled"}
        app.retry(run)
        app.run_until_idle()
        assert app.get_run(run).output == [2, 4]
        assert app.count_runs() == 3
