"""The machine's monotonic clock, which tests that freeze time cannot replace.

``freezegun`` and mocks replace ``time.monotonic`` wherever they find it, so that waits with it
never end. The functions here come from durably's own copy of the module ``time``: they are other
objects than those that are replaced, whether time was frozen before durably was imported or after.
The time of day is not among them: a test that sets it expects to find that time stored.
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
"""Return the seconds since an arbitrary point; they never go back."""

perf_counter_ns: Final[Callable[[], int]] = _time.perf_counter_ns
"""Return the nanoseconds since an arbitrary point, for code that only needs different numbers."""
