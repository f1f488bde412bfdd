"""The emitter: who is called, in which order, and what listeners may do."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import get_args

import attrs
import pytest
from storekit import FakeClock

import durably
from durably._platform.clock import Clock
from durably.events import (
    EVENT_TYPES,
    Event,
    RunEvent,
    StepEvent,
)
from durably.execution.emitter import LISTENER_POLLS, Emitter, EventType

RUN = {"run_id": "1", "job_name": "job", "labels": {}}


@pytest.fixture
def emitter() -> Emitter:
    return Emitter(Clock())


def example_fields(cls: type[Event]) -> dict[str, object]:
    """Something for each field that an event of *cls* is made with."""
    names = {field.name for field in attrs.fields(cls)} - {"timestamp", "sequence"}
    return dict.fromkeys(names, "x")


def cancel(emitter: Emitter) -> None:
    emitter.emit("run:cancel", **RUN)


def in_thread(function, *args):
    """Call *function* in another thread than the main one, and let its exception out."""
    raised = []

    def call():
        try:
            function(*args)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    if raised:
        raise raised[0]


def test_listeners_hear_their_type_in_order_of_subscription(emitter):
    """A listener hears events of its type alone; those of ``*`` hear all, after them."""
    heard = []
    emitter.on("*", lambda event: heard.append(("*", event.type)))
    emitter.on("run:cancel", lambda event: heard.append(("first", event.type)))
    emitter.on("run:cancel", lambda event: heard.append(("second", event.type)))
    cancel(emitter)
    emitter.emit("run:retry", **RUN)
    assert heard == [
        ("first", "run:cancel"),
        ("second", "run:cancel"),
        ("*", "run:cancel"),
        ("*", "run:retry"),
    ]


def test_all_listeners_get_the_same_event(emitter):
    """One event is made, however many listen."""
    heard = []
    emitter.on("*", heard.append)
    emitter.on("run:cancel", heard.append)
    cancel(emitter)
    assert len(heard) == 2
    assert heard[0] is heard[1]


def test_an_event_is_reported_in_the_thread_where_it_happened(emitter):
    """Listeners are called synchronously by the thread that emits."""
    heard = []
    emitter.on("*", lambda _: heard.append(threading.get_ident()))
    cancel(emitter)
    assert heard == [threading.get_ident()]


def test_the_sequence_rises_strictly_over_all_threads(emitter):
    """No two events of an engine have one sequence number; within a thread it rises."""
    heard = []
    emitter.on("*", lambda event: heard.append((threading.get_ident(), event.sequence)))
    barrier = threading.Barrier(8)

    def emit():
        barrier.wait(10)
        for _ in range(200):
            cancel(emitter)

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    numbers = [number for _, number in heard]
    assert len(set(numbers)) == len(numbers) == 1600
    for thread in {ident for ident, _ in heard}:
        own = [number for ident, number in heard if ident == thread]
        assert own == sorted(own)


def test_timestamps_are_aware_instants(emitter):
    """``timestamp`` is the present, as an aware UTC datetime."""
    heard = []
    emitter.on("*", heard.append)
    before = datetime.now(UTC)
    cancel(emitter)
    after = datetime.now(UTC)
    assert heard[0].timestamp.tzinfo is UTC
    assert before.replace(microsecond=0) <= heard[0].timestamp <= after


@pytest.mark.parametrize(
    "type_", ["run:started", "", "RUN:CANCEL", "**", None, 3, ["run:cancel"], int, object]
)
def test_an_unknown_type_is_rejected(emitter, type_):
    """An unknown type raises ValidationError listing the known ones."""
    with pytest.raises(durably.ValidationError) as caught:
        emitter.on(type_, print)
    for known in [*EVENT_TYPES, *(cls.__name__ for cls in EVENT_TYPES.values()), "*"]:
        assert known in str(caught.value)


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_an_events_class_is_its_type(emitter, cls):
    """``on`` takes the class of an event for its name, and undoing ends that subscription."""
    heard = []
    undo = emitter.on(cls, heard.append)
    for other in EVENT_TYPES.values():
        emitter.emit(other.type, **example_fields(other))
    assert [type(event) for event in heard] == [cls]
    undo()
    assert not emitter.wants(cls.type)


@pytest.mark.parametrize(
    ("base", "names"),
    [
        (Event, set(EVENT_TYPES)),
        (RunEvent, set(EVENT_TYPES) - {"worker:error"}),
        (StepEvent, {name for name in EVENT_TYPES if name.startswith(("step:", "item:"))}),
    ],
)
def test_a_base_class_stands_for_all_below_it(emitter, base, names):
    """``on`` of a base class hears each event of a class below it once."""
    heard = []
    undo = emitter.on(base, heard.append)
    for other in EVENT_TYPES.values():
        emitter.emit(other.type, **example_fields(other))
    assert sorted(event.type for event in heard) == sorted(names)
    undo()
    assert not any(map(emitter.wants, EVENT_TYPES))


def test_the_exception_of_the_same_name_is_not_the_event(emitter):
    """``on(durably.RunCancelled)``, what a job is stopped by, names the event that was meant."""
    with pytest.raises(durably.ValidationError, match=r"durably\.events\.RunCancelled; known are"):
        emitter.on(durably.RunCancelled, print)


def test_the_classes_are_named_for_what_happened():
    """``durably.events`` exports each class, without a suffix and with a docstring."""
    exported = [getattr(durably.events, name) for name in durably.events.__all__]
    assert set(EVENT_TYPES.values()) | {Event, RunEvent, StepEvent} == set(exported)
    assert all(issubclass(cls, Event) for cls in exported)
    assert all(not cls.__name__.endswith("Event") for cls in EVENT_TYPES.values())
    assert all(".. versionadded:: " in cls.__doc__ for cls in exported)


@pytest.mark.parametrize("value", [None, 3, "print"])
def test_what_cannot_be_called_is_rejected(emitter, value):
    """A listener and an error handler must be callable."""
    with pytest.raises(durably.ValidationError):
        emitter.on("*", value)
    with pytest.raises(durably.ValidationError):
        emitter.on_error(value)


def test_unsubscribing_ends_one_subscription(emitter):
    """A listener subscribed twice hears twice, once after one is undone; undoing is idempotent."""
    heard = []
    first = emitter.on("run:cancel", heard.append)
    second = emitter.on("run:cancel", heard.append)
    cancel(emitter)
    assert len(heard) == 2
    first()
    first()
    cancel(emitter)
    assert len(heard) == 3
    second()
    cancel(emitter)
    assert len(heard) == 3


def test_a_listener_may_unsubscribe_itself_and_others(emitter):
    """A listener that unsubscribes itself was called once, and the others go on."""
    heard = []

    def once(event):
        heard.append("once")
        unsubscribe()

    unsubscribe = emitter.on("run:cancel", once)
    emitter.on("run:cancel", lambda _: heard.append("always"))
    cancel(emitter)
    cancel(emitter)
    assert heard == ["once", "always", "always"]


def test_a_listener_may_subscribe_another_one(emitter):
    """A listener that is added inside a listener hears from the next event on."""
    heard = []

    def add(event):
        heard.append("add")
        emitter.on("run:cancel", lambda _: heard.append("added"))

    unsubscribe = emitter.on("run:cancel", add)
    cancel(emitter)
    unsubscribe()
    cancel(emitter)
    assert heard == ["add", "added"]


def test_a_listener_may_cause_events(emitter):
    """An event emitted inside a listener is emitted at once, before the other listeners go on."""
    heard = []

    def react(event):
        heard.append(("react", event.sequence))
        if event.type == "run:cancel":
            emitter.emit("run:retry", **RUN)

    emitter.on("*", react)
    emitter.on("*", lambda event: heard.append(("after", event.sequence)))
    cancel(emitter)
    assert heard == [("react", 1), ("react", 2), ("after", 2), ("after", 1)]


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, durably.StopRun])
@pytest.mark.parametrize("where", ["main", "other"])
def test_an_exception_of_a_listener_goes_to_the_handlers(emitter, error, where):
    """Every handler hears the exception and its event; the other listeners are called."""
    heard, handled = [], []
    exc = error("mine")

    def fail(event):
        raise exc

    emitter.on("run:cancel", fail)
    emitter.on("run:cancel", heard.append)
    emitter.on_error(lambda exc, event: handled.append((exc, event)))
    emitter.on_error(lambda exc, event: handled.append((exc, event)))
    if where == "main":
        cancel(emitter)
    else:
        in_thread(cancel, emitter)
    assert len(heard) == 1
    assert handled == [(exc, heard[0])] * 2


def test_ctrl_c_inside_a_listener_is_the_users(emitter):
    """KeyboardInterrupt goes on in the main thread, and is like any other in the others."""
    handled = []

    def fail(event):
        raise KeyboardInterrupt

    emitter.on("run:cancel", fail)
    emitter.on_error(lambda exc, event: handled.append(exc))
    with pytest.raises(KeyboardInterrupt):
        cancel(emitter)
    assert handled == []
    in_thread(cancel, emitter)
    assert [type(exc) for exc in handled] == [KeyboardInterrupt]


def test_without_a_handler_exceptions_of_listeners_are_logged(emitter, caplog):
    """With no handler the exception is logged, with its traceback, at level error."""

    def fail(event):
        raise ValueError("mine")

    emitter.on("run:cancel", fail)
    with caplog.at_level(logging.DEBUG, "durably"):
        cancel(emitter)
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("durably", "ERROR")
    assert "run:cancel" in line.message
    assert isinstance(line.exc_info[1], ValueError)


def test_with_a_handler_exceptions_of_listeners_are_not_logged(emitter, caplog):
    """A handler takes the place of the log, until it is undone."""

    def fail(event):
        raise ValueError("mine")

    emitter.on("run:cancel", fail)
    undo = emitter.on_error(lambda exc, event: None)
    cancel(emitter)
    assert caplog.records == []
    undo()
    cancel(emitter)
    assert len(caplog.records) == 1


def test_a_handler_registered_twice_is_undone_once(emitter):
    """Undoing one registration of a handler leaves the other."""
    handled = []

    def fail(event):
        raise ValueError

    def handle(exc, event):
        handled.append(exc)

    emitter.on("run:cancel", fail)
    first, _ = emitter.on_error(handle), emitter.on_error(handle)
    first()
    cancel(emitter)
    assert len(handled) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_handler_that_raises_is_logged(emitter, caplog, error):
    """An exception of a handler is logged, and the other handlers are called."""
    handled = []

    def fail(*_):
        raise error("mine")

    emitter.on("run:cancel", fail)
    emitter.on_error(fail)
    emitter.on_error(lambda exc, event: handled.append(exc))
    cancel(emitter)
    assert len(handled) == 1
    assert [line.exc_info[1].args for line in caplog.records] == [("mine",)]


def test_the_emitter_knows_when_a_thread_is_inside_a_listener(emitter):
    """``is_inside_listener`` is true in listeners and handlers of this thread, and nowhere else."""
    seen = []

    def look(*_):
        seen.append(emitter.is_inside_listener)
        raise ValueError

    emitter.on("run:cancel", look)
    emitter.on_error(look)
    assert not emitter.is_inside_listener
    cancel(emitter)
    assert seen == [True, True]
    assert not emitter.is_inside_listener


def test_each_event_has_the_name_that_the_package_emits() -> None:
    """An event is emitted by its name, and each name has its class."""
    assert get_args(EventType) == tuple(EVENT_TYPES)


def test_an_unheard_event_is_not_made(emitter):
    """``wants`` returns whether anybody listens, by type or to all."""
    assert not emitter.wants("run:cancel")
    undo = emitter.on("run:cancel", print)
    assert emitter.wants("run:cancel")
    assert not emitter.wants("run:retry")
    undo()
    assert not emitter.wants("run:cancel")
    undo = emitter.on("*", print)
    assert emitter.wants("run:retry")


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_events_are_frozen_classes_with_the_common_fields(cls):
    """Each event class is a frozen attrs class with type, timestamp, sequence and its run."""
    fields = set(attrs.fields_dict(cls))
    assert {"timestamp", "sequence"} <= fields
    assert EVENT_TYPES[cls.type] is cls
    assert issubclass(cls, durably.Event)
    event = cls(**dict.fromkeys(fields))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.sequence = 5
    if cls.type == "worker:error":
        assert fields - {"timestamp", "sequence"} == {"error", "context", "run_id"}
    else:
        assert issubclass(cls, RunEvent)
        assert {"run_id", "job_name", "labels"} <= fields


def test_every_event_type_is_exported_in_its_module():
    """The classes can be imported from ``durably.events``, for isinstance and annotations."""
    module = sys.modules["durably.events"]
    assert all(getattr(module, cls.__name__) is cls for cls in EVENT_TYPES.values())


def interrupted_at(emitter: Emitter, at: int) -> bool:
    """Press Ctrl-C at the given line of ``announcing``; whether it is that long."""
    lines = itertools.count(1)

    def press(frame, event, arg):
        if frame.f_code.co_name != "announcing":
            return None
        if event == "line" and next(lines) == at:
            raise KeyboardInterrupt
        return press

    before = sys.gettrace()
    sys.settrace(press)
    try:
        with emitter.announcing("run"):
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_ctrl_c_in_announcing_leaves_no_mark(emitter: Emitter) -> None:
    """What nobody announces any more must not be waited for.

    On the last line, which takes the mark away, CPython checks for signals only after that.
    """
    lines = sum(
        1
        for _ in itertools.takewhile(
            lambda at: interrupted_at(Emitter(Clock()), at), itertools.count(1)
        )
    )
    assert lines >= 4
    for at in range(1, lines):
        assert interrupted_at(emitter, at)
        assert not emitter.is_announcing_any


@pytest.mark.parametrize("looks", [0, 3, LISTENER_POLLS + 1])
def test_a_change_is_emitted_before_what_follows_from_it(looks: int) -> None:
    """The wait is short, since a listener may block."""
    clock = FakeClock()
    emitter = Emitter(clock)
    waited: list[float] = []
    with ExitStack() as announcing:
        if looks:
            announcing.enter_context(emitter.announcing("1"))

        def wait(event: threading.Event, timeout_s: float | None) -> bool:
            waited.append(timeout_s or 0.0)
            if len(waited) == looks:
                announcing.close()
            return event.is_set()

        clock.wait = wait  # type: ignore[method-assign]
        emitter.wait_for_listeners()
    assert len(waited) == min(looks, LISTENER_POLLS)
    assert sum(waited) < 1
