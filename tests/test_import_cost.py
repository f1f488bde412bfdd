"""What ``import durably`` costs beside apsw and attrs, in terms that no machine changes.

How long it takes is measured by ``benchmarks/``.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import durably
from durably.values import Value

# What these import themselves is no cost of durably's; on each Python it is a little different.
DEPENDENCIES = "apsw, attrs, typing_extensions"

# Each is slow to import or large, or brings others that are.
HEAVY = {
    "asyncio",
    "base64",
    "cattrs",
    "concurrent.futures.process",
    "decimal",
    "email",
    "hashlib",
    "http",
    "importlib.metadata",
    "importlib.resources",
    "multiprocessing",
    "pathlib",
    "pickle",
    "random",
    "shutil",
    "socket",
    "sqlite3",
    "ssl",
    "statistics",
    "subprocess",
    "tempfile",
    "unittest",
    "urllib",
    "uuid",
    "xml",
    "zipfile",
}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_durably_brings_nothing_heavy() -> None:
    """Of the standard library it brings small modules, and of other packages its dependencies."""
    brought = loaded_by("import durably") - loaded_by(f"import {DEPENDENCIES}")

    assert "durably.engine" in brought
    assert not brought & HEAVY
    packages = {name.partition(".")[0] for name in brought}
    assert packages - sys.stdlib_module_names == {"durably"}


@pytest.mark.parametrize(
    ("annotation", "result", "is_needed"),
    [
        ("", [{"id": 1}], False),
        (" -> str", "a", False),
        (" -> int | None", None, True),
        (" -> list[str]", ["a"], True),
    ],
)
def test_cattrs_comes_with_the_first_type_that_is_more_than_a_plain_one(
    tmp_path: Path, annotation: str, result: object, is_needed: bool
) -> None:
    """A script whose jobs and steps have JSON-like data, or str and int, never pays for it."""
    script = f"""
import durably

def read(){annotation}:
    return {result!r}

@durably.job("import")
def import_rows(step, payload: int) -> str:
    step.run("anything", lambda: [{{"id": 1, "tags": ["a", None]}}])
    return "done" if step.run("read", read) == {result!r} else "wrong"

with durably.Durably({str(tmp_path / "import.db")!r}, jobs=[import_rows]) as app:
    assert app.jobs["import"].trigger_and_wait(3).output == "done"
"""

    assert ("cattrs" in loaded_by(script)) is is_needed


def test_attrs_writes_no_method_that_a_base_class_has() -> None:
    """Comparing, hashing and showing is compiled once, not at each import for each class."""
    names = [module.name for module in pkgutil.walk_packages(durably.__path__, "durably.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("durably.") and attrs.has(value)
    }

    assert {durably.Run, durably.Event, durably.Job, durably.Retry, durably.Trigger} <= classes
    for cls in classes:
        base = Value if issubclass(cls, Value) else object
        inherited = {base.__eq__, base.__repr__, base.__hash__}
        written = {cls.__eq__, cls.__repr__, cls.__hash__} - inherited
        assert all(method.__code__.co_filename.endswith(".py") for method in written), cls
