"""The picture of docs/architecture.md, kept true: who imports whom, and what is in which room."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import durably

PACKAGE = Path(durably.__file__).parent

# Lowest first. A room is a package or a module right under durably/; it imports from its own floor
# and from those below it. No package imports another one of its floor.
FLOORS: list[set[str]] = [
    {"_platform", "errors", "events", "models", "rendering", "settings"},
    {"codec"},
    {"jobs", "store"},
    {"execution"},
    {"client", "display", "worker"},
    {"entry"},
    {"codecs", "plugins", "progress", "testing"},
    {"cli"},
    {"durably", "__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOMS = 20

# Allowed for type checkers alone: some errors carry the run they are about, and a job's function
# takes the context of its execution.
FOR_TYPES_ONLY = {
    ("errors", "models"),
    ("errors.failures", "models"),
    ("jobs", "execution.context"),
}

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
    "store.calls",
    "store.care",
    "store.change_feed",
    "store.closing",
    "store.conditions",
    "store.defects",
    "store.item_checkpoints",
    "store.item_rows",
    "store.outcome",
    "store.owners",
    "store.read_rows",
    "store.rows",
}
BEHIND_THE_DOOR = ("store", "entry.wiring", "entry.read_only", "testing")

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


def modules_outside(*rooms: str) -> list[str]:
    """Return every module, without those in some rooms."""
    return [module for module in MODULES if not any(is_in(module, room) for room in rooms)]


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@functools.cache
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


def test_imports_go_down() -> None:
    """A room imports from its own floor and from those below, and no package from one beside it."""
    wrong = []
    for module in MODULES:
        room = room_of(module)
        floor = FLOOR_OF[room]
        for name in imported(module):
            other = room_of(name)
            is_beside = FLOOR_OF[other] == floor > 0
            if other != room and (FLOOR_OF[other] > floor or is_beside):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_there_is_no_cycle() -> None:
    """No module needs one that needs it."""
    sorter = graphlib.TopologicalSorter({module: imported(module) for module in MODULES})
    sorter.prepare()  # raises CycleError, which names them


def test_the_store_has_one_door() -> None:
    """Others see what every store has: its verbs, and what they take and return."""
    wrong = [
        f"{module} imports {name}"
        for module in modules_outside(*BEHIND_THE_DOOR)
        for name in imported(module)
        if room_of(name) == "store" and name not in STORE_DOOR
    ]
    assert not wrong


def test_the_system_is_met_in_few_places() -> None:
    """Signals, forks, kernel locks and sockets are the platform's and the store's locks' alone."""
    wrong = {
        module: met
        for module in modules_outside(*MEET_THE_SYSTEM)
        if (met := SYSTEM_MODULES & set(foreign_imports(tree(module))))
    }
    assert not wrong


def test_imports_stand_at_the_top() -> None:
    """Inside a function is imported only what is optional, or slow and often not needed."""
    marks = ("optional dependency", "where first needed")
    wrong = []
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong += [
            f"{module}, line {node.lineno}"
            for function in ast.walk(tree(module))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and not any(mark in lines[node.lineno - 1] for mark in marks)
        ]
    assert not wrong


def test_only_the_store_speaks_to_sqlite() -> None:
    """Outside store/ there is no SQL, and no import of a SQLite library."""
    wrong = []
    for module in modules_outside("store"):
        wrong += [f"{module}, line {line}" for line in statements(tree(module))]
        if {"apsw", "sqlite3"} & set(foreign_imports(tree(module))):
            wrong.append(f"{module} imports a library")
    assert not wrong


def statements(parsed: ast.Module) -> Iterator[int]:
    """The lines of a module with SQL in a text that is no docstring."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(parsed)
        if isinstance(node, documented)
    }
    for node in ast.walk(parsed):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value not in docstrings
            and SQL.search(node.value)
        ):
            yield node.lineno


def test_only_the_worker_and_a_display_start_threads() -> None:
    """Outside worker/ and display/ nothing makes a thread, a timer or a pool beside an engine."""
    makers = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread"}
    # In a worker process, which has no engine, a thread watches the parent. And while a large file
    # is written, a thread computes its name.
    outside = modules_outside("worker", "display", "_platform.parent", "store.sqlite.blobs.content")
    wrong = {each: made for each in outside if (made := makers & called_names(tree(each)))}
    assert not wrong


def test_a_signal_can_end_every_wait() -> None:
    """Nothing sleeps, and nothing waits for a queue with a timeout."""
    wrong = [f"{module}, line {line}" for module in MODULES for line in deaf_waits(tree(module))]
    assert not wrong


def deaf_waits(parsed: ast.Module) -> Iterator[int]:
    """The lines of a module with a use of ``time.sleep``, or of ``get(timeout=...)``.

    Before Python 3.13 a signal may make ``SimpleQueue.get`` with a timeout wait for ever.
    """
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) == "time.sleep":
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if alias.name == "sleep")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and any(each.arg == "timeout" for each in node.keywords)
        ):
            yield node.lineno


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
