"""Runs that are tried again after a failure, and those that ask to be called later."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engines import engine, only, record, types
from invariants import check

import durably
from durably import Retry

SOON = Retry(attempts=3, wait=0.05, jitter=False)
LATER = Retry(attempts=3, wait=3600, jitter=False)


class Flaky:
    """A job of two steps whose second one fails so many times; it counts the calls of both."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.failures = failures
        self.error = error or OSError("no route")
        self.calls: list[str] = []

    def call(self, name: str) -> int:
        self.calls.append(name)
        if name == "b" and self.calls.count("b") <= self.failures:
            raise self.error
        return len(self.calls)

    def __call__(self, step: durably.StepContext) -> int:
        step.run("a", self.call, "a")
        return step.run("b", self.call, "b")

    def job(self, **options: Any) -> durably.Job[None, int]:
        return durably.Job("job", self, output=int, **options)


@pytest.mark.parametrize("where", ["pool", "run_until_idle", "run", "process_one"])
def test_a_run_that_fails_is_executed_again_with_its_checkpoints(
    tmp_path: Path, where: str
) -> None:
    """Wherever it is executed, each failure is emitted, and only what failed is called again."""
    flaky = Flaky(2)
    with engine(tmp_path, flaky.job(retry=SOON)) as app:
        events = record(app, "run:retry")
        if where == "run":
            run = app.run("job")
        else:
            run = app.trigger("job")
            if where == "pool":
                app.start()
                app.wait(run)
            elif where == "run_until_idle":
                assert app.run_until_idle(max_wait=60) == 3
            else:
                while run.refresh().is_active:
                    app.process_one()
        run = app.get_run(run)
        assert (run.output, run.attempt, run.failures, run.error) == (4, 3, 2, None)
        tries = [(each.attempt, each.outcome, str(each.error)) for each in run.attempts]
        assert tries == [
            (1, "failed", "OSError: no route"),
            (2, "failed", "OSError: no route"),
            (3, "completed", "None"),
        ]
        assert [(str(each.error), each.delay) for each in events] == [
            ("OSError: no route", 0.05),
            ("OSError: no route", 0.1),
        ]
    assert flaky.calls == ["a", "b", "b", "b"]
    assert check(tmp_path / "durably.db", is_finished=True) == []


def test_a_run_has_failed_when_its_tries_are_used_up(tmp_path: Path) -> None:
    """Then run:fail is emitted, once; a retry by hand begins anew."""
    flaky = Flaky(5)
    with engine(tmp_path, flaky.job(retry=Retry(attempts=2, wait=0)), raise_failed=False) as app:
        events = record(app)
        run = app.trigger("job")
        app.run_until_idle()
        run = app.get_run(run)
        assert (run.status, run.failures, run.attempt) == ("failed", 2, 2)
        assert [t for t in types(events) if t.startswith("run:")] == [
            *["run:trigger", "run:start", "run:retry", "run:start", "run:fail"]
        ]
        told = only(events, "run:retry")
        assert (str(told.error), told.delay) == ("OSError: no route", 0.0)
        app.retry(run)
        assert app.get_run(run).failures == 0
        app.run_until_idle()
        assert (app.get_run(run).failures, app.get_run(run).attempt) == (2, 4)


@pytest.mark.parametrize(
    ("error", "on", "tried"),
    [
        (OSError(), OSError, 2),
        (FileNotFoundError(), (KeyError, OSError), 2),
        (ValueError(), OSError, 1),
        (SystemExit(3), Exception, 1),
        (OSError(), lambda exc: isinstance(exc, OSError), 2),
        (ValueError(), lambda exc: isinstance(exc, OSError), 1),
        (OSError(), lambda exc: 0.01, 2),
    ],
)
def test_only_failures_that_match_are_tried_again(
    tmp_path: Path, error: BaseException, on: Any, tried: int
) -> None:
    """By type, or as a function of the exception says; what is no Exception never is."""
    flaky = Flaky(9, error)
    with engine(
        tmp_path, flaky.job(retry=Retry(attempts=2, wait=0, on=on)), raise_failed=False
    ) as app:
        run = app.trigger("job")
        app.run_until_idle(max_wait=60)
        assert (app.get_run(run).status, app.get_run(run).attempt) == ("failed", tried)


def test_a_function_that_raises_fails_the_run_with_that(tmp_path: Path) -> None:
    """The error of the function is shown, and it is raised because of the job's."""

    def on(exc: Exception) -> bool:
        raise LookupError("what is that")

    with engine(tmp_path, Flaky(1).job(retry=Retry(on=on))) as app:
        with pytest.raises(durably.RunFailedError) as raised:
            app.run("job")
        assert raised.value.run.error.type == "LookupError"
        assert isinstance(raised.value.__cause__.__context__, OSError)


def test_a_wait_survives_a_restart_and_counts_on_the_wall_clock(tmp_path: Path) -> None:
    """Meanwhile the run is pending, says until when and after what, and holds no key and no slot;
    a with block leaves it.
    """
    flaky = Flaky(1)
    began = datetime.now(UTC)
    with engine(tmp_path, flaky.job(retry=LATER), max_workers=1) as app:
        app.start()
        seen = threading.Event()
        app.on("run:retry", lambda event: seen.set())
        run = app.trigger("job", concurrency_key="k")
        assert seen.wait(20)
        other = app.trigger("job", concurrency_key="k")
        assert app.wait(other).output == 4
    with engine(tmp_path, flaky.job()) as app:
        run = app.get_run(run)
        assert (run.status, run.failures, run.completed_steps) == ("pending", 1, 1)
        assert run.run_at is not None
        assert timedelta(seconds=3590) < run.run_at - began < timedelta(seconds=3660)
        assert str(run.error) == "OSError: no route"
        assert "pending until" in repr(run)
        assert "OSError: no route" in repr(run)
        assert "tried again" in run._repr_html_()
        assert "OSError: no route" in app.get_runs()._repr_html_()
        assert app.run_until_idle() == 0
        with pytest.raises(durably.WaitTimeoutError):
            app.wait(run, timeout=0)
        with pytest.raises(durably.ConflictError):
            app.retry(run)
        # The clock has come to that time.
        due = "UPDATE durably_runs SET run_at_us = 5 WHERE id = ?"
        app._store.database.write(lambda db: db.execute(due, (run.id,)) and None)
        assert app.run_until_idle() == 1
        assert app.get_run(run).status == "completed"
        assert app.get_run(run).error is None


def test_options_of_a_trigger_come_before_those_of_the_job(tmp_path: Path) -> None:
    """They are stored with the run, so that a process that only has the job knows them, also of a
    batch, of a child, and of a run that is triggered again.
    """
    never, twice = Retry(attempts=1), Retry(attempts=2, wait=0, on=(OSError, KeyError))

    @durably.job
    def parent(step: durably.StepContext) -> None:
        step.call("child", "job", retry=twice)

    with engine(tmp_path, Flaky(99).job(retry=SOON), parent, raise_failed=False) as app:
        runs = [
            app.trigger("job", retry=never),
            *app.batch_trigger("job", [durably.Trigger(retry=twice)]),
        ]
    with engine(tmp_path, Flaky(99).job(retry=SOON), parent, raise_failed=False) as app:
        app.run_until_idle(max_wait=60)
        assert [app.get_run(run).attempt for run in runs] == [1, 2]
        again = app.retrigger(runs[1])
        mother = app.trigger(parent)
        app.run_until_idle(max_wait=60)
        assert app.get_run(again).attempt == 2
        [child] = app.get_runs(parent=mother)
        assert child.attempt == 2
        assert app.get_run(mother).error.type == "durably.RunFailedError"
        with pytest.raises(durably.RunFailedError) as raised:
            app.run("job", fresh=True, retry=twice)
        assert raised.value.run.attempt == 2
        app.start()
        with pytest.raises(durably.RunFailedError) as raised:
            app.trigger_and_wait("job", retry=twice)
        assert raised.value.run.attempt == 2


@pytest.mark.parametrize("value", [3, "3", Retry, Retry(on=lambda exc: True)])
def test_a_bad_retry_is_rejected(tmp_path: Path, value: Any) -> None:
    """A trigger takes none with functions, and none of them takes what is no Retry."""
    with engine(tmp_path, Flaky(0).job()) as app:
        for call in (app.trigger, app.trigger_and_wait, app.run):
            with pytest.raises(durably.ValidationError, match="retry"):
                call("job", retry=value)
        assert app.get_runs() == []
        if not isinstance(value, Retry):
            with pytest.raises(durably.ValidationError, match="retry must be a Retry"):
                durably.job("x", retry=value)(lambda step: None)


def test_a_damaged_retry_fails_its_run_alone(tmp_path: Path) -> None:
    """Another program has written what durably never does; the other runs are executed."""
    with engine(tmp_path, Flaky(0).job(), raise_failed=False) as app:
        damaged, other = app.trigger("job", retry=SOON), app.trigger("job")
        spoil = "UPDATE durably_runs SET retry = '{}' WHERE id = ?"
        app._store.database.write(lambda db: db.execute(spoil, (damaged.id,)) and None)
        assert app.run_until_idle() == 1
        assert app.get_run(other).status == "completed"
        assert "its retry is not one" in str(app.get_run(damaged).error)


def test_run_waits_no_longer_than_its_timeout(tmp_path: Path) -> None:
    """The run is pending then, and another call goes on at once, whenever it would be due."""
    flaky = Flaky(1)
    with engine(tmp_path, flaky.job(retry=LATER)) as app:
        with pytest.raises(durably.WaitTimeoutError, match="tried again at .* after OSError"):
            app.run("job", timeout=0.1)
        assert app.runs()[0].run_at is not None
        assert app.run("job").output == 3


def test_a_run_that_is_cancelled_while_it_waits_is_not_tried_again(tmp_path: Path) -> None:
    """Neither by the pool nor by a call of run, which says so."""
    with engine(tmp_path, Flaky(9).job(retry=LATER)) as app:
        app.on("run:retry", lambda event: threading.Timer(0.01, app.cancel, [event.run_id]).start())
        with pytest.raises(durably.RunCancelledError):
            app.run("job")


def test_a_failure_during_a_stop_is_no_try(tmp_path: Path) -> None:
    """The run goes back as it does without retries, and no failure is counted."""
    inside, stopped = threading.Event(), threading.Event()

    def job(step: durably.StepContext) -> None:
        if step.attempt == 1 and not stopped.is_set():
            inside.set()
            assert stopped.wait(20)
            raise OSError

    with engine(tmp_path, durably.Job("job", job, retry=LATER)) as app:
        app.start()
        run = app.trigger("job")
        assert inside.wait(20)
        threading.Timer(0.2, stopped.set).start()
        app.stop(interrupt=True)
        assert (app.get_run(run).status, app.get_run(run).failures) == ("pending", 0)
        assert app.get_run(run).run_at is None


def test_sessions_are_not_tried_again(tmp_path: Path) -> None:
    """What leaves the block fails the session, also RetryAfter; its steps wait in their thread."""
    called = []

    def quota() -> int:
        called.append(1)
        if len(called) == 1:
            raise durably.RetryAfter(0.01)
        return 1

    with (
        pytest.raises(durably.RetryAfter),
        durably.session("s", tmp_path / "x.db") as step,
    ):
        assert step.run("quota", quota) == 1
        raise durably.RetryAfter(60)
    with durably.Durably(tmp_path / "x.db", raise_failed=False) as app:
        [run] = app.get_runs()
        assert (run.status, run.run_at) == ("failed", None)


# -- asking to be called later -------------------------------------------------------------------


@pytest.mark.parametrize("where", ["job", "step", "retried step"])
def test_a_run_may_ask_to_be_called_later(tmp_path: Path, where: str) -> None:
    """RetryAfter out of a job, or of a step that it does not catch, is no failure: the run is
    pending until then, in the same attempt, whatever the job's retry says.
    """
    asked = []

    def ask() -> str:
        asked.append(1)
        if len(asked) == 1:
            raise durably.RetryAfter(3600, "quota used up")
        return "done"

    def job(step: durably.StepContext) -> str:
        step.run("first", int)
        if where == "job":
            return ask()
        options = step.options(retry=SOON) if where == "retried step" else step
        return options.run("ask", ask)

    with engine(tmp_path, durably.Job("job", job, retry=Retry(attempts=1))) as app:
        events = record(app)
        run = app.trigger("job")
        assert app.run_until_idle() == 1
        run = app.get_run(run)
        assert (run.status, run.failures, run.attempt, run.error) == ("pending", 0, 1, None)
        assert run.run_at is not None
        assert [step.name for step in app.get_steps(run)] == ["first"]
        told = only(events, "run:retry")
        assert (told.error.message, round(told.delay)) == ("quota used up", 3600)
        assert [(each.attempt, each.outcome) for each in run.attempts] == [(1, "suspended")]
        assert "step:fail" not in types(events)
        # Who asks for the run itself does not wait for its time.
        run = app.run("job")
        assert (run.output, run.attempt, run.failures) == ("done", 1, 0)
        assert [each.outcome for each in run.attempts] == ["suspended", "completed"]


def test_a_job_may_catch_what_its_step_asks(tmp_path: Path) -> None:
    """It goes on then, and may use the name of the step again."""

    def ask() -> None:
        raise durably.RetryAfter(timedelta(hours=1))

    def job(step: durably.StepContext) -> str:
        try:
            step.run("ask", ask)
        except durably.RetryAfter:
            return step.run("ask", str, "another service")
        raise AssertionError

    with engine(tmp_path, job) as app:
        run = app.run("job")
        assert run.output == "another service"
        assert [step.status for step in app.get_steps(run)] == ["completed"]


def test_run_waits_until_the_time_that_a_job_asks_for(tmp_path: Path) -> None:
    """As for a run that has failed."""

    def job(step: durably.StepContext) -> int:
        if len(app.get_attempts(step.run_id)) == 1:
            raise durably.RetryAfter(datetime.now(UTC) + timedelta(seconds=0.1))
        return step.attempt

    with engine(tmp_path, job) as app:
        assert app.run("job").output == 1
