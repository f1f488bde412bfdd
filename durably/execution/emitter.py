"""The emitter: calls listeners with events."""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from durably._platform.clock import Clock, to_datetime
from durably._platform.fork_hooks import ForkParticipant, watch_forks
from durably._platform.latch import Latch
from durably._platform.safe_repr import short_repr
from durably._platform.signals import let_through, raise_if_signal
from durably._platform.tracebacks import remove_own_frames
from durably.errors import ValidationError
from durably.models import printable

if TYPE_CHECKING:
    from durably.events import Event

logger = logging.getLogger("durably")

# Each event by its name: most programs listen to none, and never import the classes.
EventType = Literal[
    "run:trigger",
    "run:coalesced",
    "run:start",
    "run:progress",
    "run:complete",
    "run:fail",
    "run:cancel",
    "run:retry",
    "run:redo",
    "run:fork",
    "run:delete",
    "run:recover",
    "run:interrupt",
    "step:start",
    "step:skip",
    "step:complete",
    "step:fail",
    "step:cancel",
    "item:complete",
    "item:fail",
    "log:write",
    "worker:error",
]

Listener = Callable[[Any], object]
T = TypeVar("T", bound=Listener)
ErrorHandler = Callable[[BaseException, "Event"], object]
_EVERY: Final = "*"

# How often, and how many seconds apart, a thread checks whether the listeners of committed changes
# have returned before it acts on them. It gives up after that: a listener may block, or wait for
# what follows from the change.
LISTENER_POLLS: Final = 50
_LISTENER_POLL_S: Final = 0.002


def types_of(type_: object) -> tuple[str, ...]:
    """Return the event names that *type_*, a name or a class, stands for.

    Raises:
        ValidationError: it is not a type of events; the message lists the known ones.
    """
    from durably import events  # noqa: PLC0415 - where first needed

    if isinstance(type_, str):
        if type_ == _EVERY or type_ in events.EVENT_TYPES:
            return (type_,)
    elif type_ is events.Event:
        return (_EVERY,)
    elif isinstance(type_, type) and issubclass(type_, events.Event):
        types = tuple(n for n, cls in events.EVENT_TYPES.items() if issubclass(cls, type_))
        if types:
            return types
    classes = sorted(events.EVENT_TYPES.items())
    known = ", ".join(f"{name} ({cls.__name__})" for name, cls in classes)
    meant = next((n for n in events.__all__ if n == getattr(type_, "__name__", None)), None)
    advice = "" if meant is None else f"; the event is durably.events.{meant}"
    if inspect.isroutine(type_):
        advice = '; name the type before the listener, as in @app.on("run:fail")'
    raise ValidationError(f"unknown event type {short_repr(type_)}{advice}; known are *, {known}")


class _Depth(threading.local):
    """How many listeners the current thread is inside."""

    value = 0


class Emitter(ForkParticipant):
    """Call listeners with events, in the thread where the event happened.

    Usable from any thread. No lock is held while a listener runs, so a listener may
    subscribe, unsubscribe and call the engine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sequence = itertools.count(1)
        self._lock = threading.Lock()  # guards writing the two below; readers take what they see
        self._listeners: dict[str, tuple[_Entry, ...]] = {}
        self._handlers: tuple[ErrorHandler, ...] = ()
        # A dict by call, so that entering and leaving are atomic: a Ctrl-C may arrive anywhere.
        self._announcing: dict[object, str] = {}
        self._never = Latch()
        self._depth = _Depth()
        # Whether there has ever been a listener; cheap enough to read in an inner loop.
        self.has_listeners = False
        watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may have held."""
        self._lock = threading.Lock()

    def on(
        self, type_: str | type[Event], listener: Listener, *, is_users: bool = True
    ) -> Callable[[], None]:
        """Call *listener* with each event of *type_* from now on; return a function to stop it.

        Args:
            is_users: whether it is the user's, and not a part of durably.
        """
        types = types_of(type_)
        if not callable(listener):
            raise ValidationError(f"a listener must be callable, not {short_repr(listener)}")
        entry = _Entry(listener, is_users=is_users)
        with self._lock:
            for each_type in types:
                self._listeners[each_type] = (*self._listeners.get(each_type, ()), entry)
            self.has_listeners = True

        def unsubscribe() -> None:
            with self._lock:
                for each_type in types:
                    self._listeners[each_type] = tuple(
                        each for each in self._listeners[each_type] if each is not entry
                    )

        return unsubscribe

    def decorator(self, type_: str | type[Event]) -> Callable[[T], T]:
        """Return a decorator that calls its function with each event of *type_*."""
        types_of(type_)

        def decorate(function: T) -> T:
            self.on(type_, function)
            return function

        return decorate

    def on_error(self, handler: ErrorHandler) -> Callable[[], None]:
        """Call *handler* with each exception of a listener and its event.

        Return a function to stop it.
        """
        if not callable(handler):
            raise ValidationError(f"an error handler must be callable, not {short_repr(handler)}")

        def entry(exc: BaseException, event: Event) -> object:
            return handler(exc, event)

        with self._lock:
            self._handlers = (*self._handlers, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._handlers = tuple(each for each in self._handlers if each is not entry)

        return unsubscribe

    def wants(self, type_: EventType) -> bool:
        """Return whether *type_* has listeners; an event without any need not be made."""
        return bool(self._listeners.get(type_) or self._listeners.get(_EVERY))

    def make(self, type_: EventType, **fields: Any) -> Event:
        """Return a new event of *type_* with the current time and the next sequence number."""
        from durably.events import EVENT_TYPES  # noqa: PLC0415 - where first needed

        return EVENT_TYPES[type_](
            timestamp=to_datetime(self._clock.now_us()), sequence=next(self._sequence), **fields
        )

    def emit(self, type_: EventType, **fields: Any) -> bool:
        """Call every listener of *type_* with a new event. Their exceptions are not raised here.

        Return whether a listener of the user's has returned.
        """
        listeners = (*self._listeners.get(type_, ()), *self._listeners.get(_EVERY, ()))
        if not listeners:
            return False
        is_heard = False
        event = self.make(type_, **fields)
        depth = self._depth.value
        try:
            self._depth.value = depth + 1
            for listener in listeners:
                has_returned = self.call(listener, event, lambda: event)
                is_heard |= has_returned and listener.is_users
        finally:
            self._depth.value = depth  # assigned, not decremented: a signal may arrive anywhere
        return is_heard

    def call(self, listener: Listener, argument: object, event: Callable[[], Event]) -> bool:
        """Call *listener* with *argument*, and return whether it has returned.

        If it raises, call the error handlers with the exception and the event that *event* makes.
        """
        try:
            let_through(listener, argument)
        except BaseException as exc:  # noqa: BLE001 - a listener never harms a run
            raise_if_signal(exc)
            remove_own_frames(exc)
            self._report(exc, event())
            return False
        return True

    def _report(self, exc: BaseException, event: Event) -> None:
        handlers = self._handlers
        if not handlers:
            logger.error(
                "a listener of %s raised, which fails no run; let on_error handle it, or the "
                "listener itself",
                event.type,
                exc_info=printable(exc),
            )
        for handler in handlers:
            try:
                let_through(handler, exc, event)
            except BaseException as error:
                raise_if_signal(error)
                remove_own_frames(error)
                logger.error(  # noqa: TRY400 - with the traceback of any BaseException
                    "the error handler of a listener of %s raised, which fails no run",
                    event.type,
                    exc_info=printable(error),
                )

    @property
    def is_inside_listener(self) -> bool:
        """Return whether the calling thread is inside a listener of this engine."""
        return self._depth.value > 0

    @contextmanager
    def announcing(self, run_id: str) -> Iterator[None]:
        """Mark that a change of the run is being committed and its event will be emitted."""
        call = object()
        try:
            self._announcing[call] = run_id
            yield
        finally:
            self._announcing.pop(call, None)

    @property
    def is_announcing_any(self) -> bool:
        """Return whether a change of any run is being committed and its event not yet emitted."""
        return bool(self._announcing)

    def wait_for_listeners(self) -> None:
        """Wait up to 100 ms for listeners of committed changes.

        So ``run:trigger`` is emitted before ``run:start``.
        """
        for _ in range(LISTENER_POLLS):
            if not self.is_announcing_any:
                return
            self._clock.wait(self._never, _LISTENER_POLL_S)

    def is_announcing(self, run_id: str) -> bool:
        """Return whether a change of the run is being committed and its event not yet emitted."""
        return run_id in tuple(self._announcing.values())


class _Entry:
    """One subscription: the same listener may be subscribed twice and unsubscribed once."""

    __slots__ = ("_listener", "is_users")

    def __init__(self, listener: Listener, *, is_users: bool) -> None:
        self._listener = listener
        self.is_users = is_users

    def __call__(self, event: Any) -> object:
        return self._listener(event)
