"""``Retry``: its defaults, what it rejects, and how long it waits."""

from __future__ import annotations

import threading
from datetime import timedelta

import attrs
import pytest
from engines import engine
from hypothesis import given
from hypothesis import strategies as st

import durably
from durably import Retry
from durably.settings.retries import loaded_retry, next_wait_s, stored_retry, wait_s


def test_the_defaults_are_those_of_the_contract():
    """``Retry()`` is 3 attempts, 1 s doubling up to 60 s, with jitter, on any Exception."""
    assert attrs.asdict(Retry()) == {
        "attempts": 3,
        "wait": 1.0,
        "backoff": 2.0,
        "max_wait": 60.0,
        "jitter": True,
        "on": Exception,
        "on_exhausted": "fail",
    }


def test_a_retry_is_a_value():
    """A ``Retry`` is frozen and compares by value."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Retry().attempts = 4
    assert Retry(attempts=5) == Retry(5) != Retry()


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        (Retry(wait=1, jitter=False), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Retry(wait=0.5, backoff=1, jitter=False), [0.5] * 4),
        (Retry(wait=3, backoff=10, max_wait=7, jitter=False), [3, 7, 7]),
        (Retry(wait=100, max_wait=5, jitter=False), [5, 5]),
        (Retry(wait=0, jitter=False), [0, 0, 0]),
        (Retry(wait=timedelta(minutes=1), max_wait=timedelta(hours=1), jitter=False), [60, 120]),
        (Retry(wait=60, jitter=False), [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (Retry(wait=59, jitter=False), [59, 60]),
    ],
)
def test_waits_grow_by_backoff_up_to_the_longest(retry, waits):
    """Each wait is ``backoff`` times the one before, and none exceeds ``max_wait``."""
    assert [wait_s(retry, failures) for failures in range(1, len(waits) + 1)] == waits


@pytest.mark.parametrize("backoff", [2, 2.0, 1e308])
def test_waits_stay_bounded_after_thousands_of_failures(backoff):
    """A power too large for a float is the longest wait, and none at all where there is none."""
    assert wait_s(Retry(backoff=backoff, jitter=False), 10_000) == 60
    assert wait_s(Retry(wait=0, backoff=backoff, jitter=False), 10_000) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"wait": 1e12, "max_wait": 1e12},
        {"wait": 1e308, "max_wait": 1e308, "backoff": 1e308},
        {"wait": timedelta.max, "max_wait": timedelta.max},
        {"wait": 10**300, "max_wait": 10**300, "backoff": 10**400},
    ],
)
@pytest.mark.parametrize("jitter", [False, True])
def test_waits_are_no_longer_than_a_timer_can_wait(options, jitter):
    """More than that, some 300 years, is as long as a timer can wait, at every failure."""
    retry = Retry(**options, jitter=jitter)

    assert retry.wait == retry.max_wait == threading.TIMEOUT_MAX
    for failures in (1, 2, 1000):
        wait = wait_s(retry, failures)
        assert threading.TIMEOUT_MAX / 2 <= wait <= threading.TIMEOUT_MAX


def test_a_wait_of_centuries_can_be_stopped(tmp_path):
    """A step that waits for its next try stops like any other."""

    def fail(step):
        threading.Timer(0, step._run.stop, [durably.RunInterrupted]).start()
        raise ValueError

    def job(step):
        step.options(retry=Retry(wait=1e12, max_wait=1e12)).run("a", fail, step)

    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        assert app.process_one()
        assert app.get_run(run).status == "pending"


@given(
    st.integers(1, 5000),
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(0, 1e6),
)
def test_jitter_only_shortens_a_wait(failures, wait, backoff, max_wait):
    """With jitter a wait is between half and all of what it is without."""
    full = wait_s(Retry(wait=wait, backoff=backoff, max_wait=max_wait, jitter=False), failures)
    assert 0 <= full <= max_wait
    # Several: hypothesis begins each example with the same random numbers.
    for _ in range(20):
        jittered = wait_s(Retry(wait=wait, backoff=backoff, max_wait=max_wait), failures)
        assert full / 2 <= jittered <= full


def test_jitter_differs_from_time_to_time():
    """Two waits of one length are not alike."""
    assert len({wait_s(Retry(), 1) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("attempts", value) for value in (0, -1, 1.0, "3", None, True)],
        *[("wait", value) for value in (-1, "1", None, float("nan"), float("inf"), True)],
        *[("max_wait", value) for value in (-0.1, "1", None, float("nan"), float("inf"))],
        ("wait", timedelta(seconds=-1)),
        *[("backoff", value) for value in (0.5, 0, -2, "2", None, True, float("nan"))],
        ("backoff", float("inf")),
        ("backoff", timedelta(seconds=2)),
        *[("jitter", value) for value in (1, None, "yes")],
        *[("on_exhausted", value) for value in ("ask", None, True)],
        *[
            ("on", value)
            for value in (None, "OSError", OSError(), int, (), (OSError, 3), [OSError])
        ],
        *[("on", value) for value in (BaseException, KeyboardInterrupt, (OSError, SystemExit))],
    ],
)
def test_a_bad_value_is_rejected_by_name(name, value):
    """What makes no sense is a ValidationError that names the option."""
    with pytest.raises(durably.ValidationError, match=f"Retry.{name}"):
        Retry(**{name: value})


def test_the_message_of_a_bad_backoff_speaks_of_numbers():
    """It is a factor, no duration."""
    with pytest.raises(durably.ValidationError, match="a number of at least 1, not '2'"):
        Retry(backoff="2")


class OfTheUserError(OSError):
    """An exception of a class that is not a builtin."""


@pytest.mark.parametrize(
    ("on", "matching", "others"),
    [
        (Exception, ValueError(), BaseExceptionGroup("", [SystemExit()])),
        (OSError, OfTheUserError(), ValueError()),
        ((KeyError, OfTheUserError), OfTheUserError(), OSError()),
    ],
)
def test_a_stored_retry_is_the_same_where_its_classes_are_not_loaded(on, matching, others):
    """Stored as text and read again it has the same numbers, and has exceptions by name."""
    retry = Retry(attempts=4, wait=60, backoff=3, jitter=False, on=on)
    again = loaded_retry(stored_retry(retry))
    kept = {"attempts", "wait", "backoff", "max_wait", "jitter", "on_exhausted"}
    assert attrs.asdict(again, filter=lambda a, _: a.name in kept) == attrs.asdict(
        retry, filter=lambda a, _: a.name in kept
    )
    assert [next_wait_s(again, matching, failures) for failures in (1, 2, 4)] == [60, 180, None]
    assert next_wait_s(again, others, 1) is None


@pytest.mark.parametrize("retry", [Retry(on=lambda exc: True), Retry(wait=lambda exc: 1)])
def test_a_retry_with_a_function_cannot_be_stored(retry):
    """It says where to write it instead."""
    with pytest.raises(durably.ValidationError, match=r"@job\(retry=...\)"):
        stored_retry(retry)


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        stored_retry(Retry())[:-1] + ', "more": 1}',
        stored_retry(Retry()).replace('"attempts": 3', '"attempts": 0'),
        stored_retry(Retry()).replace('["Exception"]', '"Exception"'),
        stored_retry(Retry()).replace('["Exception"]', "[1]"),
    ],
)
def test_what_durably_never_writes_is_no_stored_retry(text):
    """It is rejected, whatever is wrong with it."""
    with pytest.raises(ValueError, match="."):
        loaded_retry(text)
