"""``durably questions`` and ``durably answer``, and what the other verbs show of waiting runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from clikit import command, objects, printed, refused
from engines import engine

import durably


def job(step: durably.StepContext, name: str) -> object:
    if name == "sleep":
        return step.sleep_until("nap", 3600)
    if name == "call":
        return step.call("child", "job", "ask")
    answers = [step.ask("n", question="How many?", returns=int, timeout=3600)]
    return [*answers, step.ask("text", question="What?", returns=str)]


def test_a_question_is_listed_and_answered_in_the_shell(tmp_path: Path) -> None:
    """The value is JSON, or text; one that does not fit and a second one are rejected."""
    path = tmp_path / "durably.db"
    with engine(tmp_path, job) as app:
        assert printed(path, "questions", "--quiet") == ""
        run = app.jobs["job"].trigger("ask", idempotency_key="k")
        app.run_until_idle()
        table = printed(path, "questions")
        assert "How many?" in table
        assert run.id[-4:] in table
        [question] = objects(path, "questions")
        assert (question["run_id"], question["name"], question["returns"]) == (run.id, "n", "int")
        assert "How many?" in printed(path, "questions", "--csv")
        shown = printed(path, "show", "k")
        assert "question  How many?" in shown
        assert f"durably answer {run.id[-8:]} n VALUE --db {path}" in shown
        assert "answer it with int" in shown
        assert "next step" not in shown
        assert "the answer to 'n'" in refused(path, "answer", "k", "n", "many")
        early = printed(path, "answer", "k", "m", "1")
        assert early == "answered 'm'.\nThe run does not ask that now; it asks 'n'.\n"
        assert printed(path, "answer", "k", "n", "3", "--id", "a") == "answered 'n'.\n"
        assert command(path, "answer", "k", "n", "4").exit_code == 1
        assert command(path, "answer", "k", "n", "3", "--id", "a").exit_code == 0
        app.run_until_idle()
        assert printed(path, "answer", "k", "text", "3") == "answered 'text'.\n"
        app.run_until_idle()
        assert app.wait(run, timeout=5).output == [3, "3"]


def test_waiting_runs_say_for_what_they_wait(tmp_path: Path) -> None:
    """In ``ls``, ``show`` and ``--json``; a parent says for which run."""
    path = tmp_path / "durably.db"
    with engine(tmp_path, job) as app:
        asleep, parent = app.jobs["job"].batch_trigger(["sleep", "call"])
        app.run_until_idle()
        [child] = app.get_runs(parent=parent)
        listed = printed(path, "ls", "--status", "waiting")
        assert "waits until" in listed
        assert f"waits for run {child.id}" in listed
        assert "asks: n" in listed
        assert "waits until" in printed(path, "show", asleep.id)
        assert f"parent    {parent.id}" in printed(path, "show", child.id)
        waits = {each["id"]: each["waiting_for"] for each in objects(path, "ls")}
        assert waits[parent.id] == {
            "kind": "run",
            "name": None,
            "until": None,
            "run_id": child.id,
        }
        assert (waits[asleep.id]["kind"], waits[asleep.id]["name"]) == ("time", "nap")


def test_a_run_for_later_says_when_it_is_due(tmp_path: Path) -> None:
    """In ``ls`` and ``show``, as a time, and in ``--json`` as an instant."""
    path = tmp_path / "durably.db"
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger("ask", run_at=datetime(2091, 3, 4, 12, 5, tzinfo=UTC))
        year = str(run.run_at)[:4]
        assert f"at {year}" in printed(path, "ls")
        assert f"due       at {year}" in printed(path, "show", run.id)
        [listed] = objects(path, "ls")
        assert str(listed["run_at"]).startswith("2091-03-04")


def test_a_run_that_is_tried_again_says_when_and_after_what(tmp_path: Path) -> None:
    """In ``ls`` and ``show``; ``--json`` has the error."""
    path = tmp_path / "durably.db"

    def fail(step: object) -> None:
        raise OSError("no route")

    retry = durably.Retry(wait=10**9, max_wait=10**9)
    with engine(tmp_path, durably.Job("fail", fail, retry=retry)) as app:
        run = app.trigger("fail")
        app.process_one()
        year = str(run.refresh().run_at)[:3]
        assert f"again at {year}" in printed(path, "ls")
        assert "after OSError: no route" in printed(path, "ls")
        assert f"due       again at {year}" in printed(path, "show", run.id)
        assert "after OSError: no route" in printed(path, "show", run.id)
        [listed] = objects(path, "ls")
        assert listed["error"]["message"] == "no route"


def test_work_that_waits_is_left(tmp_path: Path) -> None:
    """The exit status of ``work --until-idle`` says so until it is answered and done."""
    path, program = tmp_path / "durably.db", tmp_path / "asks_in_a_shell.py"
    program.write_text(
        "import durably\n\n@durably.job\ndef asks(step, name):\n    return step.ask('q')\n"
    )
    work = "work", str(program), "--until-idle"
    with engine(tmp_path) as app:
        run = app.trigger(durably.Job("asks", job), "a")
        assert command(path, *work).exit_code == 75
        assert command(path, *work).exit_code == 75
        app.answer(run, "q", 1)
        assert command(path, *work).exit_code == 0
        assert app.wait(run, timeout=5).output == 1
