"""Every promise that is taken out of the package is missed by the test that is about it.

The mutants are listed in ``mutants.py``, with the command that runs all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import PACKAGE

import durably

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests that catch them are"),
    pytest.mark.timeout(600),
]

TESTS = Path(__file__).parents[1]
TESTS_FAILED = 1  # of pytest's exit codes; another one means that it could not run them


def test_each_mutant_changes_a_piece_of_source() -> None:
    """The text that a mutant replaces is in its file once, whatever was moved since."""
    package = Path(durably.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    missing = [
        name
        for name, mutant in PACKAGE.items()
        for change in mutant.changes
        if sources.get(package / change.file, "").count(change.old) != 1
    ]
    assert missing == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout that holds the package and its tests, and nothing else."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(durably.__file__).parent, tmp_path / "durably", ignore=skipped)
    shutil.copytree(TESTS, tmp_path / "tests", ignore=skipped)
    shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.mutant
@pytest.mark.parametrize("mutant", PACKAGE)
def test_mutant_of_the_package_is_caught(mutant: str, copy: Path) -> None:
    """The test that is named beside the mutant fails for it."""
    caught_by, changes = PACKAGE[mutant]
    for change in changes:
        file = copy / "durably" / change.file
        source = file.read_text(encoding="utf-8")
        assert source.count(change.old) == 1, change
        file.write_text(source.replace(change.old, change.new), encoding="utf-8")
    done = execute(copy, f"tests/{caught_by}")
    assert done.returncode == TESTS_FAILED, done.stdout
    assert "SyntaxError" not in done.stdout
    assert " failed" in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.mutant
def test_package_without_a_fault_passes_the_tests_of_the_mutants(copy: Path) -> None:
    """What fails for a mutant fails for it alone."""
    done = execute(copy, *{f"tests/{caught_by}" for caught_by, _ in PACKAGE.values()})
    assert done.returncode == 0, done.stdout


def execute(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Execute tests of the copy on the package of the copy."""
    # As a module, so that the folder it is started in comes first: what is tested is the copy.
    return subprocess.run(
        # A mutant may hang: the limit of each test, which makes it fail, is less than that of all.
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout=100",
            *tests,
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
        check=False,
    )
