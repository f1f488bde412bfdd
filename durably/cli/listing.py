"""``durably ls``: the runs, newest first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, NoReturn

import click

from durably._platform.latch import Latch
from durably.cli.notes import note_on, took
from durably.cli.shell import limit_option, shell, short_id, verb
from durably.cli.tables import Column, formats, is_terminal, print_records, print_table
from durably.cli.times import Instant, moment
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.models import RunStatus

_COLUMNS: Final = (
    Column("RUN"),
    Column("STATUS"),
    Column("JOB", gives_way=True),
    Column("KEY", gives_way=True),
    Column("STARTED"),
    Column("TOOK", is_right=True),
    Column("STEPS", is_right=True),
    Column("NOTE", gives_way=True, longest=200),
)
# How often the list is shown anew at the most, and at the least: a running run takes longer.
_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 2.0
_IN_CSV: Final = (
    "id",
    "status",
    "job_name",
    "key",
    "created_at",
    "started_at",
    "completed_at",
    "duration",
    "attempt",
    "completed_steps",
    "labels",
    "error",
)


def label(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Return the labels that were given as ``name=value``."""
    for each in given:
        if "=" not in each:
            raise click.BadParameter(f"{each!r} has no '='; write name=value", param=parameter)
    return {name: value for name, _, value in (each.partition("=") for each in given)}


@verb()
@click.option(
    "--status",
    multiple=True,
    type=click.Choice([status.value for status in RunStatus]),
    help="Only runs in this state. May be given several times.",
)
@click.option(
    "--job", "job_name", multiple=True, help="Only runs of this job. May be given several times."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=label,
    help="Only runs with this label. May be given several times.",
)
@click.option(
    "--since",
    type=Instant(),
    metavar="WHEN",
    help="Only runs to which anything has happened since: yesterday, 24h, 30d, 2026-11-28.",
)
@limit_option(50, "runs")
@click.option("--watch", "watches", is_flag=True, help="Show the list anew at each change.")
@formats
def ls(
    *,
    status: tuple[str, ...],
    job_name: tuple[str, ...],
    labels: dict[str, str],
    since: datetime | None,
    limit: int,
    watches: bool,
    form: str | None,
) -> None:
    """List the runs, newest first.

    TOOK is the time of the last attempt. NOTE is the error of a failed run, and how far a running
    one is.
    """
    if watches and (form is not None or not is_terminal()):
        raise click.UsageError("--watch is for a terminal; durably watch prints a line a change")
    with shell().read_only() as client:

        def find() -> list[AnyRun]:
            return client.find_runs(
                status=status or None,
                job_name=job_name or None,
                labels=labels or None,
                since=since,
                limit=limit + 1 if limit else None,
                values=False,  # they may be large, and a table has no column for them
            )

        if watches:
            _watch(client, find, limit)
        found = find()
        runs = found[:limit] if limit else found
        shown = _with_values(client, runs) if form == "json" else runs
        print_records(form, shown, _COLUMNS, lambda run: _row(client, run), _IN_CSV)
    if len(found) > len(runs):
        shell().note_more(limit)
    elif not runs:
        shell().note("no runs")


def _with_values(client: ReadOnlyClient, runs: Sequence[AnyRun]) -> Iterator[AnyRun]:
    """Yield the runs as they are now, one after the other; those that were deleted are left out."""
    found = (client.get_run(run.id) for run in runs)
    return (run for run in found if run is not None)


def _watch(client: ReadOnlyClient, find: Callable[[], list[AnyRun]], limit: int) -> NoReturn:
    """Show the list in place of the one before at each change, until Ctrl-C."""
    while True:
        seen = client.changes.snapshot()
        found = find()
        # As many as there is room for below the titles.
        room = max(1, shutil.get_terminal_size().lines - 2)
        rows = [_row(client, run) for run in found[: min(room, limit or room)]]
        click.clear()
        print_table(_COLUMNS, rows)
        Latch().wait(_SHORTEST_S)
        client.changes.wait(seen, _LONGEST_S)


def _row(client: ReadOnlyClient, run: AnyRun) -> tuple[str, ...]:
    return (
        short_id(run),
        run.status,
        run.job_name,
        run.idempotency_key or "",
        moment(run.started_at),
        took(client, run),
        str(run.completed_steps),
        note_on(client, run),
    )
