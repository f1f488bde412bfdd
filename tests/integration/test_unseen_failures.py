"""Nothing fails unseen: the end of a block, or of run_until_idle, raises what nobody has seen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import in_thread
from children import execute
from engines import GRACE_S, engine

import durably
from durably.client import failed_runs
from durably.events import Event, RunEvent, RunFailed

# How a run is to end, by attempt; the last one stands for all that follow.
Endings = list[str]


@durably.job
def ends(step: durably.StepContext, endings: Endings) -> str:
    ending = endings[min(step.attempt, len(endings)) - 1]
    if ending == "fail":
        step.run("fails", int, "no number")
    return ending


@durably.job
def other(step: durably.StepContext, payload: Any) -> Any:
    return payload


FAIL = ["fail"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durably.db"


def opened(path: Path, *jobs: Any, **options: Any) -> durably.Durably:
    return durably.Durably(path, jobs=[ends, other, *jobs], synchronous="normal", **options)


def test_leaving_a_block_raises_after_everything_else(path: Path) -> None:
    """All runs are executed and the engine is closed; the error has each failed run."""
    app = opened(path, max_workers=1)
    with pytest.raises(durably.RunsFailedError) as caught, app:
        failed = [app.trigger(ends, FAIL, idempotency_key=key) for key in ("a", "b", None)]
        completed = app.trigger(other, 1)
    with pytest.raises(durably.EngineClosedError):
        app.get_run(completed)
    with opened(path) as after:
        assert after.count_runs(status="completed") == 1

    error = caught.value
    assert error.runs == failed[::-1]  # the newest first
    assert repr(error.runs[:2]) == "<2 runs: 2 failed>"
    assert error.runs._repr_html_().count("<tr>") == len(failed) + 1
    assert {run.status for run in error.runs} == {"failed"}
    assert [type(each) for each in error.exceptions] == [durably.RunFailedError] * 3
    assert [each.run for each in error.exceptions if isinstance(each, durably.RunFailedError)] == (
        error.runs
    )
    names = [f"…{run.id[-4:]}" for run in error.runs]
    assert str(error) == (
        "3 runs have failed, and no call has returned them: 3 × ends: ValueError: invalid literal "  # noqa: RUF001
        f"for int() with base 10: 'no number' ({names[0]}, {names[1]} b, {names[2]} a). Completed "
        "steps are kept: fix the cause, then call retry for each of .runs"
    )


def test_the_message_of_one_run_says_what_to_call(path: Path) -> None:
    """It has the whole id, for retry."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        run = app.trigger(ends, FAIL)
    assert str(caught.value) == (
        "1 run has failed, and no call has returned it: ends: ValueError: invalid literal for "
        f"int() with base 10: 'no number' (…{run.id[-4:]}). Completed steps are kept: fix the "
        f"cause, then call retry({run.id!r})"
    )


def test_the_message_counts_by_job_and_error(path: Path) -> None:
    """The largest kind comes first, with some of its runs; beyond five kinds they are counted."""

    def raising(kind: int) -> durably.Job[Any, Any]:
        def fail(step: durably.StepContext) -> None:
            raise ValueError(f"in\nline {kind}")

        return durably.Job(f"job-{kind}", fail)

    jobs = [raising(kind) for kind in range(7)]
    with pytest.raises(durably.RunsFailedError) as caught, opened(path, *jobs) as app:
        for kind, job in enumerate(jobs):
            for _ in range(5 if kind == 3 else 1):
                app.trigger(job)
    text = str(caught.value)
    assert text.startswith("11 runs have failed, and no call has returned them: 5 × job-3: ")  # noqa: RUF001
    assert " and 2 more); " in text
    assert "; 2 other kinds of failure. " in text
    assert "\n" not in text


def _wait(app: durably.Durably, run: Any) -> None:
    with pytest.raises(durably.RunFailedError):
        app.wait(run)


def _wait_in_a_job(app: durably.Durably, run: Any) -> None:
    def catches(step: durably.StepContext) -> None:
        _wait(app, run)

    app.register(durably.Job("catches", catches)).trigger_and_wait()


def _through_another_engine(app: durably.Durably, run: Any) -> None:
    with durably.Durably(app._store.path) as another:
        another.get_run(run)


# What is done after the failure.
SEEN: dict[str, Callable[[durably.Durably, Any], object]] = {
    "wait": _wait,
    "wait by id": lambda app, run: _wait(app, run.id),
    "wait in a job": _wait_in_a_job,
    "as_completed": lambda app, run: list(app.as_completed([run])),
    "get_run": lambda app, run: app.get_run(run),
    "get_run of its job": lambda app, run: app.jobs["ends"].get_run(run),
    "get_runs": lambda app, _: app.get_runs(),
    "get_runs of its job": lambda app, _: app.jobs["ends"].get_runs(status="failed"),
    "subscribe": lambda app, run: list(app.subscribe(run)),
    "retry": lambda app, run: app.wait(app.retry(run)),
    # Nothing executes it between the two.
    "cancel after a retry": lambda app, run: (app.stop(), app.cancel(app.retry(run))),
    "delete_run": lambda app, run: app.delete_run(run),
    "another engine of this process": _through_another_engine,
}
UNSEEN: dict[str, Callable[[durably.Durably, Any], object]] = {
    "nothing": lambda _app, _run: None,
    "count_runs": lambda app, _: app.count_runs(status="failed"),
    "get_steps": lambda app, run: app.get_steps(run),
    "get_logs": lambda app, run: app.get_logs(run),
    "get_run of another job": lambda app, run: app.jobs["other"].get_run(run),
    "get_runs of another job": lambda app, _: app.get_runs(job_name="other"),
    "get_runs of none": lambda app, _: app.get_runs(limit=0),
    "as_completed, not iterated": lambda app, run: app.as_completed([run]),
    "subscribe, not iterated": lambda app, run: app.subscribe(run),
}


@pytest.mark.parametrize("how", SEEN)
def test_a_failure_that_a_call_has_returned_is_seen(path: Path, how: str) -> None:
    """Then leaving the block raises nothing."""
    with opened(path) as app:
        run = app.trigger(ends, ["fail", "completes"])
        app.run_until_idle(raise_failed=False)
        SEEN[how](app, run)


@pytest.mark.parametrize("how", UNSEEN)
def test_a_failure_that_no_call_has_returned_is_not_seen(path: Path, how: str) -> None:
    """Counting runs or reading steps shows nobody that the run has failed."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        run = app.trigger(ends, FAIL)
        app.run_until_idle(raise_failed=False)
        UNSEEN[how](app, run)
    assert caught.value.runs == [run]


def test_trigger_and_wait_is_a_sight(path: Path) -> None:
    """What it raises is not raised once more at the end of the block."""
    with opened(path) as app, pytest.raises(durably.RunFailedError):
        app.trigger_and_wait(ends, FAIL)


@pytest.mark.parametrize("type_", ["run:fail", RunFailed, "*", RunEvent, Event])
def test_a_listener_of_failures_is_a_sight(path: Path, type_: Any) -> None:
    """Also one of a class of events that failures belong to."""
    heard: list[Any] = []
    with opened(path) as app:
        app.on(type_, heard.append)
        app.trigger(ends, FAIL)
    assert any(isinstance(event, RunFailed) for event in heard)


def _raises(_event: Any) -> None:
    raise OSError("no mail server")


@pytest.mark.parametrize(
    "listen",
    [
        lambda app: app.on("run:complete", print),
        lambda app: app.on("run:fail", print)(),
        lambda app: app.on("run:fail", _raises),
        lambda app: app.subscribe(app.trigger(other, 1)),
    ],
    ids=["of other events", "that has ended", "that raises", "a subscription to another run"],
)
def test_a_listener_that_hears_of_no_failure_is_no_sight(
    path: Path, listen: Callable[[durably.Durably], object]
) -> None:
    """Nor is one that raises, such as one that cannot send its mail."""
    with pytest.raises(durably.RunsFailedError), opened(path) as app:
        listen(app)
        app.trigger(ends, FAIL)


def test_as_completed_shows_what_it_has_yielded(path: Path) -> None:
    """The runs after the one at which the loop ends are not seen."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        runs = [app.trigger(ends, FAIL) for _ in range(3)]
        app.run_until_idle(raise_failed=False)
        for run in app.as_completed(runs):
            runs.remove(run)
            break
    assert set(caught.value.runs) == set(runs)


def test_a_failure_after_a_retry_is_a_new_one(path: Path) -> None:
    """Having seen the first attempt fail says nothing of the second."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        run = app.trigger(ends, FAIL)
        _wait(app, run)
        app.retry(run)
    assert [(each.id, each.attempt) for each in caught.value.runs] == [(run.id, 2)]


def test_an_event_of_the_first_failure_does_not_show_the_second(path: Path) -> None:
    """A subscription that is read late returns what it was subscribed to."""
    with pytest.raises(durably.RunsFailedError), opened(path) as app:
        run = app.trigger(ends, FAIL)
        with app.subscribe(run) as events:
            app.run_until_idle(raise_failed=False)
            app.retry(run)
            app.run_until_idle(raise_failed=False)
            assert list(events)[-1].type == "run:fail"


class TestRunUntilIdle:
    def test_it_raises_what_has_failed_once(self, path: Path) -> None:
        """What it has raised counts as seen: the block then ends as it should."""
        with opened(path) as app:
            run = app.trigger(ends, FAIL)
            with pytest.raises(durably.RunsFailedError) as caught:
                app.run_until_idle()
            assert caught.value.runs == [run]
            assert app.run_until_idle() == 0

    def test_it_executes_everything_first(self, tmp_path: Path) -> None:
        """Also on an engine that was not started."""
        with engine(tmp_path, ends, other) as app:
            app.trigger(ends, FAIL)
            completed = app.trigger(other, 1)
            with pytest.raises(durably.RunsFailedError):
                app.run_until_idle()
            assert app.wait(completed, timeout=0).output == 1

    def test_raise_failed_turns_it_off_for_one_call(self, path: Path) -> None:
        """The failure stays unseen."""
        with pytest.raises(durably.RunsFailedError), opened(path) as app:
            app.trigger(ends, FAIL)
            assert app.run_until_idle(raise_failed=False) <= 1

    def test_raise_failed_turns_it_on_for_one_call(self, tmp_path: Path) -> None:
        """In an engine where it is off."""
        with engine(tmp_path, ends, raise_failed=False) as app:
            app.trigger(ends, FAIL)
            assert app.run_until_idle() == 1
            with pytest.raises(durably.RunsFailedError):
                app.run_until_idle(raise_failed=True)

    @pytest.mark.parametrize("value", [0, "no", 1.0])
    def test_raise_failed_is_a_bool(self, tmp_path: Path, value: Any) -> None:
        """Nothing is executed otherwise."""
        with engine(tmp_path, ends) as app:
            app.trigger(ends, FAIL)
            with pytest.raises(durably.ValidationError, match="raise_failed must be True or False"):
                app.run_until_idle(raise_failed=value)
            assert app.count_runs(status="pending") == 1


def test_an_engine_may_be_silent(path: Path) -> None:
    """raise_failed=False holds for the block and for run_until_idle."""
    with opened(path, raise_failed=False) as app:
        app.trigger(ends, FAIL)
        app.run_until_idle()


@pytest.mark.parametrize("value", [None, 0, "no"])
def test_the_option_is_a_bool(path: Path, value: Any) -> None:
    """The error names it, and no file is made."""
    with pytest.raises(durably.ValidationError, match="raise_failed must be True or False"):
        opened(path, raise_failed=value)
    assert not path.exists()


def test_runs_executed_by_process_one_count(path: Path) -> None:
    """It returns True for a run that has failed, so the end of the block raises."""
    with pytest.raises(durably.RunsFailedError), opened(path) as app:
        app.stop()
        app.trigger(ends, FAIL)
        assert app.process_one()


def test_an_engine_that_is_closed_inside_its_block_raises_at_the_end(path: Path) -> None:
    """close() itself raises nothing."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        run = app.trigger(ends, FAIL)
        app.run_until_idle(raise_failed=False)
        app.close()
        app.close()
    assert caught.value.runs == [run]


def test_an_exception_that_leaves_the_block_is_not_replaced(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The failures are logged instead."""
    with pytest.raises(ZeroDivisionError) as caught, opened(path) as app:
        app.trigger(ends, FAIL)
        app.run_until_idle(raise_failed=False)
        raise ZeroDivisionError
    assert caught.value.__context__ is None
    logged = [each for each in caplog.records if "no call has returned it" in each.getMessage()]
    assert [each.levelno for each in logged] == [logging.ERROR]


def test_a_thread_that_waits_gets_the_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Any], None]
) -> None:
    """The end of the block leaves it to the call that is about to raise it."""
    monkeypatch.setattr(failed_runs, "_GRACE_S", GRACE_S)
    may_return, is_waiting = threading.Event(), threading.Event()

    def hold(_progress: durably.Progress) -> None:
        is_waiting.set()
        assert may_return.wait(GRACE_S)

    @durably.job
    def reports(step: durably.StepContext) -> None:
        step.progress(1)
        raise ValueError("seen by the thread")

    with opened(path, reports) as app:
        thread, outcome = in_thread(lambda: app.trigger_and_wait(reports, on_progress=hold))
        assert is_waiting.wait(GRACE_S)

        def let_go() -> None:
            eventually(lambda: not app._supervisor.state.takes_runs)
            may_return.set()

        letting, _ = in_thread(let_go)
    thread.join(GRACE_S)
    letting.join(GRACE_S)
    assert isinstance(outcome[0], durably.RunFailedError)


def test_a_script_ends_with_exit_status_one(tmp_path: Path) -> None:
    """Its error output names the job, the error and the next move."""
    ended = execute("leaves_a_failure", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "1 run has failed" in ended.stderr
    assert "nightly: ZeroDivisionError: division by zero" in ended.stderr
    assert "call retry(" in ended.stderr


def test_parts_of_the_error_are_errors_of_its_kind(path: Path) -> None:
    """except* and split give a RunsFailedError with the runs of that part."""
    with pytest.raises(durably.RunsFailedError) as caught, opened(path) as app:
        runs = [app.trigger(ends, FAIL) for _ in range(2)]
    mine, others = caught.value.split(
        lambda exc: isinstance(exc, durably.RunFailedError) and exc.run == runs[0]
    )
    assert isinstance(mine, durably.RunsFailedError)
    assert mine.runs == [runs[0]]
    assert isinstance(others, durably.RunsFailedError)
    assert others.runs == [runs[1]]
