"""What is nested too deeply is an error, also where the program has raised the recursion limit.

In a child process each: what goes wrong here ends the process.
"""

from __future__ import annotations

import pytest
from children import execute


@pytest.mark.parametrize("what", ["texts", "values", "shown"])
def test_any_depth_is_rejected_under_any_recursion_limit(what: str) -> None:
    """A text or a value of 200,000 levels is a typed error."""
    child = execute("deep_json", what)

    assert (child.returncode, child.stderr) == (0, "")
