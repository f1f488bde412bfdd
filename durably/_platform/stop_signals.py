"""SIGINT and SIGTERM for a command that executes runs: the first one stops, a second one kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """Raised in the main thread by the first signal, where nothing is executed by it.

    It is what Ctrl-C raises to all code that knows of that.
    """


class StopSignals:
    """Handle the signals that stop a command, in a ``with`` block of the main thread.

    The first signal calls *stop*; if that returns ``False``, it raises ``StoppedError``. A second
    one ends the process at once, as if there was no handler.

    Attributes:
        received: the name of the first signal, ``None`` before it.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._status = 0
        self._stop: Callable[[], bool] = _nothing
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _NUMBERS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop_with(self, stop: Callable[[], bool]) -> None:
        """Call *stop* at the first signal; it returns whether what it stops ends by itself."""
        self._stop = stop

    @property
    def status(self) -> int:
        """Return the exit status of a process that the signal has ended."""
        return self._status

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number).name
        self._status = 128 + number
        if not self._stop():
            raise StoppedError


def _nothing() -> bool:
    return False
