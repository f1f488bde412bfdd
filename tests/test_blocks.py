"""Every block of the pages is executed by a test, or listed here with the reason why it is not."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from inspect import Parameter, signature
from typing import Any, Final

import click
from pages import DOCS, README, Block, blocks_of, entries_of

import durably
from durably.cli.commands import VERBS
from durably.cli.commands import durably as cli
from durably.entry.oneline import MapOptions

ROOT: Final = README.parent
PAGES: Final = {str(page.relative_to(ROOT)): page for page in [README, *sorted(DOCS.rglob("*.md"))]}
# Which test executes the blocks of a page that are not Python; test_docs.py and the tests of the
# recipes and of the tutorial execute those that are.
EXECUTED: Final = {
    "README.md": {
        "$ python crawl.py": "integration/test_readme.py",
        "$ rm -f airports.db": "integration/test_import_airports.py",
    },
    "docs/command-line.md": {
        "$ durably --help": "integration/test_cli_help.py",
        **{f"$ durably {verb} --help": "integration/test_cli_help.py" for verb in VERBS},
        "": "integration/test_transcripts.py",
    },
    "docs/guide.md": {
        "crawl ▸running": "integration/test_transcripts.py",
        "step 'clean' was stored": "integration/test_transcripts.py",
        "nightly-import users-2026-11-27 failed": "integration/test_transcripts.py",
        "02:30:01 INFO": "integration/test_transcripts.py",
    },
    "docs/loops.md": {
        "$ python label_documents.py": "integration/test_label_documents.py",
        "154/500": "integration/test_transcripts.py",
        "label: 500 items": "integration/test_transcripts.py",
    },
    "docs/recipes/cron.md": {"DURABLY_DB=": "integration/test_transcripts.py"},
    "docs/recipes/*": {"": "integration/test_recipes.py"},
    "docs/tutorial-script.md": {"$ ": "integration/test_tutorial.py"},
}
# What is not executed, and why; what of it can be checked is checked below.
NOT_EXECUTED: Final = {
    "README.md": {
        "$ pip install .": "it installs into the environment in which the tests run",
        "python3 -m venv .venv": ".ci/run executes these two commands, word for word",
    },
    "docs/architecture.md": {
        "your threads": "a drawing",
        "command      cli/": "a drawing",
    },
    "docs/guide.md": {"trigger ──▶ pending": "a drawing"},
    "docs/performance.md": {
        "python -m benchmarks": "it measures for minutes, on a quiet machine",
        "python3 -m venv .venv": "it measures for minutes, on a quiet machine",
    },
    "docs/reliability.md": {"$ python -m tests.crash.soak": "it takes minutes to hours"},
    "docs/tutorial-script.md": {
        "python3 -m venv .venv": "it makes an environment of its own, as .ci/run does"
    },
}


# Their code is executed block by block, or is the language of the site.
OF_PYTHON: Final = {"python", "diff"}


def blocks() -> Iterator[tuple[str, Block]]:
    """Yield each block of each page that is not Python."""
    for name, page in PAGES.items():
        for block in blocks_of(page):
            if block.language not in OF_PYTHON:
                yield name, block


def listed(page: str, block: Block, lists: dict[str, dict[str, str]]) -> str | None:
    """Return what a list has of a block: that of its page, else that of its folder."""
    for name in (page, f"{page.rpartition('/')[0]}/*"):
        for start, what in lists.get(name, {}).items():
            if block.text.lstrip().startswith(start):
                return what
    return None


def test_every_block_is_executed_or_there_is_a_reason() -> None:
    """Each has one of the two, and not both."""
    for page, block in blocks():
        by, reason = listed(page, block, EXECUTED), listed(page, block, NOT_EXECUTED)
        assert (by is None) != (reason is None), f"{page}:\n{block.text}"


def test_what_is_listed_is_there() -> None:
    """Each line of the lists is about a block, and each test of them is there."""
    for lists in (EXECUTED, NOT_EXECUTED):
        for name, starts in lists.items():
            texts = [
                block.text.lstrip()
                for page, block in blocks()
                if name in (page, f"{page.rpartition('/')[0]}/*")
            ]
            assert [start for start in starts if not any(t.startswith(start) for t in texts)] == []
    for starts in EXECUTED.values():
        assert [test for test in starts.values() if not (ROOT / "tests" / test).is_file()] == []


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command of each page: those of transcripts, of scripts, and in the text."""
    for page, block in blocks():
        if block.language == "sh":
            yield page, block.text
        elif block.language in {"console", "text"}:
            yield from ((page, entry) for entry, _ in entries_of(block.text))
    for name, page in PAGES.items():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", text):
            if re.match(r"(?:durably|python|pip) \S", code):
                yield name, code


def test_a_shell_understands_each_command() -> None:
    """It is read by one, and not executed."""
    read = "\n".join(command for _, command in commands())
    assert read.count("\n") > 150
    done = subprocess.run(["bash", "-n"], input=read, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_command_has_the_verbs_and_options_that_it_is_given() -> None:
    """Also in the midst of a sentence, where nothing executes it."""
    context = click.Context(cli)
    count = 0
    for page, text in commands():
        for call in re.findall(r"^(?:.*&& )?(?:\w+=\S+ )*durably ([^|&;\n]+)", text, re.MULTILINE):
            words = shlex.split(call, comments=True)
            if words == ["…"]:
                continue
            verb = cli if words[0].startswith("-") else cli.get_command(context, words[0])
            assert verb is not None, f"{page}: {text}"
            known = {name for each in verb.params for name in each.opts} | {"--help", "-h"}
            given = {word for word in words if re.fullmatch(r"-[a-z]|--[a-z][a-z-]*", word)}
            assert given <= known, f"{page}: {text}"
            count += 1
    assert count > 100


# What the names stand for that the text calls methods of.
OBJECTS: Final[dict[str, tuple[Any, ...]]] = {
    "app": (durably.Durably,),
    "step": (durably.StepContext, durably.Session),
    "run": (durably.Run,),
    "durably": (durably,),
}
# Options that are handed on: those of maps, of runs, and of engines.
HANDED_ON: Final = {
    *MapOptions.__annotations__,
    *signature(durably.Durably.run).parameters,
    *signature(durably.Durably).parameters,
}


def calls_in_the_text() -> Iterator[tuple[str, str, Any, list[str]]]:
    """Yield the page, the code, what is called, and the names of its arguments.

    What is called is ``None`` where there is nothing of that name.
    """
    for name, page in PAGES.items():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", text):
            with suppress(SyntaxError):
                for call in ast.walk(ast.parse(code.strip())):
                    match call:
                        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=called)):
                            owners = OBJECTS.get(owner, ())
                        case ast.Call(func=ast.Name(id=called)):
                            owners = (durably,) if called in durably.__all__ else ()
                        case _:
                            continue
                    if owners:
                        found = [getattr(each, called, None) for each in owners]
                        options = [each.arg for each in call.keywords if each.arg]
                        yield name, code, next(filter(None, found), None), options


def test_each_call_in_the_text_is_one() -> None:
    """Its method is there, and has the options that it is given."""
    count = 0
    for page, code, called, options in calls_in_the_text():
        assert called is not None, f"{page}: {code}"
        parameters = signature(called).parameters
        is_open = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
        of_notes = called == durably.StepContext.note  # whose options are its data
        known = {*parameters, *(HANDED_ON if is_open else ()), *(options if of_notes else ())}
        assert [option for option in options if option not in known] == [], f"{page}: {code}"
        count += 1
    assert count > 150


def test_what_is_not_executed_can_be() -> None:
    """Modules, extras, tables and kinds that the commands name are there."""
    text = "\n".join(command for _, command in commands())
    extras = {*metadata.metadata("durably").get_all("Provides-Extra", [])}
    named = set(re.findall(r"pip install (?:-q )?(?:-e )?'(?:\.|durably)\[([\w,]+)\]'", text))
    assert {"cli", "docs", "test", "examples"} <= named | {"docs"}
    assert named <= extras
    modules = set(re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", text))
    assert modules >= {"benchmarks", "tests.crash.soak"}
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    workloads = "".join(each.read_text("utf-8") for each in (ROOT / "benchmarks").rglob("*.py"))
    tables = re.findall(r"--only (\w[\w -]+)$", text, re.MULTILINE)
    assert len(tables) > 0
    assert [each for each in " ".join(tables).split() if f'"{each}"' not in workloads] == []
    for kind in re.findall(r"--kind ([\w-]+)", text):
        assert f'"{kind}":' in (ROOT / "tests" / "crash" / "soak.py").read_text("utf-8")
