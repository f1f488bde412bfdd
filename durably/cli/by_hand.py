"""Change results by hand: ``durably redo``, ``fork`` and ``set``."""

from __future__ import annotations

import click

from durably._platform.displayable import displayable
from durably.cli.changing import executed_by, file_of, say_how_to_go_on
from durably.cli.payloads import json_of
from durably.cli.shell import find, name_of, run_argument, shell, short_id, verb
from durably.client.arguments import AnyRun

_FROM = click.option(
    "--from",
    "from_step",
    metavar="STEP",
    help="The first step that is executed again, with all that follow it.",
)


@verb()
@run_argument()
@_FROM
@click.option("--only", metavar="STEP", help="The one step that is, or STEP[KEY] for one item.")
def redo(*, run: str, from_step: str | None, only: str | None) -> None:
    """Forget results of a run, so that their steps are executed again.

    Without an option those of all its steps. The run is pending again, also if it had completed.
    Nothing is executed here: the next process that knows the job goes on with the run.
    """
    if from_step is not None and only is not None:
        raise click.UsageError("write --from or --only, not both")
    with shell().read_only() as client:
        found = find(client, run)
    app = shell().open()
    try:
        pending = app.redo(found, from_step=from_step, only=only)
    finally:
        app.close()
    shell().say(f"pending again, {_kept(pending)} kept. {executed_by(pending)}")
    if pending.kind == "job":
        say_how_to_go_on([file_of(found)])


@verb()
@run_argument()
@click.argument("payload", required=False)
@click.option(
    "--from",
    "from_step",
    metavar="STEP",
    help="The first step that the new run executes; without it, all results are copied.",
)
@click.option("--key", help="The key of the new run; it has none by default.")
def fork(*, run: str, payload: str | None, from_step: str | None, key: str | None) -> None:
    """Store a new run that begins with copies of the results of RUN.

    RUN stays as it is. PAYLOAD is that of the new run, as JSON, @FILE with JSON in it, or - for
    that of stdin; by default it is that of RUN. Nothing is executed here.
    """
    given = ... if payload is None else json_of(payload, "the payload")
    with shell().read_only() as client:
        found = find(client, run)
    app = shell().open()
    try:
        forked = app.fork(found, from_step=from_step, payload=given, key=key)
    finally:
        app.close()
    shell().say(
        f"{short_id(forked)} is a new run of {name_of(found)} with {_kept(forked)}. "
        f"{executed_by(forked)}"
    )
    if forked.kind == "job":
        say_how_to_go_on([file_of(found)])


@verb("set")
@run_argument()
@click.argument("step")
@click.argument("value", metavar="JSON")
def set_result(*, run: str, step: str, value: str) -> None:
    """Set the result of a step or an item of a run by hand.

    STEP is the name of a step, or STEP[KEY] for an item of a map. JSON takes the place of a result
    or of an error. JSON may be @FILE with JSON in it, or - for that
    of stdin; text is written as '"text"'. The run stays as it is: "durably retry" makes a failed
    one go on.
    """
    given = json_of(value, "the result")
    with shell().read_only() as client:
        found = find(client, run)
    app = shell().open()
    try:
        app.set_step(found, step, given)
    finally:
        app.close()
    shell().say(f"set {displayable(step, 80)!r}.")
    if found.kind == "session":
        if found.status != "completed":
            shell().say("to go on with the run:  start its program again")
    elif found.status == "completed":
        command = shell().again(f"redo {short_id(found)} --from STEP")
        shell().say(f"to execute what uses it again:  {command}")
    elif found.is_terminal:
        shell().say(f"to go on with the run:  {shell().again(f'retry {short_id(found)}')}")


def _kept(run: AnyRun) -> str:
    count = run.completed_steps
    return f"{count} completed {'step' if count == 1 else 'steps'}"
