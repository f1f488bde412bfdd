"""Waiting for a change: notified in this process, or seen in the file's version."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from storekit import FakeClock, trigger

from durably._platform.clock import Clock
from durably.store.change_feed import IDLE_POLL_INTERVAL_S, POLL_INTERVAL_S, ChangeFeed, Snapshot
from durably.store.sqlite.database import Database

HANG_S = 20.0  # only guards against hanging


class Versions:
    """A file's version that changes after so many reads."""

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
    seen = feed.snapshot()
    assert feed.wait(seen, 0) is False
    assert feed.wait(seen, -1) is False
    versions.changes_at = 0
    assert feed.wait(seen, 0) is True


def test_change_before_the_wait_is_not_missed(feed: ChangeFeed) -> None:
    """A change between the snapshot and the wait ends the wait."""
    seen = feed.snapshot()
    feed.notify()
    assert feed.wait(seen, 1000) is True
    assert feed.wait(feed.snapshot(), 0) is False


def test_wait_since_a_quick_snapshot_ends_with_its_first_poll(
    feed: ChangeFeed, versions: Versions
) -> None:
    """It reads no version, so that whatever was committed before the wait ends it."""
    seen = feed.quick_snapshot()
    assert versions.looks == 0
    assert feed.wait(seen, 0) is True
    assert versions.looks == 1
    feed.notify()
    assert feed.wait(seen, 1000, poll_s=1000) is True
    assert versions.looks == 1


def test_polling_again_forgets_the_last_version(feed: ChangeFeed, versions: Versions) -> None:
    """A change is noticed once by each thread that waits after it."""
    before = feed.snapshot()
    feed.notify()
    versions.changes_at = 0
    after = feed.snapshot()
    assert before != after == Snapshot(1, 2)
    assert feed.wait(after, 0) is False


def test_commit_of_another_process_ends_the_wait() -> None:
    """The version is read again and again while a thread waits."""
    versions = Versions(changes_at=4)
    feed = ChangeFeed(versions, Clock())
    assert feed.wait(Snapshot(0, 1), 1000, poll_s=0.001) is True
    assert versions.looks == 4


def test_wait_ends_with_its_time() -> None:
    """Nothing happens, and it says so."""
    versions = Versions()
    feed = ChangeFeed(versions, Clock())
    assert feed.wait(feed.snapshot(), 0.02, poll_s=0.005) is False
    assert versions.looks >= 2


def test_notify_wakes_every_waiter(eventually: Any) -> None:
    """All threads that wait are woken, whatever they saw before."""
    asked = threading.Semaphore(0)

    class Noticing(Clock):
        def monotonic(self) -> float:
            asked.release()
            return super().monotonic()

    feed = ChangeFeed(Versions(), Noticing())
    outcomes: list[bool] = []
    seen = feed.snapshot()
    threads = [
        threading.Thread(target=lambda: outcomes.append(feed.wait(seen, 60, poll_s=60)))
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


def test_commit_through_the_store_changes_what_a_poll_sees(tmp_path: Path) -> None:
    """Writes of this engine and of another one on the file are both seen; reads are not."""
    first = Database(tmp_path / "test.db", synchronous="normal")
    second = Database(tmp_path / "test.db", synchronous="normal")
    seen = first.changes.snapshot()
    second.read(lambda db: db.execute("SELECT count(*) FROM durably_runs").get)
    assert first.changes.wait(seen, 0) is False
    trigger(second)
    assert first.changes.wait(seen, 0) is True
    seen = first.changes.snapshot()
    trigger(first)
    assert first.changes.wait(seen, 0) is True
    second.close()
    first.close()


def test_poll_of_a_closed_store_wakes_the_waiting_threads(tmp_path: Path) -> None:
    """The waiting threads see a change and find that the engine is closed."""
    store = Database(tmp_path / "test.db", synchronous="normal")
    seen = store.changes.snapshot()
    store.close()
    assert store.changes.wait(seen, 1000) is True


class NotedClock(FakeClock):
    """A clock at which a wait takes no time and is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, latch: Any, timeout_s: float | None) -> bool:
        assert timeout_s is not None
        self.pauses.append(timeout_s)
        return super().wait(latch, timeout_s)


def test_dispatcher_polls_ever_less_often_while_nothing_is_committed() -> None:
    """From every 20 ms to four times a second: each pause is a tenth of the time without one."""
    clock = NotedClock()
    feed = ChangeFeed(Versions(), clock)

    feed.wait_for_wakeup(1, 60, polls=True)

    assert clock.pauses[0] == POLL_INTERVAL_S == 0.020
    assert clock.pauses[-2] == IDLE_POLL_INTERVAL_S == 0.250
    assert clock.pauses[:-1] == sorted(clock.pauses[:-1])
    for number, pause_s in enumerate(clock.pauses):
        waited_s = sum(clock.pauses[:number])
        assert pause_s <= max(POLL_INTERVAL_S, waited_s / 10) + 1e-9
    assert sum(clock.pauses) == pytest.approx(60)


def test_dispatcher_goes_on_as_slowly_in_its_next_wait() -> None:
    """A wait that ended with its time, or with a wakeup, is not a commit."""
    clock = NotedClock()
    feed = ChangeFeed(Versions(), clock)
    feed.wait_for_wakeup(1, 60, polls=True)
    clock.pauses.clear()

    feed.wait_for_wakeup(1, 60, polls=True)

    assert clock.pauses[0] == IDLE_POLL_INTERVAL_S


def test_commit_makes_the_dispatcher_poll_often_again() -> None:
    """It ends the wait of the dispatcher, whose next wait begins with the shortest pauses."""
    clock = NotedClock()
    versions = Versions()
    feed = ChangeFeed(versions, clock)
    feed.wait_for_wakeup(1, 60, polls=True)
    versions.changes_at = versions.looks + 3
    clock.pauses.clear()
    feed.wait_for_wakeup(1, 60, polls=True)
    assert clock.pauses == [IDLE_POLL_INTERVAL_S] * 2

    clock.pauses.clear()
    feed.wait_for_wakeup(2, 60, polls=True)

    assert clock.pauses[0] == POLL_INTERVAL_S


def test_dispatcher_that_need_not_poll_does_not(versions: Versions) -> None:
    """Without a free slot a commit of another process is no reason to wake up."""
    clock = NotedClock()
    ChangeFeed(versions, clock).wait_for_wakeup(1, 60, polls=False)
    assert clock.pauses == [60]
    assert versions.looks == 0


@pytest.mark.parametrize("polls", [False, True])
def test_wakeup_ends_the_wait_of_the_dispatcher(*, polls: bool) -> None:
    """Before the wait or in it, also where only a free slot is waited for."""
    feed = ChangeFeed(Versions(), Clock())
    feed.notify_dispatcher()
    feed.wait_for_wakeup(1, 1000, polls=polls)
    feed.forget_wakeups()
    waking = threading.Thread(target=feed.wake_dispatcher)
    waking.start()
    feed.wait_for_wakeup(1, 1000, polls=polls)
    waking.join(HANG_S)


def test_forgotten_wakeup_ends_no_wait() -> None:
    """The dispatcher forgets wakeups before it claims; only later ones end its wait then."""
    clock = NotedClock()
    feed = ChangeFeed(Versions(), clock)
    feed.notify_dispatcher()
    feed.forget_wakeups()
    feed.wait_for_wakeup(1, 60, polls=False)
    assert clock.pauses == [60]
    feed.notify_dispatcher()
    before_s = clock.monotonic()
    feed.wait_for_wakeup(1, 60, polls=True)
    assert clock.monotonic() == before_s


def test_commit_of_another_connection_ends_the_wait_of_the_dispatcher(tmp_path: Path) -> None:
    """One that was made before the wait, and one during it."""
    store, other = (Database(tmp_path / "test.db", synchronous="normal") for _ in range(2))
    version = store.changes.version()
    trigger(other)
    store.changes.wait_for_wakeup(version, 1000, polls=True)
    committing = threading.Thread(target=trigger, args=[other])
    version = store.changes.version()
    committing.start()
    store.changes.wait_for_wakeup(version, 1000, polls=True)
    committing.join(HANG_S)
    store.close()
    other.close()
