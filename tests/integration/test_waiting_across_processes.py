"""Waiting here for what another process executes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import Call
from children import Child
from held import other, told
from invariants import check

import durably


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


@pytest.fixture
def app(path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started, and so executes nothing itself."""
    opened = durably.Durably(path, jobs=[told, other])
    yield opened
    opened.close()


@pytest.fixture
def child(app: durably.Durably, path: Path) -> Iterator[Child]:
    """A started process that knows the job."""
    with Child("worker", path, "started") as started:
        started.expect("ready")
        yield started


def test_a_completed_run_comes_back(app: durably.Durably, child: Child) -> None:
    """With the output that the other process has stored."""
    waiting = Call(lambda: app.jobs["told"].trigger_and_wait({"a": [1]}))
    child.expect("inside {'a': [1]}")
    child.say("return the result")
    run = waiting.result()
    assert (run.output, run.status, run.disposition) == ("the result", "completed", "created")
    assert (run.attempt, run.completed_steps) == (1, 1)


def test_a_failed_run_raises(app: durably.Durably, child: Child) -> None:
    """RunFailedError has the error and the traceback from there."""
    waiting = Call(lambda: app.jobs["told"].trigger_and_wait(1))
    child.expect("inside 1")
    child.say("fail for a reason")
    error = waiting.result()
    assert isinstance(error, durably.RunFailedError)
    assert str(error.run.error) == "ValueError: for a reason"
    assert "in obey" in error.run.error.traceback


def test_a_cancelled_run_raises_and_its_process_learns_of_it(
    app: durably.Durably, child: Child
) -> None:
    """The wait ends at once, the job at its next boundary, without waiting for a heartbeat."""
    run = app.jobs["told"].trigger(1)
    child.expect("inside 1")
    waiting = Call(lambda: app.wait(run))
    app.cancel(run)
    assert isinstance(waiting.result(), durably.RunCancelledError)
    child.say("return too late")
    child.expect("stopped RunCancelled")
    assert app.get_run(run).output is None


def test_a_heartbeat_reports_the_job_of_its_cancellation(app: durably.Durably, path: Path) -> None:
    """step.check raises without any step boundary, once the process has beaten."""
    with Child("worker", path, "started", "beats") as c:
        c.expect("ready")
        run = app.jobs["told"].trigger(1)
        c.expect("inside 1")
        app.cancel(run)
        while True:
            c.say("check")
            if (line := c.line()) != "did check":
                break
        assert line == "stopped RunCancelled"


def test_as_completed_mixes_processes(app: durably.Durably, child: Child) -> None:
    """Runs of here and of there come as they end."""
    there = [app.jobs["told"].trigger(n) for n in (1, 2)]
    here = app.jobs["other"].trigger(3)
    assert {child.line(), child.line()} == {"inside 1", "inside 2"}
    found = app.as_completed([*there, here])
    assert app.process_one()
    assert next(found).id == here.id
    child.say("return x")
    first = next(found)
    child.say("fail y")
    assert child.line() == "stopped ValueError"
    second = next(found)
    assert {first.id, second.id} == {run.id for run in there}
    assert (first.output, second.status) == ("x", "failed")
    assert list(found) == []


def test_progress_comes_from_another_process(app: durably.Durably, child: Child) -> None:
    """In the waiting thread, from the start of the wait on, the last one always."""
    run = app.jobs["told"].trigger(1)
    child.expect("inside 1")
    heard: list[tuple[int, durably.Progress]] = []
    has_come = threading.Semaphore(0)

    def on_progress(progress: durably.Progress) -> None:
        heard.append((threading.get_ident(), progress))
        has_come.release()

    threads: list[int] = []
    waiting = Call(
        lambda: (threads.append(threading.get_ident()), app.wait(run, on_progress=on_progress))
    )
    number = 0
    while not has_come.acquire(timeout=0.05):  # until the wait has begun
        number += 1
        child.say(f"progress {number}")
        child.expect("did progress")
    child.say("progress 1000000")
    child.expect("did progress")
    child.say("return x")
    waiting.result()

    assert heard[-1][1] == durably.Progress(1_000_000, 10, "there")
    assert {thread for thread, _ in heard} == set(threads)
    currents = [progress.current for _, progress in heard]
    assert currents == sorted(set(currents))
    assert app.get_run(run).progress == durably.Progress(1_000_000, 10, "there")


@pytest.mark.parametrize("is_persisted", [True, False])
def test_log_lines_come_from_another_process_where_they_are_persisted(
    app: durably.Durably, path: Path, is_persisted: bool
) -> None:
    """In order, each once, with the step they belong to; otherwise there are none."""
    lines: list[durably.LogEntry] = []
    with Child("worker", path, "started", *(["logs"] if is_persisted else [])) as child:
        child.expect("ready")
        earlier = app.jobs["told"].trigger(0)
        child.expect("inside 0")
        child.say("log of another run")
        child.expect("did log")
        child.say("return x")
        app.wait(earlier)
        waiting = Call(lambda: app.jobs["told"].trigger_and_wait(1, on_log=lines.append))
        child.expect("inside 1")
        for number in range(5):
            child.say(f"log line {number}")
            child.expect("did log")
        child.say("return x")
        run = waiting.result()
    expected = [f"line {number}" for number in range(5)] if is_persisted else []
    assert [line.message for line in lines] == expected
    assert {(line.step_name, line.level) for line in lines} == (
        {("obey", "info")} if is_persisted else set()
    )
    assert app.get_logs(run) == lines


def test_a_run_deleted_by_another_engine_is_not_found(app: durably.Durably, path: Path) -> None:
    """Cancelled and deleted elsewhere, whatever of it the waiter saw, it does not wait for ever."""
    run = app.jobs["told"].trigger(1)
    waiting = Call(lambda: app.wait(run, timeout=60))
    elsewhere = durably.Durably(path)
    try:
        elsewhere.cancel(run)
        elsewhere.delete_run(run)
    finally:
        elsewhere.close()
    assert isinstance(waiting.result(), durably.NotFoundError | durably.RunCancelledError)
    with pytest.raises(durably.NotFoundError):
        app.wait(run)


def test_a_run_goes_on_in_another_process_when_its_own_dies(
    app: durably.Durably, child: Child, path: Path
) -> None:
    """The wait goes on through it, and the second process executes the step again."""
    waiting = Call(lambda: app.jobs["told"].trigger_and_wait(1))
    child.expect("inside 1")
    with Child("worker", path, "started") as second:
        second.expect("ready")
        child.kill()
        second.expect("inside 1")
        second.say("return from the second")
        run = waiting.result()
    assert (run.output, run.attempt) == ("from the second", 2)


def test_two_processes_trigger_one_key(app: durably.Durably, path: Path) -> None:
    """Idempotency keys are unique across processes: eight of them make one run."""
    children = [Child("triggers_with_a_key", path) for _ in range(4)]
    try:
        for each in children:
            each.expect("ready")
        for each in children:
            each.say()
        said = [each.line().split() for each in children]
        assert [each.wait() for each in children] == [0] * 4
    finally:
        for each in children:
            each.__exit__(None, None, None)
    assert len({run_id for run_id, _ in said}) == 1
    assert sorted(how for _, how in said) == ["created"] + ["idempotent"] * 3
    assert app.count_runs() == 1


def test_a_run_triggered_elsewhere_is_noticed_long_before_the_poll(path: Path) -> None:
    """A started engine sees other processes' triggers by itself, whatever the interval."""
    with durably.Durably(path, jobs=[told], poll_interval=3600) as app:
        triggering = durably.Durably(path, jobs=[told])
        try:
            run = triggering.jobs["told"].trigger(1)
            assert triggering.wait(run, timeout=60).output == "here"
        finally:
            triggering.close()
        assert app.get_run(run).output == "here"
