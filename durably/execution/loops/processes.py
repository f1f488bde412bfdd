"""Execute the items of a map in processes of its own.

Each process has a pipe of its own, so that it is known which items it executes: one that dies, or
has to be killed since its item takes too long, takes nothing else with it. Of a chunk whose process
has died, each item is executed again in a chunk of its own: that shows which one is at fault.
"""

from __future__ import annotations

import importlib
import itertools
import math
import multiprocessing
import os
import selectors
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

from durably._platform.parent import ctrl_c_blocked, kill, signal_name
from durably._platform.realtime import monotonic
from durably.errors import ExecutorBrokenError, StepTimeoutError
from durably.execution.loops.in_child import READY, STOP, serve
from durably.execution.loops.outside import POLL_S, Entry, Outside, died, packed_function
from durably.execution.loops.travel import dumps, loads
from durably.execution.loops.workers import Kit

# So many processes in a row may end before they are ready.
_MOST_STILLBORN: Final = 3
# A process that has nothing to do ends within so long, or is killed.
_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.02
_MUCH: Final = 4096

_numbers: Final = itertools.count(1)


def _context() -> Any:
    """Return what starts processes: loky's way, which does not import ``__main__``, if it is there.

    The standard library's ``spawn`` does import it.
    """
    try:
        loky = importlib.import_module("loky.backend.context")
    except ImportError:
        return multiprocessing.get_context("spawn")
    return loky.get_context("loky")


class _Worker:
    """A process, and the chunks that it was handed."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.is_ready = False
        self.is_stopping = False
        self.chunks: deque[deque[Entry]] = deque()
        # When the first item of the first chunk began, at the earliest.
        self.began_s = 0.0

    @property
    def pid(self) -> int:
        assert self.process.pid is not None  # noqa: S101 - it was started
        return self.process.pid

    def entries(self) -> list[Entry]:
        """Return the items that it was handed and that have not ended, in their order."""
        return [entry for chunk in self.chunks for entry in chunk]


class Processes(Outside):
    """Execute items in processes, which start when they are needed."""

    def __init__(self, kit: Kit, max_workers: int) -> None:
        super().__init__(kit, 2 * max_workers, kit.options.chunk)
        self._max_workers = max_workers
        self._fn = packed_function(kit.options)
        self._timeout_s = kit.options.timeout_s
        self._may_wait = kit.options.max_uncommitted > 1
        self._context = _context()
        self._workers: list[_Worker] = []
        self._alone: deque[Entry] = deque()
        self._stillborn = 0
        self._is_notified = True
        self._checked_s = monotonic()

    def _open(self) -> None:
        self._check_list()
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._is_notified = False

    def _notify(self) -> None:
        if not self._is_notified:
            self._is_notified = True
            with suppress(OSError):  # it was closed: the thread has ended
                os.write(self._wake_w, b"\0")

    # -- handing out -----------------------------------------------------------------------------

    def _hand_out(self) -> None:
        for worker in self._with_room():
            if not self._may_begin(is_there=bool(self._alone)):
                return
            self._send(worker)
        starting = sum(not worker.is_ready for worker in self._workers)
        wanted = len(self._todo) + len(self._alone) - starting
        missing = min(self._max_workers - len(self._workers), wanted)
        for _ in range(missing):
            self._start()

    def _with_room(self) -> Iterator[_Worker]:
        ready = [worker for worker in self._workers if worker.is_ready]
        yield from (worker for worker in ready if not worker.chunks)
        if self.size.is_quick and self._may_wait:
            yield from (worker for worker in ready if len(worker.chunks) == 1)

    def _send(self, worker: _Worker) -> None:
        if self._alone:
            chunk = [self._alone.popleft()]
            self._items_out += 1
        else:
            fair = -(-len(self._todo) // self._max_workers)
            chunk = self._next_chunk(max(1, min(self.size.items, fair)))
        if not worker.chunks:
            worker.began_s = monotonic()
        worker.chunks.append(deque(chunk))
        with suppress(OSError):  # it has died, which is noticed next
            worker.connection.send_bytes(dumps([data for _, data in chunk]))

    def _start(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(there, os.getpid(), self._fn),
            kwargs={
                "start_method": multiprocessing.get_start_method(allow_none=True),
                "is_each_sent": self._timeout_s is not None,
            },
            name=f"durably-map-{next(_numbers)}",
            daemon=True,  # so that the interpreter's end does not wait for it
        )
        try:
            resource_tracker.ensure_running()  # its start ends the blocking
            with ctrl_c_blocked():
                process.start()
        finally:
            there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        self._selector.register(here, selectors.EVENT_READ, worker)
        self._selector.register(process.sentinel, selectors.EVENT_READ, worker)

    # -- taking back -----------------------------------------------------------------------------

    def _await_something(self, timeout_s: float) -> None:
        if self._timeout_s is not None:
            begun = [worker.began_s for worker in self._workers if worker.chunks]
            left_s = min(begun, default=math.inf) + self._timeout_s - monotonic()
            timeout_s = max(0.0, min(timeout_s, left_s))
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(self._wake_r, _MUCH)
                self._is_notified = False
            elif key.data in self._workers:
                self._receive(key.data, is_dead=key.fileobj is not key.data.connection)
        now_s = monotonic()
        if now_s - self._checked_s >= POLL_S:
            self._checked_s = now_s
            for worker in list(self._workers):
                # The pipes of one that has died stay open if it has forked.
                if worker.process.exitcode is not None:
                    self._receive(worker, is_dead=True)
        if self._timeout_s is not None:
            self._end_overdue(self._timeout_s)

    def _receive(self, worker: _Worker, *, is_dead: bool) -> None:
        connection = worker.connection
        try:
            while not is_dead or connection.poll():
                self._take_message(worker, connection.recv_bytes())
                if not is_dead:
                    return
        except (EOFError, OSError):
            is_dead = True
        self._bury(worker)

    def _take_message(self, worker: _Worker, message: bytes) -> None:
        if message == READY:
            worker.is_ready = True
            self._stillborn = 0
            return
        now_s = monotonic()
        outcomes = loads(message)
        if not worker.chunks:  # it cannot load the function
            self._take_unloadable(outcomes[0][1])
            return
        is_over = outcomes[-1] is None
        if is_over:
            outcomes.pop()
        chunk = worker.chunks[0]
        self.size.note(len(outcomes), sum(outcome[2] for outcome in outcomes))
        worker.began_s = now_s
        self.take([chunk.popleft() for _ in outcomes], outcomes)
        if is_over:
            worker.chunks.popleft()
            if chunk:
                self._requeue(chunk)
        self._ask_for_more()

    def _end_overdue(self, timeout_s: float) -> None:
        for worker in list(self._workers):
            if not worker.chunks or monotonic() - worker.began_s < timeout_s:
                continue
            if worker.connection.poll():
                continue  # its item has just ended
            self._kill(worker)
            (task, _), *others = self._remove(worker)
            self._requeue(others)
            error = StepTimeoutError(
                f"item {task.key!r:.80} was in progress for more than {timeout_s:.3g} s, and its "
                "process was ended; give it a longer timeout, or smaller items"
            )
            self.take_failure(task, error, timeout_s)

    def _bury(self, worker: _Worker) -> None:
        """Forget a process that has ended: an item that it was at is at fault."""
        self._join(worker)
        exitcode = worker.process.exitcode
        is_certain = bool(worker.chunks) and len(worker.chunks[0]) == 1
        doubtful = len(worker.chunks[0]) if worker.chunks else 0
        entries = self._remove(worker)
        if not worker.is_ready:
            self._stillborn += 1
            if self._stillborn >= _MOST_STILLBORN and self.failure is None:
                self.fail(_stillborn(self._what, exitcode))
            return
        if not entries:
            return
        if self._kit.ending.is_set():
            self._requeue(entries)
            return
        self._requeue(entries[doubtful:])
        if not is_certain:
            self._items_out -= doubtful
            self._alone += entries[:doubtful]
            return
        task = entries[0][0]
        self.take_failure(task, died(task, exitcode), monotonic() - worker.began_s)

    def _remove(self, worker: _Worker) -> list[Entry]:
        """Forget a process that has ended; return the items that it has left."""
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        self._selector.unregister(worker.process.sentinel)
        worker.connection.close()
        entries = worker.entries()
        worker.chunks.clear()
        return entries

    # -- ending ----------------------------------------------------------------------------------

    def _stop_early(self) -> None:
        self._todo += self._alone
        self._alone.clear()
        for worker in self._workers:
            if worker.chunks and not worker.is_stopping:
                worker.is_stopping = True
                with suppress(OSError):  # it has died, which is noticed next
                    worker.connection.send_bytes(STOP)

    def _close(self) -> None:
        """End all processes."""
        if not self._is_abrupt:
            # By themselves, so that what they have printed is not lost.
            for worker in self._workers:
                with suppress(OSError):  # it has died
                    worker.connection.send_bytes(STOP)
        ends_s = monotonic() + (0.0 if self._is_abrupt else _PATIENCE_S)
        for worker in list(self._workers):
            self._join(worker, ends_s)
            self._kill(worker)
            self._requeue(self._remove(worker))
        self._todo += self._alone
        self._selector.close()
        self._is_notified = True
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _kill(self, worker: _Worker) -> None:
        if worker.process.exitcode is None:
            kill(worker.pid)
            self._join(worker)

    def _join(self, worker: _Worker, ends_s: float = math.inf) -> None:
        """Wait until a process is gone."""
        while worker.process.exitcode is None and monotonic() < ends_s:
            worker.process.join(_PAUSE_S)  # not longer: its pipes stay open if it has forked


def _stillborn(what: str, exitcode: int | None) -> ExecutorBrokenError:
    how = "in an unknown way" if exitcode is None else f"by {signal_name(exitcode)}"
    return ExecutorBrokenError(
        f"{what}: its processes end {how} while they start; see what they have printed. A script "
        'needs the line if __name__ == "__main__": before what it executes, or '
        'pip install "durably[process]"'
    )
