"""Delays at random places of durably's own code: ``pytest --delays SECONDS``.

Where two threads get in each other's way, they mostly do so for microseconds, and a test that meets
that does it once in thousands of times, on somebody else's busy machine. With a delay now and then
before a line, and after a return, it happens within minutes. What fails then is a race, in durably
or in the test; how often it fails says nothing.

Two things are not races. A test may take longer than its time. And a Ctrl-C that comes in a delay
is met there, also before the line that leaves a ``with`` block, where Python itself lets none in:
the lock of that block is then taken for ever. So the soak's real ones do not go with delays.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from types import CodeType

import durably

if sys.version_info < (3, 12):
    raise ImportError("delays need Python 3.12 or newer, for sys.monitoring")

# What a line is delayed by on average, whatever the longest delay is.
MEAN_S = 10e-6

_TOOL_NAME = "delays"
_PACKAGE = str(Path(durably.__file__).parent)


class Delays:
    """Delays lines of durably in all threads of this process, from ``begin`` to ``end``.

    Args:
        longest_s: each delay takes up to this many seconds. Short ones let many threads meet, long
            ones outlast what others wait for.

    Attributes:
        count: how many there have been.
    """

    def __init__(self, longest_s: float) -> None:
        self.count = 0
        self._longest_s = longest_s
        self._probability = min(1.0, 2 * MEAN_S / longest_s)
        self._random = random.Random()

    def begin(self) -> None:
        monitoring = sys.monitoring
        events = monitoring.events
        self._tool = next(tool for tool in range(6) if monitoring.get_tool(tool) is None)
        monitoring.use_tool_id(self._tool, _TOOL_NAME)
        monitoring.register_callback(self._tool, events.LINE, self._delay)
        monitoring.register_callback(self._tool, events.PY_RETURN, self._delay)
        monitoring.set_events(self._tool, events.LINE | events.PY_RETURN)

    def end(self) -> None:
        sys.monitoring.set_events(self._tool, sys.monitoring.events.NO_EVENTS)
        sys.monitoring.free_tool_id(self._tool)

    def _delay(self, code: CodeType, *_: object) -> object:
        if not code.co_filename.startswith(_PACKAGE):
            return sys.monitoring.DISABLE
        if self._random.random() < self._probability:
            self.count += 1
            time.sleep(self._random.random() * self._longest_s)
        return None
