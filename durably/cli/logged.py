"""Lines of the log on standard error, for people at a shell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Final

from durably._platform.displayable import displayable, escaped
from durably._platform.tracebacks import frames_in
from durably.cli.shell import SHOWN_ID, Shell, name_of, short_id
from durably.client.arguments import AnyRun
from durably.errors.failures import place_of_failure

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_LONGEST_ERROR: Final = 1000


def log_to_stderr(shell: Shell) -> None:
    """Print the lines of the log that were asked for by ``-v``, and else only warnings.

    A program that is imported may configure logging itself, unless there is ``-v``.
    """
    if shell.verbosity:
        level = logging.INFO if shell.verbosity == 1 else logging.DEBUG
        logging.basicConfig(level=level, handlers=[_handler(shell, _FORMAT)])


def print_warnings(shell: Shell) -> None:
    """Make Python print the warnings and errors of a log that is not configured in this form."""
    logging.lastResort = _handler(shell, "%(message)s", logging.WARNING)


def said_of_failure(shell: Shell, run: AnyRun) -> str:
    """Return what is printed of a run that has failed, with the next commands."""
    error = displayable(str(run.error), _LONGEST_ERROR)
    lines = [f"{name_of(run)} {displayable(place_of_failure(run))}: {error}"]
    if shell.shows_traceback and run.error is not None:
        lines += map(escaped, frames_in(run.error.traceback))
    return "\n".join([*lines, *_next(shell, short_id(run)), ""])


def _next(shell: Shell, name: str) -> Iterator[str]:
    show, retry = shell.again(f"show {name}"), shell.again(f"retry {name}")
    width = max(len(show), len(retry))
    yield f"  {show:<{width}}  where and why"
    yield f"  {retry:<{width}}  go on with it, once the cause is fixed"


def _handler(shell: Shell, form: str, level: int = logging.NOTSET) -> logging.Handler:
    handler = _ToStderr(level)
    handler.setFormatter(_Formatter(shell, form))
    return handler


class _ToStderr(logging.Handler):
    """Print to the standard error output of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as of Python's own handlers
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Format lines: no traceback unless it was asked for, and commands for advice."""

    def __init__(self, shell: Shell, form: str) -> None:
        super().__init__(form)
        self._shell = shell

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a line."""
        if record.name.partition(".")[0] != "durably":
            return super().format(record)
        shown = logging.makeLogRecord(vars(record))
        if not self._shell.shows_traceback:
            shown.exc_info = shown.exc_text = shown.stack_info = None
        text = record.getMessage()
        advice = f". {vars(record).get('advice')}"
        # A job may give any attribute to a line of its own.
        if record.name != "durably" or not text.endswith(advice):
            shown.msg, shown.args = self._shell.said(text), ()
            return super().format(shown)
        shown.msg, shown.args = text.removesuffix(advice), ()
        name = vars(record)["run_id"][-SHOWN_ID:]
        return "\n".join([super().format(shown), *_next(self._shell, name)])
