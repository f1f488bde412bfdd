"""Processes killed in the middle of a map: no item that is stored is executed again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills"),
]


@pytest.mark.timeout(300)  # a hundred processes, one after the other
@pytest.mark.parametrize("workers", [1, 4])
def test_map_killed_at_random_instants(tmp_path: Path, seed: int, workers: int) -> None:
    """Killed with SIGKILL at 60 random instants and started again each time, a map ends with each
    item executed, its result stored once, and no more lost by a kill than was uncommitted.
    """
    done = execute("killed_in_maps", tmp_path, 60, seed, workers, timeout_s=290)
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
