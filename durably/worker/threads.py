"""Threads: starting one wherever a signal may interrupt it, and a number of them that work."""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from durably.interrupts import is_interruptible

T = TypeVar("T")


_starting: Final = threading.Lock()  # held while a thread is started for another one


def start(thread: threading.Thread) -> None:
    """Start *thread*, which is started then also if a signal handler raises meanwhile.

    ``Thread.start`` waits for the new thread at an ``Event``. An exception in the middle of that
    could leave the new thread waiting for ever, for a lock that nobody has any more.

    Raises:
        RuntimeError: no thread can be had.
    """
    if not is_interruptible():
        thread.start()
        return
    try:
        failure = _start_elsewhere(thread)
    except BaseException:
        _start_elsewhere(thread)
        raise
    if failure is not None:
        raise failure


def _start_elsewhere(thread: threading.Thread) -> RuntimeError | None:
    """Let a thread that no signal reaches start *thread*, if it has not been; return why not."""
    failures: list[RuntimeError] = []
    done = threading.Lock()
    done.acquire()

    def start_here() -> None:
        try:
            with _starting:
                if thread.ident is None:
                    thread.start()
        except RuntimeError as exc:
            failures.append(exc)
        finally:
            done.release()

    _thread.start_new_thread(start_here, ())
    done.acquire()
    return failures[0] if failures else None


class WorkerThreads(Generic[T]):
    """Threads that call one function with whatever is put in, each thing once.

    They are daemons: whoever has made them ends them, and the interpreter does not wait for those
    that were left inside of a call.

    Args:
        work: what is called. It raises nothing.
        name: of the threads, which are numbered.
    """

    def __init__(self, work: Callable[[T], None], name: str) -> None:
        self._work = work
        self._name = name
        self._growing = threading.Lock()  # held while threads are made
        self._threads: list[threading.Thread] = []
        # Putting something in is one call into C: done or not, whatever interrupts it.
        self._things: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._threads)

    def put(self, thing: T) -> None:
        """Let the next free thread work on *thing*. Never blocks; makes no thread."""
        self._things.put(thing)

    def grow(self, size: int) -> None:
        """Make threads until there are so many. Not for a thread that a signal may interrupt.

        Raises:
            RuntimeError: no more can be had.
        """
        with self._growing:
            while len(self._threads) < size:
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(target=self._loop, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def end(self) -> None:
        """End the threads, which have nothing to do any more, and wait for that."""
        for _ in self._threads:
            self._things.put(None)
        while self._threads:
            self._threads[-1].join()
            self._threads.pop()

    def _loop(self) -> None:
        while (thing := self._things.get()) is not None:
            self._work(thing)
