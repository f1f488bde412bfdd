"""The reference in ``docs/reference`` has all that is exported, and nothing that is not."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from inspect import Parameter, isclass, signature
from pathlib import Path

import attrs
import pytest
from pages import DOCS

import durably
import durably.codecs
import durably.events
import durably.plugins
import durably.testing
from durably.cli import shell
from durably.cli.commands import VERBS
from durably.events import EVENT_TYPES

REFERENCE = DOCS / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables of a page, but for their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0].startswith("`") or row[0].isdecimal()]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


DIRECTIVE = re.compile(
    r"^\.\. auto(?:class|exception|function|data):: durably\.(\w+)$", re.MULTILINE
)


def test_every_exported_name_has_its_docstring_in_the_reference() -> None:
    """Each name of the package stands there once, and no other name."""
    named = [
        name
        for each in ("api.md", "errors.md", "events.md")
        for name in DIRECTIVE.findall(page(each))
    ]
    assert sorted(named) == sorted(durably.__all__)
    modules = re.findall(r"^\.\. automodule:: durably\.(\w+)$", page("api.md"), re.MULTILINE)
    assert set(modules) == {"codecs", "plugins", "progress", "testing"}


def test_the_tables_of_names_have_every_name() -> None:
    """A reader of the Markdown finds each name that is no error and no event."""
    listed = {name for row in rows(page("api.md")) for name in in_code(row[0])}
    errors = {name for name in durably.__all__ if _is_error(name)}
    assert listed - {f"durably.{name}" for name in durably.__all__} == {
        "durably.codecs",
        "durably.plugins",
        "durably.progress",
        "durably.testing",
    }
    assert {f"durably.{name}" for name in {*durably.__all__} - errors - {"Event"}} <= listed


def _is_error(name: str) -> bool:
    value = getattr(durably, name)
    return isclass(value) and issubclass(value, BaseException) and name != "RetryAfter"


def test_every_error_has_its_cause_and_what_to_do() -> None:
    """So has each warning; and the bases are those that the tables say."""
    raised, in_a_job, warned = (
        rows(part) for part in re.split(r"^## ", page("errors.md"), flags=re.MULTILINE)[1:4]
    )
    classes = [in_code(row[0])[0] for row in [*raised, *in_a_job, *warned]]
    assert sorted([*classes, "DurablyError"]) == sorted(filter(_is_error, durably.__all__))
    for name, also, cause, advice in [*raised, *in_a_job]:
        cls = getattr(durably, in_code(name)[0])
        assert cause
        assert advice
        assert [base in {each.__name__ for each in cls.__mro__} for base in in_code(also)] in (
            [True],
            [],
        ), name
    for name, cause, _ in warned:
        assert issubclass(getattr(durably, in_code(name)[0]), durably.DurablyWarning)
        assert cause


def test_every_event_has_its_class_and_its_fields() -> None:
    """In the order in which they are listed in the code."""
    common = {"timestamp", "sequence", "run_id", "job_name", "labels"}
    found = {
        in_code(row[0])[0]: (in_code(row[1]), in_code(row[2])) for row in rows(page("events.md"))
    }
    real = {}
    for name, cls in EVENT_TYPES.items():
        fields = [field.name for field in attrs.fields(cls)]
        if cls is not durably.events.WorkerError:
            fields = [field for field in fields if field not in common]
        real[name] = (
            [cls.__name__],
            [field for field in fields if field not in common - {"run_id"}],
        )
    assert found == real


def test_every_verb_is_in_the_page_of_the_command_line() -> None:
    """With its help, which another test compares word for word."""
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"### durably {verb}\n" not in text] == []


TABLES = {
    "The engine": durably.Durably,
    "A job": durably.job,
    "To run it here": durably.Durably.run,
    "A trigger": durably.JobHandle.trigger,
    "A step": durably.StepContext.options,
    "A retry": durably.Retry,
    "A map": durably.StepContext.map,
    "A session": durably.session,
}
# What a call is about, and no option of it.
SUBJECTS = {"self", "payload", "fn", "items", "engine_options"}


@pytest.mark.parametrize("title", TABLES)
def test_every_option_has_its_default(title: str) -> None:
    """The table of a call has its options, in their order, each with its default."""
    section = page("options.md").partition(f"## {title}\n")[2].partition("\n## ")[0]
    told = [(in_code(row[0])[0], in_code(row[1])[0]) for row in rows(section)]
    real = [
        (name, _default(parameter.default))
        for name, parameter in signature(TABLES[title]).parameters.items()
        if name not in SUBJECTS
        and not (parameter.default is Parameter.empty and name in {"job", "name"})
    ]
    assert told == real
    assert len(TABLES) == len(re.findall(r"^## ", page("options.md"), re.MULTILINE))


def _default(value: object) -> str:
    return value.__name__ if isclass(value) else repr(value).replace("'", '"')


def test_the_exit_statuses_are_those_of_the_command() -> None:
    """Each that the code names has a row."""
    listed = {int(row[0]) for row in rows(page("exit-codes.md"))}
    assert {0, shell.FAILED, shell.UNUSABLE, shell.LATER, 130, 143} == listed
    assert os.EX_TEMPFAIL == shell.LATER


def test_the_views_have_the_columns_of_the_page(tmp_path: Path) -> None:
    """They are promised, in this order."""
    durably.Durably(tmp_path / "views.db").close()
    promised = {in_code(row[0])[0]: in_code(row[2]) for row in rows(page("file.md"))}
    with closing(sqlite3.connect(tmp_path / "views.db")) as db:
        found = {
            view: [row[1] for row in db.execute(f"PRAGMA table_info({view})")] for view in promised
        }
    assert found == promised
    assert list(promised) == ["runs", "steps", "items", "attempts"]
