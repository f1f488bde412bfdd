"""The help of each verb is the reference in ``docs/command-line.md``, word for word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from clikit import printed

from durably import Attempt, ItemRecord, LogEntry, PlannedStep, Question, Run, StepRecord
from durably.cli.commands import VERBS, durably

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
HELP = re.compile(r"^```text\n\$ durably (?:(\w+) )?--help\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMES = re.compile(r"^\| `[^|]*` \| an? ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def test_the_page_has_the_help_of_each_verb() -> None:
    """In the order of the command's own help."""
    found = dict(HELP.findall(PAGE))
    assert list(found) == ["", *VERBS]
    for verb, text in found.items():
        shown = printed(None, *verb.split(), "--help")
        assert shown == text, f"durably {verb} --help is not what docs/command-line.md has"


def test_each_option_is_explained() -> None:
    """Also an argument, which the help of a verb names in its first line."""
    context = click.Context(durably)
    for verb in VERBS:
        command = durably.get_command(context, verb)
        assert command is not None
        assert command.help
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert [option.opts for option in options if not option.help] == []
        assert {"--db", "--quiet", "--verbose", "--traceback"} <= {
            name for option in options for name in option.opts
        }


@pytest.mark.parametrize(
    ("what", "record", "more"),
    [
        ("run", Run, ["key", "duration"]),
        ("step", StepRecord, []),
        ("item of a map", ItemRecord, []),
        ("log line", LogEntry, []),
        ("execution", Attempt, []),
        ("question", Question, []),
        ("step that is stored", PlannedStep, []),
    ],
)
def test_the_names_for_programs_are_those_of_python(
    what: str, record: Any, more: list[str]
) -> None:
    """``--json`` has the public attributes, which the page lists."""
    listed = {kind: re.findall(r"`(\w+)`", names) for kind, names in NAMES.findall(PAGE)}
    fields = [field.name for field in attrs.fields(record) if not field.name.startswith("_")]
    if record is Run:
        fields.remove("disposition")
    assert listed[what] == [*fields, *more]
