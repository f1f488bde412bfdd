"""The picture of docs/architecture.md, kept true: who imports whom, and what is in which room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import durably

PACKAGE = Path(durably.__file__).parent

# Lowest first. A module imports only from lines above its own in this list.
LAYERS: list[tuple[str, ...]] = [
    ("errors", "forking", "realtime", "signalled", "values"),
    ("interrupts", "spawning"),
    ("latch", "nesting"),
    ("clock", "shown"),
    ("limits",),
    ("ids",),
    ("models",),
    ("codec.messages", "codec.text"),
    ("codec.plain", "codec.structuring"),
    ("codec.kinds",),
    ("codec.forms",),
    ("codec.annotations", "codec.atoms", "codec.records", "codec.sameness", "codec.unions"),
    ("codec.containers",),
    ("codec.users",),
    ("codec.registry",),
    ("codec.typed",),
    ("codec",),
    ("names",),
    ("events",),
    ("settings",),
    ("retry",),
    ("store.advice", "store.bounds"),
    ("store.bell", "store.filesystem", "store.sidefiles"),
    ("store.holders",),
    ("store.faults",),
    ("store.defects", "store.nocow"),
    ("store.guard",),
    ("store.mutex", "store.watch"),
    ("store.schema",),
    ("store.operations",),
    ("store.transactions",),
    ("store.writer",),
    ("store.changes", "store.connections", "store.content", "store.files", "store.readers"),
    ("store.database",),
    ("store.check", "store.logs", "store.lookups", "store.owners", "store.steps"),
    ("store.unsound",),
    ("store.runs",),
    ("store.enqueueing",),
    ("store",),
    ("active", "replay"),
    ("telling",),
    ("stepping",),
    ("steps",),
    ("jobs",),
    ("worker.contexts", "worker.leaving", "worker.liveness", "worker.retention", "worker.threads"),
    ("worker.service",),
    ("worker.flusher", "worker.foreign", "worker.heartbeat", "worker.lifecycle", "worker.reaper"),
    ("worker.execution", "worker.ownership"),
    ("worker.pool",),
    ("worker.dispatcher",),
    ("worker.draining",),
    ("worker.supervisor",),
    ("worker.exit",),
    ("worker",),
    ("reading",),
    ("subscribing", "waiting"),
    ("triggering",),
    ("handles",),
    ("engine",),
    ("plugins", "testing", "cli", "display"),
    ("",),  # durably/__init__.py
    ("__main__",),
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

# Allowed upwards under TYPE_CHECKING alone: some errors carry the run they are about.
FOR_TYPES_ONLY = {("errors", "models")}

SQL = re.compile(
    r"\b(SELECT\s.*\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|(CREATE|DROP|ALTER)\s+(TABLE|INDEX|TRIGGER|VIEW)|PRAGMA\s+\w|BEGIN\s+IMMEDIATE|SAVEPOINT\s+\w)",
    re.DOTALL,
)


def modules() -> dict[str, Path]:
    """Each module of the package without the leading ``durably.``, and its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def each_module(outside: str | None = None) -> pytest.MarkDecorator:
    """Give a test every module, or those outside one room."""
    modules = [module for module in MODULES if outside is None or not is_in(module, outside)]
    return pytest.mark.parametrize("module", modules, ids=lambda module: module or "durably")


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(module: str) -> set[str]:
    """The modules of the package that *module* imports, for types alone too."""
    parsed = tree(module)
    for_types = {
        id(node)
        for block in ast.walk(parsed)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(parsed):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import in line {node.lineno}"
            base = node.module or ""
            # `from durably.store import runs` imports the module durably.store.sqlite.sql.runs.
            names = [
                f"{base}.{alias.name}" if as_module(f"{base}.{alias.name}") in MODULES else base
                for alias in node.names
            ]
        found |= {
            as_module(name)
            for name in names
            if (name == "durably" or name.startswith("durably."))
            and not (id(node) in for_types and (module, as_module(name)) in FOR_TYPES_ONLY)
        }
    return found


def as_module(name: str) -> str:
    return name.removeprefix("durably").removeprefix(".")


@each_module()
def test_a_module_has_a_place(module: str) -> None:
    """Every module stands in the list of layers; put a new one where it belongs."""
    assert module in RANK


@each_module()
def test_a_module_imports_only_from_below(module: str) -> None:
    """No module knows one above it or beside it, and so there is no cycle."""
    above = [name for name in imported(module) if RANK[name] >= RANK[module]]
    assert not above


@each_module()
def test_imports_stand_at_the_top(module: str) -> None:
    """Inside a function is imported only what is optional, or slow and often not needed."""
    marks = ("optional dependency", "where first needed")
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    inside = [
        f"line {node.lineno}"
        for function in ast.walk(tree(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not any(mark in lines[node.lineno - 1] for mark in marks)
    ]
    assert not inside


@each_module(outside="store")
def test_only_the_store_speaks_to_sqlite(module: str) -> None:
    """Outside store/ there is no SQL, and no import of a SQLite library."""
    parsed = tree(module)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(parsed)
        if isinstance(node, documented)
    }
    statements = [
        node.value
        for node in ast.walk(parsed)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value not in docstrings
        and SQL.search(node.value)
    ]
    assert not statements
    assert not {"apsw", "sqlite3"} & set(foreign_imports(parsed))


@each_module(outside="worker")
def test_only_the_worker_starts_threads(module: str) -> None:
    """Outside worker/ nothing makes a thread, a timer or a pool."""
    makers = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread"}
    assert not makers & called_names(tree(module))


@each_module()
def test_nothing_sleeps(module: str) -> None:
    """Waiting goes through the clock, which a test can replace and a stop can end."""
    parsed = tree(module)
    sleeps = [
        f"line {node.lineno}"
        for node in ast.walk(parsed)
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    ]
    from_time = [
        f"line {node.lineno}"
        for node in ast.walk(parsed)
        if isinstance(node, ast.ImportFrom)
        and node.module == "time"
        and any(alias.name == "sleep" for alias in node.names)
    ]
    assert not sleeps + from_time


def foreign_imports(parsed: ast.Module) -> Iterator[str]:
    """The top-level names of everything that is imported."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def called_names(parsed: ast.Module) -> set[str]:
    """The last part of the name of everything that is called."""
    found = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                found.add(node.func.attr)
            elif isinstance(node.func, ast.Name):
                found.add(node.func.id)
    return found
