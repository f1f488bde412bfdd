"""Commits of other processes: noticed by an idle engine, which sleeps until there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import DEADLINE_S, Child, Eventually

import durably
from durably import Durably
from durably.store import change_feed as changes
from durably.store.sqlite.notify.watch import open_watch

pytestmark = pytest.mark.skipif(
    open_watch(__file__) is None, reason="there is no inotify, or no instance of it left"
)

TRIGGERS_WHEN_TOLD = """
import sys
import durably

@durably.job
def quick(step: durably.StepContext) -> int:
    return 0

app = durably.Durably(sys.argv[1], jobs=[quick])
print("open", flush=True)
for line in sys.stdin:
    print(app.jobs["quick"].trigger().id, flush=True)
app.close()
"""


@durably.job
def quick(step: durably.StepContext) -> int:
    return os.getpid()


@pytest.fixture
def idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> Iterator[Durably]:
    """A started engine that watches its log, and looks by itself only after a test has failed."""
    monkeypatch.setattr(changes, "WATCHED_LOOK_S", 10 * DEADLINE_S)
    monkeypatch.setattr(changes, "FIRST_WATCHED_LOOK_S", 10 * DEADLINE_S)
    with Durably(tmp_path / "x.db", jobs=[quick], poll_interval=10 * DEADLINE_S) as app:
        eventually(lambda: is_watching(app))
        yield app


def is_watching(app: Durably) -> bool:
    return app._store.database.changes._watch is not None


def test_run_of_another_process_starts_an_idle_engine(
    idle: Durably, tmp_path: Path, eventually: Eventually
) -> None:
    """The kernel wakes it, at the first time and at the next ones."""
    with Child(TRIGGERS_WHEN_TOLD, tmp_path / "x.db") as child:
        child.expect("open")
        for _ in range(3):
            feed = idle._store.database.changes
            eventually(lambda feed=feed: feed._looks_until_calm <= 0)
            child.say()
            assert idle.wait(child.line(), timeout=DEADLINE_S).output == os.getpid()


def test_run_of_this_process_starts_an_idle_engine(idle: Durably) -> None:
    """It is woken for its own runs as ever."""
    assert idle.jobs["quick"].trigger_and_wait(timeout=DEADLINE_S).output == os.getpid()


def test_engine_that_is_not_started_opens_no_watch(tmp_path: Path) -> None:
    """Triggering and looking at runs does not ask for one."""
    app = Durably(tmp_path / "x.db", jobs=[quick])
    assert app.get_run(app.jobs["quick"].trigger()) is not None
    assert not is_watching(app)
    app.close()


def test_closed_engine_leaves_no_descriptor(tmp_path: Path, eventually: Eventually) -> None:
    """Stopped and started, two in one process: what they opened is closed with them."""
    before = descriptors()
    first, second = (Durably(tmp_path / "x.db", jobs=[quick]) for _ in range(2))
    for app in (first, second, first):
        app.start()
        eventually(lambda app=app: is_watching(app))
        app.stop()
    first.close()
    second.close()
    assert descriptors() == before


def test_forked_child_leaves_the_parents_watch_alone(idle: Durably) -> None:
    """It has no copy of it, and the parent's engine goes on."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            inherited = {name for name in descriptors() if name.startswith("anon_inode:")}
            idle._store.database.changes.offer()
            status = len(inherited & {"anon_inode:inotify", "anon_inode:[eventfd]"})
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert idle.jobs["quick"].trigger_and_wait(timeout=DEADLINE_S).output == os.getpid()


def descriptors() -> list[str]:
    """What this process has open, but for the folder that says so."""
    links = list(Path("/proc/self/fd").iterdir())
    return sorted(str(link.readlink()) for link in links if os.path.lexists(link))
