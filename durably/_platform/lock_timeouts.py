"""How long calls wait for locks of other processes: each call has one limit for all its waits."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a call waits for locks of other processes in total.
BUSY_TIMEOUT_S: Final = 30.0

# After the time is over each lock is still tried for this long: a lock that another process has for
# a moment is no reason to fail.
LEAST_S: Final = 0.25
# A limit that has been over for this long no longer counts: a Ctrl-C may have kept its block from
# removing it.
_FORGOTTEN_S: Final = 5.0


class _OfThread(threading.local):
    ends_s = math.inf


_of_thread: Final = _OfThread()


@contextmanager
def limited(clock: Clock, timeout_s: float | None) -> Iterator[None]:
    """Limit the waits for locks of the calling thread in the block to *timeout_s* in total."""
    outer_s = _of_thread.ends_s
    if timeout_s is not None:
        _of_thread.ends_s = min(outer_s, clock.monotonic() + timeout_s)
    try:
        yield
    finally:
        _of_thread.ends_s = outer_s


def is_limited() -> bool:
    """Return whether the calling thread has a limit, so that a wait may be a shorter one."""
    return _of_thread.ends_s != math.inf


def deadline(now_s: float, timeout_s: float) -> float:
    """Return the end of a wait for a lock that begins now in the calling thread."""
    ends_s = _of_thread.ends_s
    if ends_s < now_s - _FORGOTTEN_S:
        return now_s + timeout_s
    return min(now_s + timeout_s, max(ends_s, now_s + LEAST_S))


class Hurry:
    """The end of all waits for locks on one database, in all threads, while a call limits them.

    Attributes:
        ends_s: that instant of the monotonic clock; infinity without a limit.
    """

    def __init__(self) -> None:
        self.ends_s = math.inf
        self._ends: dict[object, float] = {}

    @contextmanager
    def until(self, ends_s: float) -> Iterator[None]:
        """End every wait at *ends_s* within the block."""
        request = object()
        try:
            self._ends[request] = ends_s
            self.ends_s = min(list(self._ends.values()))
            yield
        finally:
            self._ends.pop(request, None)
            self.ends_s = min(list(self._ends.values()), default=math.inf)
