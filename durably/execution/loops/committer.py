"""The thread that stores the items of a map while others are executed.

All that has come since its last commit is one transaction: a slow map commits each item at once,
and the items of a quick one share commits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from durably._platform.latch import Latch, Wakeups, join
from durably.execution.loops.tasks import Task

# So much text is uncommitted at the most, however few items that are.
MOST_CHARS: Final = 16 * 1024 * 1024
_POLL_S: Final = 0.1

StartThread = Callable[[str, Callable[[], None]], threading.Thread]


class Committer:
    """Store items in a thread of its own. Usable from any thread.

    Args:
        save: stores items that have ended; returns ``False`` if this claim is not the current one.
        on_committed: called in the thread of its own with what is stored, or with ``None`` after it
            has failed.
        most: how many items may be uncommitted.
        start: starts a thread.
        has_ended: called with each item that is added, with how many were and how many of them have
            failed, in the thread that adds it.

    Attributes:
        added: how many items were added.
        failure: what has ended the thread.
        is_lost: whether the claim is not the current one any more.
        on_room: called after each commit in the thread of its own: another item may begin.
    """

    def __init__(
        self,
        save: Callable[[Sequence[Task]], bool],
        on_committed: Callable[[list[Task] | None], None],
        *,
        most: int,
        start: StartThread,
        has_ended: Callable[[Task, int, int], None],
    ) -> None:
        self._save = save
        self._on_committed = on_committed
        self._most = most
        self._start = start
        self._has_ended = has_ended
        self._lock = threading.Lock()  # guards those below
        self.added = 0
        self._failed = 0
        self._items = 0
        self._chars = 0
        self._thread: threading.Thread | None = None
        self._added: queue.SimpleQueue[Sequence[Task] | None] = queue.SimpleQueue()
        self._left: list[Task] = []
        self._has_room = Wakeups()
        self._is_closing = False
        self.failure: BaseException | None = None
        self.is_lost = False
        self.on_room: Callable[[], None] | None = None

    def add(self, task: Task) -> None:
        """Store an item soon."""
        self.add_all((task,))

    def add_all(self, tasks: Sequence[Task]) -> None:
        """Store items soon: those that have come together wake the thread once."""
        with self._lock:
            self._items += len(tasks)
            for ended, task in enumerate(tasks, self.added + 1):
                self._chars += len(task.text or "")
                self._failed += task.error is not None and not task.is_held
                self._has_ended(task, ended, self._failed)
            if self._thread is None:
                self._thread = self._start("map-commits", self._work)
            self._added.put(tasks)
            self.added += len(tasks)

    @property
    def has_room(self) -> bool:
        """Return whether another item may begin."""
        return (
            (self._items < self._most and self._chars < MOST_CHARS)
            or self.failure is not None
            or self.is_lost
        )

    def await_room(self, until: Latch) -> None:
        """Wait until another item may begin, or *until* is set."""
        while not self.has_room and not until.is_set():
            self._has_room.wait_until(lambda: self.has_room, _POLL_S)

    def await_all(self) -> None:
        """Wait until all that was added is stored."""
        while self._items and self.failure is None and not self.is_lost:
            self._has_room.wait_until(lambda: not self._items, _POLL_S)

    def stop(self) -> list[Task]:
        """End the thread after its commit; return what it has not stored. Idempotent."""
        self._is_closing = True
        thread = self._thread
        if thread is not None:
            self._added.put(None)
            join(thread)
        while not self._added.empty():
            self._left += self._added.get() or ()
        return self._left

    def break_off(self, exc: BaseException) -> None:
        """Note that a thread of the map has failed by itself: nothing more is executed."""
        self.failure = self.failure or exc
        self._has_room.wake_all()
        self._on_committed(None)

    def _work(self) -> None:
        while (tasks := self._added.get()) is not None and not self._is_closing:
            batch = [*tasks]
            while len(batch) < self._most and not self._added.empty():
                tasks = self._added.get()
                if tasks is None:
                    self._left = batch
                    return
                batch += tasks
            if not self._commit(batch):
                return
        self._left += tasks or ()

    def _commit(self, batch: list[Task]) -> bool:
        try:
            self.is_lost = not self._save(batch)
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that drives the map
            self.failure = exc
        is_stored = not self.is_lost and self.failure is None
        if is_stored:
            with self._lock:
                self._items -= len(batch)
                self._chars -= sum(len(task.text or "") for task in batch)
        self._has_room.wake_all()
        if self.on_room is not None:
            self.on_room()
        self._on_committed(batch if is_stored else None)
        return is_stored
