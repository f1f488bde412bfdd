"""What ``import durably`` costs beside attrs, in terms that no machine changes.

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
from durably._platform.values import Value

# What these import themselves is no cost of durably's; on each Python it is a little different.
DEPENDENCIES = "attrs"

# Names that a script uses before it opens an engine.
USED_BY_ALL = "durably.job, durably.run, durably.map, durably.session, durably.Durably"

# Each is slow to import or large, or brings others that are.
HEAVY = {
    "IPython",
    "apsw",
    "asyncio",
    "base64",
    "cattrs",
    "click",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "ctypes",
    "decimal",
    "email",
    "hashlib",
    "http",
    "importlib.metadata",
    "importlib.resources",
    "multiprocessing",
    "numpy",
    "pandas",
    "pathlib",
    "pickle",
    "polars",
    "pyarrow",
    "pydantic",
    "random",
    "rich",
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
# Of these, what an engine needs that is open.
OF_AN_ENGINE = {"apsw", "concurrent.futures.thread", "ctypes"}
# What it has for some calls alone, and imports with the first of them.
NOT_OF_AN_ENGINE = {
    "durably.client.attempts",
    "durably.client.by_hand",
    "durably.client.children",
    "durably.client.control",
    "durably.client.doctor",
    "durably.client.items",
    "durably.client.overview",
    "durably.client.questions",
    "durably.client.subscribe",
    "durably.client.upkeep",
    "durably.events",
    "durably.execution.live",
    "durably.models.records",
    "durably.store.api",
    "durably.store.conditions",
    "durably.store.item_rows",
    "durably.store.read_rows",
    "durably.store.sqlite.backup",
    "durably.store.sqlite.condition",
    "durably.store.sqlite.sql.forks",
    "durably.store.sqlite.sql.manual",
    "durably.store.sqlite.sql.redo",
    "durably.worker.live_engine",
}

# What one has that executes a run, and imports before the first one.
OF_AN_EXECUTION = {"durably.client.run_here", "durably.execution.run_execution"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_durably_brings_nothing_heavy() -> None:
    """Of the standard library it brings small modules, and of other packages its dependencies."""
    brought = loaded_by("import durably") - loaded_by(f"import {DEPENDENCIES}")

    assert {name for name in brought if name.startswith("durably")} == {"durably"}
    brought = loaded_by(f"import durably\n{USED_BY_ALL}") - loaded_by(f"import {DEPENDENCIES}")
    assert {"durably.entry.engine", "durably.jobs"} <= brought
    assert not brought & HEAVY
    packages = {name.partition(".")[0] for name in brought}
    assert packages - sys.stdlib_module_names == {"durably"}


def test_what_works_on_a_database_comes_with_the_first_engine(tmp_path: Path) -> None:
    """A program that defines jobs and opens no engine, such as a child of a map, never pays."""
    define = "import durably\n@durably.job\ndef job(step): return 1"
    names = (
        "client.client",
        "entry.wiring",
        "execution.emitter",
        "store.sqlite.store",
        "worker",
    )
    parts = {f"durably.{name}" for name in names}

    for calls in ("", "job.run(None); durably.testing; durably.plugins; durably.Retry()"):
        assert not loaded_by(f"{define}\n{calls}") & parts, calls
    executes = "durably.run(job, db=db)"
    started = "engine = durably.Durably(db, jobs=[job]); engine.start(); engine.close()"
    for opens in ("durably.Durably(db).close()", started, executes):
        loaded = loaded_by(f"{define}\ndb = {str(tmp_path / 'a.db')!r}\n{opens}")
        assert loaded >= parts, opens
        assert not loaded & NOT_OF_AN_ENGINE, opens
        assert loaded & OF_AN_EXECUTION == (OF_AN_EXECUTION if opens is executes else set())
        assert (loaded - loaded_by(f"import {DEPENDENCIES}")) & HEAVY == OF_AN_ENGINE, opens


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
