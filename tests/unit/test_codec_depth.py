"""What is nested too deeply is an error, also where the program has raised the recursion limit.

In a child process each: what goes wrong here ends the process.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest
from children import DEADLINE_S

COMMON: Final = """
import sys
from typing import Any
from durably.codec import UNTYPED, Codec
from durably.codec.json_text import load
from durably.errors import SerializationError, ValidationError
sys.setrecursionlimit(10**6)
codec = Codec()
def raises(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        assert "nested more deeply than 200 levels" in str(error), error
    else:
        raise AssertionError(args)
"""

TEXTS: Final = """
for text in ("[" * 200_000 + "]" * 200_000, '{"a":' * 200_000, '["[",' * 200_000):
    raises(ValidationError, codec.load_json, text)
    raises(ValidationError, codec.decode, text, list[Any], what="w")
wide = "[" + ",".join(['["[[{\\\\\\"]"]'] * 5000) + "]"
assert load(wide) == [['[[{\\"]']] * 5000
"""

VALUES: Final = """
value = []
for _ in range(200_000):
    value = [value]
for type_ in (UNTYPED, list, list[Any], list[int] | None, list[list[Any]]):
    raises(SerializationError, codec.encode, value, type_, what="w")
    raises(ValidationError, codec.structure, value, type_, what="w")
while value:  # one level at a time
    value = value.pop()
"""


# Objects whose repr goes as deep, and the messages that show them.
SHOWN: Final = """
import collections, dataclasses, types, functools
from attrs import define
from durably import ErrorInfo, Job, LogEntry, Retry
from durably.codec.messages import show, text_of
from durably.models import error_info
from durably._platform.safe_repr import safe_repr, safe_str, short_repr
@define
class Node:
    next: object
@dataclasses.dataclass
class Data:
    next: object
class Own(Exception):
    def __init__(self, data):
        self.data = data
    def __str__(self):
        return f"no: {self.data}"
class Slots(OSError):
    pass
wraps = [
    lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: {"b": v, "a": 1},
    lambda v: collections.deque([v]), lambda v: collections.OrderedDict(a=v),
    lambda v: collections.UserList([v]), lambda v: collections.UserDict(a=v),
    lambda v: types.MappingProxyType({"a": v}), lambda v: types.SimpleNamespace(a=v),
    lambda v: functools.partial(print, v), lambda v: functools.partial(print, a=v),
    Node, Data, ValueError, KeyError, Own, lambda v: ExceptionGroup("x", [ValueError(v)]),
    lambda v: OSError(1, "x", v), lambda v: Slots(1, "x", "a", None, v),
]
for wrap in wraps:
    value = None
    for _ in range(100_000):
        value = wrap(value)
    for call in (safe_repr, safe_str, short_repr, show):
        text = call(value)
        assert "nested more deeply than 200 levels>" in text, (call, text)
    for wrong in (lambda: Retry(attempts=value), lambda: Job(value, print)):
        try:
            wrong()
        except ValidationError:
            pass
    errors = [ValueError("x", value), Own(value), OSError(1, "x", value)]
    outer = RuntimeError("outer")
    outer.__cause__ = errors[0]
    noted = ValueError("noted")
    noted.__notes__ = value
    for error in (*errors, outer, ExceptionGroup("x", errors), noted):
        info = error_info(error)
        assert len(info.message) < 200 and len(info.traceback) < 500, info
        text_of(error)
    assert error_info(outer).message == "outer"
    assert "nested more deeply than 200 levels" in error_info(outer).traceback
    assert "nested more deeply than 200 levels" in error_info(errors[0]).message
from datetime import UTC, datetime
now = datetime.now(UTC)
line = LogEntry(level="info", message="x", data={"a": value}, step_name=None, created_at=now)
assert "nested more deeply" in str(line)
import os
sys.stderr.flush()
os._exit(0)  # to free such values takes as much of the stack
"""


@pytest.mark.parametrize(
    "program", [TEXTS, VALUES, SHOWN], ids=["stored text", "values", "what is shown"]
)
def test_any_depth_is_rejected_under_any_recursion_limit(program: str) -> None:
    """A text or a value of 200,000 levels is a typed error."""
    child = subprocess.run(
        [sys.executable, "-c", COMMON + program],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )

    assert (child.returncode, child.stderr) == (0, "")
