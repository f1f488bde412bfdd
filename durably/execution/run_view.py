"""How far a run is that is executed here, read from what its execution counts anyway."""

from __future__ import annotations

import math

from durably._platform.clock import moment
from durably.execution.current_run import CurrentRun
from durably.execution.live import RunView


def as_float(value: float) -> float:
    """Return a number that a job reports; an int that is too large for a float is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def said_of_wait(waits_for: str, name: str | None, until_us: int | None) -> str:
    """Return what a run waits for, as ``waits until 12:05`` or ``asks: approve``."""
    until = "" if until_us is None else f" until {moment(until_us)}"
    if waits_for == "answer":
        return f"asks: {name}{until}"
    return "waits for a run" if waits_for == "run" else f"waits{until}"


def view_of(run: CurrentRun, *, status: str = "running", is_map: bool = False) -> RunView:
    """Return how far a run is that is executed here, without a query.

    Args:
        is_map: whether the run is one map, whose numbers are shown after its end too.
    """
    counts = run.count_steps()
    names = tuple(run.turns)
    loops = tuple(run.loops)
    loop = None if not loops else loops[-1]()
    if loop is None and is_map:
        loop = run.last_loop
    # In a thread of its own: a run that has left its thread is not executed here.
    wait = run.wait
    waits = None if wait is None else said_of_wait(wait.waits_for, wait.name, wait.until_us)
    seen = RunView(
        run.id,
        run.job_name,
        run.row.idempotency_key,
        status,
        run.began_at,
        step=names[-1] if names and not is_map else None,
        message=waits,
    )
    steps = counts.executed + counts.replayed
    if run.has_own_progress and run.progress is not None:
        current, total, message = run.progress
        current, total = as_float(current), None if total is None else as_float(total)
        # A job that counts its steps: those from checkpoints are known exactly.
        is_steps = abs(current - steps) <= 1 and steps > 0
        reused = counts.replayed if is_steps else run.reused_progress
        return seen._replace(
            done=current,
            reused=min(reused, current),
            total=total,
            unit="steps" if is_steps else "",
            message=waits or message,
            limited_s=0.0 if loop is None else loop.limited_s,
            workers=1 if loop is None else loop.workers,
        )
    if loop is not None:
        return seen._replace(
            done=loop.done,
            reused=loop.reused,
            total=loop.total,
            failed=loop.failed,
            unit="items",
            workers=loop.workers,
            limited_s=loop.limited_s,
        )
    return seen._replace(done=steps, reused=counts.replayed)
