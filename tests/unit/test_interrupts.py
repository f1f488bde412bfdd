"""A Ctrl-C comes where it is let, and nowhere else."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durably._platform import interrupts
from durably._platform.clock import Clock
from durably._platform.interrupts import held_back
from durably._platform.latch import Latch

HANG_S = 30.0  # only guards against hanging


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """The signal does what Python has it do, before and after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_when_held_back() -> threading.Thread:
    """Press from a thread that waits for the main one to be inside of a block."""
    return press_when(lambda: signal.getsignal(signal.SIGINT) is not signal.default_int_handler)


def press_when(is_so: Callable[[], bool]) -> threading.Thread:
    """Press from a thread, as soon as it is so."""

    def work() -> None:
        deadline = time.monotonic() + HANG_S
        while not is_so():
            assert time.monotonic() < deadline
            threading.Event().wait(0.001)
        press()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_comes_at_the_end_of_the_block() -> None:
    """What is held back is raised when all of the block is done."""
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        press()
        done.append("all of it")
    assert done == ["all of it"]


def test_comes_at_the_end_of_the_outermost_block() -> None:
    """The end of an inner block, of the same object again too, lets nothing come."""
    done = []
    inner = held_back()
    with pytest.raises(KeyboardInterrupt), held_back():
        for _ in range(2):
            with inner:
                press()
            done.append("after the inner one")
    assert len(done) == 2


def test_comes_where_it_is_checked_for() -> None:
    """check() of what the block binds raises, in an inner block too; a block's own does not."""
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        press()
        own = held_back()
        with own as outermost:
            own.check()
            done.append("not by the inner one's own")
            outermost.check()
        done.append("too far")
    assert done == ["not by the inner one's own"]


def test_comes_once() -> None:
    """Two in quick succession are one; after it was raised there is none left."""
    with pytest.raises(KeyboardInterrupt), held_back():
        press()
        press()
    with held_back() as outermost:
        outermost.check()


def test_second_one_is_let_through_when_the_first_has_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever presses again after a second is not kept waiting."""
    monkeypatch.setattr(interrupts, "_PATIENCE_S", 0.0)
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        press()
        done.append("once")
        press()
        done.append("twice")
    assert done == ["once"]


def test_users_code_has_the_signal_as_it_was() -> None:
    """What is called by let_through may be interrupted, and sees the user's own handler."""
    seen = []

    def call() -> None:
        seen.append(signal.getsignal(signal.SIGINT))
        press()
        seen.append("too far")

    with held_back() as outermost:
        with pytest.raises(KeyboardInterrupt):
            outermost.let_through(call)
        held = signal.getsignal(signal.SIGINT)
    assert seen == [signal.default_int_handler]
    assert held is not signal.default_int_handler


def test_handler_that_users_code_sets_stays() -> None:
    """A handler that is set inside of a block is neither overwritten nor forgotten."""
    heard = []
    with held_back() as outermost:
        outermost.let_through(lambda: signal.signal(signal.SIGINT, lambda *_: heard.append(1)))
        press()
    press()
    assert heard == [1, 1]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ignored_signal_stays_ignored() -> None:
    """Where nothing would be raised nothing is held back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back() as outermost:
        press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        outermost.check()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_are_left_alone() -> None:
    """In a thread that is not the main one a block changes nothing."""
    seen = []

    def work() -> None:
        with held_back() as outermost:
            outermost.check()
            seen.append(outermost.let_through(lambda: signal.getsignal(signal.SIGINT)))
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [signal.default_int_handler] * 2


@pytest.mark.parametrize("timeout_s", [None, HANG_S])
def test_wait_of_the_main_thread_is_interrupted(timeout_s: float | None) -> None:
    """A wait in the main thread ends with a Ctrl-C, whoever is waited for."""
    latch = Latch()
    with pytest.raises(KeyboardInterrupt):
        thread = press_when(lambda: bool(latch._waiting._gates))
        Clock().wait(latch, timeout_s)
    thread.join(HANG_S)
    assert not latch._waiting._gates


def test_wait_inside_a_block_is_not_interrupted() -> None:
    """A wait that is part of a whole goes on; the Ctrl-C comes after the whole."""
    event = Latch()
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        thread = press_when_held_back()
        setter = threading.Thread(target=lambda: (thread.join(HANG_S), event.set()))
        setter.start()
        done.append(Clock().wait(event, HANG_S))
    setter.join(HANG_S)
    assert done == [True]


def test_wait_ends_in_time() -> None:
    """A wait for what does not come says so when its time is over, a wait of no time too."""
    clock = Clock()
    before = clock.monotonic()
    assert clock.wait(Latch(), 0.12) is False
    assert clock.monotonic() - before >= 0.12
    assert clock.wait(Latch(), 0) is False
    event = Latch()
    event.set()
    assert clock.wait(event, 0) is True


def test_ctrl_c_anywhere_in_letting_through_leaves_the_rest_protected() -> None:
    """What follows in the block must not be hit by another one."""

    def press_at(at: int) -> bool:
        """Press at the given place where CPython looks for signals; whether there are so many."""
        looks = itertools.count(1)

        def trace(frame: Any, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename != interrupts.__file__:
                return None
            if event in ("call", "line") and next(looks) == at:
                raise KeyboardInterrupt
            return trace

        is_protected: list[bool] = []
        before = sys.gettrace()
        try:
            with held_back() as outermost:
                sys.settrace(trace)
                try:
                    outermost.let_through(lambda: None)
                finally:
                    sys.settrace(before)
                    own = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
                    is_protected.append(isinstance(own, held_back))
        except KeyboardInterrupt:
            assert is_protected == [True], at
            return True
        assert is_protected == [True]
        return False

    places = sum(1 for _ in itertools.takewhile(press_at, itertools.count(1)))
    assert places > 10


class TooSlowError(Exception):
    """What the handler of another signal raises."""


def block(inside: Callable[[], None] = lambda: None) -> None:
    with held_back():
        inside()


def ended_at(at: int) -> bool:
    """End a block with an exception at one of its own lines; return whether it has so many."""
    lines = itertools.count(1)

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != interrupts.__file__:
            return None
        if event in ("call", "line") and next(lines) == at:
            raise TooSlowError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        block()
    except TooSlowError:
        return True
    finally:
        sys.settrace(before)
    return False


def test_block_that_an_exception_of_another_signal_has_ended_holds_nothing_back() -> None:
    """Wherever in entering or leaving it was raised, the next Ctrl-C comes at once."""
    for at in itertools.count(1):
        is_ended = ended_at(at)
        with pytest.raises(KeyboardInterrupt):
            press()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, at
        if not is_ended:
            break
    assert at > 10


def test_block_after_one_that_an_exception_of_another_signal_has_ended_is_whole() -> None:
    """The next block holds Ctrl-C back to its end, and sets the user's handler again there."""
    for at in itertools.count(1):
        is_ended = ended_at(at)
        done: list[str] = []

        def inside(done: list[str] = done) -> None:
            press()
            done.append("all of it")

        with pytest.raises(KeyboardInterrupt):
            block(inside)
        assert done == ["all of it"], at
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, at
        if not is_ended:
            break
    assert at > 10


def test_block_that_has_ended_keeps_no_call_alive() -> None:
    """What the block was part of is freed with its last reference, without the collector."""
    alive = []

    def call() -> None:
        held = threading.Event()
        alive.append(weakref.ref(held))
        with held_back() as outermost:
            outermost.check()

    gc.disable()
    try:
        call()
        assert alive[0]() is None
    finally:
        gc.enable()
