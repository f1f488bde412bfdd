"""A full disk: a clear error, what was committed stays, and on it goes when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from invariants import check

import durably

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts")

ROOM = 1 << 21


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder whose files cannot grow when it is asked for, and how that is done."""
    if request.param == "limit":
        yield tmp_path, "limit"
        return
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small tmpfs")
    try:
        yield folder, "tmpfs"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_a_clear_error(disk: tuple[Path, str]) -> None:
    """A trigger on a full disk is a DatabaseError that says so; every run that was acknowledged is
    there, a batch is rejected whole, and the same engine works again when there is room.
    """
    folder, how = disk
    with Child("full_disk", folder / "runs.db", how, "trigger") as child:
        kind, message = child.line().split(" ", 1)
        assert kind == "error"
        expected = {
            "limit": "DatabaseError IOError True the database",
            "tmpfs": "DatabaseError FullError True the database",
        }
        assert message.startswith(expected[how])
        assert str(folder / "runs.db") in message
        if how == "tmpfs":
            assert "the disk is full" in message
        assert child.rest() == ["batch refused", "True", "True", "pending", "True"]
    assert check(folder / "runs.db", is_idle=True, is_finished=True) == []


def test_result_of_a_step_waits_for_room(disk: tuple[Path, str]) -> None:
    """A step whose result does not fit the disk emits worker:error and is not executed again: its
    result is stored when there is room, and the run completes at its first attempt.
    """
    folder, how = disk
    with Child("full_disk", folder / "runs.db", how, "execute_steps") as child:
        assert child.rest() == ["True", "running", "30 1 True"]
    assert check(folder / "runs.db", is_sequential=True, is_idle=True, is_finished=True) == []


def test_opening_on_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """A new database on a full disk is a DatabaseError, and can be made when there is room."""
    with Child("full_disk", tmp_path / "runs.db", "limit", "open_new") as child:
        (line,) = child.rest()
        assert line.startswith("error")
        assert str(tmp_path / "runs.db") in line
    assert check(tmp_path / "runs.db", is_idle=True) == []


def test_next_process_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    """What a process that was stopped by a full disk leaves behind is opened by the next one."""
    with Child("full_disk", tmp_path / "runs.db", "limit", "trigger_and_end") as child:
        assert child.line().startswith("error")
        assert child.rest() == ["batch refused", "True", "True"]
    assert check(tmp_path / "runs.db") == []

    @durably.job(origin="any")
    def work(step: durably.StepContext, payload: str) -> int:
        return step.run("one", len, payload)

    with durably.Durably(tmp_path / "runs.db", jobs=[work]) as app:
        assert app.count_runs() > 0
    assert check(tmp_path / "runs.db", is_idle=True, is_finished=True) == []
