"""Two scripts with the default file and a job of one name; one is killed, the other comes along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT
from invariants import check

DEADLINE_S = 60

INVOICES = """
import os, durably
@durably.job
def main(step) -> str:
    step.run("load", lambda: "invoices")
    if os.environ.get("DIE"):
        os.kill(os.getpid(), 9)
    return step.run("send", lambda: "sent")
if __name__ == "__main__":
    with durably.Durably(jobs=[main]) as app:
        print(app.trigger_and_wait(main, idempotency_key="2026-11").output)
"""
CLEANUP = """
import durably
@durably.job
def main(step) -> str:
    return step.run("remove", lambda: "removed")
if __name__ == "__main__":
    with durably.Durably(jobs=[main]) as app:
        print(app.trigger_and_wait(main).output)
"""


IMPORTED = """
import durably, invoices
with durably.Durably(jobs=[invoices.main]) as app:
    print(app.trigger_and_wait("main", idempotency_key="2026-11").output)
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a Python script prints in *folder*."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize(
    "again",
    [
        ["invoices.py"],
        ["-m", "invoices"],
        ["-c", "import runpy; runpy.run_path('invoices.py', run_name='__main__')"],
        [
            "-c",
            IMPORTED,
        ],
    ],
    ids=["as a script", "as a module", "by runpy", "imported"],
)
def test_a_script_does_not_finish_what_another_has_begun(tmp_path: Path, again: list[str]) -> None:
    """The second script does its own work, with a warning; the first one then finishes its own,
    however it is executed.
    """
    (tmp_path / "invoices.py").write_text(INVOICES, encoding="utf-8")
    (tmp_path / "cleanup.py").write_text(CLEANUP, encoding="utf-8")

    assert run(tmp_path, "invoices.py", DIE="1").returncode == -9
    other = run(tmp_path, "cleanup.py")
    finished = run(tmp_path, *again)

    assert other.stdout == "removed\n", other.stderr
    assert "invoices.py:main" in other.stderr
    assert "cleanup.py:main" in other.stderr
    assert other.stderr.count("app.adopt(") == 1
    assert (finished.stdout, finished.stderr) == ("sent\n", "")
    assert check(tmp_path / "durably.db") == []
