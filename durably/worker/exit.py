"""The end of the interpreter: no engine hangs it, and none loses anything by it.

The interpreter waits for pool threads *before* it calls ``atexit`` functions, so an ordinary
one comes too late to tell them to stop. ``concurrent.futures`` solves the same for its own
threads with ``threading._register_atexit``, whose functions come first, the newest first; where
that is missing, runs in progress are waited for to their end.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from typing import Protocol


class Stoppable(Protocol):
    """An engine that the end of the interpreter has to stop."""

    def close_at_exit(self) -> None:
        """Stop at the next step boundary and close."""


_open: weakref.WeakSet[Stoppable] = weakref.WeakSet()


def close_at_exit(engine: Stoppable) -> None:
    """Have *engine* closed when the interpreter ends, if it still exists then."""
    _open.add(engine)


def _close_all() -> None:
    for engine in list(_open):
        engine.close_at_exit()


def _register(function: Callable[[], None]) -> None:
    early: Callable[[Callable[[], None]], object] | None
    early = getattr(threading, "_register_atexit", None)
    (early or atexit.register)(function)


_register(_close_all)
