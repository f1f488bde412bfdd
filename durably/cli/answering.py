"""Answer runs: ``durably questions`` and ``durably answer``."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from durably._platform.displayable import displayable
from durably.cli.shell import SHOWN_ID, find, run_argument, shell, verb
from durably.cli.tables import Column, formats, print_records
from durably.cli.times import moment
from durably.models.questions import Question

_COLUMNS: Final = (
    Column("RUN"),
    Column("JOB", gives_way=True),
    Column("NAME", gives_way=True),
    Column("RETURNS", gives_way=True),
    Column("UNTIL"),
    Column("QUESTION", gives_way=True, longest=200),
)
_IN_CSV: Final = ("run_id", "job_name", "name", "question", "returns", "created_at", "deadline")


@verb()
@formats
def questions(*, form: str | None) -> None:
    """List what runs ask and wait for, the oldest first."""
    with shell().read_only() as client:
        found = client.get_questions()
    print_records(form, found, _COLUMNS, _row, _IN_CSV)
    if form is None and not found:
        shell().note("no open questions")


def _row(question: Question) -> tuple[str, ...]:
    return (
        question.run_id[-SHOWN_ID:],
        question.job_name,
        question.name,
        question.returns or "",
        moment(question.deadline),
        question.question,
    )


@verb()
@run_argument()
@click.argument("name")
@click.argument("value")
@click.option("--id", "answer_id", help="Identifies the answer, so that it may be given again.")
def answer(*, run: str, name: str, value: str, answer_id: str | None) -> None:
    """Answer the question NAME of a run with VALUE.

    VALUE is JSON, such as true, 3 or {"ok": true}; what is not JSON is text, and so is everything
    where a text is asked for. Nothing is executed here: the next process that knows the job goes
    on with the run.
    """
    with shell().read_only() as client:
        found = find(client, run)
        asked = [each for each in client.get_questions() if each.run_id == found.id]
    is_text = any(each.name == name and each.returns == "str" for each in asked)
    app = shell().open()
    try:
        app.answer(found, name, value if is_text else _value(value), answer_id=answer_id)
    finally:
        app.close()
    shell().say(f"answered {displayable(name, 80)!r}.")
    names = [each.name for each in asked]
    if names and name not in names:
        others = ", ".join(repr(displayable(each, 80)) for each in names)
        shell().say(f"The run does not ask that now; it asks {others}.")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
