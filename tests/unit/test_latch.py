"""Waiting and waking that an exception may interrupt anywhere."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from durably._platform import signals
from durably._platform.latch import Latch, Wakeups
from durably._platform.signals import is_from_signal, raise_if_signal

HANG_S = 20.0  # only guards against hanging

needs_alarm = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGALRM")


def waiting(wakeups: Wakeups) -> bool:
    return bool(wakeups._locks)


def until_waiting(wakeups: Wakeups) -> None:
    pause = threading.Event()
    while not waiting(wakeups):
        pause.wait(0.001)


@pytest.mark.parametrize("is_main", [True, False])
def test_a_wait_ends_when_it_is_set(is_main: bool) -> None:
    """In whatever thread; afterwards no wait lasts, until it is cleared."""
    it = Latch()
    found: list[bool] = []

    def wait() -> None:
        found.append(it.wait(HANG_S))

    def set_it() -> None:
        until_waiting(it._waiting)
        it.set()

    other = threading.Thread(target=set_it if is_main else wait)
    other.start()
    (wait if is_main else set_it)()
    other.join(HANG_S)
    assert found == [True]
    assert it.wait(0) is True
    it.clear()
    assert it.wait(0) is False
    assert it.wait(0.01) is False
    assert not waiting(it._waiting)


def test_all_that_wait_are_woken() -> None:
    """One waking ends every wait, and leaves nothing behind."""
    it = Latch()
    threads = [threading.Thread(target=it.wait, args=(HANG_S,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(it._waiting._locks) < len(threads):
        threading.Event().wait(0.001)
    it.set()
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not waiting(it._waiting)


def test_a_wait_that_an_exception_has_ended_is_in_nobodys_way() -> None:
    """What it leaves, wherever it was, keeps nobody from waking or waiting."""
    it = Latch()
    stale = threading.Lock()
    stale.acquire()
    it._waiting._locks.append(stale)
    it.set()
    assert it.wait(0)
    assert not waiting(it._waiting)


@needs_alarm
def test_a_handler_may_set_what_it_interrupts_a_wait_for() -> None:
    """No lock is held that the handler could wait for."""
    it = Latch()
    before = signal.signal(signal.SIGALRM, lambda *_: it.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert it.wait(HANG_S)
    finally:
        signal.signal(signal.SIGALRM, before)


class Handler:
    """A handler that is an object."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    def method(self, *args: Any) -> None:
        raise TimeoutError


def function(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def through_another(*args: Any) -> None:
    function(0, None)


@needs_alarm
@pytest.mark.parametrize(
    "handler",
    [function, Handler(), Handler().method, through_another, lambda *_: function(0, None)],
    ids=["function", "object", "method", "calls another", "lambda"],
)
def test_what_a_handler_raises_is_known_by_it(handler: Any) -> None:
    """By the frame that the handler was given, whatever the handler is."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(TimeoutError) as caught:
            signal.raise_signal(signal.SIGALRM)
        assert is_from_signal(caught.value)
        assert is_from_signal(caught.value, signals.handlers())
        with pytest.raises(TimeoutError):
            raise_if_signal(ExceptionGroup("several", [ValueError(), caught.value]))
    finally:
        signal.signal(signal.SIGALRM, before)
    # Nobody's handler any more: one that code has set for itself, say.
    assert not is_from_signal(caught.value, signals.handlers())


def test_what_code_raises_itself_is_no_signals() -> None:
    """Also in functions that are given frames, and in other threads."""
    with pytest.raises(TimeoutError) as caught:
        function(0, sys._getframe().f_back)
    assert not is_from_signal(caught.value)
    raise_if_signal(caught.value)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_from_signal(KeyboardInterrupt())))
    thread.start()
    thread.join(HANG_S)
    assert found == [False]
    assert is_from_signal(KeyboardInterrupt())
