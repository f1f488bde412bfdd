"""What the fingerprint of a function sees of its code, and what it does not."""

from __future__ import annotations

import ast
import functools
import gc
import inspect
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

import pytest

from durably._platform import fingerprints
from durably._platform.fingerprints import fingerprint, is_other


def defined(source: str, name: str = "f", file: str = "one.py") -> Callable[..., Any]:
    """Return a function of a program."""
    scope: dict[str, Any] = {"__name__": "program", "functools": functools}
    exec(compile(inspect.cleandoc(source), file, "exec"), scope)
    return scope[name]


BASE = """
def f(rows, limit=3):
    total = 0
    for row in rows:
        if row > limit and row not in {1, 2}:
            total += helper(row) * 2
    return total
"""

# What is not a change of the code.
SAME = {
    "comments": BASE.replace("    total = 0", "    # begin\n    total = 0  # with nothing"),
    "a docstring": BASE.replace("    total = 0", '    """Return the total."""\n    total = 0'),
    "formatting": """
def f(
    rows,
    limit=3,
):
    total = (
        0
    )

    for row in rows:
        if (
            row > limit
            and row not in {1,
                            2}
        ):
            total += (helper(
                row,
            ) * 2)
    return total
""",
    "line numbers": "\n\n\n" + BASE,
    "annotations": BASE.replace("(rows, limit=3)", "(rows: list[int], limit: int = 3) -> int"),
    "a renamed local": BASE.replace("total", "amount"),
    "a renamed parameter": BASE.replace("limit", "least"),
    "its own name": BASE.replace("def f(", "def g(") + "\nf = g",
    "a function that it calls": BASE + "\ndef helper(row): return row + 7",
    "a closure's value": "def make(seven):"
    + BASE.replace("\n", "\n    ")
    + "\n    return f\nf = make(7)",
    "a partial": BASE + "\nf = functools.partial(f, limit=9)",
    "a decorator with functools.wraps": """
def noisy(inner):
    @functools.wraps(inner)
    def wrapper(*args, **kwargs):
        print("called")
        return inner(*args, **kwargs)
    return wrapper
"""
    + BASE.replace("def f", "@noisy\ndef f"),
    "a cache": BASE.replace("def f", "@functools.lru_cache\ndef f"),
}

OTHER = {
    "a changed constant": BASE.replace("* 2", "* 3"),
    "a constant of another type": BASE.replace("total = 0", "total = 0.0"),
    "a constant that is equal": BASE.replace("total = 0", "total = False"),
    "a member of a set": BASE.replace("{1, 2}", "{1, 3}"),
    "a changed default": BASE.replace("limit=3", "limit=4"),
    "no default": BASE.replace("limit=3", "limit"),
    "a default by keyword": BASE.replace("limit=3", "*, limit=3"),
    "an operator": BASE.replace("row > limit", "row >= limit"),
    "the other branch": BASE.replace("if row >", "if not row >"),
    "the function that it calls": BASE.replace("helper(", "other("),
    "another variable": BASE.replace("helper(row)", "helper(rows)"),
    "one more statement": BASE.replace("return total", "print(total)\n    return total"),
    "a statement in a try block": BASE.replace(
        "total += helper(row) * 2",
        "try: total += helper(row) * 2\n            except ValueError: pass",
    ),
    "a generator": BASE.replace("return total", "yield total"),
}


@pytest.mark.parametrize("source", SAME.values(), ids=SAME)
def test_it_does_not_see(source: str) -> None:
    """What cannot change the result of the function by itself."""
    assert fingerprint(defined(source, file="other.py")) == fingerprint(defined(BASE)) is not None


@pytest.mark.parametrize("source", OTHER.values(), ids=OTHER)
def test_it_sees(source: str) -> None:
    """Each of these is another code."""
    assert is_other(fingerprint(defined(source)), fingerprint(defined(BASE)))


NESTED = """
def f(rows):
    factor = 2
    def double(row):
        "Return twice the row."
        return row * factor
    class Sum:
        "A sum."
        start = 0
        def add(self, row):
            self.value = self.start + row
            return [each for each in row if each]
    return [double(row) for row in rows], sorted(rows, key=lambda row: -row), Sum
"""


@pytest.mark.parametrize(
    ("old", "new", "is_change"),
    [
        ("row * factor", "row + factor", True),
        ("start = 0", "start = 1", True),
        ("-row", "row", True),
        ("self.start + row", "self.start - row", True),
        ("each for each in row if each", "each for each in row", True),
        ('"Return twice the row."', '"Return the row twice."', False),
        ('        "A sum."\n', '        "Another."\n\n', False),
        ('        "A sum."\n', "", False),
        ("def f(rows):\n", "def f(rows):\n\n\n", False),
        ("(row):", "(row):  # one", False),
    ],
)
def test_inner_functions_and_classes_are_part_of_it(old: str, new: str, is_change: bool) -> None:
    """Their code is, and their places and texts are not."""
    assert old in NESTED
    other = fingerprint(defined("\n" * 9 + NESTED.replace(old, new), file="b.py"))
    assert (other != fingerprint(defined(NESTED))) is is_change


@pytest.mark.parametrize(
    ("value", "other", "is_change"),
    [
        ("1", "2", True),
        ("(1, 'a')", "(1, 'b')", True),
        ("frozenset({'x', 'y'})", "frozenset({'y', 'x'})", False),
        ("None", "0", True),
        ("b'x'", "'x'", True),
        ("[1]", "[2]", False),
        ("{}", "{'a': 1}", False),
        ("[]", "{}", True),
        ("'\\ud800'", "'\\ud801'", True),
    ],
)
def test_defaults_count_by_value_if_they_cannot_change(
    value: str, other: str, is_change: bool
) -> None:
    """A list that a function keeps between its calls is another one in each process."""
    one, two = (fingerprint(defined(f"def f(x={each}): return x")) for each in (value, other))
    assert (one != two) is is_change
    one, two = (fingerprint(defined(f"def f(*, x={each}): return x")) for each in (value, other))
    assert (one != two) is is_change


class Greeter:
    """Methods, and an object that can be called."""

    def greet(self) -> str:
        """Return a greeting."""
        return "hello"

    def __call__(self) -> str:
        """Return a greeting."""
        return "hello"

    @staticmethod
    def plain() -> str:
        """Return a greeting."""
        return "hello"

    @classmethod
    def of_class(cls) -> str:
        """Return a greeting."""
        return "hello"


def test_methods_and_callable_objects_have_the_code_of_their_functions() -> None:
    """Bound or not; the object itself does not count."""
    of_method = fingerprint(Greeter.greet)
    assert of_method is not None
    assert fingerprint(Greeter().greet) == of_method == fingerprint(Greeter())
    assert fingerprint(Greeter.of_class) == fingerprint(Greeter.greet)
    assert fingerprint(Greeter.plain) == fingerprint(lambda: "hello")
    assert fingerprint(functools.partial(functools.partial(Greeter().greet))) == of_method


@pytest.mark.parametrize(
    "function",
    [len, int, Greeter, operator.itemgetter(1), "".join, functools.partial(len), json.JSONEncoder],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)
def test_code_that_cannot_be_read_has_none(function: Callable[..., Any]) -> None:
    """A builtin, a function in C, a class: nothing is known of them, and nothing is a change."""
    assert fingerprint(function) is None
    assert not is_other(None, 1)
    assert not is_other(1, None)


def test_what_has_no_code_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose function is a builtin or a class pays for one call, and not for a chain."""
    calls = []

    def inside(found: object, kind: type) -> None:
        calls.append((found, kind))

    monkeypatch.setattr(fingerprints, "_inside", inside)
    assert fingerprint(int) is None
    assert calls == [(int, type)]


def test_a_chain_of_wrappers_without_an_end_has_none() -> None:
    """A function that says that it wraps itself."""

    def wraps_itself() -> None: ...

    wraps_itself.__wrapped__ = wraps_itself  # type: ignore[attr-defined]
    assert fingerprint(wraps_itself) is None


def test_lambdas_of_one_place_are_one_code() -> None:
    """Each pass of a loop makes another function of the same code."""
    made = [lambda n=n: n for n in (1, 1, 2)]
    assert fingerprint(made[0]) == fingerprint(made[1]) != fingerprint(made[2])
    assert len({fingerprint(functools.partial(lambda n: n, n)) for n in range(3)}) == 1


def test_code_that_is_gone_is_forgotten() -> None:
    """Nothing is kept of a notebook's cells that were executed long ago."""
    function = defined(BASE)
    number = id(function.__code__)
    fingerprint(function)
    assert number in fingerprints._known
    del function
    gc.collect()
    assert number not in fingerprints._known
    assert number not in fingerprints._alive


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[2])
from importlib import util
spec = util.spec_from_file_location("fingerprints", sys.argv[2])
module = util.module_from_spec(spec)
spec.loader.exec_module(module)
def f(x, names=frozenset({"a", "b", "c", "d"})):
    def inner(y): return y in {"one", "two", "three"}
    return inner(x), names
print(module.fingerprint(f))
"""


def test_it_is_the_same_in_each_process(tmp_path: Path) -> None:
    """The hash seed and the folder do not matter."""
    found = set()
    for seed in ("0", "1", "2"):
        script = tmp_path / f"{seed}.py"
        script.write_text("\n" * int(seed) + SCRIPT)
        output = subprocess.run(
            [sys.executable, script, "-", fingerprints.__file__],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        found.add(int(output))
    assert len(found) == 1


def test_another_python_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles the same function to other instructions; so does another level of ``-O``."""
    mine = fingerprint(defined(BASE))
    assert mine is not None
    monkeypatch.setattr(fingerprints, "_COMPILER", fingerprints._COMPILER ^ 1)
    others = fingerprint(defined(OTHER["an operator"]))
    assert others != mine
    assert not is_other(mine, others)
    assert -(2**63) <= mine < 2**63


def codes_in(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from codes_in(each)


@pytest.mark.parametrize(
    "module", [ast, inspect, functools, json.decoder], ids=lambda m: m.__name__
)
def test_formatting_of_real_modules_is_not_seen(module: Any) -> None:
    """A module as it is, and as another formatter would write it, without comments."""
    source = inspect.getsource(module)
    as_it_is = codes_in(compile(source, "one.py", "exec"))
    formatted = codes_in(compile("\n\n" + ast.unparse(ast.parse(source)), "two.py", "exec"))
    pairs = list(zip(as_it_is, formatted, strict=True))
    assert len(pairs) > 10
    differ = [
        one.co_qualname
        for one, two in pairs
        if fingerprint(FunctionType(one, {}, closure=cells(one)))
        != fingerprint(FunctionType(two, {}, closure=cells(two)))
    ]
    # The compiler of 3.11 decides by lines how it leaves some conditions.
    assert len(differ) <= (2 if sys.version_info < (3, 12) else 0)


def cells(code: CodeType) -> tuple[Any, ...]:
    return tuple(CellType() for _ in code.co_freevars)
