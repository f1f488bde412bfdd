"""Rates and times left, of what one display has seen: they count nothing that came from before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from durably.execution.live import RunView, View


# So many steps must be new before a rate is shown; of items, more than are executed at once.
_FEW_STEPS: Final = 2
# What was measured for less says nothing either.
_BRIEF_S: Final = 0.2
# A time left that is longer says nothing.
_LONGEST_S: Final = 1e9


class Shown(NamedTuple):
    """A run as it is displayed."""

    run: RunView
    elapsed_s: float
    # How much is done a second, and how long the rest takes at that rate.
    rate: float | None = None
    left_s: float | None = None


class Frame(NamedTuple):
    """What one picture shows: one run, or the totals of several and the slowest of them."""

    view: View
    runs: tuple[Shown, ...]
    elapsed_s: float
    rate: float | None = None
    left_s: float | None = None
    # The beginning and the end of a map, as lines.
    heading: str | None = None
    totals: str | None = None
    is_last: bool = False


class Meter:
    """Measure the rates of the runs of one display."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        # When nothing new was seen of a run for the last time.
        self._nothing_at_s: dict[str, float] = {}

    def frame(self, view: View, now_s: float) -> Frame:
        """Return what is shown of a view now."""
        runs = tuple(self._shown(run, now_s) for run in view.runs)
        elapsed_s = now_s - self._began_s
        if not view.is_several:
            return Frame(view, runs, elapsed_s)
        rate = view.done / elapsed_s if view.done > max(_FEW_STEPS, view.workers) else None
        left = None if rate is None or view.total is None else (view.total - view.done) / rate
        return Frame(view, runs, elapsed_s, rate, left or None)

    def _shown(self, run: RunView, now_s: float) -> Shown:
        began_s = self._began_s if run.began_s == -math.inf else run.began_s
        elapsed_s = max(0.0, now_s - began_s)
        if not run.is_here:
            return Shown(run, now_s - self._began_s)
        new = run.done + run.failed - run.reused - run.before
        if new <= 0:
            self._nothing_at_s[run.id] = now_s
            return Shown(run, elapsed_s)
        few = run.workers if run.unit == "items" else _FEW_STEPS
        measured_s = now_s - self._nothing_at_s.get(run.id, began_s)
        if new <= few or measured_s < _BRIEF_S:
            return Shown(run, elapsed_s)
        rate = new / measured_s
        if not math.isfinite(rate):
            return Shown(run, elapsed_s)
        left_s = None
        if run.total is not None and not run.is_over:
            left_s = max(0.0, run.total - run.done - run.failed) / rate
        is_known = left_s is not None and left_s < _LONGEST_S
        return Shown(run, elapsed_s, rate, left_s if is_known else None)
