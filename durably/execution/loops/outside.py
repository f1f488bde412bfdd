"""Execute the items of a map outside of this process: what all kinds of executors have in common.

A thread of the map's own hands chunks of items out, and takes back what has become of them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from durably._platform.latch import join
from durably._platform.parent import signal_name
from durably._platform.safe_repr import safe_str
from durably.errors import SerializationError, ValidationError, WorkerDiedError
from durably.execution.loops.in_child import (
    INTERRUPTED,
    RETURNED,
    UNLOADABLE,
    UNSENDABLE,
    Outcome,
)
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.tasks import Task
from durably.execution.loops.travel import dumps, has_cloudpickle, loads, unpack_exception
from durably.execution.loops.workers import Kit

# So much work is one chunk, and so many items at the most.
CHUNK_S: Final = 0.05
MOST_IN_CHUNK: Final = 256
# The items of a list that is not longer are pickled before its first item begins, up to so much.
MOST_CHECKED: Final = 10_000
_MUCH_CHECKED: Final = 16 * 1024 * 1024
# How often it is checked whether an item may begin that had to wait.
POLL_S: Final = 0.1
# So many items that take less time than what is around them may be on their way at once.
QUICK_AHEAD: Final = 64
_QUICKEST_S: Final = 1e-6
_QUICK_S: Final = 0.001

Entry = tuple[Task, bytes]


class ChunkSize:
    """How many items travel together: ever more, up to some work a chunk.

    Args:
        fixed: so many always.
        most: so many at the most.

    Attributes:
        items: so many.
        is_quick: whether they take less time than what is around them.
    """

    def __init__(self, fixed: int | None, most: int = MOST_IN_CHUNK) -> None:
        self.items = fixed or 1
        self._most = most
        self._is_fixed = fixed is not None
        self._mean_s: float | None = None
        self.is_quick = False

    def fix(self, items: int) -> None:
        """Make so many travel together from now on, unless a number is given."""
        if not self._is_fixed:
            self.items, self._is_fixed = items, True

    def note(self, items: int, seconds: float) -> None:
        """Note how long so many items have taken."""
        if not items:
            return
        mean_s = seconds / items
        self._mean_s = mean_s if self._mean_s is None else (self._mean_s + mean_s) / 2
        self.is_quick = self._mean_s < _QUICK_S
        fitting = int(CHUNK_S / max(self._mean_s, mean_s, _QUICKEST_S))
        if not self._is_fixed:
            self.items = max(1, min(fitting, self._most, 2 * self.items))


class Outside(ABC):
    """Executes items in chunks.

    Attributes:
        failure: what has ended the map, of which no item is at fault.
    """

    is_calling_thread = False

    def __init__(self, kit: Kit, most_in_flight: int, chunk: int | None) -> None:
        self._kit = kit
        self._what = kit.options.what
        self._most_in_flight = most_in_flight
        self.size = ChunkSize(
            chunk if kit.options.rate is None else 1,
            min(MOST_IN_CHUNK, kit.options.max_uncommitted),
        )
        self.failure: BaseException | None = None
        self._todo: deque[Entry] = deque()
        self._items_out = 0
        # Reading more of these ahead holds little in memory that was not there before.
        self._is_in_memory = isinstance(kit.options.items, list | tuple | range)
        self._is_here = False  # whether items are executed in this process
        self._awaits_room = False
        # Those that a Ctrl-C has ended once, as it seems.
        self._interrupted: set[Task] = set()
        kit.committer.on_room = self._has_room_again
        self._turn_s: float | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._is_abrupt = False

    # -- called by the thread that drives the map ------------------------------------------------

    def submit(self, task: Task) -> None:
        """Execute an item soon.

        Raises:
            ValidationError: it cannot travel.
        """
        if self._thread is None:
            self._open()
            self._thread = self._kit.start("map-hands-out", self._work)
        data = b"" if self._is_here else packed_item(self._what, task.key, task.item)
        self._todo.append((task, data))
        if len(self._todo) <= self._most_in_flight:
            self._notify()  # else it checks again when the next item has ended

    def room(self) -> int:
        """Return how many items are to be read and submitted now."""
        most = (self._most_in_flight + 2) * self.size.items
        if self._is_in_memory and self.size.is_quick:
            most = max(most, 2 * QUICK_AHEAD)
        return most - len(self._todo) - self._items_out

    def stop(self, *, is_abrupt: bool = False) -> None:
        """Begin no further item, and end after those in progress unless it is abrupt."""
        self._kit.ending.set()
        self._is_abrupt |= is_abrupt
        self._is_closing = True
        if self._thread is not None:
            self._notify()

    def join(self) -> None:
        """Wait for that end."""
        if self._thread is not None:
            join(self._thread)

    def _check_list(self) -> None:
        """Raise if one of a short list of items cannot travel, before any of them is executed."""
        items, key = self._kit.options.items, self._kit.options.key
        if not isinstance(items, list | tuple) or len(items) > MOST_CHECKED:
            return
        size = 0
        for position, item in enumerate(items):
            named = position if key is None else key(item)
            size += len(packed_item(self._what, named, item))
            if size > _MUCH_CHECKED:
                return

    # -- the thread that hands items out ---------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_over():
                if self._kit.ending.is_set():
                    self._recall()
                else:
                    self._hand_out()
                self._await_something(self._patience_s())
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that drives the map
            self.fail(exc)
        try:
            self._close()
        except BaseException as exc:  # noqa: BLE001 - as above
            self.fail(exc)
        self._give_back_todo()
        self._kit.wake()

    def fail(self, exc: BaseException) -> None:
        """End the map with *exc*."""
        self.failure = self.failure or exc
        self._kit.ending.set()
        self._kit.wake()

    def _is_over(self) -> bool:
        if self._is_abrupt or self.failure is not None:
            return True
        return self._is_closing and not self._items_out and not self._todo

    def _recall(self) -> None:
        """Begin no further item."""
        self._give_back_todo()
        self._stop_early()

    def _give_back_todo(self) -> None:
        while self._todo:
            self._kit.go_back(self._todo.popleft()[0])

    def _may_begin(self, *, is_there: bool = False) -> bool:
        """Return whether an item may begin now, if there is one."""
        kit = self._kit
        if not (self._todo or is_there) or not kit.committer.has_room or kit.ending.is_set():
            return False
        if self._turn_s is None:
            self._turn_s = kit.pace.reserve()
        if max(self._turn_s, kit.pace.not_before_s) > kit.pace.now_s():
            return False
        self._turn_s = None
        return True

    def _patience_s(self) -> float:
        """Return how long to wait for something that has to be polled."""
        if not self._todo:
            return POLL_S
        if not self._kit.committer.has_room:
            self._awaits_room = True
            # A commit that has ended before that is not waited for.
            return 0.0 if self._kit.committer.has_room else POLL_S
        if self._turn_s is None:
            return POLL_S
        pace = self._kit.pace
        left_s = max(self._turn_s, pace.not_before_s) - pace.now_s()
        return min(POLL_S, max(0.0, left_s))

    def _next_chunk(self, most: int) -> list[Entry]:
        """Return the next items that travel together."""
        chunk = [self._todo.popleft()]
        while len(chunk) < most and self._todo:
            chunk.append(self._todo.popleft())
        self._items_out += len(chunk)
        return chunk

    def _requeue(self, entries: Sequence[Entry]) -> None:
        """Execute items soon that were handed out and have not ended."""
        self._items_out -= len(entries)
        self._todo.extendleft(reversed(entries))

    def take(self, entries: Iterable[Entry], outcomes: Iterable[Outcome]) -> None:
        """Take what has become of items that were handed out."""
        ended: list[Task] = []
        try:
            for (task, _), outcome in zip(entries, outcomes, strict=False):
                self._items_out -= 1
                if self._has_ended(task, outcome):
                    ended.append(task)
                else:
                    self._kit.go_back(task)
        finally:
            if ended:
                self._kit.committer.add_all(ended)

    def _has_ended(self, task: Task, outcome: Outcome) -> bool:
        """Take what has become of an item; return whether it has a result or an error."""
        kind, data, seconds = outcome
        runner = self._kit.runner
        if kind == UNLOADABLE:
            self._take_unloadable(data)
            return False
        began_us = runner.now_us() - int(seconds * 1e6)
        if kind == INTERRUPTED:
            if task in self._interrupted:  # no terminal has done that: the item raises it itself
                return runner.raised(task, KeyboardInterrupt(), began_us)
            self._interrupted.add(task)
            task.wait_s = None
            return False
        if kind == RETURNED:
            try:
                value = loads(data)
            except Exception as exc:  # noqa: BLE001 - whatever the code of a result's class raises
                return runner.raised(task, _unsent(task, exc), began_us)
            return runner.returned(task, value, began_us)
        raised = unpack_exception(data)
        return runner.raised(
            task, _unsent(task, raised) if kind == UNSENDABLE else raised, began_us
        )

    def _take_unloadable(self, data: bytes) -> None:
        exc = unpack_exception(data)
        error = _untravelled(self._what, "fn", exc, where="be loaded in another process")
        error.__cause__ = exc
        self.fail(error)

    def take_failure(self, task: Task, exc: Exception, seconds: float) -> None:
        """Make an item that was handed out raise *exc*."""
        self._items_out -= 1
        runner = self._kit.runner
        began_us = runner.now_us() - int(seconds * 1e6)
        if runner.raised(task, exc, began_us):
            self._kit.committer.add(task)
        else:
            self._kit.go_back(task)

    def _has_room_again(self) -> None:
        """Hand out what had to wait for a commit."""
        if self._awaits_room:
            self._awaits_room = False
            self._notify()

    def _ask_for_more(self) -> None:
        """Make the thread that drives the map submit more, if little is left."""
        most = self._most_in_flight * self.size.items
        if self._is_in_memory and self.size.is_quick:
            most = max(most, QUICK_AHEAD)
        if len(self._todo) <= most // 2:
            self._kit.wake()

    # -- what the kinds of executors do ----------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Make what the thread that hands items out needs."""

    @abstractmethod
    def _notify(self) -> None:
        """End the wait of the thread that hands items out. Usable from any thread."""

    @abstractmethod
    def _hand_out(self) -> None:
        """Hand out what may begin."""

    @abstractmethod
    def _await_something(self, timeout_s: float) -> None:
        """Wait for outcomes, and take them."""

    @abstractmethod
    def _stop_early(self) -> None:
        """Take back what was handed out and has not begun."""

    @abstractmethod
    def _close(self) -> None:
        """End what was started."""


def packed_function(options: LoopOptions) -> bytes:
    """Return the function of a map as bytes.

    Raises:
        ValidationError: it cannot travel.
    """
    try:
        return dumps(options.fn)
    except Exception as exc:
        raise _untravelled(options.what, "fn", exc) from exc


def packed_item(what: str, key: object, item: Any) -> bytes:
    """Return an item as bytes.

    Raises:
        ValidationError: it cannot travel.
    """
    try:
        return dumps(item)
    except Exception as exc:
        raise _untravelled(what, f"the item {key!r:.80}", exc) from exc


def _untravelled(
    what: str, which: str, exc: BaseException, where: str = "travel to another process"
) -> ValidationError:
    advice = "use a function of a module, and items that can be pickled"
    if not has_cloudpickle():
        advice += '; or install "durably[process]", with which lambdas and closures travel'
    return ValidationError(
        f"{what}: {which} cannot {where} ({type(exc).__qualname__}: {safe_str(exc):.200}); {advice}"
    )


def _unsent(task: Task, exc: BaseException) -> SerializationError:
    error = SerializationError(
        f"the result of item {task.key!r:.80} cannot travel back from its process "
        f"({type(exc).__qualname__}: {safe_str(exc):.200}); return data that can be pickled"
    )
    error.__cause__ = exc
    return error


def died(task: Task, exitcode: int | None) -> WorkerDiedError:
    """Return the error of an item whose process has ended while it executed it."""
    how = "in an unknown way" if exitcode is None else f"by {signal_name(exitcode)}"
    return WorkerDiedError(
        f"the process that executed item {task.key!r:.80} ended {how}; execute the item by itself "
        "to see why",
        exitcode,
    )
