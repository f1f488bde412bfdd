"""Scripts without ``if __name__ == "__main__":`` whose steps start processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import execute

from durably import Durably, RunStatus

# A pool of concurrent.futures notices that its processes have died. multiprocessing.Pool starts new
# ones for ever, as it does for every script without a guard.
WAYS = ["in a with block", "in a function", "in a module that the script imports"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_imports_the_script_opens_no_engine(
    tmp_path: Path, method: str, way: str
) -> None:
    """The child's error names the guard, the parent's run fails, and no other run is made."""
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("Windows has no fork server")
    done = execute("unguarded", method, way, folder=tmp_path)
    assert 'if __name__ == "__main__":' in done.stderr
    assert "ConflictError" in done.stderr
    app = Durably(tmp_path / "a.db")
    assert [run.status for run in app.get_runs()] == [RunStatus.FAILED]
    app.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_function_that_a_child_calls_opens_its_own(tmp_path: Path, method: str) -> None:
    """A module that the guarded script imports opens its own in each child, too."""
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("Windows has no fork server")
    done = execute("guarded", method, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "14\n", "")


def test_no_child_needs_multiprocessing(tmp_path: Path) -> None:
    """Where nobody has imported ``multiprocessing``, opening an engine does not."""
    done = execute("opens_and_closes", tmp_path / "a.db")
    assert done.stdout == "False\n"
