"""A signal raises where durably lets it, and nowhere else."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from durably._platform import signals
from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.signals import (
    deferred,
    deliver,
    deliver_overdue,
    door,
    entered,
    entered_in_job,
    is_from_signal,
    let_through,
)

HANG_S = 30.0  # only guards against hanging
NUMBERS = [signal.SIGINT] if sys.platform == "win32" else [signal.SIGINT, signal.SIGALRM]


class TooSlowError(Exception):
    """What the handlers of other signals raise."""


def too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


RAISED = (KeyboardInterrupt, TooSlowError)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[Any]:
    """Each signal has a handler that raises, before and after."""
    own = {
        number: signal.default_int_handler if number == signal.SIGINT else too_slow
        for number in NUMBERS
    }
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == own
    assert not signals._main.is_deferring
    assert not signals._main.noted
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=NUMBERS, ids=lambda number: number.name)
def press(request: pytest.FixtureRequest) -> Callable[[], None]:
    return lambda: signal.raise_signal(request.param)


def press_when(is_so: Callable[[], bool], press: Callable[[], None]) -> threading.Thread:
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


def test_a_handler_is_called_at_the_end_of_the_block(press: Callable[[], None]) -> None:
    """What it raises is raised when all of the block is done, also that of the outermost one."""
    done = []
    with pytest.raises(RAISED) as caught, deferred():
        with deferred():
            press()
            done.append("all of the inner one")
        done.append("all of it")
    assert done == ["all of the inner one", "all of it"]
    assert is_from_signal(caught.value)


def test_a_handler_is_called_at_the_end_of_a_call(press: Callable[[], None]) -> None:
    """A function that is entered is executed to its end, also where it calls another one."""
    done = []

    @entered
    def inner() -> None:
        press()
        done.append("inner")

    @entered
    def outer() -> None:
        inner()
        done.append("outer")

    with pytest.raises(RAISED):
        outer()
    assert done == ["inner", "outer"]


def test_ctrl_c_at_the_end_of_a_call_leaves_no_frame_of_durably() -> None:
    """A notebook shows the line of the user that called, and nothing below it."""
    with pytest.raises(KeyboardInterrupt) as caught:
        entered(signal.raise_signal)(signal.SIGINT)
    entry = caught.value.__traceback__
    assert entry is not None
    assert entry.tb_frame.f_code.co_filename == __file__
    assert entry.tb_next is None


def test_every_public_method_of_a_class_is_entered(press: Callable[[], None]) -> None:
    """A door is made of the public methods and of some special ones."""
    done = []

    @door
    class Engine:
        def __init__(self) -> None:
            self._call("init")

        def __exit__(self, *_: object) -> None:
            self._call("exit")

        def run(self) -> None:
            self._call("run")

        def _call(self, name: str) -> None:
            press()
            done.append(name)

    with pytest.raises(RAISED):
        Engine()
    engine = Engine.__new__(Engine)
    for call in (engine.__exit__, engine.run):
        with pytest.raises(RAISED):
            call()
    assert done == ["init", "exit", "run"]
    with pytest.raises(RAISED):
        engine._call("private")
    assert done[3:] == []


def test_a_handler_is_called_where_it_is_let(press: Callable[[], None]) -> None:
    """deliver() raises what has come."""
    done = []
    with pytest.raises(RAISED), deferred():
        press()
        done.append("before")
        deliver()
        done.append("too far")
    assert done == ["before"]


def test_a_handler_is_called_once(press: Callable[[], None]) -> None:
    """Two signals in quick succession are one; after it was raised there is none left."""
    with pytest.raises(RAISED), deferred():
        press()
        press()
    with deferred():
        deliver()


@pytest.mark.skipif(len(NUMBERS) == 1, reason="Windows has no SIGALRM")
def test_all_handlers_are_called() -> None:
    """Also where the first one raises: the exception of the last one has the others' as context."""
    with pytest.raises(RAISED) as caught, deferred():
        for number in NUMBERS:
            signal.raise_signal(number)
    assert {type(caught.value), type(caught.value.__context__)} == set(RAISED)


def test_the_exception_of_the_call_is_not_lost(press: Callable[[], None]) -> None:
    """It is the context of what a handler raises at the end."""
    with pytest.raises(RAISED) as caught, deferred():
        press()
        raise ValueError("of the call")
    assert isinstance(caught.value.__context__, ValueError)


def test_second_one_is_not_deferred_when_the_first_was_for_long(
    monkeypatch: pytest.MonkeyPatch, press: Callable[[], None]
) -> None:
    """A second press after a second is not deferred, and the first one is not lost."""
    monkeypatch.setattr(signals, "PATIENCE_S", 0.0)
    done = []
    with pytest.raises(RAISED), deferred():
        signals._main.noted[int(signal.SIGINT)] = 0.0
        with pytest.raises(RAISED):
            press()
        done.append("pressed")
    assert done == ["pressed"]


def test_an_overdue_one_ends_what_had_better_go_on(
    monkeypatch: pytest.MonkeyPatch, press: Callable[[], None]
) -> None:
    """A wait in the middle of a commit goes on, but not for longer than a second."""
    done = []
    with pytest.raises(RAISED), deferred():
        press()
        deliver_overdue()
        done.append("not yet")
        monkeypatch.setattr(signals, "PATIENCE_S", 0.0)
        deliver_overdue()
        done.append("too far")
    assert done == ["not yet"]


def test_users_code_has_the_handlers_as_they_were(press: Callable[[], None]) -> None:
    """What is called by let_through may be interrupted, and sees the user's own handlers."""
    seen: list[Any] = []

    def call() -> None:
        seen.extend(map(signal.getsignal, NUMBERS))
        press()
        seen.append("too far")

    own = [signal.getsignal(number) for number in NUMBERS]
    done = []
    with deferred():
        with pytest.raises(RAISED):
            let_through(call)
        for number in NUMBERS:
            assert signal.getsignal(number) not in own
        with pytest.raises(RAISED), deferred():  # it is deferred again
            press()
            done.append("after")
            deliver()
    assert seen == own
    assert done == ["after"]


def test_what_has_come_before_is_raised_before_users_code(press: Callable[[], None]) -> None:
    """The user's code is not called then."""
    done: list[str] = []
    with pytest.raises(RAISED), deferred():
        press()
        let_through(done.append, "too far")
    assert done == []


def test_handler_that_users_code_sets_stays() -> None:
    """A handler that is set inside of a block is neither overwritten nor forgotten."""
    number = NUMBERS[-1]
    heard: list[Any] = []
    before = signal.getsignal(number)
    with deferred():
        let_through(signal.signal, number, lambda *_: heard.append(len(heard)))
        signal.raise_signal(number)
        assert heard == []
    signal.raise_signal(number)
    assert heard == [0, 1]
    signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no real-time signals here")
def test_a_real_time_signal_is_deferred() -> None:
    """It is deferred like any other, once its handler is there when a call of durably begins."""
    heard: list[int] = []
    before = signal.signal(signal.SIGRTMIN, lambda number, _: heard.append(number))
    try:
        for _ in range(2):
            with deferred():
                signal.raise_signal(signal.SIGRTMIN)
                assert heard == []
                let_through(signal.raise_signal, signal.SIGRTMIN)
                signal.raise_signal(signal.SIGRTMIN)
                assert len(heard) == 2
            assert len(heard) == 3
            heard.clear()
    finally:
        signal.signal(signal.SIGRTMIN, before)


NEW = [
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGVTALRM", "SIGPROF", "SIGBREAK")
    if hasattr(signal, name)
]


@pytest.mark.parametrize("number", NEW)
def test_handler_that_a_job_sets_is_deferred_in_its_steps(number: signal.Signals) -> None:
    """Also that of a signal which had none when the engine called the job."""
    heard: list[int] = []

    @entered_in_job
    def step() -> None:
        signal.raise_signal(number)
        assert heard == []

    def job() -> None:
        signal.signal(number, lambda *_: heard.append(number))
        step()
        assert heard == [number]
        heard.clear()

    before = signal.getsignal(number)
    try:
        with deferred():
            let_through(job)
            signal.raise_signal(number)
            assert heard == []
        assert heard == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "SIGWINCH"), reason="Windows has no SIGWINCH")
def test_handler_of_any_signal_is_deferred_from_the_next_call_on() -> None:
    """In a step that begins after a call of the engine has ended, and in each later call."""
    heard: list[int] = []

    def press() -> None:
        signal.raise_signal(signal.SIGWINCH)
        assert heard == []

    before = signal.signal(signal.SIGWINCH, lambda number, _: heard.append(number))
    try:
        for call in (entered(press), entered_in_job(press)):
            call()
            assert len(heard) == 1
            heard.clear()
    finally:
        signal.signal(signal.SIGWINCH, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_is_no_code_of_pythons_is_left_alone(handler: Any) -> None:
    """An ignored signal stays ignored, and what the system does stays what it does."""
    number = NUMBERS[-1]
    before = signal.signal(number, handler)
    with deferred():
        assert signal.getsignal(number) is handler
        let_through(lambda: None)
        assert signal.getsignal(number) is handler
    assert signal.getsignal(number) is handler
    signal.signal(number, before)


def test_other_threads_are_left_alone() -> None:
    """In a thread that is not the main one nothing changes."""
    seen: list[Any] = []

    def work() -> None:
        with deferred():
            deliver()
            seen.append(let_through(signal.getsignal, signal.SIGINT))
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=entered(work))
    thread.start()
    thread.join(10)
    assert seen == [signal.default_int_handler] * 2


@pytest.mark.parametrize("timeout_s", [None, HANG_S])
@pytest.mark.parametrize("is_inside", [True, False])
def test_wait_of_the_main_thread_is_interrupted(
    timeout_s: float | None, is_inside: bool, press: Callable[[], None]
) -> None:
    """A wait in the main thread ends with a signal, inside a call and outside of one."""
    latch = Latch()
    wait = entered(Clock().wait) if is_inside else Clock().wait
    with pytest.raises(RAISED):
        thread = press_when(lambda: bool(latch._waiting._locks), press)
        wait(latch, timeout_s)
    thread.join(HANG_S)
    assert not latch._waiting._locks


def test_wait_that_had_better_go_on_is_not_interrupted(press: Callable[[], None]) -> None:
    """A wait that is part of a whole goes on; the handler is called after the whole."""
    event = Latch(poll=deliver_overdue)
    done = []
    with pytest.raises(RAISED), deferred():
        thread = press_when(lambda: bool(event._waiting._locks), press)
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


def each_line(press: Callable[[], None], scene: Callable[[], object]) -> Iterator[bool]:
    """Press at each line of ``signals`` that a scene executes; yields whether that was raised."""
    for at in itertools.count(1):
        lines = itertools.count(1)
        is_pressed, is_raised = False, False

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal is_pressed
            if frame.f_code.co_filename != signals.__file__:
                return None
            if event in ("call", "line") and next(lines) == at:  # noqa: B023 - called in this turn
                is_pressed = True
                press()
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            scene()
        except RAISED:
            is_raised = True
        finally:
            sys.settrace(before)
        if not is_pressed:
            assert at > 30
            return
        yield is_raised


@pytest.mark.parametrize("wrap", [entered, entered_in_job])
def test_a_signal_anywhere_in_a_call_is_raised_and_leaves_nothing(
    press: Callable[[], None], wrap: Callable[[Any], Any]
) -> None:
    """Wherever it comes it is raised, once; the next one is raised at once."""

    @wrap
    def call() -> None:
        deliver()
        let_through(int)
        deliver_overdue()

    for is_raised in each_line(press, call):
        assert is_raised
        assert not signals._main.is_deferring
        assert not signals._main.noted
        with pytest.raises(RAISED):
            press()
        # What an exception in the restoring has left is restored by the next call.
        entered(int)()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_anywhere_in_letting_through_leaves_the_rest_deferred(
    press: Callable[[], None],
) -> None:
    """What follows in the call must not be hit by another one."""
    rest: list[bool] = []

    @entered
    def call() -> None:
        try:
            let_through(int)
        finally:
            rest.append(signals._main.is_deferring)

    for is_raised in each_line(press, call):
        assert is_raised
        assert all(rest)
        entered(int)()
    assert len(rest) > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_the_handlers_as_they_were() -> None:
    """Whatever thread forks: its child's main thread is that one, and nothing is deferred there."""
    codes: list[int] = []

    def work() -> None:
        pid = os.fork()
        if pid == 0:
            is_own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os._exit(0 if is_own and not signals._main.is_deferring else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with deferred():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(HANG_S)
        work()
    assert codes == [0, 0]
