"""The notes of steps in progress, in the file of an owner lock."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from durably.store.calls import OpenCalls
from durably.store.rows import RunKey
from durably.store.sqlite.locks import begun_steps
from durably.store.sqlite.locks.begun_steps import Begun, BegunSteps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is noted there")

RUN = RunKey(7)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "lock").touch()
    return str(tmp_path / "lock")


def test_what_was_begun_is_read_in_its_order(path: str) -> None:
    """A slot is used again once its step has ended, and shows the step until then."""
    begun = BegunSteps(path, "ext4")
    first = begun.begin(RUN, 1, "a", 1, 0)
    begun.begin(RUN, 1, "ü" * 500, 2, 5)
    assert begun_steps.read(path) == [
        Begun(RUN, 1, 1, OpenCalls("a", 1, "[]", 0)),
        Begun(RUN, 1, 2, OpenCalls("ü" * 500, 2, "[]", 5)),
    ]
    begun.end(first)
    assert begun.begin(RUN, 2, "b", 1, 0) == first
    assert [each.calls.name for each in begun_steps.read(path)] == ["ü" * 500, "b"]
    begun.forget(first)
    assert [each.calls.name for each in begun_steps.read(path)] == ["ü" * 500]


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_more_steps_at_once_than_are_mapped(path: str, kind: str) -> None:
    """Each has its slot, on any file system."""
    begun = BegunSteps(path, kind)
    slots = [begun.begin(RUN, 1, f"s{n}", 1, 0) for n in range(40)]
    assert len(set(slots)) == 40
    assert [each.calls.name for each in begun_steps.read(path)] == [f"s{n}" for n in range(40)]
    for slot in slots:
        begun.forget(slot)
    assert begun_steps.read(path) == []


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 10_000, bytes(10_000)])
def test_a_file_that_no_engine_has_written_has_no_steps(path: str, content: bytes) -> None:
    """Whatever is in it, and if it is not there."""
    Path(path).write_bytes(content)
    assert begun_steps.read(path) == []
    assert begun_steps.read(path + "-missing") == []


def test_a_name_that_was_cut_off_is_left_out(path: str) -> None:
    """The process may have died while it wrote."""
    begun = BegunSteps(path, "ext4")
    begun.begin(RUN, 1, "ü", 1, 0)
    begun.begin(RUN, 1, "b", 1, 0)
    with Path(path).open("r+b") as file:
        file.seek(begun_steps.SLOT + begun_steps._HEADER.size + 1)
        file.write(b"x")
    assert [each.calls.name for each in begun_steps.read(path)] == ["b"]


def test_without_a_file_nothing_is_noted(path: str) -> None:
    """A step that cannot be noted is executed all the same."""
    begun = BegunSteps(path + "-missing", "ext4")
    slot = begun.begin(RUN, 1, "a", 1, 0)
    begun.forget(slot)
    assert begun_steps.read(path) == []
