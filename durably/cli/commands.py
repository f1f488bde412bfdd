"""The table of the verbs, each imported when it is needed, and what happens to their errors."""

from __future__ import annotations

import functools
import importlib
import io
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from durably._platform.displayable import escaped
from durably.cli.logged import print_warnings
from durably.cli.shell import FAILED, LATER, UNUSABLE, Shell, Unknown, is_database
from durably.errors import (
    DurablyError,
    DurablyWarning,
    NotFoundError,
    SchemaError,
    ValidationError,
    WaitTimeoutError,
)

# The verbs, in the order of the help, and the module and the name of each.
VERBS: Final = {
    "ls": "listing:ls",
    "show": "showing:show",
    "steps": "parts:steps",
    "items": "parts:items",
    "logs": "parts:logs",
    "attempts": "parts:attempts",
    "plan": "planning:plan",
    "watch": "watching:watch",
    "run": "running:run",
    "work": "running:work",
    "questions": "answering:questions",
    "answer": "answering:answer",
    "retry": "changing:retry",
    "redo": "by_hand:redo",
    "fork": "by_hand:fork",
    "set": "by_hand:set_result",
    "cancel": "changing:cancel",
    "rm": "changing:rm",
    "purge": "changing:purge",
    "export": "exporting:export",
    "du": "care:du",
    "check": "care:check",
    "doctor": "care:doctor",
    "backup": "care:backup",
    "vacuum": "care:vacuum",
}

# Nobody reads the output any more: as if SIGPIPE had ended the process.
_PIPE: Final = 141
_INTERRUPTED: Final = 130

# Usage, and no such file or run.
_UNUSABLE: Final = (ValidationError, SchemaError, NotFoundError)


# The first character keeps click from filling lines.
_EPILOG: Final = """\b
After a failure:
  durably ls --status failed --since yesterday    which runs have failed
  durably show RUN                                in which step, and why
  durably retry RUN                               put it back, once the cause is fixed
  durably redo RUN --from STEP                    execute STEP and what follows again
  durably work FILE.py --until-idle               go on with it, if no program does so

\b
To free disk space:
  durably du                                      what takes it
  durably purge --older-than 30d --dry-run        what would be deleted
  durably purge --older-than 30d                  delete it
  durably vacuum                                  give free pages back

Exit status: 0 if all is done, or there is nothing to do; 1 if a run has failed, a check has found
something, or a run is in a state in which that cannot be done; 2 if the command cannot be
understood, or there is no such file or run; 75 if a run was skipped because it is executed
elsewhere, or work is left that waits; 130 and 143 after Ctrl-C and SIGTERM.
"""


class Verbs(click.Group):
    """The group of the verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of click
        """Return the names of the verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Return a verb, whose module is imported now; ``None`` if there is none of that name."""
        place = VERBS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"durably.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that the first argument names; raise with the nearest one for a typo."""
        if args[0] not in VERBS:
            from difflib import get_close_matches  # noqa: PLC0415 - where first needed

            near = get_close_matches(args[0], VERBS, n=1)
            if near:
                raise click.UsageError(
                    f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx
                )
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before a verb, which has those that are missing here."""
        if args[:1] in ([], ["help"]):
            args = [*args[1:], "--help"]
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption as exc:
            place = next((place for place, each in enumerate(args) if each in VERBS), len(args))
            verb, *after = args[place:] or ["ls"]
            command = self.get_command(ctx, verb)
            if command is None or all(exc.option_name not in each.opts for each in command.params):
                raise
            right = shlex.join(["durably", verb, *args[:place], *after])
            raise Unknown(f"options stand behind the verb: write {right}") from exc

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Execute a command line, and exit with its status; an error is one sentence on stderr."""
        extra |= {"prog_name": "durably", "standalone_mode": False}
        shell = extra["obj"] = Shell()
        warnings.showwarning = functools.partial(_show_warning, shell)
        print_warnings(shell)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # of a terminal that is not UTF-8
        try:
            status = super().main(args, **extra)
            sys.stdout.flush()  # while a reader that has gone can still be noticed
        except BrokenPipeError:
            # Python would write what is left at its end, and fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = _PIPE
        except (KeyboardInterrupt, click.Abort):
            status = _INTERRUPTED
        except (click.ClickException, DurablyError) as exc:
            if shell.shows_traceback:
                traceback.print_exception(exc)
            status = _status_of(exc)
            for line in _said(shell, exc, sys.argv[1:] if args is None else args):
                sys.stderr.write(f"{line}\n")
        sys.exit(status if isinstance(status, int) else 0)


def _status_of(exc: Exception) -> int:
    if isinstance(exc, click.ClickException):
        return exc.exit_code
    if isinstance(exc, WaitTimeoutError):
        return LATER
    return UNUSABLE if isinstance(exc, _UNUSABLE) else FAILED


def _said(shell: Shell, exc: Exception, args: Sequence[str]) -> list[str]:
    """Return the lines for an error: a sentence, which may be followed by a list.

    Args:
        args: the command line.
    """
    if not isinstance(exc, click.ClickException):
        return [f"durably: {escaped(shell.said(str(exc)))}"]
    first, *more = exc.format_message().splitlines() or [""]
    context = getattr(exc, "ctx", None)
    # For what click itself has found wrong.
    advice = "" if type(exc).__module__.startswith("durably") or context is None else _help(context)
    file = next((each for each in args if is_database(each)), None)
    if advice and file is not None and "--db" not in args:
        advice = f"; a database is named by --db {shlex.quote(file)}, behind the verb"
    sentence = escaped(f"{first[:1].lower()}{first[1:]}".removesuffix("."))
    return [f"durably: {sentence}{advice}", *map(escaped, more)]


def _help(context: click.Context) -> str:
    return f" ({context.command_path} --help says more)"


def _show_warning(
    shell: Shell, message: Warning | str, category: type[Warning], *place: Any, **options: Any
) -> None:
    """Show a warning of durably's as one sentence, and any other one as Python does."""
    if issubclass(category, DurablyWarning):
        sys.stderr.write(f"durably: {escaped(shell.said(str(message)))}\n")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2], **options))


@click.group(
    name="durably",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="durably", message="durably %(version)s")
def durably() -> None:
    """See and handle the runs that durably keeps in a file.

    The file is the one of the option --db of each command, as in "durably ls --db crawl.db", else
    the one that the environment variable DURABLY_DB names, else durably.db in this folder. RUN is
    the key of a run, its id, or the last characters of its id, as "durably ls" shows them.
    """
