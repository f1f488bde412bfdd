"""``durably plan``: what of a run is stored, and whether today's code would make the same."""

from __future__ import annotations

from typing import Final

import click

from durably._platform.displayable import displayable
from durably.cli.shell import Unknown, find, run_argument, shell, verb
from durably.cli.tables import Column, formats, print_records
from durably.cli.targets import jobs_of
from durably.cli.times import moment
from durably.models.plans import PlannedStep

_STEPS: Final = (
    Column("#", is_right=True),
    Column("STEP", gives_way=True),
    Column("STORED"),
    Column("CODE"),
    Column("FUNCTION", gives_way=True),
)
_IN_CSV: Final = ("index", "name", "stored_at", "function", "code_changed")


@verb()
@run_argument()
@click.option(
    "--code",
    "target",
    metavar="TARGET",
    help="Where its job is now: module:job, file.py:job, a module or a file. It is imported.",
)
@formats
def plan(*, run: str, target: str | None, form: str | None) -> None:
    """List the stored results of a run, and whether today's code would make the same.

    Nothing is executed but the module of TARGET, without which it is not known what has changed.
    """
    jobs = () if target is None else jobs_of(target)
    with shell().read_only() as client:
        found = find(client, run)
        job = next((each for each in jobs if each.name == found.job_name), None)
        if target is not None and job is None:
            raise Unknown(f"there is no job {displayable(found.job_name, 80)!r} in {target!r}")
        planned = client.plan_with(found, job)
    print_records(form, planned.steps, _STEPS, _step, _IN_CSV)
    if form is not None:
        return
    if planned.code_changed:
        name = displayable(planned.job_name, 80)
        click.echo(f"{name}: its code has changed since its newest execution", err=True)
    elif not planned.steps:
        shell().note("nothing is stored of it yet")


def _step(step: PlannedStep) -> tuple[str, ...]:
    code = {True: "changed", False: "unchanged", None: "unknown"}[step.code_changed]
    return str(step.index), step.name, moment(step.stored_at), code, step.function or ""
