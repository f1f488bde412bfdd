"""The package holds no way from stored data to code: no pickle, no eval, no import by a name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import durably

PACKAGE = Path(durably.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Modules that make objects, code or processes out of what they read.
FORBIDDEN_MODULES = {
    "_pickle",
    "cloudpickle",
    "code",
    "copyreg",
    "dill",
    "imp",
    "joblib",
    "jsonpickle",
    "marshal",
    "multiprocessing",
    "pickle",
    "pkgutil",
    "pty",
    "runpy",
    "shelve",
    "sqlite3",
    "subprocess",
    "yaml",
    "zipimport",
}
FORBIDDEN_NAMES = {
    "__import__",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "execfile",
    "globals",
    "import_module",
    "load_extension",
    "loadextension",
    "enableloadextension",
    "enable_load_extension",
    "popen",
    "spec_from_file_location",
    "system",
}
# A regular expression is compiled as well, and what compiles IPython's cells knows their names.
ALLOWED = {"re.compile", "shell.compile"}
# What executes the items of a map in processes: they travel there and back by pickle.
TRAVELLING = [
    PACKAGE / "_platform" / "parent.py",
    *(
        PACKAGE / "execution" / "loops" / f"{name}.py"
        for name in ("executors", "in_child", "processes", "travel")
    ),
]
# What a program pickles because it says so, for a class that it names.
ASKED_FOR = [PACKAGE / "codec" / "own_forms.py"]
# The package imports its own modules, from a table, when a name of theirs is first used.
FROM_A_TABLE = [PACKAGE / "__init__.py", PACKAGE / "codec" / "form_lookup.py"]
# The command line imports the module of a verb from a table, and what a person names to execute.
FROM_A_COMMAND_LINE = [PACKAGE / "cli" / name for name in ("commands.py", "targets.py")]


def uses(tree: ast.Module) -> Iterator[str]:
    """Everything in a module that could turn data into code, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            yield f"line {node.lineno}: {node.id}"
            continue
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_NAMES:
            if ast.unparse(node) not in ALLOWED:
                yield f"line {node.lineno}: {ast.unparse(node)}"
            continue
        else:
            continue
        for name in names:
            top, _, last = name.partition(".")
            if top in FORBIDDEN_MODULES or last.rpartition(".")[2] in FORBIDDEN_NAMES:
                yield f"line {node.lineno}: import {name}"


def test_a_module_turns_no_data_into_code() -> None:
    """Nothing is unpickled, evaluated, compiled or imported by name in any module."""
    found = {
        module: list(uses(ast.parse(module.read_text(encoding="utf-8"))))
        for module in MODULES
        if module not in (*TRAVELLING, *ASKED_FOR, *FROM_A_TABLE, *FROM_A_COMMAND_LINE)
    }
    assert len(found) > 100
    assert {module: used for module, used in found.items() if used} == {}


def test_what_travels_is_not_from_the_database() -> None:
    """What unpickles what another process of the program sent has no access to what is stored."""
    for module in TRAVELLING:
        text = module.read_text(encoding="utf-8")
        assert "durably.store" not in text, module
        assert "durably.codec" not in text, module


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from importlib import import_module",
        "import importlib\nimportlib.import_module(name)",
        "__import__(name)",
        "eval(text)",
        "run = exec",
        "os.system(text)",
        "db.load_extension(path)",
        "from os import system",
        "compile(text, '', 'exec')",
        "import dill.source",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    """The test above would see each of these."""
    assert list(uses(ast.parse(source)))


@pytest.mark.parametrize("module", FROM_A_COMMAND_LINE, ids=lambda path: path.name)
def test_a_command_line_names_modules(module: Path) -> None:
    """Those that a person types, and the verbs; nothing else is made into code."""
    found = {use.partition(": ")[2] for use in uses(ast.parse(module.read_text(encoding="utf-8")))}
    assert found
    assert found <= {"importlib.import_module", "importlib.util.spec_from_file_location"}
