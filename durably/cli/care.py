"""``durably du``, ``check``, ``doctor``, ``backup`` and ``vacuum``: care for the file."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from durably._platform.clock import to_datetime
from durably._platform.displayable import displayable, escaped
from durably.cli.changing import bytes_of
from durably.cli.shell import FAILED, opening, shell, verb
from durably.cli.tables import Column, formats, is_terminal, print_csv, print_json, print_table
from durably.cli.times import Instant
from durably.errors import BackupExistsError
from durably.store.conditions import Condition, JobUsage
from durably.testing import Finding
from durably.testing import check as check_file

_COLUMNS: Final = (
    Column("JOB", gives_way=True),
    *(Column(title, is_right=True) for title in ("RUNS", "FAILED", "STEPS", "ITEMS")),
    *(Column(title, is_right=True) for title in ("RUN DATA", "STEP DATA", "ITEM DATA", "LOGS")),
    Column("ALL", is_right=True),
)
_IN_CSV: Final = (
    "job_name",
    "runs",
    "failed",
    "steps",
    "items",
    "run_bytes",
    "step_bytes",
    "item_bytes",
    "log_bytes",
    "text_bytes",
    "oldest",
)


@verb()
@click.option(
    "--older-than",
    type=Instant(),
    metavar="AGE",
    default="30d",
    show_default=True,
    help="Say what a purge of runs that ended before would free.",
)
@formats
def du(*, older_than: datetime, form: str | None) -> None:
    """Say what takes the space of the file, by job.

    The sizes are those of the file, and for each job those of the values that are stored: payloads
    and outputs of runs, results of steps and items, log lines.
    """
    with shell().read_only() as client:
        path, sizes, jobs = client.path, client.sizes(), client.usage()
        count, freed = client.purgeable(older_than, keep_failed=False)
    if form == "csv":
        print_csv([_record(job) for job in jobs], _IN_CSV)
        return
    if form == "json":
        print_json(
            {"path": path}
            | sizes._asdict()
            | {"purgeable_runs": count, "purgeable_bytes": freed}
            | {"jobs": [_record(job) for job in jobs]}
        )
        return
    click.echo(_summary(path, sizes.file_bytes + sizes.wal_bytes, jobs))
    if len(jobs) > 1:
        print_table(_COLUMNS, [_row(job) for job in jobs])
    if sizes.blob_bytes:
        click.echo(f"large results take {bytes_of(sizes.blob_bytes)} beside it, in files")
    if count:
        click.echo(
            f"a purge of what ended before {older_than.astimezone():%Y-%m-%d} would delete "
            f"{_counted(count, 'run')} ({bytes_of(freed)})"
        )
    if sizes.free_bytes > sizes.file_bytes // 4:
        click.echo(f"{bytes_of(sizes.free_bytes)} of the file are free: durably vacuum")


def _summary(path: str, size: int, jobs: Sequence[JobUsage]) -> str:
    runs, failed = sum(job.runs for job in jobs), sum(job.failed for job in jobs)
    steps, items = sum(job.steps for job in jobs), sum(job.items for job in jobs)
    counted = [f"{_counted(runs, 'run')} ({failed:,} failed)", _counted(steps, "step")]
    counted += [_counted(items, "item")] if items else []
    parts = [f"{escaped(path)} {bytes_of(size)}", ", ".join(counted)]
    if jobs:
        oldest = to_datetime(min(job.oldest_us for job in jobs)).astimezone()
        largest = f"{displayable(jobs[0].job_name, 60)} {bytes_of(jobs[0].text_bytes)}"
        parts += [f"largest: {largest}", f"oldest {oldest:%Y-%m-%d}"]
    return "   ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _row(job: JobUsage) -> tuple[str, ...]:
    counts = job.runs, job.failed, job.steps, job.items
    sizes = job.run_bytes, job.step_bytes, job.item_bytes, job.log_bytes, job.text_bytes
    return job.job_name, *(f"{count:,}" for count in counts), *map(bytes_of, sizes)


def _record(job: JobUsage) -> dict[str, Any]:
    record: dict[str, Any] = job._asdict()
    oldest = to_datetime(record.pop("oldest_us")).astimezone(UTC)
    return record | {"text_bytes": job.text_bytes, "oldest": oldest}


@verb()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, for a program.")
def check(*, files: tuple[str, ...], as_json: bool) -> int:
    """Check that a file is sound, and all that must hold in it.

    It is only read, and may be in use. Without FILE it is that of --db. Exit status: 1 if something
    is wrong.
    """
    status = 0
    paths = files or (shell().path,)
    for path in paths:
        with opening(is_named=bool(files) or shell().is_named):
            found = check_file(path, blobs=shell().blobs)
        for finding in found:
            status = FAILED
            if as_json:
                print_json({"path": path, "problem": finding.problem, "where": finding.where})
            else:
                click.echo(_line(path if len(paths) > 1 else None, finding))
    if not status and not as_json and is_terminal():
        shell().say("no problems found")
    return status


def _line(path: str | None, finding: Finding) -> str:
    return escaped(str(finding) if path is None else f"{path}: {finding}")


@verb()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, for a program.")
def doctor(*, as_json: bool) -> int:
    """Look for what is unusual, and say what to do.

    It looks at the file and the processes that use it: at the disk, the write-ahead log,
    processes that have died or hang, runs that nobody executes, failed runs, the clock and the
    permissions. Nothing is changed. With -v the versions and the sizes are said first, for a
    report. Exit status: 1 if there is something unusual. "durably check" checks the content of
    the file.
    """
    with shell().read_only() as client:
        condition, found = client.examine()
    if shell().verbosity and not as_json:
        click.echo(_facts(condition))
    for finding in found:
        if as_json:
            print_json(finding)
        else:
            click.echo(escaped(f"{finding.kind}: {finding.what}"))
            click.echo(escaped(f"    {finding.advice}"))
    if not found and not as_json and is_terminal():
        shell().say("nothing unusual")
    return FAILED if found else 0


def _facts(condition: Condition) -> str:
    sizes = condition.sizes
    alive = sum(owner.is_alive is not False for owner in condition.owners)
    executing = f"{alive} {'process' if alive == 1 else 'processes'} executing"
    disk = (
        f"{condition.file_system or 'unknown file system'}, {bytes_of(condition.disk_bytes)} free"
    )
    versions = f"schema {condition.schema}, SQLite {condition.sqlite}"
    python = f"Python {platform.python_version()} on {sys.platform}"
    file = f"{escaped(condition.path)} {bytes_of(sizes.file_bytes)}"
    return f"{file}   log {bytes_of(sizes.wal_bytes)}   {disk}   {executing}   {versions}, {python}"


@verb()
@click.argument("file", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there, in one step.")
def backup(*, file: str, overwrite: bool) -> None:
    """Store a copy of the database in FILE.

    Others go on writing meanwhile. FILE is whole, or it is not there. What is being executed is
    pending in it, and goes on where the copy is put to use. Nobody waits for a backup.
    """
    with shell().read_only() as client:
        try:
            client.backup(file, overwrite=overwrite)
        except BackupExistsError as exc:
            raise click.ClickException(
                f"{file!r} exists already; name another file for the backup, or add --overwrite"
            ) from exc
    if is_terminal():
        shell().say(escaped(f"backed up to {file}"))


@verb()
@click.option(
    "--max-seconds", type=click.FloatRange(min=0), help="Stop after so long, and leave the rest."
)
def vacuum(*, max_seconds: float | None) -> None:
    """Give the space that deleted runs have left back to the system.

    It does so in steps of some milliseconds; processes that execute runs come first between them.
    """
    app = shell().open()
    try:
        returned = app.vacuum(max_seconds=max_seconds)
    finally:
        app.close()
    if is_terminal():
        shell().say(f"gave {bytes_of(returned)} back")
