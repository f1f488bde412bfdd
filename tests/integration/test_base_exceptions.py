"""Whatever a job raises fails its run, and never the engine."""

from __future__ import annotations

import pytest
from engines import GRACE_S, engine, execute, record

import durably


def raise_(exc):
    raise exc


@pytest.mark.parametrize("where", ["job", "step"])
@pytest.mark.parametrize(
    "exc",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseException("base"),
        BaseExceptionGroup("g", [SystemExit()]),
        durably.StopRun("mine"),
        durably.RunCancelled("mine"),
        durably.RunInterrupted(),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_a_base_exception_of_a_jobs_own_fails_its_run(tmp_path, where, exc):
    """SystemExit, KeyboardInterrupt, StopRun and others fail the run; the engine goes on."""

    def job(step, payload):
        if payload == "bad" and where == "step":
            step.run("s", raise_, exc)
        if payload == "bad":
            raise exc
        return "fine"

    with engine(tmp_path, job, max_workers=1) as app:
        events = record(app, "run:fail")
        app.start()
        bad, good = app.jobs["job"].batch_trigger(["bad", "good"])
        assert app.wait(good, timeout=GRACE_S).output == "fine"
        bad = app.get_run(bad)
        assert bad.status == "failed"
        assert bad.error.type.rpartition(".")[2] == type(exc).__name__
        assert [s.status for s in app.get_steps(bad)] == (["failed"] if where == "step" else [])
    assert [event.failed_step for event in events] == ["s" if where == "step" else None]


def test_except_exception_does_not_swallow_a_stop(tmp_path):
    """Control flow that ends a run passes through ``except Exception``."""
    assert issubclass(durably.StopRun, BaseException)
    assert not issubclass(durably.StopRun, Exception)

    def job(step):
        app.cancel(step.run_id)
        try:
            step.run("s", int)
        except Exception:
            return "swallowed"

    with engine(tmp_path, job) as app:
        assert execute(app).status == "cancelled"


def test_a_job_that_swallows_a_stop_meets_it_again_at_the_next_boundary(tmp_path):
    """A bare ``except`` gains nothing: each further boundary raises again."""
    met = []

    def job(step):
        app.cancel(step.run_id)
        for number in range(3):
            try:
                step.run(f"s{number}", int)
            except BaseException as exc:
                met.append(type(exc))
        return "swallowed"

    with engine(tmp_path, job) as app:
        assert execute(app).status == "cancelled"
    assert met == [durably.RunCancelled] * 3


class UnprintableError(Exception):
    error: type[BaseException] = ValueError

    def __str__(self):
        raise self.error("no text")

    __repr__ = __str__


@pytest.mark.parametrize("error", [ValueError, SystemExit, RecursionError])
@pytest.mark.parametrize("where", ["job", "step"])
def test_an_exception_whose_str_raises_is_recorded(tmp_path, where, error):
    """The run fails with the exception's type, whatever its ``str()`` raises."""

    class UnspeakableError(UnprintableError):
        pass

    UnspeakableError.error = error

    def job(step):
        if where == "step":
            step.run("s", raise_, UnspeakableError())
        raise UnspeakableError

    with engine(tmp_path, job) as app:
        app.jobs["job"].trigger()
        assert app.run_until_idle(raise_failed=False) == 1
        (run,) = app.get_runs()
        assert run.status == "failed"
        assert run.error.type.endswith("UnspeakableError")
        assert "UnspeakableError" in run.error.message
        assert [s.error.type for s in app.get_steps(run)] == (
            [run.error.type] if where == "step" else []
        )


class Text(str):
    __slots__ = ()

    def __len__(self):
        raise ValueError


def test_a_message_of_a_class_of_its_own_is_recorded_as_text(tmp_path):
    """A ``str()`` that gives a subclass of str harms nothing: its characters are recorded."""

    class OddError(Exception):
        def __str__(self):
            return Text("odd")

    def job(step):
        step.run("s", raise_, OddError())

    with engine(tmp_path, job) as app:
        assert execute(app).error.message == "odd"


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "x" * 300_000, "é\n\x1b[31m"])
def test_any_message_is_recorded(tmp_path, text):
    """Empty, huge and strange messages of exceptions do not hinder the failure."""

    def job(step):
        step.run("s", raise_, ValueError(text))

    with engine(tmp_path, job) as app:
        error = execute(app).error
    assert error.type == "ValueError"
    if len(text) < 1000:
        assert error.message == text
    else:
        assert error.message.startswith(text[:1000])
        assert len(error.message) < len(text)
