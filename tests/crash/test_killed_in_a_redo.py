"""Killed while results are replaced: the old or the new one is there, and all fit in the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]


@pytest.mark.timeout(120)
def test_a_result_is_replaced_by_the_commit_of_the_new_one(tmp_path: Path, seed: int) -> None:
    """Whatever write of it a process is killed at, ``on_change="redo"`` loses no result.

    The next process executes what is out of date yet, also where the code is the same: what comes
    before it was executed since.
    """
    stride = 5
    done = execute("killed_in_a_redo", tmp_path, seed % stride + 1, stride, timeout_s=110)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    killed, half_done = map(int, done.stdout.split())
    assert killed >= half_done > 2
