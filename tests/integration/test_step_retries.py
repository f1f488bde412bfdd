"""Retries inside a step: only when asked for, between waits that can be interrupted."""

from __future__ import annotations

import threading
import time

import pytest
from engines import again, engine, execute, record, types

import durably
from durably import Retry
from durably.execution.step_calls import StepCaller

NOW = Retry(attempts=3, wait=0)


def flaky(failures: int, error: type[BaseException] = OSError):
    """A function that fails so many times before it gives the number of its calls."""
    calls: list[int] = []

    def call():
        calls.append(1)
        if len(calls) <= failures:
            raise error(f"failure {len(calls)}")
        return len(calls)

    return call


def test_a_step_is_not_retried_unasked(tmp_path):
    """Without ``retry=`` a function is called once."""

    def job(step):
        step.run("s", flaky(1))

    with engine(tmp_path, job) as app:
        assert execute(app).error.message == "failure 1"


def test_a_step_is_retried_inside_itself(tmp_path):
    """With ``retry=`` the function is called again; one step starts and completes."""

    def job(step):
        return step.options(retry=NOW).run("s", flaky(2))

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert run.output == 3, run.error
        (only,) = app.get_steps(run)
    assert (only.status, only.output) == ("completed", 3)
    assert [type_ for type_ in types(events) if type_.startswith("step:")] == [
        "step:start",
        "step:complete",
    ]


def test_the_last_error_goes_on_when_the_attempts_are_used_up(tmp_path):
    """After ``attempts`` calls the last exception is the step's."""
    work = flaky(99)

    def job(step):
        step.options(retry=NOW).run("s", work)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.error.message == "failure 3"
        assert [s.error.message for s in app.get_steps(run)] == ["failure 3"]


@pytest.mark.parametrize(
    ("on", "error", "calls"),
    [
        (OSError, OSError, 3),
        (OSError, FileNotFoundError, 3),
        ((KeyError, OSError), OSError, 3),
        (OSError, ValueError, 1),
        (Exception, KeyboardInterrupt, 1),
        (Exception, SystemExit, 1),
        (Exception, durably.StopRun, 1),
    ],
)
def test_only_the_exceptions_of_on_are_retried(tmp_path, on, error, calls):
    """``on`` says which exceptions are worth another try; no BaseException ever is."""
    called = []

    def fail():
        called.append(1)
        raise error

    def job(step):
        try:
            step.options(retry=Retry(attempts=3, wait=0, on=on)).run("s", fail)
        except error:
            return "raised"

    with engine(tmp_path, job) as app:
        app.jobs["job"].trigger()
        app.run_until_idle()
        assert app.get_runs()[0].output == "raised"
    assert len(called) == calls


def test_options_may_have_both_a_type_and_retries(tmp_path):
    """``returns=`` and ``retry=`` work together."""
    work = flaky(1)

    def job(step):
        return repr(step.options(returns=tuple[int], retry=NOW).run("s", lambda: (work(),)))

    with engine(tmp_path, job) as app:
        assert execute(app).output == "(2,)"


def test_a_result_that_cannot_be_stored_is_not_retried(tmp_path):
    """The function has done its work: a SerializationError does not call it again."""
    called = []

    def job(step):
        step.options(retry=NOW).run("s", lambda: called.append(1) or {1, len})

    with engine(tmp_path, job) as app:
        assert execute(app).error.type == "durably.SerializationError"
    assert called == [1]


def test_a_function_under_retry_may_use_steps(tmp_path):
    """Steps inside a retried step keep their checkpoints between its calls, and are replayed."""
    inner = flaky(0)
    outer = flaky(2)

    def work(step):
        result = step.run("inner", inner)
        outer()
        return result

    def job(step):
        return step.options(retry=NOW).run("outer", work, step)

    with engine(tmp_path, job) as app:
        assert execute(app).output == 1


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_the_wait_between_retries_ends_when_the_run_is_stopped(tmp_path, how):
    """A cancellation or an interrupt ends the wait, and the function is not called again."""
    called = []
    failed = threading.Event()

    def fail():
        called.append(1)
        failed.set()
        raise OSError

    def job(step):
        step.options(retry=Retry(attempts=9, wait=60)).run("s", fail)

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert failed.wait(20)
        if how == "cancel":
            app.cancel(run)
        app.stop(interrupt=how == "interrupt", timeout=20)
        assert app.get_run(run).status == ("cancelled" if how == "cancel" else "pending")
        assert [s.status for s in app.get_steps(run)] == (["cancelled"] if how == "cancel" else [])
    assert called == [1]


def test_each_wait_is_longer_than_the_one_before(tmp_path, monkeypatch):
    """The first wait is ``wait`` seconds, each further one ``backoff`` times as long."""
    waits = []
    monkeypatch.setattr(StepCaller, "sleep", lambda _, seconds: waits.append(seconds))

    def job(step):
        retry = Retry(attempts=5, wait=0.5, backoff=3, max_wait=10, jitter=False)
        return step.options(retry=retry).run("s", flaky(4))

    with engine(tmp_path, job) as app:
        assert execute(app).output == 5
    assert waits == [0.5, 1.5, 4.5, 10]


def test_a_step_may_ask_to_be_called_later(tmp_path):
    """RetryAfter is no failure: the step is called again, with and without retries, and stored."""
    calls = []

    def work(name):
        calls.append(name)
        if calls.count(name) < 3:
            raise durably.RetryAfter(0.01, "quota")
        return name

    def job(step):
        once = durably.Retry(attempts=1)
        return [step.run("a", work, "a"), step.options(retry=once).run("b", work, "b")]

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == ["a", "b"]
        assert [each.status for each in app.get_steps(run)] == ["completed"] * 2
    assert calls == ["a"] * 3 + ["b"] * 3


def test_steps_share_a_rate(tmp_path):
    """Each call of a step with a limit waits for its turn, tries included; stored ones do not."""
    limit = durably.RateLimit(50)
    times = []

    def work():
        times.append(time.monotonic())
        if len(times) == 2:
            raise ValueError

    def job(step):
        for n in range(4):
            step.options(rate=limit, retry=durably.Retry(wait=0)).run(f"s{n}", work)
        if step.attempt == 1:
            raise KeyError
        with pytest.raises(durably.ValidationError, match="rate must be a RateLimit"):
            step.options(rate=5)

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
        assert run.status == "completed", run.error
    assert len(times) == 5
    assert times[-1] - times[0] >= 4 / 50 * 0.95
