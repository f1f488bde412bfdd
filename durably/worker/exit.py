"""Close engines at the end of the interpreter, so that none hangs it or loses anything.

The interpreter waits for pool threads *before* it calls ``atexit`` functions, so an ordinary one
is too late to make them stop. ``concurrent.futures`` solves the same for its own threads with
``threading._register_atexit``, whose functions are called first, the newest first. Without that
function the interpreter waits until runs in progress have ended.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - its function is registered before, called after
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Final

from durably._platform.signals import entered, is_from_signal
from durably.errors import EngineClosedError

logger = logging.getLogger("durably")


class _Closers:
    """The methods to call at the end."""

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
        """Return all methods, and accept no others."""
        with self._lock:
            self._is_ending = True
            return self._references


_closers: Final = _Closers()


def at_exit(close: Callable[[], None]) -> None:
    """Call the bound method *close* at the interpreter's end, if its object exists then.

    Raises:
        EngineClosedError: the end has begun.
    """
    _closers.add(close)


@entered
def _close_all() -> None:
    for reference in _closers.end():
        close = reference()
        if close is None:
            continue
        try:
            close()
        except BaseException as exc:
            if is_from_signal(exc):
                continue  # the user has ended the wait for this engine
            if not isinstance(exc, Exception):
                raise
            # The others must still be stopped, and the interpreter must join its own threads.
            logger.exception(
                "an engine could not be closed at the end of the interpreter; the next start "
                "continues its runs"
            )


def _register(function: Callable[[], None]) -> None:
    early: Callable[[Callable[[], None]], object] | None
    early = getattr(threading, "_register_atexit", None)
    (early or atexit.register)(function)


_register(_close_all)
