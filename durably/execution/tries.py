"""What becomes of a run that has failed: it is tried again, or that was its last try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durably._platform.clock import Clock
from durably.errors import RetryAfter
from durably.execution.current_run import CurrentRun
from durably.jobs import Job
from durably.store.bounds import TIME
from durably.store.outcome import Failed, TriedAgain

if TYPE_CHECKING:
    from durably.models import ErrorInfo
    from durably.settings.retries import Retry


def retry_of(run: CurrentRun, job: Job[Any, Any]) -> Retry | None:
    """Return how the run is tried again: as its trigger has said, else as its job."""
    stored = run.row.retry
    if stored is None:
        return job.retry
    from durably.settings.retries import loaded_retry  # noqa: PLC0415 - where first needed

    return loaded_retry(stored)


def timeout_of(run: CurrentRun, job: Job[Any, Any]) -> float | None:
    """Return how many seconds one execution of the run may take."""
    stored_us = run.row.timeout_us
    return job.timeout if stored_us is None else stored_us / 1e6


def after_failure(
    run: CurrentRun, retry: Retry | None, clock: Clock, exc: BaseException, end: Failed
) -> Failed | TriedAgain:
    """Return how an execution that *exc* has failed leaves its run.

    Args:
        end: how, if it is not tried again.

    Raises:
        Exception: a function of the user's that decides has raised it.
    """
    if isinstance(exc, RetryAfter):
        from durably.execution.pacing import seconds_until  # noqa: PLC0415 - where first needed

        return _again(clock, seconds_until(exc, clock), end.error, end.step, is_failure=False)
    if retry is None or not isinstance(exc, Exception):
        return end
    from durably.settings.retries import next_wait_s  # noqa: PLC0415 - where first needed

    wait_s = next_wait_s(retry, exc, run.row.failures + 1)
    if wait_s is None:
        return end
    return _again(clock, wait_s, end.error, end.step, is_inside=end.is_inside)


def _again(
    clock: Clock, wait_s: float, error: ErrorInfo, step: str | None, **how: bool
) -> TriedAgain:
    # Within the bounds of a datetime.
    run_at_us = min(clock.now_us() + int(wait_s * 1e6), TIME.most) if wait_s else None
    return TriedAgain(error, step, wait_s, run_at_us, **how)
