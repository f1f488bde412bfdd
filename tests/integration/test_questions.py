"""Questions that runs ask: answered before, while and after they wait, once, or too late."""

from __future__ import annotations

import sys
import threading
import types
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from engines import engine, execute, take_over
from walls import Wall

import durably
from durably.codec import UNTYPED
from durably.codec.type_text import type_of_text, type_text
from durably.store.sqlite.sql import waits

HOUR = 3600.0


@attrs.frozen
class Verdict:
    """What a person decides."""

    is_good: bool
    why: str = ""


class Colour(Enum):
    """Chosen by a person."""

    RED = "red"


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def test_a_question_is_listed_answered_once_and_its_answer_has_its_type(tmp_path: Path) -> None:
    """The value is checked where it is given; the same answer may be given again by its id."""

    def job(step: durably.StepContext) -> str:
        verdict = step.ask("ok?", question="Is it good?", returns=Verdict, timeout=HOUR)
        assert isinstance(verdict, Verdict)
        return verdict.why

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert (run.status, run.waiting_for.kind, run.waiting_for.name) == (
            "waiting",
            "answer",
            "ok?",
        )
        [question] = app.get_questions()
        assert (question.run_id, question.job_name, question.name) == (run.id, "job", "ok?")
        assert question.question == "Is it good?"
        assert question.returns == f"{__name__}.Verdict"
        assert question.deadline == run.waiting_for.until
        assert question.created_at <= datetime.now(UTC) < question.deadline
        with pytest.raises(durably.ValidationError, match="is_good"):
            app.answer(run, "ok?", {"why": 1})
        app.answer(run, "ok?", {"is_good": True, "why": "it is"}, answer_id="a")
        app.answer(run, "ok?", Verdict(is_good=False), answer_id="a")  # as if it was not sent
        for answer_id in (None, "b"):
            with pytest.raises(durably.ConflictError, match="answered before"):
                app.answer(run, "ok?", Verdict(is_good=True), answer_id=answer_id)
        assert app.get_questions() == []
        assert app.get_run(run).status == "pending"
        assert app.process_one()
        assert app.get_run(run).output == "it is"
        app.answer(run, "ok?", Verdict(is_good=False), answer_id="a")
        with pytest.raises(durably.ConflictError):
            app.answer(run, "other", 1)
        with pytest.raises(durably.NotFoundError):
            app.answer("nobody", "ok?", 1)


def test_an_answer_may_come_first_and_one_that_does_not_fit_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the question nobody knows its type; with an answer the run does not suspend."""

    def job(step: durably.StepContext) -> list[int]:
        return [step.ask("a", returns=int), step.ask("b", returns=int)]

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        app.answer(run, "a", 1)
        app.answer(run, "b", "two")
        assert app.get_questions() == []
        assert app.process_one()
        assert [each.name for each in app.get_questions()] == ["b"]
        assert "does not fit" in caplog.text
        app.answer(run, "b", 2)
        assert app.process_one()
        assert app.get_run(run).output == [1, 2]


def test_a_deadline_has_one_outcome_for_both_sides(tmp_path: Path, wall: Wall) -> None:
    """The default or the error at the deadline; an answer from then on is too late, also where the
    clock goes back.
    """

    def job(step: durably.StepContext, payload: str) -> Any:
        if payload == "default":
            return step.ask("q", timeout=HOUR, default=None)
        return step.ask("q", timeout=HOUR)

    with engine(tmp_path, job) as app:
        handle = app.jobs["job"]
        runs = [handle.trigger(each) for each in ("default", "error", "answered")]
        assert app.run_until_idle() == 3
        app.answer(runs[2], "q", "in time")
        wall.advance(HOUR)
        for run in runs[:2]:
            with pytest.raises(durably.ConflictError, match="deadline"):
                app.answer(run, "q", "late")
        assert app.get_questions() == []
        assert app.run_until_idle(raise_failed=False) == 3
        wall.advance(-HOUR)
        for run in runs[:2]:
            with pytest.raises(durably.ConflictError):
                app.answer(run, "q", "late")
        done, failed, answered = (app.get_run(run) for run in runs)
        assert (done.status, done.output, answered.output) == ("completed", None, "in time")
        assert failed.error.type == "durably.StepTimeoutError"
        app.retry(failed)
        assert app.process_one()
        assert [each.run_id for each in app.get_questions()] == [failed.id]
        app.cancel(failed)
        assert app.get_questions() == []
        with pytest.raises(durably.ConflictError, match="has ended"):
            app.answer(failed, "q", 1)


def test_an_answer_while_the_run_is_being_suspended_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored after the job has checked for it and before the run is waiting."""

    def job(step: durably.StepContext) -> Any:
        try:
            return step.ask("q")
        finally:
            if not answered:
                answered.append(1)
                app.answer(step.run_id, "q", 7)

    answered: list[int] = []
    with engine(tmp_path, job) as app:
        run = execute(app)
        assert (run.status, run.waiting_for) == ("pending", None)
        assert app.process_one()
        assert app.get_run(run).output == 7


def test_a_cancel_while_it_is_being_suspended_or_woken_wins(tmp_path: Path) -> None:
    """The run stays cancelled, and a later answer is rejected."""

    def job(step: durably.StepContext) -> Any:
        try:
            return step.ask("q")
        finally:
            if how == "suspended":
                app.cancel(step.run_id)

    for how in ("suspended", "woken"):
        with engine(tmp_path, job) as app:
            run = execute(app)
            if how == "woken":
                app.answer(run, "q", 1)
                app.cancel(run)
                assert not app.process_one()
            assert app.get_run(run).status == "cancelled"
            with pytest.raises(durably.ConflictError):
                app.answer(run, "q", 2)


def test_a_ticket_is_answered_by_its_id_whatever_dies_in_between(tmp_path: Path) -> None:
    """The owner dies between ``prepare`` and ``wait_for``: the id stays, and the answer counts."""
    sent: list[str] = []

    def job(step: durably.StepContext) -> int:
        ticket = step.prepare("batch", question="the batch", returns=int)
        assert ticket.name == "batch"
        step.run("send", sent.append, ticket.id)
        if dies:
            dies.clear()
            app.signal(ticket.id, 5, answer_id="x")
            take_over(app)
            step.check()
        return step.wait_for(ticket)

    dies = [1]
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        assert app.process_one()
        app.signal(sent[0], 6, answer_id="x")
        with pytest.raises(durably.ConflictError):
            app.signal(sent[0], 6)
        with pytest.raises(durably.NotFoundError):
            app.signal("nothing", 6)
        app.run_until_idle()
        assert (app.get_run(run).output, len(sent)) == (5, 1)


def test_a_ticket_of_another_run_fails_the_run_that_waits_for_it(tmp_path: Path) -> None:
    """Nobody could answer; a retry with a ticket of its own completes it."""
    tickets: list[Any] = []

    def job(step: durably.StepContext) -> int:
        tickets.append(step.prepare(f"of {step.run_id}", returns=int))
        return step.wait_for(tickets[0])

    with engine(tmp_path, job) as app:
        first, second = app.jobs["job"].trigger(), app.jobs["job"].trigger()
        assert app.process_one()
        assert app.process_one()
        assert first.refresh().status == "waiting"
        second = second.refresh()
        assert second.status == "failed"
        assert second.error.type == "durably.NotFoundError"
        assert f"run {second.id} has no ticket 'of {first.id}'" in second.error.message
        tickets.clear()
        app.retry(second)
        app.answer(second, f"of {second.id}", 7)
        app.run_until_idle()
        assert second.refresh().output == 7


def test_a_ticket_that_was_never_prepared_fails_its_run(tmp_path: Path) -> None:
    """Also if something was answered under its name that does not fit."""

    def job(step: durably.StepContext) -> int:
        return step.wait_for(durably.Ticket(id="x", name="early", returns=int))

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        app.answer(run, "early", "no number")
        assert app.process_one()
        assert app.get_run(run).error.type == "durably.NotFoundError"


def test_app_run_and_a_client_without_a_worker_meet_in_place(tmp_path: Path) -> None:
    """``app.run`` keeps its thread, and another engine that executes nothing answers."""

    def job(step: durably.StepContext) -> Any:
        asked.set()
        return step.ask("q")

    asked = threading.Event()

    def answer() -> None:
        assert asked.wait(20)
        with engine(tmp_path) as other:
            while not (questions := other.get_questions()):
                other._store.changes.wait(other._store.changes.snapshot(), 0.05)
            other.answer(questions[0].run_id, "q", {"n": 1})

    with engine(tmp_path, job) as app:
        thread = threading.Thread(target=answer)
        thread.start()
        assert app.run("job").output == {"n": 1}
        thread.join()


@pytest.mark.parametrize(
    "call",
    [
        lambda step: step.ask("q", question=1),
        lambda step: step.ask("q", returns=threading.Lock),
        lambda step: step.ask("q", timeout=-1),
        lambda step: step.ask("q", returns=bool, timeout=9, default=None),
        lambda step: step.prepare("q", timeout=9, default=object()),
        lambda step: step.ask(""),
        lambda step: step.prepare("q", timeout="soon"),
        lambda step: step.wait_for("q"),
    ],
)
def test_what_cannot_be_asked_is_rejected(tmp_path: Path, call: Any) -> None:
    """The error is raised before the run waits."""

    def job(step: durably.StepContext) -> None:
        with pytest.raises(durably.ValidationError):
            call(step)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"


@pytest.mark.parametrize(
    "type_",
    [
        *(None, int, Verdict, Colour, list[Verdict], dict[str, int], int | None),
        *(Literal["a", "b"], tuple[int, ...], timedelta, list[dict[str, Verdict | None]]),
    ],
)
def test_a_type_is_read_from_its_text(type_: Any) -> None:
    """In a process that has loaded its module; ``None`` stands for no type."""
    assert type_of_text(type_text(type_)) == (UNTYPED if type_ is None else type_)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "os.getcwd", "no.such.Class", "list[", "open", "int.x", "1+"]
)
def test_a_text_that_is_no_known_type_is_no_type(text: str) -> None:
    """Nothing is called and nothing imported for it."""
    assert type_of_text(text) is UNTYPED


def test_the_text_of_a_type_calls_nothing_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may import others when a name of it is first used; the text is stored data."""
    asked: list[str] = []
    module = types.ModuleType("lazy")
    module.__dict__["__getattr__"] = asked.append
    monkeypatch.setitem(sys.modules, "lazy", module)

    assert type_of_text("lazy.Row") is UNTYPED
    assert asked == []


def test_open_questions_are_found_by_an_index(tmp_path: Path) -> None:
    """Runs that wait for other things, and those that were answered, are not read."""
    with engine(tmp_path) as app:
        plan = app._store.database.read(
            lambda db: [
                row[3]
                for row in db.execute(
                    f"EXPLAIN QUERY PLAN {waits.QUESTIONS}", {"now_us": 0}
                ).fetchall()
            ]
        )
    assert any("durably_waits_open" in line for line in plan)
    assert not any("SCAN" in line and "durably_waits_open" not in line for line in plan)


@pytest.mark.parametrize("call", ["ask", "prepare"])
def test_a_default_needs_a_timeout(tmp_path: Path, call: str) -> None:
    """Without one it would never be the result."""

    def job(step: durably.StepContext) -> None:
        with pytest.raises(
            durably.ValidationError, match="there is no timeout; give it a timeout="
        ):
            getattr(step, call)("approve", default=True)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == "completed", run.error
        assert app.get_questions() == []


def test_a_retry_of_a_run_that_waits_is_a_conflict_and_changes_nothing(tmp_path: Path) -> None:
    """Neither before the answer nor once it has come and the run is about to go on."""

    def job(step: durably.StepContext) -> Any:
        return step.ask("approve")

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        assert app.process_one()
        for state in ("waiting", "pending"):
            with pytest.raises(durably.ConflictError, match=f"is {state} and cannot be retried"):
                app.retry(run)
            if state == "waiting":
                (question,) = app.get_questions()
                app.answer(question.run_id, question.name, 1)
        assert app.process_one()
        assert (app.get_run(run).output, app.get_run(run).attempt) == (1, 1)
