"""The base of durably's threads: it starts, ticks, is woken and stops, in any order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from durably._platform.clock import Clock
from durably.worker.service import Service


class Counter(Service):
    """Counts its ticks; can be made to fail, or to wait inside one."""

    def __init__(self, interval_s: float | None = None) -> None:
        self.errors: list[tuple[BaseException, str]] = []
        super().__init__(
            "counter",
            clock=Clock(),
            interval_s=interval_s,
            on_error=lambda exc, name: self.errors.append((exc, name)),
        )
        self.ticks = 0
        self.fails_with: BaseException | None = None
        self.pause_fails_with: BaseException | None = None
        self.in_tick = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.thread: threading.Thread | None = None

    def tick(self) -> None:
        self.ticks += 1
        self.thread = threading.current_thread()
        self.in_tick.set()
        assert self.go_on.wait(10)
        if self.fails_with is not None:
            raise self.fails_with

    def pause(self) -> None:
        if self.pause_fails_with is not None:
            raise self.pause_fails_with
        super().pause()


@pytest.fixture
def service() -> Iterator[Counter]:
    made = Counter()
    yield made
    made.go_on.set()
    made.stop()


def test_thread_is_named_and_a_daemon(service: Counter) -> None:
    """The name of a thread says whose it is; no thread keeps a process from ending."""
    service.start()
    assert service.in_tick.wait(10)
    assert service.thread is not None
    assert (service.thread.name, service.thread.daemon) == ("durably-counter", True)


def test_first_tick_needs_no_wake(service: Counter) -> None:
    """A service that was started ticks at once."""
    service.start()
    assert service.in_tick.wait(10)


def test_starting_twice_starts_one_thread(service: Counter) -> None:
    """The second start changes nothing."""
    service.start()
    assert service.in_tick.wait(10)
    thread = service.thread
    service.start()
    running = [each for each in threading.enumerate() if each.name == "durably-counter"]
    assert running == [thread]


def test_stop_returns_when_the_thread_has_ended(service: Counter) -> None:
    """Also if it is called again, or before a start."""
    service.stop()
    service.start()
    assert service.in_tick.wait(10)
    thread = service.thread
    assert thread is not None
    service.stop()
    assert not thread.is_alive()
    service.stop()


def test_stop_lets_the_present_tick_end(service: Counter, eventually: Any) -> None:
    """Nothing is cut off in the middle; no other tick follows."""
    service.go_on.clear()
    service.start()
    assert service.in_tick.wait(10)
    stopper = threading.Thread(target=service.stop)
    stopper.start()
    eventually(service._stopping.is_set)
    assert stopper.is_alive()
    service.go_on.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert service.ticks == 1


def test_service_can_be_started_again(service: Counter) -> None:
    """It ticks again after a stop, as an engine can be started again."""
    for _ in range(50):
        service.in_tick.clear()
        service.start()
        assert service.in_tick.wait(10)
        service.stop()
    assert service.ticks >= 50


def test_wake_causes_a_tick(service: Counter, eventually: Any) -> None:
    """Without an interval a service ticks when it is woken, and only then."""
    service.start()
    eventually(lambda: service.ticks == 1)
    service.wake()
    eventually(lambda: service.ticks == 2)


def test_wake_during_a_tick_causes_one_more(service: Counter, eventually: Any) -> None:
    """What happens after a tick has read is found by the next one."""
    service.go_on.clear()
    service.start()
    assert service.in_tick.wait(10)
    service.wake()
    service.go_on.set()
    eventually(lambda: service.ticks == 2)


def test_interval_causes_ticks(eventually: Any) -> None:
    """With an interval nobody needs to wake it."""
    service = Counter(interval_s=0.001)
    service.start()
    eventually(lambda: service.ticks >= 3)
    service.stop()


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError()])
def test_thread_outlives_a_failing_tick(
    service: Counter, eventually: Any, error: Exception
) -> None:
    """The error is reported with the service's name, and the next tick comes."""
    service.fails_with = error
    service.start()
    eventually(lambda: service.errors == [(error, "counter")])
    service.fails_with = None
    service.wake()
    eventually(lambda: service.ticks == 2)
    assert len(service.errors) == 1


def test_thread_outlives_a_failing_pause(service: Counter, eventually: Any) -> None:
    """A service that waits by looking at the database goes on when that fails."""
    error = OSError("unreadable")
    service.pause_fails_with = error
    service.start()
    eventually(lambda: service.ticks >= 2)
    assert service.errors[0] == (error, "counter")
    service.pause_fails_with = None
    told = len(service.errors)
    service.wake()
    ticks = service.ticks
    eventually(lambda: service.ticks > ticks)
    assert len(service.errors) <= told + 1


def test_stop_from_inside_a_tick_does_not_wait_for_itself(eventually: Any) -> None:
    """It ends after that tick."""

    class Suicidal(Counter):
        def tick(self) -> None:
            super().tick()
            self.stop()

    service = Suicidal(interval_s=0.001)
    service.start()
    assert service.in_tick.wait(10)
    assert service.thread is not None
    service.thread.join(10)
    assert not service.thread.is_alive()
    assert service.ticks == 1
