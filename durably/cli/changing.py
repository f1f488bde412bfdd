"""Change runs: ``durably retry``, ``cancel``, ``rm`` and ``purge``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

import click

from durably._platform.displayable import displayable, escaped
from durably._platform.tracebacks import frames_in
from durably.cli.shell import FAILED, find, name_of, run_argument, shell, verb
from durably.cli.tables import is_terminal
from durably.cli.times import Instant
from durably.client.arguments import AnyRun
from durably.entry.engine import Durably
from durably.errors import ConflictError, NotFoundError
from durably.models import RunKind, RunStatus

# How many runs one transaction of a purge deletes: others write between two of them.
_AT_ONCE: Final = 500
_KILO: Final = 1000
# The file of a frame; the first one is that of the job.
_SCRIPT: Final = re.compile(r'  File "([^"\n]+\.py)", line ')
# How many of them a command names.
_MOST_FILES: Final = 5


@verb()
@run_argument("runs", metavar="RUN...", nargs=-1)
@click.option("--failed", is_flag=True, help="All failed runs, instead of RUN.")
@click.option(
    "--since",
    type=Instant(),
    metavar="WHEN",
    help="With --failed, those that failed since: yesterday, 24h, 30d, 2026-11-28.",
)
@click.option("--job", help="With --failed, those of this job.")
@click.option(
    "--only",
    metavar="TYPE",
    help="Of maps, try only the items again that have failed with this type of exception.",
)
def retry(
    *,
    runs: tuple[str, ...],
    failed: bool,
    since: datetime | None,
    job: str | None,
    only: str | None,
) -> int:
    """Put failed or cancelled runs back to pending.

    Their completed steps are kept. Nothing is executed here: the next process that knows the job
    goes on with the run, such as "durably work", or its own program.
    """
    if failed == bool(runs):
        raise click.UsageError("name runs, or write --failed for all that have failed")
    if not failed and (since is not None or job is not None):
        raise click.UsageError("--since and --job belong to --failed")
    if not failed:
        return _retry_all(runs, only)
    with shell().read_only() as client:
        found = client.find_runs(status=RunStatus.FAILED, job_name=job, since=since, limit=None)
        # A session is continued by its own program.
        ids = tuple(run.id for run in reversed(found) if run.kind == "job")
    if not ids:
        shell().note("no failed runs")
        return 0
    return _retry_all(ids, only)


def _retry_all(names: tuple[str, ...], only: str | None) -> int:
    """Put runs back, and say what executes them where no process does; return the exit status."""
    files: dict[str, None] = {}

    def put_back(app: Durably, run: AnyRun) -> str:
        if run.kind == "job":
            files[file_of(run)] = None
        return _retry(app, run, only)

    status = _each(names, put_back)
    say_how_to_go_on(files)
    return status


def say_how_to_go_on(files: Collection[str]) -> None:
    """Say what executes the runs of these scripts, if there are any, where no process does."""
    if not files:
        return
    with shell().read_only() as client:
        is_any = client.is_any_executing()
    if not is_any:
        work = " ".join(["work", *map(shlex.quote, [*files][:_MOST_FILES]), "--until-idle"])
        shell().say(f"no process executes runs now:  {shell().again(work)}")


def file_of(run: AnyRun) -> str:
    """Return the script that a failed run has executed, ``FILE`` if it cannot be known."""
    frames = [] if run.error is None else frames_in(run.error.traceback)
    found = _SCRIPT.match(frames[0]) if frames else None
    file = "FILE" if found is None else found[1]
    # A module of a package cannot be imported by its file.
    of_package = os.path.exists(os.path.join(os.path.dirname(file), "__init__.py"))
    return file if os.path.isfile(file) and not of_package else "FILE"


def _retry(app: Durably, run: AnyRun, only: str | None) -> str:
    again = app.retry(run, only=only)
    kept = again.completed_steps
    steps = "step" if kept == 1 else "steps"
    return f"pending again, {kept} completed {steps} kept. {executed_by(again)}"


_WHO: Final[dict[RunKind, str]] = {
    "job": "It is executed by the next process that knows {name!r}.",
    "session": "It is executed by the program that opens the session {name!r}.",
}


def executed_by(run: AnyRun) -> str:
    """Return what executes a pending run, as a sentence."""
    return _WHO[run.kind].format(name=displayable(run.job_name))


@verb()
@run_argument("runs", metavar="RUN...", nargs=-1, required=True)
def cancel(*, runs: tuple[str, ...]) -> int:
    """Cancel pending, waiting or running runs.

    A running one stops at its next step. Its completed steps are kept, and "durably retry" goes on
    with it.
    """

    def cancelled(app: Durably, run: AnyRun) -> str:
        app.cancel(run)
        is_running = run.status is RunStatus.RUNNING
        return "cancelled; it stops at its next step." if is_running else "cancelled."

    return _each(runs, cancelled)


@verb()
@run_argument("runs", metavar="RUN...", nargs=-1, required=True)
def rm(*, runs: tuple[str, ...]) -> int:
    """Delete runs that have ended.

    Their steps, items and log lines are deleted with them.
    """

    def deleted(app: Durably, run: AnyRun) -> str:
        app.delete_run(run)
        return "deleted."

    return _each(runs, deleted)


def _each(names: tuple[str, ...], change: Callable[[Durably, AnyRun], str]) -> int:
    """Change each of the runs, and say of each what has become of it; return the exit status."""
    with shell().read_only() as client:
        runs = [find(client, name) for name in names]
    app = shell().open()
    status = 0
    try:
        for run in runs:
            before = f"{name_of(run)}: " if len(runs) > 1 else ""
            try:
                shell().say(f"{before}{change(app, run)}")
            except (ConflictError, NotFoundError) as exc:
                if len(runs) == 1:
                    raise
                click.echo(f"durably: {escaped(str(exc))}", err=True)
                status = FAILED
    finally:
        app.close()
    return status


@verb()
@click.option(
    "--older-than",
    type=Instant(),
    required=True,
    metavar="AGE",
    help="Those that ended before: 30d, 24h, 2026-11-28.",
)
@click.option("--keep-failed", is_flag=True, help="Leave the failed ones.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def purge(*, older_than: datetime, keep_failed: bool, dry_run: bool) -> None:
    """Delete runs that ended long ago.

    Some of their space is given back to the system; "durably vacuum" gives back all of it.
    """
    if dry_run:
        with shell().read_only() as client:
            count, size = client.purgeable(older_than, keep_failed=keep_failed)
        click.echo(f"would delete {count:,} {_runs(count)} ({bytes_of(size)})")
        return
    app = shell().open()
    deleted = 0
    try:
        while True:
            now = app.purge_runs(older_than=older_than, limit=_AT_ONCE, keep_failed=keep_failed)
            deleted += now
            if now < _AT_ONCE:
                break
    finally:
        app.close()
    if is_terminal():
        shell().say(f"deleted {deleted:,} {_runs(deleted)}")


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"


def bytes_of(size: float) -> str:
    """Return a number of bytes for people, as ``1.9 MB``."""
    if size < _KILO:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= _KILO
        if size < _KILO:
            return f"{size:.1f} {unit}" if size < 100 else f"{size:.0f} {unit}"
    return f"{size / _KILO:,.1f} TB"
