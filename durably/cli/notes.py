"""What one line says of a run beside its status: how far it is, or why it has failed."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from durably.cli.times import lasted, moment, since
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.models import Progress, RunStatus, WaitingFor, duration_of

# Whole numbers up to here are exact as floats.
_MOST_EXACT: Final = 2**53


def took(client: ReadOnlyClient, run: AnyRun) -> str:
    """Return how long the last attempt at a run has taken; empty if it has not begun."""
    if run.started_at is None or (run.completed_at is None and run.status is not RunStatus.RUNNING):
        return ""
    started = run.started_at
    if run.attempt > 1:
        # One that waited was executed several times.
        times = [
            each.started_at for each in client.get_attempts(run) if each.attempt == run.attempt
        ]
        # A version before attempts were stored has left none.
        started = next((time for time in times if time is not None), started)
    if run.completed_at is None:
        return f"{lasted(since(started))} so far"
    return lasted(duration_of(started, run.completed_at))


def note_on(client: ReadOnlyClient, run: AnyRun) -> str:
    """Return the error of a failed run, how far another one is; empty if nothing is known."""
    if run.status is RunStatus.FAILED:
        return str(run.error)
    if run.status is RunStatus.COMPLETED:
        return ""
    if run.waiting_for is not None:
        return waits(run.waiting_for)
    if run.run_at is not None:
        return due(run.run_at, run)
    parts = [] if run.progress is None else [progress_of(run.progress)]
    if run.status is RunStatus.RUNNING:
        parts += [
            f"{each.name}: {items_of(each.done, each.total, each.failed)}"
            for each in client.open_maps(run)
        ]
    return ", ".join(parts)


def due(run_at: datetime, run: AnyRun) -> str:
    """Return when a pending run is due, as ``at 11-29 12:05``.

    If it was tried before, return ``again at 11-29 12:05 after OSError: no route``.
    """
    after = "" if run.error is None else f" after {run.error}"
    return f"{'again ' if run.attempt else ''}at {moment(run_at)}{after}"


def waits(wait: WaitingFor) -> str:
    """Return what a run waits for, as ``waits until 11-29 12:05`` or ``asks: approve``."""
    until = "" if wait.until is None else f" until {moment(wait.until)}"
    if wait.kind == "answer":
        return f"asks: {wait.name}{until}"
    if wait.kind == "run":
        return f"waits for run {wait.run_id}"
    return f"waits{until}"


def progress_of(progress: Progress) -> str:
    """Return a progress as ``30/61 reading``."""
    counted = _number(progress.current)
    if progress.total is not None:
        counted += f"/{_number(progress.total)}"
    return f"{counted} {progress.message}" if progress.message else counted


def _number(value: float) -> str:
    return f"{int(value):,}" if value == value // 1 and abs(value) < _MOST_EXACT else f"{value:g}"


def items_of(done: int, total: int | None, failed: int) -> str:
    """Return how many items of a map are done, as ``490/500, 10 failed``."""
    counted = f"{done:,}" if total is None else f"{done:,}/{total:,}"
    return f"{counted}, {failed:,} failed" if failed else counted
