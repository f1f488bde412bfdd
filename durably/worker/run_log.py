"""What the logger ``durably`` says of runs: started, resumed, how they ended, recovered.

Nothing is read or formatted for a line that no handler gets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from durably._platform.clock import Clock, moment
from durably._platform.fingerprints import fingerprint, is_other
from durably._platform.log_lines import pass_on
from durably._platform.safe_repr import on_one_line
from durably._platform.spans import span
from durably.errors import DatabaseError, OwnershipLost, RunCancelled, RunInterrupted
from durably.execution.current_run import CurrentRun
from durably.jobs import Job
from durably.models import ErrorInfo, RunStatus, short_name
from durably.store.outcome import Completed, Failed, Outcome, Suspended, TriedAgain
from durably.store.rows import RunRow

if TYPE_CHECKING:
    from durably.store.api import Store

logger = logging.getLogger("durably")

_LONGEST_ERROR: Final = 200
_LONGEST_NAME: Final = 80
_MOST_NAMED: Final = 5
_MINUTE_S: Final = 60


class RunLog:
    """Log what happens to the runs of one engine, a line each. Usable from any thread.

    Args:
        is_raised: returns whether a call is about to raise the failure of the run of that id.
    """

    def __init__(self, store: Store, clock: Clock, is_raised: Callable[[str], bool]) -> None:
        self._store = store
        self._clock = clock
        self._is_raised = is_raised

    def started(self, run: CurrentRun, job: Job[Any, Any] | None = None) -> None:
        """Log that a run starts, or continues; and whether the job's function has changed."""
        run.began_at = self._clock.monotonic()
        if not logger.isEnabledFor(logging.INFO):
            return
        # The first claim finds no steps; others read how many there are.
        stored = 0 if run.fence == 1 else self._stored_steps(run)
        if run.fence > 1:
            what = f"{_with_steps('resumed', stored)}, attempt {run.attempt}"
            if run.row.idempotency_key is None:
                # A call of ``run`` may have found it by its payload, and another one is meant.
                what = f"{what}, begun at {moment(run.row.created_at_us)}"
        else:
            what = "started"
        _say(logging.INFO, run.row, what)
        if job is not None and run.fence > 1:
            self._say_changed(run, job, stored)

    def _say_changed(self, run: CurrentRun, job: Job[Any, Any], stored: int) -> None:
        try:
            last = self._store.checkpoints.last_code(run.run_pk)
        except DatabaseError:
            return
        if last is not None and is_other(last[1], fingerprint(job.run)):
            keeps = stored and job.on_change != "redo"
            kept = f"; {_several(stored, 'completed ')} {_keep(stored)}" if keeps else ""
            _say(logging.INFO, run.row, f"its code has changed since attempt {last[0]}{kept}")

    def is_failure_said(self, run: CurrentRun) -> bool:
        """Return whether the line of a failure is left out, because an exception says the same.

        If logging is not configured, Python prints the line to the standard error output, where an
        exception that a call raises ends up too, if nothing handles it.
        """
        is_raised = run.row.kind == "session" or self._is_raised(run.id)
        return is_raised and not logger.hasHandlers()

    def ended(self, run: CurrentRun, outcome: Outcome, *, is_effective: bool) -> None:
        """Log how a run has ended, or left its job.

        Args:
            is_effective: whether the outcome was stored.
        """
        if is_effective and isinstance(outcome, Failed):
            self._failed(run, outcome)
        elif is_effective and isinstance(outcome, TriedAgain):
            self._is_tried_again(run, outcome)
        elif self._was_recovered(run, is_effective=is_effective):
            _say(
                logging.WARNING,
                run.row,
                "was recovered by another engine while its job was executed here, because this "
                "process gave no sign of life for too long; raise stale_threshold if it may be "
                "kept from working for longer",
            )
        elif logger.isEnabledFor(logging.INFO):
            if is_effective and isinstance(outcome, Completed):
                counts = run.count_steps()
                took = span(self._clock.monotonic() - run.began_at, brief_s=_MINUTE_S)
                steps = _several(counts.executed + counts.replayed)
                what = f"completed in {took}: {steps}, {counts.replayed} from checkpoints"
            elif is_effective and isinstance(outcome, Suspended):
                what = _with_steps(f"waits {_awaited(outcome)}", self._stored_steps(run))
            else:
                is_back = is_effective or run.stop_reason is RunInterrupted
                what = _with_steps(
                    "put back to pending" if is_back else "cancelled", self._stored_steps(run)
                )
            _say(logging.INFO, run.row, what)
            if is_effective and isinstance(outcome, Completed) and outcome.unused_steps:
                _say(logging.INFO, run.row, _with_unused(outcome.unused_steps))

    def _was_recovered(self, run: CurrentRun, *, is_effective: bool) -> bool:
        """Return whether the outcome was not stored because another engine has the run."""
        if is_effective or run.stop_reason in (RunCancelled, RunInterrupted):
            return False
        if run.stop_reason is OwnershipLost:
            return True
        # It was cancelled or recovered since the last step boundary.
        row = self._read(run)
        return row is not None and row.status != RunStatus.CANCELLED

    def _failed(self, run: CurrentRun, outcome: Failed) -> None:
        if not logger.isEnabledFor(logging.ERROR):
            return
        is_session = run.row.kind == "session"
        again = "open the session again" if is_session else f"call retry({run.id!r})"
        advice = f"Fix the cause, then {again}"
        _say(
            logging.ERROR,
            run.row,
            f"{self._said_of_failure(run, outcome)}. {advice}",
            traceback=outcome.error.traceback,
            advice=advice,
        )

    def _is_tried_again(self, run: CurrentRun, outcome: TriedAgain) -> None:
        at_us = outcome.run_at_us
        when = "at once" if at_us is None else f"at {moment(at_us)}"
        if not outcome.is_failure:
            reason = on_one_line(outcome.error.message, _LONGEST_ERROR)
            what = _with_steps(f"asks to go on {when} ({reason})", self._stored_steps(run))
            _say(logging.INFO, run.row, what)
        elif logger.isEnabledFor(logging.WARNING):
            _say(
                logging.WARNING,
                run.row,
                f"{self._said_of_failure(run, outcome)}. It is tried again {when}",
            )

    def _said_of_failure(self, run: CurrentRun, outcome: Failed | TriedAgain) -> str:
        where = "" if outcome.step is None else f" in step {on_one_line(outcome.step)!r}"
        error = on_one_line(str(outcome.error), _LONGEST_ERROR).removesuffix(".")
        steps = _several(self._stored_steps(run), "completed ")
        return f"failed{where} after {steps}: {error}"

    def _stored_steps(self, run: CurrentRun) -> int:
        """Return how many completed steps the run has."""
        counts = run.count_steps()
        if run.fence > 1:
            # Of an earlier claim there may be steps that the job has not come to, this time.
            row = self._read(run)
            if row is not None:
                return row.completed_steps
        return counts.executed + counts.replayed

    def _read(self, run: CurrentRun) -> RunRow | None:
        try:
            return self._store.find_run(run.id)
        except DatabaseError:
            return None


def say_recovered(rows: list[RunRow], reason: str, shown: Callable[[RunRow], bool]) -> None:
    """Log that runs were put back whose owner is dead, or hangs.

    Args:
        shown: whether a call goes on with a run at once, and shows a person that it does.
    """
    what = "has died" if reason == "dead" else "gives no sign of life"
    for row in rows:
        is_shown = shown(row)
        when = " when it is opened again" if row.kind == "session" and not is_shown else ""
        _say(
            logging.INFO if is_shown else logging.WARNING,
            row,
            _with_steps(
                f"recovered: the process that executed it {what}. It continues{when}",
                row.completed_steps,
            ),
        )


def say_given_up(row: RunRow, error: ErrorInfo) -> None:
    """Log that a run has failed because it kills its process."""
    if logger.isEnabledFor(logging.ERROR):
        what = on_one_line(error.message, 2 * _LONGEST_ERROR)
        _say(logging.ERROR, row, _with_steps(f"failed: {what}", row.completed_steps))


def _say(
    level: int,
    row: RunRow,
    what: str,
    *,
    traceback: str | None = None,
    advice: str | None = None,
) -> None:
    """Pass a line to the handlers of the logger; what they raise harms no run.

    Args:
        advice: the end of *what*, for handlers that have another one for their readers.
    """
    name = short_name(row.id, row.job_name, row.idempotency_key)
    extra = {"run_id": row.id} | ({} if advice is None else {"advice": advice})
    pass_on(logger, level, "%s %s", name, what, extra=extra, traceback=traceback)


def _with_steps(what: str, count: int) -> str:
    """Return what has become of a run, with how many of its steps are stored.

    None is not said to be: a map in progress is no completed step, and may have stored many items.
    """
    if not count:
        return what
    return f"{what}: {count} of its steps {'is' if count == 1 else 'are'} stored"


def _awaited(outcome: Suspended) -> str:
    until = "" if outcome.until_us is None else f" until {moment(outcome.until_us)}"
    what = {"time": "", "answer": f" for an answer to {outcome.name!r}", "run": " for a run"}
    return f"{what[outcome.waits_for]}{until}".lstrip()


def _with_unused(names: tuple[str, ...]) -> str:
    """Return that steps are stored and were not used."""
    named = ", ".join(repr(on_one_line(name, _LONGEST_NAME)) for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    which = "1 stored step was" if len(names) == 1 else f"{len(names):,} stored steps were"
    return f"{which} not used, as after a step was renamed or removed: {named}{more}"


def _keep(count: int) -> str:
    return "keeps its result" if count == 1 else "keep their results"


def _several(count: int, kind: str = "") -> str:
    return f"{count} {kind}step{'' if count == 1 else 's'}"
