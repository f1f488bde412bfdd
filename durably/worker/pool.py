"""The pool: a bounded number of threads that execute the runs that are handed over to it."""

from __future__ import annotations

import concurrent.futures.thread
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from durably.execution.current_run import CurrentRun


class Pool:
    """Threads that execute one run after the other. Usable from any thread.

    They are daemons: after ``leave`` the interpreter does not wait for them.

    Args:
        most: how many threads there may be.
        execute: executes a run. It raises nothing.
    """

    def __init__(self, most: int, execute: Callable[[CurrentRun], None]) -> None:
        self._most = most
        self._execute = execute
        self._growing = threading.Lock()  # held while threads are made
        self.open()

    def open(self) -> None:
        """Make the pool ready for use; its threads start when they are needed."""
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix="durably-worker")
        self._size = 0
        # Each thread of the executor takes from this queue, and not from the executor's own, which
        # costs a future for each run.
        self._runs: queue.SimpleQueue[CurrentRun | None] = queue.SimpleQueue()

    def hand_over(self, run: CurrentRun, threads: int) -> None:
        """Make threads until there are *threads*, then hand the run to the next free one.

        Raises:
            RuntimeError: no more threads can be started; the run is not executed.
        """
        if self._size < threads:
            self._grow_as_daemons(threads)
        self._runs.put(run)

    def _grow_as_daemons(self, size: int) -> None:
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
                self._executor.submit(self._work, self._runs)
                self._size += 1

    def _work(self, runs: queue.SimpleQueue[CurrentRun | None]) -> None:
        while (run := runs.get()) is not None:
            self._execute(run)
            del run  # its memory is not needed until the next one comes

    def end(self) -> None:
        """End the threads, which must have nothing left to do, and wait for that. Idempotent."""
        for _ in range(self._size):
            self._runs.put(None)
        # Calls for which no thread could be started are still queued.
        self._executor.shutdown(cancel_futures=True)
        self._size = 0

    def leave(self) -> None:
        """Allow the interpreter to end without waiting for the threads or their runs.

        ``concurrent.futures`` waits for all its threads, daemons too, and has no public way to
        remove one. Where the private name is missing, the interpreter waits.
        """
        known = getattr(concurrent.futures.thread, "_threads_queues", {})
        for thread in list(known):
            if known[thread] is getattr(self._executor, "_work_queue", None):
                known.pop(thread, None)
