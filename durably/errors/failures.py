"""The errors of runs and items that have failed, and what they print where nothing handles them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from durably._platform.commands import file_option, quoted
from durably._platform.log_lines import is_printed_by_python
from durably._platform.safe_repr import on_one_line
from durably._platform.tracebacks import first_of_each_kind, frames_in, is_of_several
from durably._platform.unhandled import debug_from, rendered_line
from durably.errors.base import DurablyError

if TYPE_CHECKING:
    from durably.models import Run, RunList

_LONGEST_ERROR: Final = 1000
# How many kinds of failures are shown with their frames where nothing handles the error of many.
_MOST_DETAILED: Final = 3


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
        if run.kind == "job":
            advice = [*advice, *_commands(run)]
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


def _commands(run: Run[Any, Any]) -> list[str]:
    """Return what continues a failed run in a shell."""
    engine = getattr(run, "_engine", None)
    file = "" if engine is None else file_option(engine.path)
    commands = [("Or put it back to pending:", f"durably retry {run.id[-8:]}{file}")]
    first = None if run.error is None else run.error._first_step  # noqa: SLF001 - of this package
    if first is not None:
        when = "If an earlier step read the bad input and it was fixed since:"
        commands.append((when, f"durably redo {run.id[-8:]} --from {quoted(first)}{file}"))
    width = max(len(when) for when, _ in commands)
    return [f"{when:{width}}    {command}" for when, command in commands]


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
    def runs(self) -> RunList[Any, Any]:
        """Return the failed runs, the newest first, in a list that a notebook shows as a table.

        .. versionadded:: 0.2.0
        """
        found = [each.run for each in self.exceptions if isinstance(each, RunFailedError)]
        if not found:
            return found  # type: ignore[return-value]  # of a group that was made by hand
        return found[0]._listed(found)  # noqa: SLF001 - of this package

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
