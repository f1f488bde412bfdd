"""``durably watch``: how runs go on that other processes execute."""

from __future__ import annotations

import sys
from typing import Final

import click

from durably._platform.displayable import displayable
from durably._platform.latch import Latch
from durably.cli.notes import note_on
from durably.cli.shell import FAILED, find, run_argument, shell, short_id, verb
from durably.cli.tables import colored
from durably.cli.times import now
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.display.displays import LiveDisplays
from durably.errors import RunCancelledError, RunFailedError
from durably.execution.live import RunView, View
from durably.models import RunStatus

# How many running runs are watched at once.
_MOST: Final = 100
# How long it waits for a change, at least and at most.
_LONGEST_S: Final = 1.0
_SHORTEST_S: Final = 0.25
# As long as it takes: a run that nothing can execute now is watched too.
_ENDLESS_S: Final = 10 * 365 * 86400.0


@verb()
@run_argument(required=False)
def watch(*, run: str | None) -> int:
    """Watch how a run goes on, or all that are executed.

    It ends with RUN; without RUN it goes on. The runs are those of other processes; Ctrl-C ends
    the watching, and no run. The exit status is 1 if RUN has failed or was cancelled. Where
    there is no terminal, a line is printed for each change.
    """
    is_displayed = sys.stderr.isatty()
    with shell().read_only(LiveDisplays(None) if is_displayed else None) as client:
        if run is None:
            _watch_all(client, is_displayed=is_displayed)
            return 0
        found = find(client, run)
        if not is_displayed:
            return _report_one(client, found)
        try:
            client.wait(found, timeout=_ENDLESS_S)
        except (RunFailedError, RunCancelledError) as exc:
            found = exc.run
        else:
            found = client.get_run(found) or found
        shell().say(_line(client, found))
        return _status_of(found)


def _status_of(run: AnyRun) -> int:
    return 0 if run.status is RunStatus.COMPLETED else FAILED


def _line(client: ReadOnlyClient, run: AnyRun) -> str:
    key = "" if run.idempotency_key is None else f" {run.idempotency_key}"
    note = note_on(client, run)
    text = displayable(f"{run.job_name}{key}", 120)
    said = f": {displayable(note, 200)}" if note else ""
    return f"{now():%H:%M:%S} {short_id(run)} {text} {colored(run.status)}{said}"


def _report_one(client: ReadOnlyClient, run: AnyRun) -> int:
    """Print a line for each change of a run; return the exit status at its end."""
    last = ""
    while True:
        seen = client.changes.snapshot()
        current = client.get_run(run)
        if current is None:
            raise click.ClickException("the run was deleted meanwhile")
        line = _line(client, current)
        if line.partition(" ")[2] != last:
            last = line.partition(" ")[2]
            click.echo(line)
        if current.is_terminal:
            return _status_of(current)
        _wait(client, seen)


def _wait(client: ReadOnlyClient, seen: object) -> None:
    # Of a run with many short steps not every one is of interest.
    Latch().wait(_SHORTEST_S)
    client.changes.wait(seen, _LONGEST_S)  # type: ignore[arg-type]  # what ``snapshot`` has returned


class _Watched:
    """The runs that are executed, and those that were."""

    def __init__(self, client: ReadOnlyClient) -> None:
        self._client = client
        self._known: dict[str, AnyRun] = {}
        self.ended: list[AnyRun] = []

    def update(self) -> list[AnyRun]:
        """Read which runs are executed now; those that are not any more are among ``ended``."""
        running = {run.id: run for run in self._client.running(_MOST)}
        for run_id in self._known.keys() - running.keys():
            current = self._client.get_run(run_id)
            if current is not None:
                self.ended.append(current)
        self._known = running
        return list(running.values())

    def view(self) -> View:
        """Return what is displayed of them."""
        runs = sorted(self._known.values(), key=lambda run: run.started_at or run.created_at)
        return View(
            tuple(map(_view_of, runs)),
            is_several=True,
            done=len(self.ended),
            failed=sum(run.status is RunStatus.FAILED for run in self.ended),
        )


def _view_of(run: AnyRun) -> RunView:
    view = RunView(run.id, run.job_name, run.idempotency_key, run.status, unit="", is_here=False)
    if run.progress is None:
        return view._replace(done=run.completed_steps, unit="steps")
    progress = run.progress
    return view._replace(done=progress.current, total=progress.total, message=progress.message)


def _watch_all(client: ReadOnlyClient, *, is_displayed: bool) -> None:
    """Watch what is executed until Ctrl-C."""
    watched = _Watched(client)
    watched.update()
    if is_displayed:
        with LiveDisplays(show=True).showing(watched.view):
            while True:
                seen = client.changes.snapshot()
                watched.update()
                _wait(client, seen)
    printed: dict[str, str] = {}
    while True:
        seen = client.changes.snapshot()
        running = watched.update()
        for run in [*watched.ended, *running]:
            line = _line(client, run)
            said = line.partition(" ")[2]
            if printed.get(run.id) != said:
                printed[run.id] = said
                click.echo(line)
        for run in watched.ended:
            printed.pop(run.id, None)
        watched.ended.clear()
        _wait(client, seen)
