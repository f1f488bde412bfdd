"""The picture of docs/architecture.md, kept true: who imports whom, and what is in which room."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import durably

PACKAGE = Path(durably.__file__).parent

# Lowest first. A room is a package or a module right under durably/; it imports from its own floor
# and from those below it. No package imports another one of its floor.
FLOORS: list[set[str]] = [
    {"_platform", "emitter", "errors", "events", "models", "names", "settings", "values"},
    {"codec"},
    {"jobs"},
    {"job_registry", "store"},
    {"execution"},
    {"client", "worker"},
    {"wiring"},
    {"engine"},
    {"plugins", "testing", "display", "entry"},
    {"cli"},
    {"durably", "__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOMS = 24

# Allowed for type checkers alone: some errors carry the run they are about, and a job's function
# takes the context of its execution.
FOR_TYPES_ONLY = {("errors", "models"), ("jobs", "execution.context")}

# What the operating system does is met there, and nowhere else.
SYSTEM_MODULES = {"ctypes", "fcntl", "select", "signal", "socket"}
MEET_THE_SYSTEM = (
    "_platform",
    "store.sqlite.connection",
    "store.sqlite.locks",
)

# The store's door.
STORE_DOOR = {
    "store.api",
    "store.bounds",
    "store.change_feed",
    "store.closing",
    "store.defects",
    "store.item_checkpoints",
    "store.outcome",
    "store.rows",
}
BEHIND_THE_DOOR = ("store", "wiring", "testing")

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


def each_module(outside: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Return a mark that calls a test for every module, or for those outside some rooms."""
    modules = [module for module in MODULES if not any(is_in(module, room) for room in outside)]
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


def room_of(module: str) -> str:
    return module.partition(".")[0] or "durably"


def test_every_room_has_a_floor() -> None:
    """The picture names each package and module right under durably/, and there are few."""
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= FLOOR_OF.keys()
    assert len(rooms - {"durably"}) <= MOST_ROOMS


@each_module()
def test_imports_go_down(module: str) -> None:
    """A room imports from its own floor and from those below, and no package from one beside it."""
    floor, room = FLOOR_OF[room_of(module)], room_of(module)
    others = {name: room_of(name) for name in imported(module) if room_of(name) != room}
    assert [name for name, other in others.items() if FLOOR_OF[other] > floor] == []
    if floor > 0:
        assert [name for name, other in others.items() if FLOOR_OF[other] == floor] == []


def test_there_is_no_cycle() -> None:
    """No module needs one that needs it."""
    sorter = graphlib.TopologicalSorter({module: imported(module) for module in MODULES})
    sorter.prepare()  # raises CycleError, which names them


@each_module(outside=BEHIND_THE_DOOR)
def test_the_store_has_one_door(module: str) -> None:
    """Others see what every store has: its verbs, and what they take and return."""
    assert {name for name in imported(module) if room_of(name) == "store"} <= STORE_DOOR


@each_module(outside=MEET_THE_SYSTEM)
def test_the_system_is_met_in_few_places(module: str) -> None:
    """Signals, forks, kernel locks and sockets are the platform's and the store's locks' alone."""
    assert not SYSTEM_MODULES & set(foreign_imports(tree(module)))


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


@each_module(outside=("store",))
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


# In a worker process, which has no engine, a thread watches the parent.
@each_module(outside=("worker", "_platform.parent"))
def test_only_the_worker_starts_threads(module: str) -> None:
    """Outside worker/ nothing makes a thread, a timer or a pool in the process of an engine."""
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
