"""Keep a bounded number of working threads."""

from __future__ import annotations

import concurrent.futures.thread
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class WorkerThreads(Generic[T]):
    """A bounded pool of threads that call one function once with each thing that is put in.

    They are daemons: after ``leave`` the interpreter does not wait for them.

    Args:
        work: the function. It raises nothing.
        name: of the threads, which are numbered.
        most: how many threads there may be.
    """

    def __init__(self, work: Callable[[T], None], name: str, most: int) -> None:
        self._work = work
        self._executor = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._growing = threading.Lock()  # held while threads are made
        self._size = 0
        # Not the executor's own queue: here a put is one call into C, which has taken effect or
        # not, whatever a signal handler raises. Each thread of the executor takes from this queue.
        self._things: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def __len__(self) -> int:
        return self._size

    def put(self, thing: T) -> None:
        """Hand *thing* to the next free thread. Never blocks; makes no thread."""
        self._things.put(thing)

    def grow(self, size: int) -> None:
        """Make threads until there are *size*.

        Raises:
            RuntimeError: no more threads can be started.
        """
        if threading.current_thread().daemon:
            self._grow(size)
            return
        # The executor's threads are daemons if the thread that makes them is one.
        failures: list[RuntimeError] = []

        def grow() -> None:
            try:
                self._grow(size)
            except RuntimeError as exc:
                failures.append(exc)

        maker = threading.Thread(target=grow, name="durably-maker", daemon=True)
        maker.start()
        maker.join()
        for failure in failures:
            raise failure

    def _grow(self, size: int) -> None:
        with self._growing:
            while self._size < size:
                self._executor.submit(self._loop)
                self._size += 1

    def end(self) -> None:
        """End the threads, which must have nothing left to do, and wait for that. Idempotent."""
        for _ in range(self._size):
            self._things.put(None)
        # Calls for which no thread could be started are still queued.
        self._executor.shutdown(cancel_futures=True)
        self._size = 0

    def leave(self) -> None:
        """Allow the interpreter to end without waiting for the threads.

        ``concurrent.futures`` waits for all its threads, daemons too, and has no public way to
        remove one. Where the private name is missing, the interpreter waits.
        """
        known = getattr(concurrent.futures.thread, "_threads_queues", {})
        for thread in list(known):
            if known[thread] is getattr(self._executor, "_work_queue", None):
                known.pop(thread, None)

    def _loop(self) -> None:
        while (thing := self._things.get()) is not None:
            self._work(thing)
