"""Deadlines: when the time of a run, of a step or of an item of a map is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

from durably._platform.clock import Clock
from durably.errors import StepTimeoutError
from durably.execution.current_run import CurrentRun
from durably.execution.step_log import current_deadline, current_item, current_step


def remaining_s(run: CurrentRun, clock: Clock) -> float | None:
    """Return the seconds until the nearest deadline of the calling thread, never below 0."""
    ends_s = _nearest(run.deadline_s, current_deadline.get())
    return None if ends_s is None else max(0.0, ends_s - clock.monotonic())


def limited(seconds: float, run: CurrentRun, clock: Clock) -> float:
    """Return *seconds*, or those that are left if they are fewer."""
    left_s = remaining_s(run, clock)
    return seconds if left_s is None else min(seconds, left_s)


def check_deadline(run: CurrentRun, clock: Clock) -> None:
    """Raise if the time of the run is over, or that of what the calling thread executes.

    Raises:
        StepTimeoutError: it is.
    """
    now_s = clock.monotonic()
    if run.deadline_s is not None and run.deadline_s <= now_s:
        run.raise_timeout()
    ends_s = current_deadline.get()
    if ends_s is not None and ends_s <= now_s:
        item, step = current_item.get(), current_step.get()
        of_item = "" if item is None else f"item {item!r:.80} of "
        raise StepTimeoutError(
            f"the time of {of_item}step {step!r:.80} is over; give it a longer timeout, or "
            f"{'less to do' if item is None else 'smaller items'}"
        )


@contextmanager
def time_limited(timeout_s: float | None, clock: Clock) -> Iterator[None]:
    """Limit the time of what the block executes, within that of what is around it."""
    if timeout_s is None:
        yield
        return
    ends_s = _nearest(clock.monotonic() + timeout_s, current_deadline.get())
    token = current_deadline.set(ends_s)
    try:
        yield
    finally:
        current_deadline.reset(token)


@contextmanager
def uncounted(run: CurrentRun, clock: Clock) -> Iterator[None]:
    """Postpone the deadline of the run by the time of the block, which only waits.

    A wait that leaves its thread takes no time of an execution, so one that keeps it takes none
    either.
    """
    if run.deadline_s is None or run.job_thread != get_ident():
        yield
        return
    began_s = clock.monotonic()
    run.is_paused = True
    try:
        yield
    finally:
        run.deadline_s += clock.monotonic() - began_s
        run.is_paused = False


def _nearest(one_s: float | None, other_s: float | None) -> float | None:
    if one_s is None or other_s is None:
        return one_s if other_s is None else other_s
    return min(one_s, other_s)
