"""The documentation tells the truth: its code runs, and nothing public is left out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import isclass, isfunction, signature
from pathlib import Path

import pytest
from children import execute

import durably
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
    """Every identifier that stands in `code` or in a code block."""
    code = re.findall(r"```.*?```|``[^`]+``|`[^`\n]+`", TEXT, re.DOTALL)
    return set(re.findall(r"[A-Za-z_]\w*", " ".join(code)))


NAMES = names_in_code()


def test_every_public_name_is_documented() -> None:
    """So is each member of a public class."""
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


def test_links_lead_somewhere() -> None:
    """A link to a file of the project names one that is there."""
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not broken


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
    """What the README tells to run is, word for word, what .ci/run runs."""
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
