"""The end of the interpreter: no engine hangs it, and none loses anything by it.

The interpreter waits for pool threads *before* it calls ``atexit`` functions, so an ordinary
one comes too late to tell them to stop. ``concurrent.futures`` solves the same for its own
threads with ``threading._register_atexit``, whose functions come first, the newest first; where
that is missing, runs in progress are waited for to their end.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

log = logging.getLogger("durably")


_lock = threading.Lock()  # guards the list
_closers: list[weakref.WeakMethod[Callable[[], None]]] = []


def at_exit(close: Callable[[], None]) -> None:
    """Have the bound method *close* called at the interpreter's end, if its object exists then."""
    with _lock:
        _closers[:] = [each for each in _closers if each() is not None]
        _closers.append(weakref.WeakMethod(close))


def _close_all() -> None:
    for reference in _closers:
        close = reference()
        if close is None:
            continue
        try:
            close()
        except Exception:
            # The others must still be stopped, and the interpreter's own threads joined.
            log.exception("an engine could not be closed at the end of the interpreter")


def _register(function: Callable[[], None]) -> None:
    early: Callable[[Callable[[], None]], object] | None
    early = getattr(threading, "_register_atexit", None)
    (early or atexit.register)(function)


_register(_close_all)
