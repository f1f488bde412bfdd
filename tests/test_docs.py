"""The documentation is true: its code runs, and nothing public is left out of it."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from inspect import Parameter, isclass, isfunction, signature
from pathlib import Path

import attrs
import pytest
from children import execute

import durably
import durably.events
from durably.cli import shell
from durably.cli.commands import VERBS
from durably.events import EVENT_TYPES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]
# Programs that are started, killed and changed: other tests execute them.
WITH_PROGRAMS = {ROOT / "docs" / "tutorial-script.md", *(ROOT / "docs" / "recipes").glob("*.md")}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def documented() -> str:
    """All that README and guide say."""
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


TEXT = documented()


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page not in WITH_PROGRAMS and BLOCK.search(page.read_text(encoding="utf-8"))
    ],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Every Python block of a page runs after those above it, without a warning."""
    users = "".join(f"{number},user {number}\n" for number in range(1000))
    (tmp_path / "users.csv").write_text(users, encoding="utf-8")

    options = ["-W", "error"]
    done = execute("executes_a_page", page, BLOCK.pattern, options=options, folder=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def public_members() -> Iterator[str]:
    """``Class.member`` for what the public classes define themselves, errors apart."""
    for name in durably.__all__:
        cls = getattr(durably, name)
        if not isclass(cls) or issubclass(cls, BaseException):
            continue
        for member, value in vars(cls).items():
            if not member.startswith("_") and (isfunction(value) or isinstance(value, property)):
                yield f"{name}.{member}"
        for field in getattr(cls, "__attrs_attrs__", ()):
            if not field.name.startswith("_") and field.init:
                yield f"{name}.{field.name}"


def names_in_code() -> set[str]:
    """Every identifier in `code` or in a code block."""
    code = re.findall(r"```.*?```|``[^`]+``|`[^`\n]+`", TEXT, re.DOTALL)
    return set(re.findall(r"[A-Za-z_]\w*", " ".join(code)))


NAMES = names_in_code()


def test_every_public_name_is_documented() -> None:
    """Each member of a public class is documented, too."""
    assert set(durably.__all__) - NAMES == set()
    members = list(public_members())
    assert len(members) > 100
    assert [each for each in members if each.partition(".")[2] not in NAMES] == []


def test_every_option_is_documented() -> None:
    """Those of engines, jobs, triggers and retries are in the documents."""
    functions = (durably.Durably, durably.JobHandle.trigger_and_wait, durably.Retry, durably.job)
    options = {option for each in functions for option in signature(each).parameters}
    assert options - {"self"} - NAMES == set()


def test_every_event_is_documented_with_its_class() -> None:
    """The table of events has a row for each."""
    rows = [f"| `{event}` | `{cls.__name__}` |" for event, cls in EVENT_TYPES.items()]
    assert [row for row in rows if row not in TEXT] == []


def test_the_defaults_in_the_guide_are_those_of_the_engine() -> None:
    """The table of options gives each default as it is."""
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", guide, re.MULTILINE)
    told = {
        name: default for name, default in rows if name in signature(durably.Durably).parameters
    }
    real = {
        name: repr(parameter.default).replace("'", '"')
        for name, parameter in signature(durably.Durably).parameters.items()
    }
    assert told == real


WRITTEN = [
    *PAGES,
    *(ROOT / "docs").glob("*.ipynb"),
    ROOT / "CHANGELOG.md",
    ROOT / ".github" / "CONTRIBUTING.md",
]


def prose(page: Path) -> str:
    """What a page says apart from its code; of a notebook, its cells of Markdown."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links call the headings of a page by."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A link within the project names a file that is there, and a heading that it has."""
    broken = []
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", prose(page)):
        target = page.parent / link if link else page
        has_heading = not anchor or target.suffix != ".md" or anchor in anchors(target)
        if not (target.exists() and has_heading):
            broken.append(f"{link}#{anchor}")
    assert not broken


def test_each_page_is_reached_from_the_index() -> None:
    """By links that a reader of the repository can follow, in the text of pages."""
    index = ROOT / "docs" / "index.md"
    reached, ahead = set(), [index]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose(page)):
            target = (page.parent / link).resolve()
            if target.suffix in {".md", ".ipynb"} and target not in reached:
                ahead.append(target)
    assert {page for page in WRITTEN if page.is_relative_to(ROOT / "docs")} - reached == set()
    assert 150 < len(README.read_text(encoding="utf-8").splitlines()) < 180  # one page


MOST_WORDS = 30


@pytest.mark.parametrize("page", WRITTEN[:-2], ids=lambda page: page.name)
def test_no_sentence_is_long(page: Path) -> None:
    """It is understood at first sight: a reader may have learnt the language late."""
    text = re.sub(
        r"<!-- what follows is written.*?<!-- what precedes", "", prose(page), flags=re.DOTALL
    )
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]+`", "code", text))
    parts = re.split(r"\n\s*\n|\n(?= *(?:[-*] |\d+\. |#|\|))", text)
    sentences = [
        sentence
        for part in parts
        if not part.lstrip().startswith(("#", "|", "<!--"))
        for sentence in re.split(r"[.!?][)\"*]*\s+|[:;]\n", part)
    ]
    assert [each for each in sentences if len(re.findall(r"\S*\w\S*", each)) > MOST_WORDS] == []


def test_the_architecture_names_files_that_are_there() -> None:
    """What to open to change something, and its tests, can be opened."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.md|\.cfg|\.toml|/run|/))`", text))
    assert len(named) > 20
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not (ROOT / "durably" / name).exists()
    ]
    assert not missing


def test_the_checks_run_the_two_commands_of_the_readme() -> None:
    """What the README says to run is, word for word, what .ci/run runs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = [line.strip() for line in script.splitlines()]
    main_job, tests = SHELL.findall(README.read_text(encoding="utf-8"))[:2]
    assert "import_airports.py" in main_job
    assert "pytest" in tests
    assert main_job.strip() in lines
    assert tests.strip() in lines


def test_the_tests_that_the_fault_list_names_are_there() -> None:
    """Each row of docs/reliability.md has a test, which can be run by the name it is given."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \|.*$", text, re.MULTILINE)
    assert len(rows) > 40
    assert not [row for row in rows if "`tests/" not in row]
    missing = []
    for file, names in set(re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)(?:\[[^`]*\])?`", text)):
        source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else ""
        for name in names.split("::")[1:] or [""]:
            defines = re.compile(rf"^ *(?:def|class) {name}\b", re.MULTILINE)
            if not source or (name and not defines.search(source)):
                missing.append(f"{file}::{name}")
    assert not missing


# What follows compares the reference with what is exported.

REFERENCE = ROOT / "docs" / "reference"


def reference(name: str) -> str:
    """A page of the reference."""
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
    """Each name of the package is there once, and no other name."""
    named = [
        name
        for each in ("api.md", "errors.md", "events.md")
        for name in DIRECTIVE.findall(reference(each))
    ]
    assert sorted(named) == sorted(durably.__all__)
    modules = re.findall(r"^\.\. automodule:: durably\.(\w+)$", reference("api.md"), re.MULTILINE)
    assert set(modules) == {"codecs", "plugins", "progress", "testing"}


def test_the_tables_of_names_have_every_name() -> None:
    """A reader of the Markdown finds each name that is no error and no event."""
    listed = {name for row in rows(reference("api.md")) for name in in_code(row[0])}
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
    """Each warning has them too, and the bases are those that the tables say."""
    raised, in_a_job, warned = (
        rows(part) for part in re.split(r"^## ", reference("errors.md"), flags=re.MULTILINE)[1:4]
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
        in_code(row[0])[0]: (in_code(row[1]), in_code(row[2]))
        for row in rows(reference("events.md"))
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
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
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
    section = reference("options.md").partition(f"## {title}\n")[2].partition("\n## ")[0]
    told = [(in_code(row[0])[0], in_code(row[1])[0]) for row in rows(section)]
    call = TABLES[title]
    real = [
        (name, _default(parameter.default))
        for name, parameter in signature(call).parameters.items()
        if name not in SUBJECTS
        and not (parameter.default is Parameter.empty and name in {"job", "name"})
    ]
    if attrs.has(call):
        real = [(name, _default(value)) for name, value in attrs.asdict(call()).items()]
    assert told == real
    assert len(TABLES) == len(re.findall(r"^## ", reference("options.md"), re.MULTILINE))


def _default(value: object) -> str:
    return value.__name__ if isclass(value) else repr(value).replace("'", '"')


def test_the_exit_statuses_are_those_of_the_command() -> None:
    """Each that the code names has a row."""
    listed = {int(row[0]) for row in rows(reference("exit-codes.md"))}
    assert {0, shell.FAILED, shell.UNUSABLE, shell.LATER, 130, 143} == listed
    assert os.EX_TEMPFAIL == shell.LATER


def test_the_views_have_the_columns_of_the_page(tmp_path: Path) -> None:
    """They are promised, in this order."""
    durably.Durably(tmp_path / "views.db").close()
    promised = {in_code(row[0])[0]: in_code(row[2]) for row in rows(reference("file.md"))}
    with closing(sqlite3.connect(tmp_path / "views.db")) as db:
        found = {
            view: [row[1] for row in db.execute(f"PRAGMA table_info({view})")] for view in promised
        }
    assert found == promised
    assert list(promised) == ["runs", "steps", "items", "attempts"]


def test_the_figures_beside_others_are_those_of_the_benchmarks() -> None:
    """Each of the table is in the results, or on the page about performance."""
    page = (ROOT / "docs" / "beside-others.md").read_text(encoding="utf-8")
    table = page.partition("## What was measured\n")[2].partition("How to read it")[0]
    cells = [cell for line in table.splitlines() for cell in line.split("|")[2:]]
    figures = [figure for cell in cells for figure in re.findall(r"^ ([\d.,]+)( \w+)? $", cell)]
    measured = "\n".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("benchmarks/results/results.md", "docs/performance.md")
    )
    assert len(figures) > 20
    assert [each for each, _ in figures if not re.search(rf"\b{re.escape(each)}\b", measured)] == []


# What follows compares the page of messages with the messages of the package.

ERRORS = {name for name in durably.__all__ if _is_error(name)}
# What the codec raises inside becomes part of the messages of two of these errors.
OF_VALUES = {"NotStorable", "Outdated", "Problem", "Unsupported"}
NAMED = {*ERRORS, *OF_VALUES, "log.warning", "log.error", "log.exception", "warnings.warn"}
FIXED_WORDS = 5


def literal(node: ast.expr, values: dict[str, list[ast.expr]]) -> list[str]:
    """Return the texts that an expression may be, with an ellipsis for each variable part."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            fixed = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
            return ["".join(map(str, fixed))]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = literal(right, values)
            return [start + end for start in literal(left, values) for end in ends]
        case ast.IfExp(body=body, orelse=orelse):
            return literal(body, values) + literal(orelse, values)
        case ast.Name(id=name):
            others = {each: found for each, found in values.items() if each != name}
            return [text for value in values.get(name, []) for text in literal(value, others)]
        case _:
            return ["…"]


def assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what is assigned to each name in a function or a module."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
    return values


@functools.cache
def package() -> list[tuple[str, ast.Module]]:
    """Return the name and the tree of each module of the package."""
    files = sorted((ROOT / "durably").rglob("*.py"))
    return [(file.name, ast.parse(file.read_text(encoding="utf-8"))) for file in files]


def called(call: ast.Call) -> str:
    """Return the name of what is called, with that of its module or object."""
    match call.func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return f"{owner}.{name}"
        case _:
            return ""


def messages() -> Iterator[tuple[str, str]]:
    """Yield each message that the package makes where it raises, warns or logs, and its place."""
    for file, tree in package():
        nodes = [*ast.walk(tree)]
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        for call in nodes:
            if not isinstance(call, ast.Call) or called(call) not in NAMED or not call.args:
                continue
            around = [
                each for each in functions if each.lineno <= call.lineno <= (each.end_lineno or 0)
            ]
            values = assigned(around[-1] if around else tree)
            for text in literal(call.args[0], values):
                yield re.sub(r"%[srd]", "…", text), f"{file}:{call.lineno}"


def fixed_parts(message: str) -> list[str]:
    """Return the fixed parts of a message that have words enough to find it by."""
    parts = [" ".join(part.strip(" :;,.()'\"").split()) for part in message.split("…")]
    return [part for part in parts if len(part.split()) > 2]


def listed_messages() -> list[str]:
    """Return the messages of the page."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_every_message_is_on_the_page_of_messages() -> None:
    """The first words of its longest fixed part are, or those of its first one."""
    page = "\n".join(listed_messages())
    missing, count = [], 0
    for message, place in messages():
        parts = fixed_parts(message)
        if not parts:
            continue  # it is made of the messages of others
        count += 1
        starts = [
            " ".join(part.split()[:FIXED_WORDS]).rstrip(" :;,.(")
            for part in (parts[0], max(parts, key=len))
        ]
        if not any(start in page for start in starts):
            missing.append(f"{place}: {message}")
    assert count > 300
    assert missing == []


def test_the_page_of_messages_has_no_other_messages() -> None:
    """Each of its parts is in the package, so one that was changed is changed there."""
    texts = []
    for _, tree in package():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                texts += literal(node, {})
    said = " ".join("\n".join(texts).split())
    listed = listed_messages()
    assert len(listed) > 200
    assert [each for each in listed for part in fixed_parts(each) if part not in said] == []
