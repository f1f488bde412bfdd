"""Two scripts with the default file and a job of one name; one is killed, the other comes along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import PROGRAMS, ROOT
from invariants import check

DEADLINE_S = 60


def run(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a Python script prints in *folder*."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAMS}", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize(
    "again",
    [
        [PROGRAMS / "invoices.py"],
        ["-m", "invoices"],
        [PROGRAMS / "executes_invoices.py"],
        [PROGRAMS / "imports_invoices.py"],
    ],
    ids=["as a script", "as a module", "by runpy", "imported"],
)
def test_a_script_does_not_finish_what_another_has_begun(
    tmp_path: Path, again: list[str | Path]
) -> None:
    """The second script does its own work, with a warning; the first one then finishes its own,
    however it is executed.
    """
    assert run(tmp_path, PROGRAMS / "invoices.py", DIE="1").returncode == -9
    other = run(tmp_path, PROGRAMS / "cleanup.py")
    finished = run(tmp_path, *again)

    assert other.stdout == "removed\n", other.stderr
    assert "invoices.py:main" in other.stderr
    assert "cleanup.py:main" in other.stderr
    assert other.stderr.count("app.adopt(") == 1
    assert (finished.stdout, finished.stderr) == ("sent\n", "")
    assert check(tmp_path / "durably.db") == []
