"""When the next item may begin: rates, bursts, and what a service asks for."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta

import pytest
from storekit import FakeClock

import durably
from durably._platform.latch import Latch
from durably.execution import pacing
from durably.execution.pacing import Pace, RateLimit, reserve, seconds_until


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> FakeClock:
    """A clock that the limits of rates read too."""
    monkeypatch.setattr(pacing, "monotonic", clock.monotonic)
    return clock


def test_beginnings_are_evenly_spread(times: FakeClock) -> None:
    """One each interval, whether those that wait come at once or one by one."""
    limit = RateLimit(4)
    now = times.monotonic()
    assert [reserve(limit) - now for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    times.advance(10)
    assert reserve(limit) == times.monotonic()
    assert reserve(limit) == times.monotonic() + 0.25


def test_a_burst_comes_after_a_pause(times: FakeClock) -> None:
    """After a pause so many begin at once, and no more than the rate in the long run."""
    limit = RateLimit(2, burst=3)
    now = times.monotonic()
    assert [reserve(limit) - now for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    times.advance(1.5)
    assert [reserve(limit) - now for _ in range(2)] == [1.5, 2.0]
    assert repr(limit) == "RateLimit(2, burst=3)"


def test_threads_share_a_limit() -> None:
    """Each turn is given once."""
    limit = RateLimit(1000)
    found: list[float] = []
    threads = [
        threading.Thread(target=lambda: found.extend(reserve(limit) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.sort()
    assert len(found) == 200
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert min(gaps) >= 0.000999


def test_a_pace_waits_for_rate_and_postponement(times: FakeClock) -> None:
    """Whichever is later; what is postponed to an earlier time than before changes nothing."""
    pace = Pace(RateLimit(1), times, Latch())
    began = times.monotonic()
    assert pace.await_turn()
    assert pace.await_turn()
    assert times.monotonic() == began + 1
    assert pace.postpone(5.0)
    assert not pace.postpone(2.0)
    assert pace.await_turn()
    assert times.monotonic() == began + 6


def test_an_end_ends_each_wait(times: FakeClock) -> None:
    """Nothing begins any more."""
    ending = Latch()
    pace = Pace(None, times, ending)
    assert pace.await_turn()
    ending.set()
    assert not pace.await_turn()
    pace.postpone(1e9)
    assert not pace.await_turn()
    assert not Pace(RateLimit(1e-6), times, ending).await_turn()


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (5, 5.0),
        (0.5, 0.5),
        (-3, 0.0),
        (timedelta(minutes=1), 60.0),
        (timedelta(seconds=-1), 0.0),
        (datetime.fromtimestamp(1030, UTC), 30.0),
        (datetime.fromtimestamp(0, UTC), 0.0),
        (1e300, threading.TIMEOUT_MAX),
        (timedelta.max, threading.TIMEOUT_MAX),
    ],
)
def test_what_a_service_asks_for_is_a_number_of_seconds(
    clock: FakeClock, when: float | timedelta | datetime, expected: float
) -> None:
    """It may be given in seconds, as a timedelta or an instant, and is never below 0."""
    clock.us = 1000 * 10**6
    after = durably.RetryAfter(when, "quota")
    assert seconds_until(after, clock) == expected
    assert str(after) == "quota"
    assert "called again" in str(durably.RetryAfter(when))
