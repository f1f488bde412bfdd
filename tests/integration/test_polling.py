"""Commits of other processes: noticed by an idle engine, which polls for them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import DEADLINE_S, Child
from descriptors import descriptors

import durably
from durably import Durably


@durably.job
def quick(step: durably.StepContext) -> int:
    return os.getpid()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Durably]:
    """A started engine whose poll interval is over only after a test has failed."""
    with Durably(tmp_path / "x.db", jobs=[quick], poll_interval=10 * DEADLINE_S) as app:
        yield app


def test_run_of_another_process_starts_an_idle_engine(idle: Durably, tmp_path: Path) -> None:
    """Its commit is seen, also once the engine polls as rarely as it ever does."""
    feed = idle._store.database.changes
    with Child("triggers_when_told", tmp_path / "x.db") as child:
        child.expect("open")
        for _ in range(2):
            child.say()
            assert idle.wait(child.line(), timeout=DEADLINE_S).output == os.getpid()
        feed._changed_at_s -= DEADLINE_S
        child.say()
        assert idle.wait(child.line(), timeout=DEADLINE_S).output == os.getpid()


def test_run_of_this_process_starts_an_idle_engine(idle: Durably) -> None:
    """It is woken for its own runs at once."""
    assert idle.jobs["quick"].trigger_and_wait(timeout=DEADLINE_S).output == os.getpid()


def test_closed_engine_leaves_no_descriptor(tmp_path: Path) -> None:
    """Stopped and started, two in one process: what they opened is closed with them."""
    gc.collect()  # of what earlier tests have left behind
    before = descriptors()
    first, second = (Durably(tmp_path / "x.db", jobs=[quick]) for _ in range(2))
    for app in (first, second, first):
        app.start()
        app.stop()
    first.close()
    second.close()
    assert not descriptors() - before


def test_forked_child_wakes_nobody_in_its_parent(idle: Durably) -> None:
    """It has no thread to wake, and the parent's engine goes on."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            idle._store.database.changes.notify_dispatcher()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert idle.jobs["quick"].trigger_and_wait(timeout=DEADLINE_S).output == os.getpid()
