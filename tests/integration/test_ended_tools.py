"""The signal that stops a script ends the tools that its steps run as well, and first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from children import Child, Eventually
from engines import GRACE_S, engine, execute, record, types

import durably
import durably.execution.current_run


def ended_by(number: int) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(-number, ["tool"])


def in_a_step(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    return step.run("s", tool, step._run.fence)


def outside_of_steps(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    return tool(step._run.fence)


def in_the_last_try(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    return step.options(retry=durably.Retry(attempts=1)).run("s", tool, step._run.fence)


def in_an_earlier_try(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    return step.options(retry=durably.Retry(attempts=9, wait=0)).run("s", tool, step._run.fence)


def in_a_thread(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(step.run("s", tool, step._run.fence))
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0] if outcome[0] == "done" else "kept to itself"


def kept_to_itself(step: durably.StepContext, tool: Callable[[int], Any]) -> Any:
    try:
        return step.run("s", tool, step._run.fence)
    except Exception:
        return "kept to itself"


PLACES: Final = [
    in_a_step,
    outside_of_steps,
    in_the_last_try,
    in_an_earlier_try,
    in_a_thread,
    kept_to_itself,
]


def stop(app: durably.Durably) -> None:
    app.stop()


def interrupt(app: durably.Durably) -> None:
    app.stop(interrupt=True)


def leave(app: durably.Durably) -> None:
    app.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


@pytest.mark.parametrize("how", [stop, interrupt, leave], ids=lambda how: how.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_what_a_signal_fails_waits_for_the_stop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    place: Callable[..., Any],
    how: Callable[[durably.Durably], None],
) -> None:
    """The stop comes after the failure: nothing has failed, and the next execution does it anew."""
    monkeypatch.setattr(durably.execution.current_run, "STOP_GRACE_S", GRACE_S)
    calls = []

    def tool(execution: int) -> str:
        calls.append(execution)
        if execution == 1:
            raise ended_by(signal.SIGINT)
        return "done"

    def job(step: durably.StepContext) -> Any:
        return place(step, tool)

    with engine(tmp_path, job) as app:
        events = record(app)
        app.start()
        run = app.jobs["job"].trigger()
        eventually(lambda: any(active._awaiting for active in app._supervisor.current_runs()))
        how(app)
    assert types(events)[-1] == "run:interrupt"
    assert "step:fail" not in types(events)
    assert calls == [1]
    with engine(tmp_path, job) as app:
        assert (app.get_run(run).status, app.get_steps(run)) == ("pending", [])
        assert app.process_one()
        assert app.get_run(run).output == "done"


@pytest.mark.parametrize("interrupt", [False, True])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_what_a_signal_fails_after_the_stop_was_asked_for(
    tmp_path: Path, place: Callable[..., Any], interrupt: bool
) -> None:
    """It need not wait: the run goes back, also where the stop lets runs come to their end."""
    is_inside, may_go_on = threading.Event(), threading.Event()

    def tool(execution: int) -> str:
        if execution == 1:
            is_inside.set()
            assert may_go_on.wait(GRACE_S)
            raise ended_by(signal.SIGTERM)
        return "done"

    def job(step: durably.StepContext) -> Any:
        return place(step, tool)

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(interrupt=interrupt, timeout=0)
        may_go_on.set()
        app.stop()
        assert (app.get_run(run).status, app.get_steps(run)) == ("pending", [])
        assert app.process_one()
        assert app.get_run(run).output == "done"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fails_again", [False, True])
def test_leaving_the_block_puts_it_back_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    when: str,
    fails_again: bool,
) -> None:
    """A handler may have set what the main thread waited for: the run is executed once more.

    What fails in its next execution has failed: leaving the block is no stop that goes on and on.
    """
    monkeypatch.setattr(
        durably.execution.current_run, "STOP_GRACE_S", GRACE_S if when == "before" else 0.01
    )
    is_inside, may_go_on = threading.Event(), threading.Event()
    calls = []

    def tool(execution: int) -> str:
        calls.append(execution)
        if execution == 1:
            is_inside.set()
            assert when == "before" or may_go_on.wait(GRACE_S)
        if execution == 1 or fails_again:
            monkeypatch.setattr(
                durably.execution.current_run, "STOP_GRACE_S", GRACE_S if execution == 1 else 0.01
            )
            raise ended_by(signal.SIGTERM)
        return "done"

    def job(step: durably.StepContext) -> str:
        return step.run("s", tool, step._run.fence)

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        (active,) = app._supervisor.current_runs()
        if when == "before":
            eventually(lambda: active._awaiting)
        leaving = threading.Thread(target=app.__exit__, args=(None, None, None))
        leaving.start()
        eventually(lambda: active._is_stopping or active.is_over)
        may_go_on.set()
        leaving.join(GRACE_S)
    with engine(tmp_path) as app:
        assert app.get_run(run).status == ("failed" if fails_again else "completed")
    assert calls == [1, 2]


def test_a_stop_that_is_over_has_no_effect_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop has timed out and the engine was started again, a run fails like any other."""
    monkeypatch.setattr(durably.execution.current_run, "STOP_GRACE_S", 0.01)
    is_inside, may_go_on = threading.Event(), threading.Event()

    def job(step: durably.StepContext) -> None:
        is_inside.set()
        assert may_go_on.wait(GRACE_S)
        raise ended_by(signal.SIGTERM)

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(timeout=0)
        app.start()
        may_go_on.set()
        with pytest.raises(durably.RunFailedError):
            app.wait(run, timeout=GRACE_S)
        app.stop()
        app.retry(run)
        assert app.process_one()
        assert app.get_run(run).status == "failed"


@pytest.mark.parametrize("place", PLACES[:5], ids=lambda place: place.__name__)
def test_without_a_stop_it_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[..., Any]
) -> None:
    """Somebody has ended the tool alone: the step and the run have failed, after a moment."""
    monkeypatch.setattr(durably.execution.current_run, "STOP_GRACE_S", 0.01)

    def tool(_: int) -> None:
        raise ended_by(signal.SIGTERM)

    def job(step: durably.StepContext) -> Any:
        return place(step, tool)

    with engine(tmp_path, job) as app:
        run = execute(app)
        if place is not in_a_thread:
            assert (run.status, run.error.type) == ("failed", "subprocess.CalledProcessError")
        steps = [each.status for each in app.get_steps(run)]
        assert steps == ([] if place is outside_of_steps else ["failed"])


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_a_wait_for_a_stop_ends_with_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, how: str
) -> None:
    """Also in the calling thread of ``process_one``, by a cancellation or another thread's stop."""
    monkeypatch.setattr(durably.execution.current_run, "STOP_GRACE_S", GRACE_S)

    def fail() -> None:
        raise ended_by(signal.SIGINT)

    def job(step: durably.StepContext) -> None:
        step.run("s", fail)

    def end() -> None:
        eventually(lambda: any(active._awaiting for active in app._supervisor.current_runs()))
        if how == "cancelled":
            app.cancel(run)
        else:
            app.stop(interrupt=True)

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        ending = threading.Thread(target=end)
        ending.start()
        assert app.process_one()
        ending.join(GRACE_S)
        steps = [each.status for each in app.get_steps(run)]
        assert (app.get_run(run).status, steps) == (
            ("cancelled", ["cancelled"]) if how == "cancelled" else ("pending", [])
        )


@pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals")
@pytest.mark.parametrize("tool", ["program", "shell", "processes"])
@pytest.mark.parametrize(
    ("number", "handler"),
    [
        (signal.SIGINT, "nothing"),
        (signal.SIGTERM, "interrupts"),
        (signal.SIGTERM, "exits"),
        (signal.SIGTERM, "stops"),
    ],
    ids=["Ctrl-C", "SIGTERM that interrupts", "SIGTERM that exits", "SIGTERM that stops"],
)
def test_a_signal_to_the_whole_group_interrupts_the_run(
    tmp_path: Path, tool: str, number: int, handler: str
) -> None:
    """As a terminal and a service manager send it: pending, and done at the next start."""
    if tool == "processes" and handler == "stops":
        pytest.skip("children that are forked would stop their parent's engine")
    database = tmp_path / "durably.db"
    with Child("runs_a_tool", database, tool, handler, has_group=True) as child:
        child.expect("inside")
        os.killpg(child.pid, number)
        assert child.wait() != 0
    with engine(tmp_path) as app:
        (run,) = app.get_runs()
        assert (run.status, run.error, app.get_steps(run)) == ("pending", None, [])
    with Child("runs_a_tool", database, tool, handler, has_group=True) as child:
        assert child.rest() == ["done"]
    with engine(tmp_path) as app:
        assert [(again.id, again.attempt) for again in app.get_runs()] == [(run.id, 1)]


@pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals")
@pytest.mark.parametrize("tool", ["program", "shell"])
def test_a_signal_that_has_a_script_leave_its_block_fails_no_run(tmp_path: Path, tool: str) -> None:
    """The handler sets what the main thread waits for, and the block ends when all is done."""
    with Child("runs_a_tool", tmp_path / "durably.db", tool, "sets", has_group=True) as child:
        child.expect("inside")
        os.killpg(child.pid, signal.SIGTERM)
        assert child.rest() == ["done"]
