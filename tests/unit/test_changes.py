"""Waiting for a change: told in this process, or seen in the file's version."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child
from storekit import FakeClock, trigger

from durably._platform.clock import Clock
from durably.store import change_feed as changes
from durably.store.change_feed import LOOK_INTERVAL_S, ChangeFeed, Seen
from durably.store.sqlite.database import Database
from durably.store.sqlite.notify.watch import LogWatch, Woken, open_watch

HANG_S = 20.0  # only guards against hanging


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


class Watched:
    """A store whose claimer waits with its log watched and no look by the clock to save it."""

    def __init__(self, store: Database, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.feed = store, store.changes
        self.path = path
        self.woken: list[Woken] = []
        self.before_arming: Callable[[], object] = lambda: None
        self.before_sleeping: Callable[[], object] = lambda: None
        monkeypatch.setattr(changes, "WATCHED_LOOK_S", HANG_S)
        monkeypatch.setattr(changes, "FIRST_WATCHED_LOOK_S", HANG_S)
        monkeypatch.setattr(LogWatch, "arm", self._arm(LogWatch.arm))
        monkeypatch.setattr(LogWatch, "wait", self._wait(LogWatch.wait))

    def calm_down(self) -> None:
        """As many looks as it takes have found nothing."""
        self.feed._calm_version, self.feed._looks_until_calm = self.feed.version(), 0
        self.feed._watched_look_s = changes.FIRST_WATCHED_LOOK_S

    def sleep_once(self, version: int) -> None:
        """A wait whose time is over when it has slept with the log watched."""
        clock = FakeClock()
        usual, self.feed._clock = self.feed._clock, clock
        self.before_sleeping = lambda: clock.advance(HANG_S)
        self.feed.wait_for_offer(version, 0.001, look_s=LOOK_INTERVAL_S)
        self.feed._clock, self.before_sleeping = usual, lambda: None

    @property
    def is_armed(self) -> bool:
        """What the kernel says about the descriptor."""
        assert self.feed._watch is not None
        return "inotify wd:" in Path(f"/proc/self/fdinfo/{self.feed._watch._events}").read_text()

    def wait_for_offer(self) -> None:
        self.feed.wait_for_offer(self.feed.version(), HANG_S, look_s=LOOK_INTERVAL_S)

    def _arm(self, arm: Callable[[LogWatch], None]) -> Callable[[LogWatch], None]:
        def armed(watch: LogWatch) -> None:
            self.before_arming()
            arm(watch)

        return armed

    def _wait(self, wait: Callable[..., Woken]) -> Callable[..., Woken]:
        def waited(watch: LogWatch, timeout_s: float, *, for_write: bool) -> Woken:
            if not for_write:
                return wait(watch, timeout_s, for_write=False)
            self.before_sleeping()
            self.woken.append(wait(watch, timeout_s, for_write=True))
            return self.woken[-1]

        return waited


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Its watch is open: the next wait for an offer arms it at once."""
    store = Database(tmp_path / "test.db", synchronous="normal")
    watched = Watched(store, tmp_path / "test.db", monkeypatch)
    watched.calm_down()
    watched.wait_for_offer()
    watched.calm_down()
    yield watched
    store.close()


needs_inotify = pytest.mark.skipif(
    open_watch(__file__) is None, reason="there is no inotify, or no instance of it left"
)

COMMITS_WHEN_TOLD = """
import sys
from durably.store.sqlite.database import Database
store = Database(sys.argv[1], synchronous="normal")
print("open", flush=True)
input()
store.write(lambda db: db.execute("CREATE TABLE theirs (x)"))
store.close()
"""


@needs_inotify
class TestWatchedLog:
    """Who claims sleeps until somebody writes, once nothing was committed for a while."""

    def test_commit_of_another_process_ends_the_sleep(self, watched: Watched) -> None:
        """The kernel tells of it; there is no other look for as long as the test may take."""
        with Child(COMMITS_WHEN_TOLD, watched.path) as child:
            child.expect("open")
            watched.calm_down()  # opening a file may write to its log
            watched.before_sleeping = child.say
            watched.wait_for_offer()
            assert watched.woken == [Woken.BY_WRITE]
            assert child.wait() == 0

    def test_commit_of_another_connection_ends_the_sleep(self, watched: Watched) -> None:
        """An engine of this process is one like any other."""
        watched.before_sleeping = lambda: trigger(watched.store)
        watched.wait_for_offer()
        assert watched.woken == [Woken.BY_WRITE]

    def test_commit_before_the_arming_is_seen(self, watched: Watched) -> None:
        """Nobody tells of it any more: the file is looked at after the arming."""
        watched.before_arming = lambda: trigger(watched.store)
        watched.wait_for_offer()
        assert watched.woken == []

    def test_nothing_is_armed_while_commits_follow_one_another(self, watched: Watched) -> None:
        """After a commit it takes some looks that find nothing, by the clock."""
        trigger(watched.store)
        watched.before_arming = lambda: pytest.fail("armed")
        watched.feed.wait_for_offer(watched.feed.version(), 0.001, look_s=LOOK_INTERVAL_S)

    def test_own_commits_are_no_events_of_a_later_sleep(self, watched: Watched) -> None:
        """What was written while it was awake does not end its next sleep."""
        watched.before_sleeping = lambda: trigger(watched.store)
        watched.wait_for_offer()
        trigger(watched.store)
        watched.calm_down()
        watched.before_sleeping = watched.feed.offer
        watched.wait_for_offer()
        assert watched.woken == [Woken.BY_WRITE, Woken.BY_RING]

    @pytest.mark.parametrize("ending", ["offer", "commit"])
    def test_nothing_is_armed_once_there_is_something_to_do(
        self, watched: Watched, ending: str
    ) -> None:
        """Whatever it was that has ended the sleep: a thread at work is told of no write."""
        endings = {"offer": watched.feed.offer, "commit": lambda: trigger(watched.store)}
        watched.before_sleeping = endings[ending]
        watched.wait_for_offer()
        assert not watched.is_armed

    def test_sleep_that_ends_with_its_time_goes_on_in_the_next_wait(self, watched: Watched) -> None:
        """A write between the two, whose commit is seen only later, is not missed."""
        version = watched.feed.version()
        watched.sleep_once(version)
        assert watched.is_armed
        trigger(watched.store)
        seen = iter([0, 0, 1])
        watched.feed._data_version = lambda: version + next(seen)
        watched.feed.wait_for_offer(version, HANG_S, look_s=LOOK_INTERVAL_S)
        assert watched.woken == [Woken.BY_TIME, Woken.BY_WRITE]

    def test_commit_between_two_waits_disarms(self, watched: Watched) -> None:
        """The thread knows of it by then, and others may follow it closely."""
        watched.sleep_once(watched.feed.version())
        trigger(watched.store)
        watched.feed.wait_for_offer(watched.feed.version(), 0.001, look_s=LOOK_INTERVAL_S)
        assert not watched.is_armed
        assert watched.woken == [Woken.BY_TIME]

    def test_commit_that_was_in_its_sync_at_the_arming_is_looked_for_soon(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing of it is written any more: the first looks follow more closely on each other."""
        timeouts: list[float] = []

        def note(watch: LogWatch, timeout_s: float, *, for_write: bool) -> Woken:
            timeouts.append(timeout_s)
            return Woken.BY_TIME

        monkeypatch.setattr(changes, "WATCHED_LOOK_S", 0.05)
        monkeypatch.setattr(LogWatch, "wait", note)
        watched.feed._watched_look_s = 0.02
        version, seen = watched.feed.version(), iter([0] * 8 + [1])
        watched.feed._data_version = lambda: version + next(seen)
        watched.feed.wait_for_offer(version, HANG_S, look_s=LOOK_INTERVAL_S)
        assert timeouts == [0.02, 0.04, 0.05, 0.05]

    def test_write_that_no_commit_follows_is_waited_for_by_the_clock(
        self, watched: Watched
    ) -> None:
        """The commit is seen only after its sync, of which the kernel tells nobody."""
        version, seen = watched.feed.version(), iter([0, 0, 0, 0, 1])
        watched.before_sleeping = lambda: trigger(watched.store)
        watched.feed._data_version = lambda: version + next(seen)
        watched.feed.wait_for_offer(version, HANG_S, look_s=LOOK_INTERVAL_S)
        assert watched.woken == [Woken.BY_WRITE]

    @pytest.mark.parametrize("look_s", [None, LOOK_INTERVAL_S])
    def test_wake_ends_the_sleep(self, watched: Watched, look_s: float | None) -> None:
        """Before the wait or in it, also where only a free slot is waited for."""
        watched.feed.wake_claimer()
        watched.feed.wait_for_offer(watched.feed.version(), HANG_S, look_s=look_s)
        waking = threading.Thread(target=watched.feed.wake_claimer)
        waking.start()
        watched.feed.wait_for_offer(watched.feed.version(), HANG_S, look_s=look_s)
        waking.join(HANG_S)

    def test_wake_that_was_on_its_way_to_the_gate_is_no_loss(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait in which the watch is opened ends with that: a look for runs comes after it."""
        store = Database(tmp_path / "test.db", synchronous="normal")
        watched = Watched(store, tmp_path / "test.db", monkeypatch)
        watched.calm_down()
        watched.before_sleeping = lambda: pytest.fail("slept")
        watched.wait_for_offer()
        assert store.changes._watch is not None
        store.close()

    def test_forgotten_offer_ends_no_sleep(self, watched: Watched) -> None:
        """The next one does."""
        watched.feed.offer()
        watched.feed.forget_offers()
        watched.before_sleeping = watched.feed.offer
        watched.wait_for_offer()
        assert watched.woken == [Woken.BY_RING]

    def test_it_looks_by_the_clock_all_the_same(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit of which the kernel does not tell is noticed some looks later."""
        monkeypatch.setattr(changes, "WATCHED_LOOK_S", 0.001)
        watched.feed._watched_look_s = 0.001
        monkeypatch.setattr(LogWatch, "arm", lambda watch: None)
        watched.before_sleeping = lambda: len(watched.woken) == 3 and trigger(watched.store)
        watched.wait_for_offer()
        assert watched.woken == [Woken.BY_TIME] * 4

    def test_wait_ends_with_its_time(self, watched: Watched) -> None:
        """However rarely it looks by itself."""
        watched.sleep_once(watched.feed.version())
        assert watched.woken == [Woken.BY_TIME]

    def test_watch_that_fails_is_given_up(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait ends, for a look for runs, and the next ones look by the clock."""

        def refuse(watch: LogWatch) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(LogWatch, "arm", refuse)
        watched.wait_for_offer()
        check_looks_by_the_clock(watched)

    @pytest.mark.parametrize("look_s", [None, LOOK_INTERVAL_S])
    def test_descriptors_that_somebody_has_closed_are_given_up(
        self, watched: Watched, look_s: float | None
    ) -> None:
        """A program that closes all it has does not make the thread spin."""
        watch = watched.feed._watch
        assert watch is not None
        os.close(watch._bell)
        os.close(watch._events)
        watched.feed.wait_for_offer(watched.feed.version(), HANG_S, look_s=look_s)
        check_looks_by_the_clock(watched)
        watch._bell = watch._events = -1


def test_without_a_watch_it_looks_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log cannot be watched a commit and a wake end the wait all the same."""
    monkeypatch.setattr(changes, "open_watch", lambda path: None)
    store = Database(tmp_path / "test.db", synchronous="normal")
    watched = Watched(store, tmp_path / "test.db", monkeypatch)
    watched.calm_down()
    watched.wait_for_offer()
    check_looks_by_the_clock(watched)
    store.close()


def check_looks_by_the_clock(watched: Watched) -> None:
    feed = watched.feed
    assert feed._watch is None
    watched.calm_down()
    version, seen = feed.version(), iter([0, 0, 1])
    feed._data_version = lambda: version + next(seen)
    feed.wait_for_offer(version, HANG_S, look_s=0.001)
    assert next(seen, None) is None
    feed._data_version = lambda: version
    feed.offer()
    feed.wait_for_offer(version, HANG_S, look_s=0.001)
    assert watched.woken == []
