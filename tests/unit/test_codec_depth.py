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
from durably.codec.text import load
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


@pytest.mark.parametrize("program", [TEXTS, VALUES], ids=["stored text", "values"])
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
