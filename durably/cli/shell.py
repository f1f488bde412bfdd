"""What all verbs have in common: their options, the file, the run that is meant, the statuses."""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from durably._platform.commands import DEFAULT_PATH, PATH_VARIABLE
from durably._platform.displayable import displayable
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.entry.engine import Durably
from durably.entry.read_only import open_read_only
from durably.errors import DatabaseError, DurablyError

if TYPE_CHECKING:
    from durably.execution.live import Displays

F = TypeVar("F", bound=Callable[..., Any])

# The exit statuses; 0 is for what is done.
FAILED: Final = 1
UNUSABLE: Final = 2
LATER: Final = 75

# As many characters of an id are shown, and tell the runs of a file apart.
SHOWN_ID: Final = 8
_MOST_CANDIDATES: Final = 10
# What messages of the library advise, and how a command line says that.
_RETRY: Final = re.compile(rf"\bretry\('\w*(\w{{{SHOWN_ID}}})'\)")
_LITERAL: Final = r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+)"
_REDO: Final = re.compile(rf"\bapp\.redo\(run, (from_step|only)={_LITERAL}\)")
_SET_STEP: Final = re.compile(rf"\bapp\.set_step\(run, {_LITERAL}, value\)")
_SET_ITEM: Final = re.compile(rf"\bapp\.set_item\(run, {_LITERAL}, {_LITERAL}, value\)")
_OPTIONS: Final = {
    'if_running="wait" waits for that, "skip" returns at once': (
        "--if-running wait waits for that, --if-running skip ends at once"
    ),
    'on_payload_change="extend"': "--fresh",
    "name the folder with blobs=": "name the folder with --blobs FOLDER",
    "name another folder with blobs=": "name another one with --blobs FOLDER",
    "was left out; pass one:": "was left out; pass one as JSON, or with --set NAME=VALUE:",
    "call run() again": "start it again",
    "fresh=True to begin a new run, or key= to say": "--fresh to begin a new run, or --key to say",
}
# How many databases of a folder are named.
_MOST_NAMED: Final = 3
# How many of the newest runs a shell offers to complete a word.
_MOST_COMPLETED: Final = 200


@attrs.define(eq=False, repr=False)
class Shell:
    """The options that every verb has, and what they mean."""

    db: str | None = None
    named_folder: str | None = None
    is_quiet: bool = False
    verbosity: int = 0
    shows_traceback: bool = False

    @property
    def path(self) -> str:
        """Return the file as it is named by the option or the environment."""
        return self.db or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH

    @property
    def is_named(self) -> bool:
        """Return whether the option or the environment names the file."""
        return bool(self.db or os.environ.get(PATH_VARIABLE))

    @property
    def blobs(self) -> str | None:
        """Return the folder of large results, ``None`` for the one beside the file."""
        return self.named_folder or os.environ.get("DURABLY_BLOBS") or None

    def read_only(self, displays: Displays | None = None) -> ReadOnlyClient:
        """Open the file to read it while other processes execute its runs.

        Args:
            displays: displays what calls wait for; by default nothing is displayed.

        Raises:
            DurablyError: it cannot be read, or is missing.
        """
        with opening(is_named=self.is_named):
            return open_read_only(self.db, displays, self.blobs)

    def open(self) -> Durably:
        """Open an engine on the file that executes nothing, to change runs.

        Raises:
            DurablyError: it cannot be used, or is missing.
        """
        with opening(is_named=self.is_named):
            return Durably(self.db, blobs=self.blobs, create=False, replace=False)

    def say(self, text: str) -> None:
        """Print what was done, unless that is not wanted."""
        if not self.is_quiet:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print what only a person at a terminal wants to know."""
        if not self.is_quiet and sys.stderr.isatty():
            click.echo(text, err=True)

    def note_more(self, limit: int) -> None:
        """Print that there is more than *limit* of what was listed."""
        self.note(f"… and more: --limit {10 * limit}, or 0 for all")

    def said(self, text: str) -> str:
        """Return a message of the library's, with the calls that it advises as commands."""
        text = _RETRY.sub(lambda found: self.again(f"retry {found[1]}"), text)
        text = _REDO.sub(
            lambda found: self.again(f"redo RUN --{found[1][:4]} {_quoted(found[2])}"), text
        )
        text = _SET_STEP.sub(lambda found: self.again(f"set RUN {_quoted(found[1])} JSON"), text)
        text = _SET_ITEM.sub(
            lambda found: self.again(f"set RUN {_quoted(found[1], found[2])} JSON"), text
        )
        for call, option in _OPTIONS.items():
            text = text.replace(call, option)
        return text

    def again(self, command: str) -> str:
        """Return a command line on the same file, for a person to type."""
        named = {"--db": self.db, "--blobs": self.named_folder}
        options = (f" {name} {shlex.quote(value)}" for name, value in named.items() if value)
        return f"durably {command}{''.join(options)}"


def _quoted(literal: str, key: str | None = None) -> str:
    """Return the text of a literal of Python, and of the key of an item, as a shell reads it."""
    text = str(ast.literal_eval(literal))
    return shlex.quote(text if key is None else f"{text}[{ast.literal_eval(key)}]")


class Unknown(click.ClickException):
    """What was named is not there, or is not what it must be."""

    exit_code = UNUSABLE


@contextmanager
def opening(*, is_named: bool) -> Iterator[None]:
    """Raise ``Unknown`` where a file cannot be opened, unless it only has to be tried again.

    Args:
        is_named: whether the user has named the file.
    """
    try:
        yield
    except DatabaseError as exc:
        if exc.is_transient:
            raise
        if is_named or os.path.lexists(DEFAULT_PATH):
            # Nothing is made here: the folder is another one.
            raise Unknown(str(exc).removesuffix("; make it first")) from exc
        here = sorted(filter(is_database, os.listdir()))[:_MOST_NAMED]
        known = f"; this folder has {displayable(', '.join(here))}" if here else ""
        raise Unknown(f"{exc}: name the database with --db FILE or DURABLY_DB=FILE{known}") from exc


def is_database(path: str) -> bool:
    """Return whether a file that nothing in this process has open is a database of durably's."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(72)
    except (OSError, ValueError):
        return False
    return head.startswith(b"SQLite format 3\0") and head[68:] == b"Dura"


def shell() -> Shell:
    """Return the shell of the command that is executed."""
    found: Shell = click.get_current_context().find_object(Shell) or Shell()
    return found


def short_id(run: AnyRun) -> str:
    """Return the end of a run's id, as tables show it."""
    return run.id[-SHOWN_ID:]


def name_of(run: AnyRun) -> str:
    """Return the job of a run and its key, or the end of its id, for a line."""
    return displayable(f"{run.job_name} {run.idempotency_key or short_id(run)}")


def find(client: ReadOnlyClient, name: str) -> AnyRun:
    """Return the run that is meant by a key, an id, or the last characters of one.

    Raises:
        Unknown: there is none, or there are several, which the error lists.
    """
    found = client.runs_named(name, _MOST_CANDIDATES + 1)
    if len(found) == 1:
        return found[0]
    shown = repr(displayable(name, 80))
    if found:
        kind = "the key" if found[0].idempotency_key == name else "the end of the id"
        raise _several(f"{shown} is {kind} of several runs", found)
    of_job = client.find_runs(job_name=name, limit=_MOST_CANDIDATES + 1, values=False)
    if of_job:
        what = "session" if of_job[0].kind == "session" else "job"
        raise _several(f"{shown} is a {what} and not a run", of_job)
    raise Unknown(
        f"there is no run {shown} in {client.path!r}; {shell().again('ls')} lists the runs"
    )


def _several(sentence: str, runs: list[AnyRun]) -> Unknown:
    """Return the error that lists which runs may be meant, the newest first."""
    lines = [
        f"  {run.id}  {run.status:<9}  {displayable(run.job_name, 40)}"
        f"  {displayable(run.idempotency_key or '', 60)}".rstrip()
        for run in runs[:_MOST_CANDIDATES]
    ]
    more = ["  …"] if len(runs) > _MOST_CANDIDATES else []
    return Unknown("\n".join([f"{sentence}; name one by its id:", *lines, *more]))


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - of click
    """Return the keys and the ids of the newest runs that begin as what is typed."""
    shell = context.find_object(Shell) or Shell()
    try:
        with open_read_only(shell.db, blobs=shell.blobs) as client:
            runs = client.find_runs(limit=_MOST_COMPLETED)
    except DurablyError:
        return []
    keys = dict.fromkeys(run.idempotency_key for run in runs if run.idempotency_key)
    names = [*keys, *(run.id[-SHOWN_ID:] for run in runs)]
    return [name for name in names if name.startswith(incomplete)]


def run_argument(name: str = "run", **options: Any) -> Callable[[F], F]:
    """Return a decorator that gives a verb an argument which means a run."""
    metavar = options.pop("metavar", "RUN")
    return click.argument(name, metavar=metavar, shell_complete=_complete, **options)


def limit_option(default: int, what: str) -> Callable[[F], F]:
    """Return a decorator that gives a verb the option ``--limit``."""
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        help=f"So many {what} at most; 0 for all.",
    )


def verb(name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a verb of a function: it has the options that all have."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        command = click.command(name)(function)
        command.params += _common()
        return command

    return decorate


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Shell), attribute, value)

    return store


def _common() -> list[click.Parameter]:
    """Return the options that every verb has, which are the last in its help."""
    return [
        click.Option(
            ["--db"],
            metavar="FILE",
            expose_value=False,
            callback=_set("db"),
            help="The database. Without it $DURABLY_DB, or durably.db.",
        ),
        click.Option(
            ["--blobs"],
            metavar="FOLDER",
            expose_value=False,
            callback=_set("named_folder"),
            help="The large results. Without it $DURABLY_BLOBS, or FILE.blobs.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_set("is_quiet"),
            help="Print nothing but what was asked for, and errors.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_set("verbosity"),
            help="Say more; twice for still more.",
        ),
        click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            callback=_set("shows_traceback"),
            help="Show where in the code an error was raised.",
        ),
    ]
