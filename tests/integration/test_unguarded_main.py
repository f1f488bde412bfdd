"""Scripts without ``if __name__ == "__main__":`` whose steps start processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from durably import Durably, RunStatus

DEADLINE_S = 60.0  # only guards against hanging

# A pool of concurrent.futures notices that its processes have died. multiprocessing.Pool starts new
# ones for ever, as it does for every script without a guard.
SQUARES = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import durably

def square(n: int) -> int:
    return n * n

def squares(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(square, range(4)))

@durably.job
def job(step, method: str) -> int:
    return sum(step.run("squares", squares, method))
"""

UNGUARDED = {
    "in a with block": """
with durably.Durably("a.db", jobs=[job]) as app:
    app.jobs["job"].trigger_and_wait(sys.argv[1])
""",
    "in a function": """
def main():
    app = durably.Durably("a.db", jobs=[job])
    app.jobs["job"].trigger(sys.argv[1])
    app.run_until_idle()
main()
""",
    "in a module that the script imports": """
import work
""",
}
WORK = """
import sys, durably
@durably.job
def job(step, method: str) -> int:
    import __main__
    return sum(step.run("squares", __main__.squares, method))
app = durably.Durably("a.db", jobs=[job])
with app:
    app.jobs["job"].trigger_and_wait(sys.argv[1])
"""

GUARDED = """
# Of each child's own, and not started: as a module with the engine of a project has it.
import settings
def in_the_child(n: int) -> int:
    with durably.Durably("child.db", jobs=[counted]) as app:
        return app.jobs["counted"].trigger_and_wait(n).output
@durably.job
def counted(step, n: int) -> int:
    return step.run("one", square, n)
def in_children(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(in_the_child, range(4)))
@durably.job
def nested(step, method: str) -> int:
    return sum(step.run("squares", in_children, method))
if __name__ == "__main__":
    with durably.Durably("a.db", jobs=[nested]) as app:
        print(app.jobs["nested"].trigger_and_wait(sys.argv[1]).output)
"""


def executed(folder: Path, program: str, method: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(program)
    return subprocess.run(
        [sys.executable, "script.py", method],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("ending", UNGUARDED.values(), ids=UNGUARDED)
def test_a_child_that_imports_the_script_opens_no_engine(
    tmp_path: Path, method: str, ending: str
) -> None:
    """The child's error names the guard, the parent's run fails, and no other run is made."""
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("Windows has no fork server")
    (tmp_path / "work.py").write_text(WORK)
    done = executed(tmp_path, SQUARES + ending, method)
    assert 'if __name__ == "__main__":' in done.stderr
    assert "ConflictError" in done.stderr
    app = Durably(tmp_path / "a.db")
    assert [run.status for run in app.get_runs()] == [RunStatus.FAILED]
    app.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_function_that_a_child_calls_opens_its_own(tmp_path: Path, method: str) -> None:
    """So does a module that the guarded script imports, in each child."""
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("Windows has no fork server")
    (tmp_path / "settings.py").write_text('import durably\napp = durably.Durably("settings.db")\n')
    done = executed(tmp_path, SQUARES + GUARDED, method)
    assert (done.returncode, done.stdout, done.stderr) == (0, "14\n", "")


def test_no_child_needs_multiprocessing(tmp_path: Path) -> None:
    """Where nobody has imported ``multiprocessing``, opening an engine does not."""
    program = (
        "import sys, durably; app = durably.Durably(sys.argv[1]); app.close();"
        "print('multiprocessing' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.db"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
