"""What takes part in forks: who is asked before one, and what parent and child find after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from children import Child

pytest.importorskip("fcntl")


def test_fork_hooks_run_in_order_whatever_one_of_them_raises(spawn: Callable[..., Child]) -> None:
    """Before in order, after in reverse, newcomers included, one that raises skips none."""
    child = spawn("fork_hooks", "in_order")

    before = ["before a", "before b", "before late", "RuntimeError"]
    assert child.line().split(",") == [
        *before,
        "child late",
        "child b",
        "child bad",
        "child a",
        "LookupError",
    ]
    assert child.line().split(",") == [*before, "parent late", "parent b", "parent a"]


def test_fork_waits_for_a_participant_and_for_no_fork(spawn: Callable[..., Child]) -> None:
    """A fork does not happen while a thread is at work, and the child can register and fork."""
    child = spawn("fork_hooks", "waits")

    assert child.line() == "False"
    assert child.line() == "True 7"


def test_interrupted_fork_leaves_a_usable_child(spawn: Callable[..., Child]) -> None:
    """If Ctrl-C ends the wait before a fork, no process is left with a lock that nobody has."""
    child = spawn("fork_hooks", "interrupted")

    assert child.line() == "7 ['KeyboardInterrupt']"
    assert child.line() == "open"
