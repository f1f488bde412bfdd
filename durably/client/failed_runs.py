"""The error of the runs that have failed unseen."""

from __future__ import annotations

from typing import Any, Final

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.safe_repr import on_one_line
from durably.client.query import Reader
from durably.errors import DatabaseError, RunFailedError, RunsFailedError
from durably.execution.unseen_failures import UnseenFailures
from durably.models import Run, RunStatus, short_name

# How long, at most, a thread that has begun to wait for a failed run may take to return it.
_GRACE_S: Final = 1.0
_POLL_S: Final = 0.005

# How many kinds of failures the message names, and how many runs of each.
_MOST_KINDS: Final = 5
_MOST_NAMED: Final = 3
_LONGEST_MESSAGE: Final = 120


class FailedRuns:
    """Read the runs of this engine that have failed unseen. Usable from any thread."""

    def __init__(self, unseen_failures: UnseenFailures, reader: Reader, clock: Clock) -> None:
        self._unseen_failures = unseen_failures
        self._reader = reader
        self._clock = clock

    def error(self) -> RunsFailedError | None:
        """Return an error with all of them, which then count as seen; ``None`` if there are none.

        A run that was retried or deleted since is not one of them.

        Raises:
            DatabaseError: they cannot be read; they stay unseen.
        """
        self._await_callers()
        unseen = self._unseen_failures.unseen()
        found = [self._failed(run_id, attempt) for run_id, attempt in unseen.attempts.items()]
        runs = [run for run in found if run is not None]
        for run_id, attempt in unseen.attempts.items():
            self._unseen_failures.see(run_id, attempt)
        if not runs:
            return None
        return RunsFailedError(_message(runs, unseen.forgotten), [RunFailedError(r) for r in runs])

    def _await_callers(self) -> None:
        """Wait a moment for other threads that wait for some of the runs, and will return them."""
        deadline = self._clock.monotonic() + _GRACE_S
        while self._unseen_failures.are_awaited() and self._clock.monotonic() < deadline:
            self._clock.wait(Latch(), _POLL_S)

    def _failed(self, run_id: str, attempt: int) -> Run[Any, Any] | None:
        try:
            run = self._reader.read(run_id)
        except DatabaseError as exc:
            if not exc.is_of_row:
                raise
            return None
        is_it = run is not None and (run.status, run.attempt) == (RunStatus.FAILED, attempt)
        return run if is_it else None


def _message(runs: list[Run[Any, Any]], more: int) -> str:
    kinds: dict[tuple[str, str], list[Run[Any, Any]]] = {}
    for run in runs:
        error = "" if run.error is None else run.error.type
        kinds.setdefault((run.job_name, error), []).append(run)
    by_count = sorted(kinds.values(), key=len, reverse=True)
    named = [_kind(each) for each in by_count[:_MOST_KINDS]]
    if len(by_count) > _MOST_KINDS:
        named.append(f"{len(by_count) - _MOST_KINDS} other kinds of failure")
    if more:
        named.append(f"{more} earlier ones, which .runs leaves out")
    total = len(runs) + more
    have, them = ("1 run has", "it") if total == 1 else (f"{total} runs have", "them")
    advice = f"retry({runs[0].id!r})" if total == 1 else "retry for each of .runs"
    return (
        f"{have} failed, and no call has returned {them}: {'; '.join(named)}. "
        f"Completed steps are kept: fix the cause, then call {advice}"
    )


def _kind(runs: list[Run[Any, Any]]) -> str:
    """Return what the runs of one job with one type of error are, the newest first."""
    newest = runs[0]
    error = on_one_line(str(newest.error), _LONGEST_MESSAGE)
    names = ", ".join(short_name(run.id, None, run.idempotency_key) for run in runs[:_MOST_NAMED])
    if len(runs) > _MOST_NAMED:
        names = f"{names} and {len(runs) - _MOST_NAMED} more"
    count = "" if len(runs) == 1 else f"{len(runs)} × "  # noqa: RUF001 - it means times
    return f"{count}{on_one_line(newest.job_name)}: {error} ({names})"
