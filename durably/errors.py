"""Every exception that durably raises on purpose.

::

    DurablyError(Exception)
    ├── ValidationError(…, ValueError)      bad spec, option, payload, label, key
    ├── SerializationError(…, TypeError)    a value that has no faithful stored form
    ├── NotFoundError(…, LookupError)
    ├── ConflictError                       not possible in the run's present state
    ├── RunFailedError / RunCancelledError  from wait; carry .run
    ├── RunsFailedError(…, ExceptionGroup)  runs that have failed unseen; carries .runs
    ├── WaitTimeoutError(…, TimeoutError)
    ├── NoWorkerError
    ├── DuplicateStepError                  a step name used twice in one execution
    ├── StepTimeoutError(…, TimeoutError)   a deadline has passed
    ├── ItemsFailedError(…, ExceptionGroup) items of a map have failed
    ├── SchemaError                         not ours, newer than this library, or changed
    ├── DatabaseError                       locked for too long, full, unreadable, corrupt
    │   └── DatabaseLostError               moved, deleted, replaced or overwritten while open
    ├── EngineClosedError
    └── ForkedError
    StopRun(BaseException)                  control flow inside a job
    ├── RunCancelled · RunInterrupted · OwnershipLost
    DurablyWarning(UserWarning)
    └── DuplicateStepWarning · PayloadChangedWarning · ItemsChangedWarning
    RetryAfter(Exception)                   raised by users: not a failure
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from durably._platform.log_lines import is_printed_by_python
from durably._platform.safe_repr import on_one_line
from durably._platform.tracebacks import first_of_each_kind, frames_in, is_of_several
from durably._platform.unhandled import debug_from, install_hooks, rendered, rendered_line

if TYPE_CHECKING:
    from durably.models import Run


class DurablyError(Exception):
    """The base of every error that durably raises to its callers.

    Where nothing handles it, what is printed shows the frames of your code and none of durably's.

    .. versionadded:: 0.1.0
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        install_hooks()

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows."""
        return rendered(self)


class ValidationError(DurablyError, ValueError):
    """An argument is not acceptable; nothing was stored.

    Raised for a bad job spec, engine option, payload, label, key or name. The
    message names the place (``$.rows[3].email`` inside a payload) and says what
    was expected there.

    .. versionadded:: 0.1.0
    """


class SerializationError(DurablyError, TypeError):
    """A value has no stored form from which it could be read back unchanged.

    The message says which value it is and what to annotate so that it has one.

    .. versionadded:: 0.1.0
    """


class NotFoundError(DurablyError, LookupError):
    """There is no run with that id, or no registered job with that name.

    .. versionadded:: 0.1.0
    """


class ConflictError(DurablyError):
    """The call is not possible in the present state of the run, the job or the engine.

    .. versionadded:: 0.1.0
    """


class RunFailedError(DurablyError):
    """The run that was waited for has failed.

    ``str()`` is one line: the job, the step, how many steps are completed, and the error. A note
    (PEP 678) shows the frames of your code in which the job failed, and says how to continue.
    IPython and Jupyter show the line and the note alone. If the run was executed in this process
    meanwhile, ``__cause__`` is the job's own exception, in whose frames ``%debug`` begins.

    Attributes:
        run: the failed run, with its ``error``.

    .. versionadded:: 0.1.0
    """

    def __init__(self, run: Run[Any, Any], again: str | None = None) -> None:
        """Make the error of a run.

        Args:
            again: what continues the run, as part of a sentence; by default ``retry``.
        """
        super().__init__(run)
        self.run = run
        self.add_note("\n".join([*_frames(run), next_move(run, again)]))

    def __str__(self) -> str:
        run = self.run
        error = on_one_line(str(run.error), _LONGEST_ERROR)
        return f"{on_one_line(run.job_name)} {place_of_failure(run)}: {error}"

    def _report(self) -> str:
        """Return what is printed where nothing handles the error."""
        run, error = self.run, self.run.error
        key = "" if run.idempotency_key is None else f" {run.idempotency_key}"
        lines = [on_one_line(f"{run.job_name}{key} {place_of_failure(run)} (run …{run.id[-8:]}):")]
        frames, advice = self._parts_of_note()
        lines += frames
        if error is not None and not is_of_several(error.traceback):
            lines += [str(error), *error.notes]
        return "\n".join([*lines, *advice, ""])

    def _render_traceback_(self) -> list[str]:
        if self.__cause__ is not None:
            debug_from(self, self.__cause__)
        frames, advice = self._parts_of_note()
        lines = [rendered_line("RunFailedError", str(self)), "", *frames, ""]
        return [*(lines if frames else lines[:-1]), *advice]

    def _parts_of_note(self) -> tuple[list[str], list[str]]:
        """Return the frames, and the lines that follow them: the next move, and other notes."""
        frames = _frames(self.run)
        notes = [line for note in self.__notes__ for line in str(note).splitlines()]
        return frames, notes[len(frames) :]


_LONGEST_ERROR: Final = 1000
# How many kinds of failures are shown with their frames where nothing handles the error of many.
_MOST_DETAILED: Final = 3


def place_of_failure(run: Run[Any, Any]) -> str:
    """Return in which step a run has failed and how many are completed, as a part of a sentence."""
    step = None if run.error is None else run.error._failed_step  # noqa: SLF001 - of this package
    where = "" if step is None else f" in step {step!r}"
    count = run.completed_steps
    return f"failed{where} after {count} completed step{'' if count == 1 else 's'}"


def _frames(run: Run[Any, Any]) -> list[str]:
    return [] if run.error is None else frames_in(run.error.traceback)


def next_move(run: Run[Any, Any], again: str | None) -> str:
    """Return how to continue a failed run.

    Args:
        again: what continues it, as part of a sentence; by default ``retry``.
    """
    if again is None and run.kind == "session":
        again = "open the session again"
    elif again is None:
        again = f"start it again with retry({run.id!r})"
    step = None if run.error is None else run.error._failed_step  # noqa: SLF001 - of this package
    kept = "Completed steps are kept. " if run.completed_steps else ""
    there = "" if step is None else f": it continues at {step!r}"
    return f"{kept}Fix the cause and {again}{there}."


class RunsFailedError(DurablyError, ExceptionGroup[RunFailedError]):
    """Runs have failed, and no call has returned them.

    A failed run was *seen* if a call of this process has returned it, or raised an error with it
    (``wait``, ``as_completed``, ``trigger_and_wait``, ``get_run``, ``get_runs``, ``subscribe``), or
    if a listener of ``run:fail`` has returned. ``count_runs`` and ``get_steps`` do not count. The
    runs of this error count as seen.

    ``str()`` is one line: how many runs have failed, of which jobs, from what, and the next move.
    It is an ``ExceptionGroup`` of ``RunFailedError``, one for each run. Where nothing handles it,
    that line is printed, and the script's exit status is 1. The frames of the failures are in the
    lines of the log; if logging is configured or silenced, those of some are printed too.

    Attributes:
        runs: the failed runs, the newest first, 1000 at most; the message counts the others.

    .. versionadded:: 0.2.0
    """

    def derive(self, excs: Sequence[RunFailedError], /) -> Self:  # type: ignore[override]  # as in its documentation
        """Return a group of *excs* with the same message, for ``except*`` and ``split``.

        .. versionadded:: 0.2.0
        """
        return type(self)(self.message, excs)

    @property
    def runs(self) -> list[Run[Any, Any]]:
        """The failed runs, the newest first.

        .. versionadded:: 0.2.0
        """
        return [each.run for each in self.exceptions if isinstance(each, RunFailedError)]

    def __str__(self) -> str:
        return self.message

    def _report(self) -> str:
        """Return what is printed where nothing handles the error."""
        return "\n".join([str(self), *self._details(), ""])

    def _render_traceback_(self) -> list[str]:
        return [rendered_line("RunsFailedError", str(self)), *self._details()]

    def _details(self) -> list[str]:
        """Return lines that show the newest failure of each kind.

        There are none if Python has printed the lines of the log, which have the frames of each
        failure, where this is printed.
        """
        if is_printed_by_python(logging.getLogger("durably"), logging.ERROR):
            return []
        newest: dict[tuple[str, str], RunFailedError] = {}
        for each in self.exceptions:
            if isinstance(each, RunFailedError):
                error = each.run.error
                newest.setdefault((each.run.job_name, "" if error is None else error.type), each)
        shown = list(newest.values())[:_MOST_DETAILED]
        reports = [each._report() for each in shown]  # noqa: SLF001 - of this module
        return [line for report in reports for line in ("", *report.splitlines())]


class RunCancelledError(DurablyError):
    """The run that was waited for was cancelled.

    Attributes:
        run: the cancelled run.

    .. versionadded:: 0.1.0
    """

    def __init__(self, run: Run[Any, Any]) -> None:
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        return (
            f"run {self.run.id} of job {self.run.job_name!r} was cancelled. "
            f"Its checkpoints are kept: retry({self.run.id!r}) continues from them."
        )


class WaitTimeoutError(DurablyError, TimeoutError):
    """The timeout has expired; what was waited for continues.

    .. versionadded:: 0.1.0
    """


class NoWorkerError(DurablyError):
    """No started engine could execute the run that is waited for.

    The run stays stored and pending.

    .. versionadded:: 0.1.0
    """


class DuplicateStepError(DurablyError):
    """A step name whose step has completed was used again in the same execution of a run.

    Raised at the second use, before its function is called. Returning the first result silently
    would be wrong if the two uses do different work. Put what distinguishes the steps into the
    name, such as ``f"batch-{i}"``; or set ``on_duplicate_step="reuse"``, which returns the first
    one's result.

    .. versionadded:: 0.2.0
    """


class StepTimeoutError(DurablyError, TimeoutError):
    """The deadline of a step or of an item of a map has passed.

    .. versionadded:: 0.2.0
    """


class WorkerDiedError(DurablyError):
    """The process that executed an item of a map has ended: a signal, or the system's memory.

    Attributes:
        exitcode: of the process; the number of the signal, negative; ``None`` if unknown.

    .. versionadded:: 0.2.0
    """

    def __init__(self, message: str, exitcode: int | None = None) -> None:
        super().__init__(message, exitcode)
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class ExecutorBrokenError(DurablyError):
    """The executor that was passed to a map cannot execute anything any more.

    The items that it had begun count as missing, not as failed: the next start executes them.

    .. versionadded:: 0.2.0
    """


class ItemsFailedError(DurablyError, ExceptionGroup[Exception]):
    """Items of a map have failed; the results of all others are stored.

    ``str()`` is one line: how many items have failed, with which exceptions, and the keys of some.
    It is an ``ExceptionGroup`` of what the items' function has raised, 1000 at most, each with a
    note that names its item. The records of all of them are in ``Durably.get_items()``. Where
    nothing handles it, what is printed is that line, the first failure of each kind, and the next
    move.

    .. versionadded:: 0.2.0
    """

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]  # as in its documentation
        """Return a group of *excs* with the same message, for ``except*`` and ``split``.

        .. versionadded:: 0.2.0
        """
        return type(self)(self.message, excs)

    def __str__(self) -> str:
        return self.message

    def _report(self) -> str:
        """Return what is printed where nothing handles the error."""
        return "\n".join([f"ItemsFailedError: {self}", *self._details(), ""])

    def _render_traceback_(self) -> list[str]:
        if self.exceptions:
            debug_from(self, self.exceptions[0])
        return [rendered_line("ItemsFailedError", str(self)), "", *self._details()]

    def _details(self) -> list[str]:
        """Return lines that show the first failure of each kind, and the next move."""
        notes = [line for note in _notes(self) for line in str(note).splitlines()]
        return [*first_of_each_kind(self.exceptions, _MOST_DETAILED), *notes]


def _notes(exc: BaseException) -> Sequence[object]:
    return getattr(exc, "__notes__", ())


class SchemaError(DurablyError):
    """The file is not a durably database, or a newer durably wrote it, or its schema was changed.

    The file is left as it was.

    .. versionadded:: 0.1.0
    """


class DatabaseError(DurablyError):
    """The database cannot be used now: it is locked for too long, full, unreadable or corrupt.

    What was committed before stays. The cause is in ``__cause__``.

    Attributes:
        is_transient: whether the same call may succeed later without a repair of the
            file (the lock is released, there is room again).
        is_of_row: whether only one run, step or log line cannot be read.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self, message: str, *, is_transient: bool = False, is_of_row: bool = False
    ) -> None:
        super().__init__(message)
        self.is_transient = is_transient
        self.is_of_row = is_of_row


class DatabaseLostError(DatabaseError):
    """The database file was moved, deleted, replaced or overwritten while it was open.

    .. versionadded:: 0.1.0
    """


class EngineClosedError(DurablyError):
    """The engine was closed, or replaced by one that was opened later; use a new one.

    .. versionadded:: 0.1.0
    """


class ForkedError(DurablyError):
    """The engine belongs to the parent process; open a new one in the child.

    .. versionadded:: 0.1.0
    """


class StopRun(BaseException):
    """Control flow that ends the execution of a run at a step boundary.

    It is a ``BaseException``, so that ``except Exception`` in a job does not swallow it.
    It is never raised to callers of the engine.

    .. versionadded:: 0.1.0
    """


class RunCancelled(StopRun):
    """The run was cancelled.

    .. versionadded:: 0.1.0
    """


class RunInterrupted(StopRun):
    """The engine is stopping; the run goes back to pending.

    .. versionadded:: 0.1.0
    """


class OwnershipLost(StopRun):
    """Another owner has recovered the run, or nobody owns it any more.

    .. versionadded:: 0.1.0
    """


class DurablyWarning(UserWarning):
    """The base of durably's own warning classes.

    .. versionadded:: 0.2.0
    """


class DuplicateStepWarning(DurablyWarning):
    """A step name was used twice in one execution of a run, and ``on_duplicate_step="reuse"``.

    The second use returns the result of the first one.

    .. versionadded:: 0.1.0
    """


class PayloadChangedWarning(DurablyWarning):
    """A run that has the key was started with another payload.

    The message names the paths that differ, such as ``$.pages``, and never a value.

    .. versionadded:: 0.2.0
    """


class ItemsChangedWarning(DurablyWarning):
    """Other items than before are at positions of a map that have results.

    Their results are used. Pass ``key=`` to tell the items apart by what they are.

    .. versionadded:: 0.2.0
    """


class RetryAfter(Exception):
    """Raise this in an item's or a step's function to have it called again later.

    It is neither a failure nor an attempt, such as where a service says that its quota is used up.
    No item of the same map begins before then.

    Args:
        when: seconds, a ``timedelta``, or an aware ``datetime``.
        message: for people.

    Raises:
        ValidationError: *when* is none of these.

    .. versionadded:: 0.2.0
    """

    def __init__(self, when: float | timedelta | datetime, message: str = "") -> None:
        super().__init__(when, message)
        is_number = isinstance(when, int | float) and not isinstance(when, bool)
        is_instant = isinstance(when, datetime) and when.tzinfo is not None
        if not (is_instant or isinstance(when, timedelta) or (is_number and when == when)):  # noqa: PLR0124 - a NaN is not
            raise ValidationError(
                "RetryAfter needs seconds, a timedelta or a datetime with a time zone, "
                f"not {type(when).__qualname__}"
            )
        self.when = when
        self.message = message

    def __str__(self) -> str:
        return self.message or f"to be called again after {self.when}"
