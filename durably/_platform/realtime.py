"""The machine's monotonic clock, out of the reach of tests that freeze time.

``freezegun`` and mocks replace ``time.monotonic`` wherever they find it, so that nothing that waits
by it ever ends. The functions here come from a copy of the module ``time`` of durably's own: they
are other objects than those that are replaced, whether time was frozen before durably was imported
or after. The time of day is not among them: what a test sets it to is what it wants to find stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Final


def _copy_of_time() -> ModuleType:
    spec = time.__spec__
    loader = None if spec is None else spec.loader
    module = None if spec is None or loader is None else loader.create_module(spec)
    if loader is None or module is None:  # a Python that cannot make it again
        return time
    loader.exec_module(module)
    return module


_time: Final = _copy_of_time()

monotonic: Final[Callable[[], float]] = _time.monotonic
"""Seconds from an arbitrary point, never going back."""

perf_counter_ns: Final[Callable[[], int]] = _time.perf_counter_ns
"""Nanoseconds from an arbitrary point, for what needs no more than different numbers."""
