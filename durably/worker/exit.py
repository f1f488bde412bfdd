"""The end of the interpreter: no engine hangs it, and none loses anything by it.

The interpreter waits for pool threads *before* it calls ``atexit`` functions, so an ordinary
one comes too late to tell them to stop. ``concurrent.futures`` solves the same for its own
threads with ``threading._register_atexit``, whose functions come first, the newest first; where
that is missing, runs in progress are waited for to their end.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - its function is registered before, called after
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Final

from durably._platform.interrupts import is_from_signal
from durably.errors import EngineClosedError

log = logging.getLogger("durably")


class _Closers:
    """What is to be called at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._references: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._is_ending = False

    def add(self, close: Callable[[], None]) -> None:
        with self._lock:
            if self._is_ending:
                raise EngineClosedError(
                    "the interpreter is ending; an engine opened now would never be closed"
                )
            self._references = [each for each in self._references if each() is not None]
            self._references.append(weakref.WeakMethod(close))

    def end(self) -> list[weakref.WeakMethod[Callable[[], None]]]:
        """All of them; there will be no others."""
        with self._lock:
            self._is_ending = True
            return self._references


_closers: Final = _Closers()


def at_exit(close: Callable[[], None]) -> None:
    """Have the bound method *close* called at the interpreter's end, if its object exists then.

    Raises:
        EngineClosedError: the end has begun.
    """
    _closers.add(close)


def _close_all() -> None:
    for reference in _closers.end():
        close = reference()
        if close is None:
            continue
        try:
            close()
        except BaseException as exc:
            if is_from_signal(exc):
                continue  # it was left behind, as the user wants it
            if not isinstance(exc, Exception):
                raise
            # The others must still be stopped, and the interpreter's own threads joined.
            log.exception("an engine could not be closed at the end of the interpreter")


def _register(function: Callable[[], None]) -> None:
    early: Callable[[Callable[[], None]], object] | None
    early = getattr(threading, "_register_atexit", None)
    (early or atexit.register)(function)


_register(_close_all)
