"""Reading a file takes nothing from those who open, write and close it meanwhile."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from children import Child
from invariants import check

import durably
from durably.entry.read_only import open_read_only

NAMES = "abcdefgh"
TIMES = 4


@pytest.mark.slow
def test_looks_lose_nothing(tmp_path: Path) -> None:
    """All that eight processes commit is there, though a reader was often the last to close it."""
    path = tmp_path / "x.db"
    durably.Durably(path).close()
    looks = 0
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child("opens_and_runs", path, name, TIMES)) for name in NAMES
        ]
        while not all(child.has_ended for child in children):
            with open_read_only(path) as look:
                assert {run.status for run in look.find_runs(limit=5)} <= {
                    "pending",
                    "running",
                    "completed",
                }
            looks += 1
        printed = [line for child in children for line in child.rest()]
    assert looks > 1
    with open_read_only(path) as look:
        runs = look.find_runs(status="completed")
    assert sorted(run.idempotency_key or "" for run in runs) == sorted(printed)
    assert len(printed) == len(NAMES) * TIMES
    assert {run.attempt for run in runs} == {1}
    assert check(path) == []
