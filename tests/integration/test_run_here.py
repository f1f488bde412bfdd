"""``app.run``: a certain run is brought to its end in the calling thread."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from calls import in_thread, names_of_threads, status
from engines import engine, only, record, take_over, types
from held import HeldJob
from runpages import BadPageError, Pages

import durably
from durably import Durably

HANG_S = 20


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    with engine(tmp_path) as app:
        yield app


# -- which run -------------------------------------------------------------------------------


def test_a_job_is_executed_in_the_calling_thread(app: Durably, pages: Pages) -> None:
    """No other thread is started than the heartbeat and the flusher, and none is left."""
    seen: list[str] = []
    app.on("step:complete", lambda event: seen.extend(names_of_threads()))
    run = app.run(pages.job, 3)
    assert (run.output, run.status, run.disposition) == (3, "completed", "created")
    assert pages.threads == {threading.current_thread().name}
    assert set(seen) == {"durably-heartbeat", "durably-flusher"}
    assert names_of_threads() == []


def test_a_key_has_one_run_ever(app: Durably, pages: Pages) -> None:
    """Once it has completed it is returned as it is, and nothing is executed or stored."""
    first = app.run(pages.job, 3, key="k", labels={"a": "b"})
    assert (first.idempotency_key, first.labels) == ("k", {"a": "b"})
    events = record(app)
    again = app.run(pages.job, 3, key="k")
    assert (again.id, again.output, again.disposition) == (first.id, 3, "idempotent")
    assert events == []
    assert len(pages.calls) == 3
    assert app.trigger(pages.job, 3, idempotency_key="k").id == first.id


@pytest.mark.parametrize("key", [None, "k"])
def test_a_failed_run_continues_at_the_step_that_failed(
    app: Durably, pages: Pages, key: str | None
) -> None:
    """The steps that have completed are not executed again."""
    pages.bad = 2
    with pytest.raises(durably.RunFailedError) as failed:
        app.run(pages.job, 4, key=key)
    pages.bad = None
    events = record(app)
    run = app.run(pages.job, 4, key=key)
    assert (run.id, run.output) == (failed.value.run.id, 6)
    assert (run.disposition, run.attempt) == ("continued", 2)
    assert pages.calls == [0, 1, 2, 2, 3]
    assert types(events)[:4] == ["run:retry", "run:start", "step:skip", "step:skip"]


def test_without_a_key_a_completed_run_is_followed_by_a_new_one(app: Durably, pages: Pages) -> None:
    """Tomorrow's launch does its work again, also if an older run has failed."""
    pages.bad = 1
    with pytest.raises(durably.RunFailedError):
        app.run(pages.job, 2)
    pages.bad = None
    first, second = app.run(pages.job, 2), app.run(pages.job, 2)
    assert (first.disposition, second.disposition) == ("continued", "created")
    assert first.id != second.id


def test_without_a_key_the_payload_says_which_run_is_meant(app: Durably, pages: Pages) -> None:
    """A run of another payload, or with a key, is not continued."""
    pages.bad = 0
    for payload, key in ((1, None), (2, "k")):
        with pytest.raises(durably.RunFailedError):
            app.run(pages.job, payload, key=key)
    pages.bad = None
    assert app.run(pages.job, 2).disposition == "created"
    assert app.run(pages.job, 1).disposition == "continued"


@attrs.define
class Tagged:
    tags: set[str]
    at: dict[str, float]


def test_payloads_are_equal_if_they_mean_the_same(app: Durably) -> None:
    """Sets have no order, and instances equal the data that structures into them."""
    seen: list[Tagged] = []

    @durably.job
    def tagged(step: durably.StepContext, payload: Tagged) -> None:
        seen.append(payload)
        assert len(seen) > 1, "the first one fails"

    many = {f"tag-{n}" for n in range(50)}
    with pytest.raises(durably.RunFailedError):
        app.run(tagged, Tagged(many, {"x": 1.0}))
    run = app.run(tagged, {"tags": sorted(many, reverse=True), "at": {"x": 1}})
    assert run.disposition == "continued"


def test_a_pending_run_is_executed(app: Durably, pages: Pages) -> None:
    """What was triggered and is not yet executed is continued, whatever is before it in line."""
    app.register(pages.job)
    other = app.trigger(pages.job, 1)
    triggered = app.trigger(pages.job, 2, idempotency_key="k")
    run = app.run(pages.job, 2, key="k")
    assert (run.id, run.disposition) == (triggered.id, "continued")
    assert status(app, other) == "pending"


def test_a_cancelled_run_is_continued(app: Durably, pages: Pages) -> None:
    """A call for it says that it is wanted after all."""
    app.register(pages.job)
    triggered = app.trigger(pages.job, 2, idempotency_key="k")
    app.cancel(triggered)
    events = record(app)
    assert app.run(pages.job, 2, key="k").id == triggered.id
    assert types(events)[0] == "run:retry"


@pytest.mark.parametrize("key", [None, "k"])
def test_a_fresh_run_is_created_in_any_case(app: Durably, pages: Pages, key: str | None) -> None:
    """The key passes to it, and the old run keeps its record without it."""
    pages.bad = 1
    with pytest.raises(durably.RunFailedError) as failed:
        app.run(pages.job, 2, key=key)
    pages.bad = None
    run = app.run(pages.job, 2, key=key, fresh=True)
    assert (run.disposition, run.idempotency_key) == ("created", key)
    assert pages.calls == [0, 1, 0, 1]
    old = app.get_run(failed.value.run)
    assert old is not None
    assert (old.status, old.idempotency_key) == ("failed", None)


def test_todays_code_is_executed(app: Durably) -> None:
    """The job that is passed takes the place of the one of its name that was registered."""

    def made(answer: int) -> durably.Job[Any, int]:
        def answer_it(step: durably.StepContext) -> int:
            return answer

        return durably.Job("answer", answer_it)

    assert app.run(made(1)).output == 1
    assert app.run(made(2)).output == 2
    assert app.jobs["answer"].trigger().disposition == "created"
    assert app.run("answer").output == 2


def test_the_name_of_a_registered_job_is_enough(app: Durably, pages: Pages) -> None:
    """As for the engine's other calls; an unknown one is an error."""
    app.register(pages.job)
    assert app.run("pages", 2).output == 1
    with pytest.raises(durably.NotFoundError, match="no job 'nightly' is registered"):
        app.run("nightly")


def test_an_old_run_without_a_key_is_continued_with_a_warning(
    app: Durably, pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    """It may not be the one that is meant: the line names the ways out."""
    pages.bad = 1
    for _ in range(2):
        with pytest.raises(durably.RunFailedError):
            app.run(pages.job, 2)
    assert "is continued" not in caplog.text
    pages.bad = None
    age = "UPDATE durably_runs SET created_at_us = created_at_us - 172800000000"
    app._store.database.write(lambda db: db.execute(age) and None)
    app.run(pages.job, 2)
    (line,) = [each for each in caplog.records if "is continued" in each.message]
    assert line.levelno == logging.WARNING
    assert "1 completed step is kept" in line.message
    assert "fresh=True" in line.message
    assert "key=" in line.message


def test_events_are_those_of_any_execution(app: Durably, pages: Pages) -> None:
    """With the trigger first, in this thread."""
    events = record(app)
    app.run(pages.job, 1)
    assert types(events) == [
        "run:trigger",
        "run:start",
        "step:start",
        "step:complete",
        "run:complete",
    ]
    assert only(events, "run:trigger").payload == only(events, "run:start").payload == 1


# -- how it ends -----------------------------------------------------------------------------


def test_a_failure_is_raised_from_the_live_exception(app: Durably) -> None:
    """Its frames are there, for a debugger."""

    @durably.job
    def fails(step: durably.StepContext) -> None:
        secret = 42  # noqa: F841 - looked for below
        raise BadPageError("no")

    with pytest.raises(durably.RunFailedError) as failed:
        app.run(fails)
    cause = failed.value.__cause__
    assert isinstance(cause, BadPageError)
    traceback = cause.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback is not None
    assert traceback.tb_frame.f_locals["secret"] == 42


def test_a_failure_that_was_raised_is_seen(app: Durably, pages: Pages) -> None:
    """The end of the block does not raise it again."""
    pages.bad = 0
    with app, pytest.raises(durably.RunFailedError):
        app.run(pages.job, 1)


def test_system_exit_of_the_job_fails_the_run(app: Durably) -> None:
    """It does not end the program."""

    @durably.job
    def leaves(step: durably.StepContext) -> None:
        raise SystemExit(3)

    with pytest.raises(durably.RunFailedError) as failed:
        app.run(leaves)
    assert isinstance(failed.value.__cause__, SystemExit)


def test_a_run_that_is_cancelled_meanwhile(app: Durably) -> None:
    """It stops at its next step boundary, and the call raises."""

    @durably.job
    def cancelled(step: durably.StepContext) -> None:
        step.run("cancel", app.cancel, step.run_id)
        step.run("never", int)

    with pytest.raises(durably.RunCancelledError):
        app.run(cancelled)


def test_a_run_that_is_lost_is_waited_for(app: Durably, pages: Pages) -> None:
    """Another engine took this one for hung: it is executed again here when it is pending."""
    took: list[bool] = []

    @durably.job
    def lost(step: durably.StepContext) -> int:
        if not took:
            took.append(True)
            take_over(app)
        return step.run("one", int) + step.attempt

    run = app.run(lost)
    assert (run.output, run.attempt, run.disposition) == (2, 2, "created")


def test_an_end_that_cannot_be_stored_is_raised(
    app: Durably, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller must not take the run for completed; it goes back."""

    def settle(*_: object, **__: object) -> None:
        raise durably.DatabaseError("the disk is gone")

    monkeypatch.setattr(app._store, "settle", settle)
    with pytest.raises(durably.DatabaseError, match="the disk is gone"):
        app.run(pages.job, 1, key="k", timeout=5)
    monkeypatch.undo()
    run = app.run(pages.job, 1, key="k")
    assert (run.status, run.completed_steps, pages.calls) == ("completed", 1, [0])


@pytest.mark.parametrize("key", [None, "k"])
def test_a_timeout_stops_the_run_at_a_step_boundary(app: Durably, key: str | None) -> None:
    """It is pending then, with the checkpoint of the step in progress."""
    waited: list[bool] = []

    @durably.job
    def slow(step: durably.StepContext) -> str:
        step.run("one", str)
        if not waited:
            waited.append(True)
            step.sleep(HANG_S)
        return step.run("two", str)

    with pytest.raises(durably.WaitTimeoutError, match="1 completed step is kept"):
        app.run(slow, key=key, timeout=0.5)
    (run,) = app.get_runs()
    assert (run.status, run.completed_steps) == ("pending", 1)
    assert names_of_threads() == []
    assert app.run(slow, key=key, timeout=HANG_S).completed_steps == 2


def test_a_job_that_returns_after_its_timeout_has_completed(app: Durably) -> None:
    """A result is not thrown away because it is late."""

    @durably.job
    def late(step: durably.StepContext) -> int:
        while not step.cancelled:
            threading.Event().wait(0.001)
        return 7

    assert app.run(late, timeout=0.01).output == 7


def test_a_stop_of_the_engine_ends_the_call(app: Durably, held: HeldJob) -> None:
    """The run goes back, and the caller learns why."""
    call, _ = in_thread(lambda: app.run(held.job))
    held.inside()
    stop, _ = in_thread(lambda: app.stop(interrupt=True))
    while not app._supervisor.current_runs()[0].stop_reason:
        threading.Event().wait(0.001)
    held.let_all_go()
    ended = call.result()
    assert isinstance(ended, durably.ConflictError)
    assert "2 completed steps are kept" in str(ended)
    assert stop.result() is None
    assert app.run(held.job).disposition == "continued"


# -- inside a job, in threads, in a context --------------------------------------------------


def test_inside_a_job_it_is_an_error(app: Durably, pages: Pages) -> None:
    """The message says what to do there."""

    @durably.job
    def outer(step: durably.StepContext) -> None:
        app.run(pages.job, 1)

    with pytest.raises(durably.RunFailedError) as failed:
        app.run(outer)
    assert isinstance(failed.value.__cause__, durably.ConflictError)
    assert "trigger it" in str(failed.value.__cause__)
    assert app.count_runs() == 1


def test_several_threads_execute_runs_at_once(app: Durably) -> None:
    """Each its own, and the heartbeat and the flusher serve all of them."""
    together = threading.Barrier(3)

    @durably.job
    def meets(step: durably.StepContext, number: int) -> int:
        step.run("meet", together.wait, HANG_S)
        return number

    calls = [in_thread(lambda n=n: app.run(meets, n))[0] for n in range(3)]
    assert sorted(call.result().output for call in calls) == [0, 1, 2]
    assert names_of_threads() == []


def test_several_threads_want_the_same_run(app: Durably, held: HeldJob) -> None:
    """One executes it, the others wait for that and return it."""
    calls = [in_thread(lambda: app.run(held.job, key="k"))[0] for _ in range(3)]
    held.inside()
    held.let_all_go()
    runs = [call.result() for call in calls]
    assert len({run.id for run in runs}) == 1
    assert held.calls == ["first", "second", "third"]
    assert {run.disposition for run in runs} <= {"created", "continued", "idempotent"}


def test_the_job_reads_the_context_of_the_caller(app: Durably) -> None:
    """Of the calling thread, not of the one that opened the engine; what it sets ends with it."""
    cell = contextvars.ContextVar[str]("cell")
    cell.set("four")
    seen = []

    @durably.job
    def reads(step: durably.StepContext) -> None:
        seen.append(cell.get())
        cell.set("five")

    app.run(reads)
    assert (seen, cell.get()) == (["four"], "four")


def test_on_a_started_engine(app: Durably, pages: Pages) -> None:
    """The pool does not get the run."""
    app.start()
    assert app.run(pages.job, 2).output == 1
    assert pages.threads == {threading.current_thread().name}


def test_other_code_that_has_begun_the_run_does_not_matter(tmp_path: Path) -> None:
    """The job that is passed continues it, with its checkpoints."""
    bad = [True]

    def begins(step: durably.StepContext) -> int:
        step.run("one", int)
        if bad:
            raise BadPageError
        return 1

    def continues(step: durably.StepContext) -> int:
        return step.run("one", int) + 1

    with engine(tmp_path) as app, pytest.raises(durably.RunFailedError):
        app.run(durably.Job("job", begins), key="k")
    with engine(tmp_path) as app:
        run = app.run(durably.Job("job", continues), key="k")
        assert (run.output, run.completed_steps) == (1, 1)


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"key": ""},
        {"key": 1},
        {"fresh": 1},
        {"if_running": "stop"},
        {"if_running": None},
        {"timeout": -1},
        {"timeout": "1s"},
        {"on_payload_change": "ignore"},
        {"concurrency_key": ""},
        {"labels": {"": "x"}},
        {"show": "yes"},
    ],
)
def test_a_bad_option_is_named(app: Durably, pages: Pages, bad: dict[str, Any]) -> None:
    """Nothing is stored."""
    (option,) = bad
    with pytest.raises(durably.ValidationError, match=option.removesuffix("s")):
        app.run(pages.job, 1, **bad)
    assert app.count_runs() == 0


def test_an_unknown_option_is_an_error(app: Durably, pages: Pages) -> None:
    """It is a TypeError, as everywhere in Python."""
    unknown: dict[str, Any] = {"idempotency_key": "k"}
    with pytest.raises(TypeError, match="idempotency_key"):
        app.run(pages.job, 1, **unknown)
    with pytest.raises(TypeError, match=r"^run\(\) got .* 'idempotency_key'"):
        durably.run(pages.job, 1, **unknown)


# -- in one line -----------------------------------------------------------------------------


def test_one_line(tmp_path: Path, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is returned, and the engine is closed again, also after a failure."""
    db = tmp_path / "one.db"
    assert durably.run(pages.job, 3, db=db, key="k", synchronous="normal") == 3
    assert durably.run(pages.job, 3, db=db, key="k") == 3
    pages.bad = 3
    with pytest.raises(durably.RunFailedError):
        durably.run(pages.job, 4, db=db)
    pages.bad = None
    assert durably.run(pages.job, 4, db=db) == 6
    assert pages.calls == [0, 1, 2, 0, 1, 2, 3, 3]
    assert names_of_threads() == []
    monkeypatch.setenv("DURABLY_DB", str(db))
    assert durably.run(pages.job, 3, db=None, key="k") == 3
    assert len(pages.calls) == 8
    with pytest.raises(durably.ValidationError, match="max_workers"):
        durably.run(pages.job, 3, db=db, max_workers=0)
