"""The base of durably's own threads: start, tick, wait, stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from durably._platform.clock import Clock
from durably._platform.interrupts import raise_if_signal
from durably._platform.latch import Latch
from durably.worker import threads

ErrorSink = Callable[[BaseException, str], None]

# How long a service rests whose waiting itself has failed.
_REST_S: Final = 0.25


class Service:
    """A named daemon thread that calls ``tick`` until it is stopped.

    Starting twice, stopping twice and stopping before starting are fine, from any threads, and it
    can be started again. ``stop`` returns when the thread has ended. ``tick`` holds all logic, so
    that tests call it without a thread.

    Args:
        name: of the thread, without the prefix.
        interval_s: seconds between two ticks, unless woken; ``None`` to wait for a wake.
        on_error: told of every exception that leaves ``tick`` or ``pause``; the thread goes on.
    """

    def __init__(
        self, name: str, *, clock: Clock, interval_s: float | None, on_error: ErrorSink
    ) -> None:
        self._name = name
        self._clock = clock
        self._interval_s = interval_s
        self._on_error = on_error
        self._lifecycle = threading.Lock()  # serialises start and stop; never taken by the thread
        self._thread: threading.Thread | None = None
        self._stopping = Latch()
        # Set by the thread as its last act. An exception in the middle of ``Thread.join`` can
        # make a thread that goes on pass for one that has ended.
        self._ended = Latch()
        self._wake = Latch()

    def tick(self) -> None:
        """Do what is to be done now."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread, if it does not run."""
        with self._lifecycle:
            # One that was not started was left so by a signal.
            if self._thread is not None and self._thread.ident is not None:
                if not self._stopping.is_set():
                    return
                # A stop was interrupted while it waited, or before the thread was woken for it.
                self._end(self._thread)
            self._stopping.clear()
            self._ended.clear()
            # Known before it starts: an exception of a signal must not leave one that nobody ends.
            self._thread = threading.Thread(
                target=self._loop, name=f"durably-{self._name}", daemon=True
            )
            try:
                threads.start(self._thread)
            except RuntimeError as exc:
                raise_if_signal(exc)
                self._thread = None
                raise

    def stop(self) -> None:
        """End the thread after its present tick, and wait for that."""
        with self._lifecycle:
            if self._thread is None:
                return
            self._end(self._thread)

    def _end(self, thread: threading.Thread) -> None:
        self._stopping.set()
        self.wake()
        if thread is threading.current_thread():
            return  # it ends after its tick
        if thread.ident is not None:
            self._ended.wait()
            thread.join()
        self._thread = None

    @property
    def is_current_thread(self) -> bool:
        """Whether it is this service's thread that asks."""
        return self._thread is threading.current_thread()

    def wake(self) -> None:
        """Have ``tick`` called soon, once more if it is being called now."""
        self._wake.set()

    def _loop(self) -> None:
        try:
            self._work()
        finally:
            self._ended.set()

    def _work(self) -> None:
        while not self._stopping.is_set():
            # Cleared before the tick: a wake that lands during it must cause one more.
            self._wake.clear()
            self._outlive(self.tick)
            if not self._stopping.is_set() and not self._outlive(self.pause):
                # What waits by looking at the database fails as soon as it is called.
                self._clock.wait(self._stopping, _REST_S)
        self._outlive(self.finish)

    def _outlive(self, function: Callable[[], None]) -> bool:
        """Call *function*; whether it went through."""
        try:
            function()
        except Exception as exc:  # noqa: BLE001 - the thread must outlive any failure
            self._on_error(exc, self._name)
            return False
        return True

    def finish(self) -> None:
        """Do what is left to do when no tick comes any more."""

    def pause(self) -> None:
        """Wait between two ticks."""
        self._clock.wait(self._wake, self._interval_s)
