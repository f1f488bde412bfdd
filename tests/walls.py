"""A wall clock that tests set forward, beside a monotonic one that goes on as it does."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest


class Wall:
    """What ``Clock.now_us`` reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        real = time.time_ns
        fake = SimpleNamespace(time_ns=lambda: real() + int(self.ahead_s * 1e9))
        monkeypatch.setattr("durably._platform.clock.time", fake)

    def advance(self, seconds: float) -> None:
        """Set it forward, or back."""
        self.ahead_s += seconds
