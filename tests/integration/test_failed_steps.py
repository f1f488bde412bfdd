"""Steps that fail, keep their index and meet changed code; and when checkpoints are deleted."""

from __future__ import annotations

from datetime import datetime

import pytest
from engines import again, engine, execute, record, types


def test_a_failing_step_raises_into_the_job(tmp_path):
    """The exception of a step goes on as it is; a job that handles it completes."""
    error = KeyError("k")

    def fail():
        raise error

    def job(step):
        with pytest.raises(KeyError) as caught:
            step.run("s", fail)
        return caught.value is error

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output is True
        assert [s.status for s in app.get_steps(run)] == ["failed"]
        assert run.completed_steps == 0


def test_a_failed_step_executes_again_when_its_name_is_used_again(tmp_path):
    """A loop around a failing step calls it again each time, without a warning."""
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise OSError
        return len(calls)

    def job(step):
        while True:
            try:
                return step.run("s", flaky)
            except OSError:
                continue

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert run.output == 3, run.error
        (only,) = app.get_steps(run)
    assert (only.name, only.index, only.status, only.error) == ("s", 0, "completed", None)
    assert types(events)[1:] == [
        *["run:start", "step:start", "step:fail", "step:start", "step:fail"],
        *["step:start", "step:complete", "run:complete"],
    ]
    assert {event.step_index for event in events if hasattr(event, "step_index")} == {0}


def test_a_failed_step_executes_again_on_retry_with_its_index(tmp_path):
    """On ``retry`` only completed steps are replayed; the failed one keeps its index."""
    calls = []

    def work(step):
        calls.append(step.attempt)
        if step.attempt == 1:
            raise OSError

    def job(step):
        try:
            step.run("flaky", work, step)
        except OSError:
            step.run("after", int)
            raise
        step.run("new", int)

    with engine(tmp_path, job) as app:
        run = execute(app)
        again(app, run)
        found = [(s.name, s.index, s.status, s.attempt) for s in app.get_steps(run)]
    assert calls == [1, 2]
    assert found == [
        ("flaky", 0, "completed", 2),
        ("after", 1, "completed", 1),
        ("new", 2, "completed", 2),
    ]


def test_a_step_failed_in_every_attempt_records_the_newest_error(tmp_path):
    """There is one record a name: that of the newest execution."""

    def job(step):
        step.run("s", lambda: [][step.attempt])

    with engine(tmp_path, job) as app:
        run = execute(app)
        run = again(app, run)
        (only,) = app.get_steps(run)
    assert (run.status, run.attempt) == ("failed", 2)
    assert (only.status, only.attempt, only.index) == ("failed", 2, 0)


def test_a_step_whose_result_cannot_be_stored_has_failed(tmp_path):
    """A result without a stored form fails the step with SerializationError, naming the step."""

    def job(step):
        step.run("when", lambda: [datetime.now])

    with engine(tmp_path, job) as app:
        events = record(app, "step:fail")
        run = execute(app)
        (only,) = app.get_steps(run)
    assert run.status == "failed"
    assert run.error.type == only.error.type == "durably.SerializationError"
    assert "'when'" in only.error.message
    assert "use data, not code" in only.error.message
    assert only.status == "failed"
    assert [(e.step_name, e.error) for e in events] == [("when", only.error)]


# -- index rules and changed code --------------------------------------------------------------


def test_steps_keep_their_index_when_the_code_changes(tmp_path):
    """Stored steps keep their index whatever the order is today; new names go on after."""
    orders = iter(["abc", "cxab"])

    def job(step):
        for name in next(orders):
            step.run(name, str)
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        events = record(app)
        again(app, run)
        stored = [(s.name, s.index) for s in app.get_steps(run)]
    assert stored == [("a", 0), ("b", 1), ("c", 2), ("x", 3)]
    told = [(e.type, e.step_name, e.step_index) for e in events if e.type.startswith("step:")]
    assert told == [
        ("step:skip", "c", 2),
        ("step:start", "x", 3),
        ("step:complete", "x", 3),
        ("step:skip", "a", 0),
        ("step:skip", "b", 1),
    ]


def test_a_checkpoint_that_todays_type_rejects_fails_the_run(tmp_path):
    """A stored result that does not fit today's annotation is an error that names the step."""

    def read_text() -> str:
        return "x"

    def read_number() -> int:
        return 1

    def job(step):
        step.run("read", read_text if step.attempt == 1 else read_number)
        raise ValueError

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
    assert run.error.type == "durably.SerializationError"
    assert "'read'" in run.error.message


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_preserve_steps_false_deletes_those_of_completed_runs_only(tmp_path, outcome):
    """Checkpoints of completed runs go; those of failed and cancelled ones are always kept."""

    def job(step):
        step.run("s", int)
        if outcome == "failed":
            raise ValueError
        if outcome == "cancelled":
            app.cancel(step.run_id)
            step.check()

    with engine(tmp_path, job, preserve_steps=False) as app:
        run = execute(app)
        assert run.status == outcome
        left = [s.name for s in app.get_steps(run)]
    assert left == ([] if outcome == "completed" else ["s"])


def test_preserve_steps_is_the_default(tmp_path):
    """Without the option the checkpoints of a completed run stay."""

    def job(step):
        step.run("s", int)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert [s.name for s in app.get_steps(run)] == ["s"]
        assert run.completed_steps == 1
