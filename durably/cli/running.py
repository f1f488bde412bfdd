"""``durably run``: execute one run of a job here; ``durably work``: those that are pending."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Final

import click

from durably._platform.displayable import displayable, escaped
from durably._platform.latch import Latch
from durably._platform.stop_signals import StoppedError, StopSignals
from durably.cli.executing import Executing, said_of_stop
from durably.cli.listing import label
from durably.cli.logged import log_to_stderr, said_of_failure
from durably.cli.payloads import key_of, payload_of
from durably.cli.shell import FAILED, LATER, name_of, shell, verb
from durably.cli.targets import job_of, jobs_of
from durably.cli.times import lasted, moment
from durably.client.arguments import AnyRun
from durably.errors import ConflictError, RunFailedError
from durably.events import RunFailed
from durably.models import RunStatus
from durably.settings import IfRunning

_SECONDS: Final = click.FloatRange(min=0)


@verb()
@click.argument("target")
@click.argument("payload", required=False)
@click.option(
    "--set",
    "parts",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the payload, by its type. May be given several times.",
)
@click.option(
    "--key",
    metavar="KEY",
    help="There is one run for this job and key. {date}, {hour} and {sha256:PATH} in it are filled "
    "with the day, the hour, and the digest of a file.",
)
@click.option(
    "--if-running",
    type=click.Choice(["wait", "skip", "error"]),
    default="wait",
    show_default=True,
    help="What happens if another process executes the run: wait for its end, skip it with exit "
    "status 75, or end with an error.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    metavar="SECONDS",
    help="Stop at the next step after so long, with exit status 75.",
)
@click.option("--fresh", is_flag=True, help="Begin a new run in any case; it gets the key.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=label,
    help="A label of a new run. May be given several times.",
)
@click.option("--print", "prints", is_flag=True, help="Print the output as JSON on stdout.")
def run(
    *,
    target: str,
    payload: str | None,
    parts: tuple[str, ...],
    key: str | None,
    if_running: IfRunning,
    timeout: float | None,
    fresh: bool,
    labels: dict[str, str],
    prints: bool,
) -> int:
    """Execute a run of a job here, from wherever it is, to its end.

    TARGET is module:job or file.py:job, by the job's variable or its own name. PAYLOAD is JSON,
    @FILE with JSON in it, or - to read JSON from stdin. A run with the key that has completed is
    not executed again; one that has failed, was stopped or has died continues with its completed
    steps. Without a key the newest unfinished run with the same payload continues.

    SIGTERM and Ctrl-C stop the run at its next step and put it back; a second one ends the
    process at once, which loses at most the step in progress.
    """
    log_to_stderr(shell())
    job = job_of(target)
    given = payload_of(job, payload, parts)
    filled = key_of(key)
    with StopSignals() as signals, closing(Executing(shell(), [job])) as app:
        signals.stop_with(app.interrupt)
        try:
            done = app.run(
                job,
                given,
                key=filled,
                if_running=if_running,
                timeout=timeout,
                fresh=fresh,
                labels=labels or None,
            )
        except RunFailedError as exc:
            # With -v the log has said it, unless another process has executed the run.
            if exc.__cause__ is None or not shell().verbosity:
                sys.stderr.write(said_of_failure(shell(), exc.run))
            return FAILED
        except (ConflictError, StoppedError):
            if signals.received is None:
                raise
            return _stopped(app, signals)
        if done.disposition == "skipped":
            click.echo(f"{escaped(app.where(done))}; skipped.", err=True)
            return LATER
        shell().note(_ended(done))
        if prints:
            click.echo(json.dumps(app.output_of(done)))
    return signals.status


def _ended(run: AnyRun) -> str:
    if run.disposition == "idempotent":
        return f"{name_of(run)} completed before: {moment(run.completed_at)}"
    steps = f"{run.completed_steps} {'step' if run.completed_steps == 1 else 'steps'}"
    return f"{name_of(run)} completed in {lasted(run.duration)}: {steps}"


def _stopped(app: Executing, signals: StopSignals) -> int:
    """Say what a signal has stopped, and return the exit status."""
    click.echo(said_of_stop(signals, app.interrupted()), err=True)
    return signals.status


@verb()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--until-idle", is_flag=True, help="End when no run can be executed any more.")
@click.option(
    "--workers",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="How many runs are executed at once.",
)
def work(*, targets: tuple[str, ...], until_idle: bool, workers: int) -> int:
    """Execute pending runs of these jobs, until it is stopped.

    TARGET is module:job or file.py:job, or a module or a file for all jobs in it. What processes
    that died have left is continued.

    SIGTERM and Ctrl-C stop the runs at their next step and put them back; a second one ends the
    process at once, which loses at most the steps in progress.

    With --until-idle the exit status is 1 if a run has failed, and 75 if runs of these jobs are
    left that wait or cannot be executed now.
    """
    log_to_stderr(shell())
    jobs = list(dict.fromkeys(job for target in targets for job in jobs_of(target)))
    names = [job.name for job in jobs]
    failed = 0

    def count(_: RunFailed) -> None:
        nonlocal failed
        failed += 1

    with StopSignals() as signals, closing(Executing(shell(), jobs, max_workers=workers)) as app:
        app.on(RunFailed, count)
        signals.stop_with(lambda: app.interrupt() and False)
        try:
            if until_idle:
                executed = app.run_until_idle()
            else:
                app.start()
                shell().note(f"executing {', '.join(map(displayable, names))}; Ctrl-C stops")
                Latch().wait(None)
        except StoppedError:
            app.stop(interrupt=True)
            return _stopped(app, signals)
        left = app.count_runs(status=RunStatus.PENDING, job_name=names)
        waiting = app.count_runs(status=RunStatus.WAITING, job_name=names)
    more = f", {waiting} waiting" if waiting else ""
    shell().note(f"{executed} executed, {failed} failed, {left} pending{more}")
    if failed:
        return FAILED
    return LATER if left or waiting else 0
