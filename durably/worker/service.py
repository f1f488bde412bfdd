"""The base class of durably's own threads: start, tick, wait, stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.signals import deliver_overdue

ErrorSink = Callable[[BaseException, str], None]

# How long a service pauses after its waiting itself has failed.
_REST_S: Final = 0.25


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread that does *work*; the code that starts it also ends it.

    Args:
        name: of the thread, without the prefix.
    """
    thread = threading.Thread(target=work, name=f"durably-{name}", daemon=True)
    thread.start()
    return thread


class Service:
    """A named daemon thread that calls ``tick`` until it is stopped.

    Starting twice, stopping twice and stopping before starting are allowed, from any threads, and
    it can be started again. ``stop`` returns when the thread has ended. ``tick`` contains all
    logic, so that tests can call it without a thread.

    Args:
        name: of the thread, without the prefix.
        interval_s: seconds between two ticks, unless woken; ``None`` to wait for a wake.
        on_error: called with every exception that leaves ``tick`` or ``pause``; the thread
            continues.
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
        # Set by the thread as its last action; a signal ends a wait for it only if that lasts. An
        # exception in ``Thread.join`` can make a thread that still runs seem to have ended.
        self._ended = Latch(poll=deliver_overdue)
        self._wake = Latch()

    def tick(self) -> None:
        """Do the work of this thread once."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lifecycle:
            # A thread without an ident was left unstarted by a signal.
            if self._thread is not None and self._thread.ident is not None:
                if not self._stopping.is_set():
                    return
                # A stop was interrupted while it waited, or before the thread was woken for it.
                self._end(self._thread)
            self._stopping.clear()
            self._ended.clear()
            # Stored before it starts: an exception of a signal must not leave a thread that no stop
            # ends.
            self._thread = threading.Thread(
                target=self._loop, name=f"durably-{self._name}", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                raise

    def stop(self) -> None:
        """End the thread after its current tick, and wait for that."""
        with self._lifecycle:
            if self._thread is None:
                return
            self._end(self._thread)

    def _end(self, thread: threading.Thread) -> None:
        self._stopping.set()
        self.wake()
        if thread is threading.current_thread():
            return  # this thread ends after its tick
        if thread.ident is not None:
            self._ended.wait()
            thread.join()
        self._thread = None

    @property
    def is_current_thread(self) -> bool:
        """Return whether the calling thread is this service's."""
        return self._thread is threading.current_thread()

    def wake(self) -> None:
        """Make the thread call ``tick`` soon, once more if it is being called now."""
        self._wake.set()

    def _loop(self) -> None:
        try:
            self._work()
        finally:
            self._ended.set()

    def _work(self) -> None:
        while not self._stopping.is_set():
            # Cleared before the tick: a wake that comes during it must cause another one.
            self._wake.clear()
            if self.is_due():
                self._outlive(self.tick)
            if not self._stopping.is_set() and not self._outlive(self.pause):
                # A pause that polls a failing database returns at once.
                self._clock.wait(self._stopping, _REST_S)
        self._outlive(self.finish)

    def _outlive(self, function: Callable[[], None]) -> bool:
        """Call *function*, and return whether it raised nothing."""
        try:
            function()
        except Exception as exc:  # noqa: BLE001 - the thread must outlive any failure
            self._on_error(exc, self._name)
            return False
        return True

    def is_due(self) -> bool:
        """Return whether ``tick`` is called now, and not only ``pause``."""
        return True

    def finish(self) -> None:
        """Do what is left to do after the last tick."""

    def pause(self) -> None:
        """Wait between two ticks."""
        self._clock.wait(self._wake, self._interval_s)
