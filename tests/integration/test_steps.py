"""Steps: executed once, found again, named, numbered, failed and nested."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from engines import again, engine, execute

import durably
from durably.store.sqlite.sql import steps as stored


def test_a_step_passes_its_arguments_and_returns_the_result(tmp_path):
    """``step.run(name, fn, *args, **kwargs)`` returns what ``fn(*args, **kwargs)`` does."""

    def job(step):
        # Keywords of any name belong to the function.
        return step.run("s", lambda *args, **kwargs: [list(args), kwargs], 1, 2, name="n", fn="f")

    with engine(tmp_path, job) as app:
        assert execute(app).output == [[1, 2], {"name": "n", "fn": "f"}]


def test_a_checkpoint_is_committed_before_run_returns(tmp_path):
    """When ``step.run`` returns, another connection already sees the checkpoint."""
    seen = []

    def job(step):
        step.run("s", lambda: {"rows": 3})
        with durably.Durably(tmp_path / "durably.db") as other:
            seen.extend(other.get_steps(step.run_id))

    with engine(tmp_path, job) as app:
        execute(app)
    assert [(s.name, s.status, s.output) for s in seen] == [("s", "completed", {"rows": 3})]


def test_a_completed_step_is_not_called_again(tmp_path):
    """A retried run gets the stored result of a completed step, and its function is not called."""
    calls = []

    def job(step):
        first = step.run("first", lambda: calls.append("first") or len(calls))
        if step.attempt == 1:
            raise ValueError
        return first

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == "failed"
        assert again(app, run).output == 1
    assert calls == ["first"]


def test_the_context_says_what_is_executed(tmp_path):
    """``run_id``, ``job_name``, ``labels`` and ``attempt`` describe the execution."""
    said = []

    def job(step):
        said.append((step.run_id, step.job_name, step.labels, step.attempt, step.cancelled))
        step.labels["more"] = "x"  # a copy
        assert "more" not in step.labels
        if step.attempt < 3:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app, labels={"source": "crm"})
        again(app, run)
        again(app, run)
    assert said == [(run.id, "job", {"source": "crm"}, n, False) for n in (1, 2, 3)]


def test_a_step_record_holds_what_happened(tmp_path):
    """``get_steps`` gives name, index, status, output, error, times and attempt of each step."""

    def job(step):
        step.run("good", lambda: (1, 2))
        step.run("bad", dict.fromkeys, 1)

    before = datetime.now(UTC)
    with engine(tmp_path, job) as app:
        run = execute(app)
        good, bad = app.get_steps(run)
    assert (good.name, good.index, good.status, good.attempt) == ("good", 0, "completed", 1)
    assert (good.output, good.error) == ((1, 2), None)
    assert (bad.name, bad.index, bad.status, bad.attempt) == ("bad", 1, "failed", 1)
    assert bad.output is None
    assert bad.error.type == "TypeError"
    assert str(bad.error) == "TypeError: 'int' object is not iterable"
    assert "dict.fromkeys" not in str(bad.error)
    # A function of C has no frame.
    assert bad.error.traceback == "TypeError: 'int' object is not iterable\n"
    just_before = before - timedelta(milliseconds=1)
    assert just_before <= good.started_at <= good.completed_at <= bad.started_at


@pytest.mark.parametrize("name", ["", "x" * 501, "a\nb", "a\x00", "\x85", "\ud800", 7, None])
def test_a_bad_step_name_is_rejected(tmp_path, name):
    """A step name has 1 to 500 characters, no control characters and no lone surrogates."""
    calls = []

    def job(step):
        with pytest.raises(durably.ValidationError):
            step.run(name, calls.append, 1)
        return True

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output is True, run.error
        assert app.get_steps(run) == []
    assert calls == []


@pytest.mark.parametrize("name", ["x", "x" * 500, "é", "日本 🎉", "'; DROP TABLE x", " ", "\u202e"])
def test_any_other_text_is_a_step_name(tmp_path, name):
    """Any other text of 1 to 500 characters comes back as it was."""

    def job(step):
        step.run(name, int)

    with engine(tmp_path, job) as app:
        assert [each.name for each in app.get_steps(execute(app))] == [name]


@pytest.mark.parametrize("fn", [None, 3, "name"])
def test_a_step_needs_a_function(tmp_path, fn):
    """What cannot be called is a ValidationError that names the step."""

    def job(step):
        step.run("s", fn)

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.error.type == "durably.ValidationError"
    assert "'s'" in run.error.message


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, "an int"), (None, "None"), ("text", "a str"), ([1], "a list"), ({}, "a dict")],
)
@pytest.mark.parametrize("retry", [None, durably.Retry()])
def test_a_function_that_was_called_instead_of_handed_over(tmp_path, value, kind, retry):
    """The message shows the line as it should be, and nothing of the value."""

    def job(step):
        step.options(retry=retry).run("a", value)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert app.get_steps(run) == []
    assert run.error.type == "durably.ValidationError"
    assert run.error.message == (
        f"step.run('a', ...) needs a function, not {kind}: "
        "write step.run('a', fetch, 1), not step.run('a', fetch(1))"
    )


def test_a_step_without_a_name(tmp_path):
    """A function in the place of the name: the message shows the line as it should be."""

    def fetch(number):
        return number

    def job(step):
        step.run(fetch, 1)

    with engine(tmp_path, job) as app:
        assert "write step.run('fetch', fetch, ...), not step.run(fetch, ...)" in (
            execute(app).error.message
        )


# -- names used twice --------------------------------------------------------------------------


def test_a_name_used_twice_fails_the_run(tmp_path):
    """The second use calls nothing and raises, naming the step and how to distinguish steps."""
    calls = []

    def job(step):
        for _ in range(2):
            step.run("load", calls.append, 1)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert [s.status for s in app.get_steps(run)] == ["completed"]
    assert (run.status, calls) == ("failed", [1])
    assert run.error.type == "durably.DuplicateStepError"
    assert "'load'" in run.error.message
    assert 'f"batch-{i}"' in run.error.message


@pytest.mark.parametrize("windows", ["one window", "many windows", "another order"])
def test_a_name_used_twice_raises_on_a_resume_too(tmp_path, monkeypatch, windows):
    """It is raised at the second use, whether its checkpoint is of this attempt or an earlier."""
    if windows != "one window":
        monkeypatch.setattr(stored, "WINDOW_STEPS", 3)
    names = [f"s{number}" for number in range(10)]
    raised = []

    def job(step):
        order = names[::-1] if windows == "another order" and step.attempt > 1 else names
        for name in [*order, f"new-{step.attempt}"]:
            step.run(name, int)
        for name in ["s0", "s5", "s9", f"new-{step.attempt}"]:
            with pytest.raises(durably.DuplicateStepError, match=f"'{name}'"):
                step.run(name, raised.append, name)
            raised.append(name)
        if step.attempt < 3:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = again(app, again(app, execute(app)))
    assert run.status == "completed", run.error
    assert raised == [name for n in (1, 2, 3) for name in ("s0", "s5", "s9", f"new-{n}")]


def test_a_step_that_failed_may_be_called_again(tmp_path):
    """Only a step that has completed uses its name up, on a resume too."""
    outcomes = iter([OSError(), OSError(), 1, OSError(), 2])

    def work():
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def persistent(step, name):
        while True:
            with suppress(OSError):
                return step.run(name, work)

    def job(step):
        step.run("first", int)
        results = [persistent(step, f"s{n}") for n in range(step.attempt)]
        if step.attempt == 1:
            raise ValueError
        return results

    with engine(tmp_path, job) as app:
        assert again(app, execute(app)).output == [1, 2]


def test_a_duplicate_that_the_job_handles_is_its_own_affair(tmp_path):
    """DuplicateStepError is an error like any other of the job's: it may catch it and complete."""

    def job(step):
        step.run("load", int)
        try:
            step.run("load", int)
        except durably.DurablyError as exc:
            return type(exc).__name__

    with engine(tmp_path, job) as app:
        assert execute(app).output == "DuplicateStepError"


def test_a_result_that_could_not_be_decoded_is_no_use_of_the_name(tmp_path):
    """A resume may ask for a stored result under one type after the other."""

    def job(step):
        if step.attempt == 1:
            step.run("load", lambda: "text")
            raise ValueError
        with pytest.raises(durably.SerializationError):
            step.options(returns=int).run("load", int)
        return step.options(returns=str).run("load", str)

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
    assert run.output == "text", run.error


@pytest.mark.parametrize("kind", ["retry", "loop"])
def test_a_step_inside_one_that_failed_may_be_used_again_inside_it(tmp_path, kind):
    """The steps of a function are replayed when its step is called again, and nowhere else."""
    calls, tries = [], []

    def innermost(step):
        step.run("deepest", calls.append, "deepest")

    def work(step):
        tries.append(1)
        step.run("inner", calls.append, "inner")
        step.run("deep", innermost, step)
        if len(tries) < 3:
            raise OSError
        with pytest.raises(durably.DuplicateStepError, match="'inner'"):
            step.run("inner", int)
        return len(tries)

    def job(step):
        retry = durably.Retry(attempts=3, wait=0) if kind == "retry" else None
        while True:
            with suppress(OSError):
                result = step.options(retry=retry).run("outer", work, step)
                break
            with pytest.raises(durably.DuplicateStepError, match="'deep'"):
                step.run("deep", int)
        for name in ("outer", "inner", "deepest"):
            with pytest.raises(durably.DuplicateStepError, match=name):
                step.run(name, int)
        return result

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.output == 3, run.error
    assert calls == ["inner", "deepest"]


@pytest.mark.parametrize(
    ("of_engine", "of_job", "is_reused"),
    [
        ("error", None, False),
        ("reuse", None, True),
        ("error", "reuse", True),
        ("reuse", "error", False),
    ],
)
def test_a_job_may_say_what_a_name_used_twice_does(tmp_path, of_engine, of_job, is_reused):
    """``on_duplicate_step`` of a job comes before the engine's, and may be left out."""

    @durably.job("job", on_duplicate_step=of_job)
    def job(step):
        return [step.run("s", lambda n=n: n) for n in range(2)]

    with engine(tmp_path, on_duplicate_step=of_engine) as app:
        app.register(job)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = execute(app)
    assert run.status == ("completed" if is_reused else "failed")
    assert [each.category for each in caught] == [durably.DuplicateStepWarning] * is_reused
    assert not is_reused or run.output == [0, 0]


def test_a_name_used_twice_returns_the_first_result_and_warns(tmp_path):
    """With ``reuse`` the second use calls nothing, returns the first result and warns there."""

    def job(step):
        first = step.run("load", lambda: "first")
        second = step.run("load", lambda: "second")
        third = step.options(returns=str).run("load", lambda: "third")
        return [first, second, third]

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        with pytest.warns(durably.DuplicateStepWarning) as caught:
            run = execute(app)
        assert len(app.get_steps(run)) == 1
    assert run.output == ["first", "first", "first"]
    assert len(caught) == 2
    assert all("'load'" in str(each.message) for each in caught)
    line = job.__code__.co_firstlineno
    assert [(each.filename, each.lineno - line) for each in caught] == [
        (__file__, 2),
        (__file__, 3),
    ]
    assert issubclass(durably.DuplicateStepWarning, durably.DurablyWarning)
    assert issubclass(durably.DurablyWarning, UserWarning)


def test_a_name_used_twice_warns_on_a_resume_too(tmp_path):
    """On a resume the first use is silent, and the second one warns."""
    warned = []

    def job(step):
        for _ in range(2):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step.run("load", lambda: 1)
            warned.append(len(caught))
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        assert again(app, execute(app)).status == "completed"
    assert warned == [0, 1, 0, 1]


def test_a_name_of_any_kind_used_twice_warns_on_a_resume(tmp_path):
    """A str of a class of the user's is the name that it holds, also in a window of a resume."""

    class Name(str):
        __slots__ = ()

    calls = []

    def job(step):
        names = [Name("s"), Name("s")] if step.attempt > 1 else ["s"]
        results = [step.run(name, lambda: calls.append(1) or len(calls)) for name in names]
        if step.attempt == 1:
            raise ValueError
        return results

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        run = execute(app)
        with pytest.warns(durably.DuplicateStepWarning, match="'s'") as caught:
            run = again(app, run)
    assert (run.output, calls) == ([1, 1], [1])
    assert len(caught) == 1


def test_a_name_used_inside_itself_is_rejected(tmp_path):
    """A step that is used inside itself has no result yet: ConflictError, not a deadlock."""

    def job(step):
        step.run("s", lambda: step.run("s", int))

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.error.type == "durably.ConflictError"


# -- nesting -----------------------------------------------------------------------------------


def test_nested_steps_each_stand_for_themselves(tmp_path):
    """An inner step keeps its checkpoint when the outer one fails, and is replayed inside it."""
    calls = []

    def outer(step):
        inner = step.run("inner", lambda: calls.append("inner") or "i")
        if step.attempt == 1:
            raise ValueError("outer")
        return inner + "o"

    def job(step):
        return step.run("outer", outer, step)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert {s.name: s.status for s in app.get_steps(run)} == {
            "outer": "failed",
            "inner": "completed",
        }
        assert again(app, run).output == "io"
        assert {s.name: (s.status, s.attempt) for s in app.get_steps(run)} == {
            "outer": ("completed", 2),
            "inner": ("completed", 1),
        }
    assert calls == ["inner"]


# -- options, large results and the library's loggers -------------------------------------------


def test_an_options_call_checks_its_arguments(tmp_path):
    """Bad options are a ValidationError at the call, before anything is executed."""

    class Opaque:
        pass

    def job(step):
        with pytest.raises(durably.ValidationError, match="retry"):
            step.options(retry=3)
        with pytest.raises(durably.ValidationError, match="returns"):
            step.options(returns=Opaque)
        return True

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output is True, run.error


def test_a_large_result_is_stored_and_warned_of(tmp_path):
    """A result over 16 MiB in the database comes back; a warning names the step and its size."""
    size = 17 * 1024 * 1024

    def job(step):
        text = step.run("blob", lambda: "x" * size)
        if step.attempt == 1:
            raise ValueError
        return len(text)

    with engine(tmp_path, job, blobs=False) as app:
        with pytest.warns(UserWarning, match="'blob' takes 17 MiB") as caught:
            run = execute(app)
        assert caught[0].filename == __file__
        assert again(app, run).output == size


def test_a_warning_turned_into_an_error_does_not_cost_a_large_result(tmp_path):
    """Where warnings are errors, the checkpoint of a large result is there nevertheless."""

    def job(step):
        return len(step.run("blob", lambda: "x" * 17 * 1024 * 1024))

    with engine(tmp_path, job, blobs=False) as app, warnings.catch_warnings():
        warnings.simplefilter("error")
        run = execute(app)
        assert run.error.type == "UserWarning"
        assert [s.status for s in app.get_steps(run)] == ["completed"]
        assert again(app, run).output == 17 * 1024 * 1024


def test_the_log_of_the_library_gets_no_handlers(tmp_path):
    """The library logs through ``logging.getLogger("durably")`` and adds no handlers."""

    def job(step):
        step.log.info("hello")

    with engine(tmp_path, job) as app:
        execute(app)
    assert logging.getLogger("durably").handlers == []
    assert logging.getLogger("durably.job.job").handlers == []
