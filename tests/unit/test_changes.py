"""Waiting for a change: told in this process, or seen in the file's version."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from storekit import FakeClock, trigger

from durably.clock import Clock
from durably.store.changes import ChangeFeed, Seen
from durably.store.database import Database


class Versions:
    """A file's version that changes after so many looks."""

    def __init__(self, changes_at: int | None = None) -> None:
        self.looks = 0
        self.changes_at = changes_at

    def __call__(self) -> int:
        self.looks += 1
        return 1 + (self.changes_at is not None and self.looks >= self.changes_at)


@pytest.fixture
def versions() -> Versions:
    return Versions()


@pytest.fixture
def feed(versions: Versions, clock: FakeClock) -> ChangeFeed:
    return ChangeFeed(versions, clock)


def test_wait_without_time_says_what_is(feed: ChangeFeed, versions: Versions) -> None:
    """With no time to wait it answers at once, either way."""
    seen = feed.look()
    assert feed.wait(seen, 0) is False
    assert feed.wait(seen, -1) is False
    versions.changes_at = 0
    assert feed.wait(seen, 0) is True


def test_change_before_the_wait_is_not_missed(feed: ChangeFeed) -> None:
    """What was told between the look and the wait ends the wait."""
    seen = feed.look()
    feed.notify()
    assert feed.wait(seen, 1000) is True
    assert feed.wait(feed.look(), 0) is False


def test_looking_again_forgets_what_was_seen(feed: ChangeFeed, versions: Versions) -> None:
    """A change is noticed once by each who looks after it."""
    before = feed.look()
    feed.notify()
    versions.changes_at = 0
    after = feed.look()
    assert before != after == Seen(1, 2)
    assert feed.wait(after, 0) is False


def test_commit_of_another_process_ends_the_wait() -> None:
    """The version is looked at again and again while a thread waits."""
    versions = Versions(changes_at=4)
    feed = ChangeFeed(versions, Clock())
    assert feed.wait(Seen(0, 1), 1000, look_s=0.001) is True
    assert versions.looks == 4


def test_wait_ends_with_its_time() -> None:
    """Nothing happens, and it says so."""
    versions = Versions()
    feed = ChangeFeed(versions, Clock())
    assert feed.wait(feed.look(), 0.02, look_s=0.005) is False
    assert versions.looks >= 2


def test_notify_wakes_every_waiter(eventually: Any) -> None:
    """All threads that wait are told, whatever they saw before."""
    asked = threading.Semaphore(0)

    class Noticing(Clock):
        def monotonic(self) -> float:
            asked.release()
            return super().monotonic()

    feed = ChangeFeed(Versions(), Noticing())
    outcomes: list[bool] = []
    seen = feed.look()
    threads = [
        threading.Thread(target=lambda: outcomes.append(feed.wait(seen, 60, look_s=60)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(8):  # each asks for its deadline, and again holding the condition
        assert asked.acquire(timeout=10)
    feed.notify()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert outcomes == [True] * 4


def test_commit_through_the_store_changes_what_a_look_sees(tmp_path: Path) -> None:
    """Writes of this engine and of another one on the file are both seen; reads are not."""
    first = Database(tmp_path / "test.db", synchronous="normal")
    second = Database(tmp_path / "test.db", synchronous="normal")
    seen = first.changes.look()
    second.read(lambda db: db.execute("SELECT count(*) FROM durably_runs").get)
    assert first.changes.wait(seen, 0) is False
    trigger(second)
    assert first.changes.wait(seen, 0) is True
    seen = first.changes.look()
    trigger(first)
    assert first.changes.wait(seen, 0) is True
    second.close()
    first.close()


def test_look_at_a_closed_store_wakes_who_waits(tmp_path: Path) -> None:
    """Whoever waits sees a change and finds out that the engine is closed."""
    store = Database(tmp_path / "test.db", synchronous="normal")
    seen = store.changes.look()
    store.close()
    assert store.changes.wait(seen, 1000) is True
