"""The parts of a run as tables: ``durably steps``, ``items``, ``logs`` and ``attempts``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from durably._platform.displayable import displayable
from durably._platform.safe_repr import safe_repr
from durably.cli.shell import Unknown, find, limit_option, run_argument, shell, verb
from durably.cli.showing import result_of
from durably.cli.tables import Column, formats, print_csv, print_json, print_records, styled
from durably.cli.times import lasted, moment
from durably.client.arguments import AnyRun
from durably.client.read_only import ReadOnlyClient
from durably.models import duration_of

if TYPE_CHECKING:
    from durably.models.records import Attempt, ItemRecord, LogEntry, StepRecord

_RESULT: Final = Column("RESULT", gives_way=True, longest=200)
_STEPS: Final = (
    Column("#", is_right=True),
    Column("STATUS"),
    Column("STEP", gives_way=True),
    Column("STARTED"),
    Column("TOOK", is_right=True),
    Column("ATTEMPTS", is_right=True),
    _RESULT,
)
_ITEMS: Final = (
    Column("#", is_right=True),
    Column("STATUS"),
    Column("KEY", gives_way=True),
    Column("STARTED"),
    Column("TOOK", is_right=True),
    Column("TRIES", is_right=True),
    _RESULT,
)
_ATTEMPTS: Final = (
    Column("ATTEMPT", is_right=True),
    Column("OUTCOME"),
    Column("STARTED"),
    Column("TOOK", is_right=True),
    Column("STEPS", is_right=True),
    Column("REUSED", is_right=True),
    Column("PROCESS", is_right=True),
    Column("HOST", gives_way=True),
    Column("ERROR", gives_way=True, longest=200),
)
_STEPS_IN_CSV: Final = (
    "index",
    "name",
    "status",
    "started_at",
    "completed_at",
    "attempt",
    "attempts",
    "output",
    "error",
    "items",
    "notes",
)
_ITEMS_IN_CSV: Final = (
    "key",
    "index",
    "status",
    "started_at",
    "completed_at",
    "attempts",
    "output",
    "error",
)
_ATTEMPTS_IN_CSV: Final = (
    "attempt",
    "outcome",
    "host",
    "pid",
    "started_at",
    "ended_at",
    "steps_completed",
    "steps_reused",
    "error",
)
_LOGS_IN_CSV: Final = ("created_at", "level", "step_name", "message", "data")

# How many items are read at once; each page skips those before it.
_PAGE: Final = 20_000
# How long it waits for a change in the file before it checks whether the run has ended.
_WAIT_S: Final = 1.0


@verb()
@run_argument()
@formats
def steps(*, run: str, form: str | None) -> None:
    """List the steps of a run, in their order; a map is one of them.

    ATTEMPTS is how often the step's function was called.
    """
    with shell().read_only() as client:
        found = client.get_steps(find(client, run))
    print_records(form, found, _STEPS, _step, _STEPS_IN_CSV)
    if form is None and not found:
        shell().note("no steps yet")


def _step(step: StepRecord) -> tuple[str, ...]:
    return (
        str(step.index),
        step.status,
        step.name,
        moment(step.started_at),
        lasted(duration_of(step.started_at, step.completed_at)),
        str(step.attempts),
        result_of(step),
    )


@verb()
@run_argument()
@click.argument("step", required=False)
@click.option("--failed", is_flag=True, help="Only the items that have failed.")
@limit_option(100, "items")
@formats
def items(*, run: str, step: str | None, failed: bool, limit: int, form: str | None) -> None:
    """List the items of a map.

    STEP is the name of the map, where the run has several.
    """
    with shell().read_only() as client:
        found = find(client, run)
        name = _map_of(client, found, step)
        # One more, to know whether there are more.
        records = _records(client, found, name, failed=failed, limit=limit + 1 if limit else 0)
        shown = islice(records, limit or None)
        if form is not None:
            print_records(form, shown, _ITEMS, _item, _ITEMS_IN_CSV)
            return
        listed = list(shown)
        is_cut = next(records, None) is not None
    print_records(form, listed, _ITEMS, _item, _ITEMS_IN_CSV)
    if not listed:
        shell().note("no failed items" if failed else "no items yet")
    if is_cut:
        shell().note_more(limit)


def _records(
    client: ReadOnlyClient, run: AnyRun, name: str, *, failed: bool, limit: int
) -> Iterator[ItemRecord]:
    """Yield the items of a map, page by page: there may be a million of them."""
    offset = 0
    while True:
        most = min(_PAGE, limit - offset) if limit else _PAGE
        page = client.get_items(
            run, name, status="failed" if failed else None, limit=most, offset=offset
        )
        yield from page
        offset += len(page)
        if len(page) < _PAGE or (limit and offset >= limit):
            return


def _item(record: ItemRecord) -> tuple[str, ...]:
    return (
        str(record.index),
        record.status,
        str(record.key),
        moment(record.started_at),
        lasted(duration_of(record.started_at, record.completed_at)),
        str(record.attempts),
        safe_repr(record.output) if record.error is None else str(record.error),
    )


def _map_of(client: ReadOnlyClient, run: AnyRun, step: str | None) -> str:
    """Return the name of the map that is meant."""
    names = [each.name for each in client.get_steps(run) if each.items is not None]
    names += [each.name for each in client.open_maps(run)]
    if step is None and len(names) == 1:
        return names[0]
    if step in names:
        return step
    listed = ", ".join(displayable(name, 40) for name in names[:20])
    if not names:
        raise Unknown("the run has no items: no step of it is a map")
    if step is None:
        raise Unknown(f"the run has several maps; name one of them: {listed}")
    raise Unknown(f"the run has no map {displayable(step, 40)!r}; it has {listed}")


@verb()
@run_argument()
@formats
def attempts(*, run: str, form: str | None) -> None:
    """List the executions of a run, and how each has ended.

    STEPS is how many steps it has completed, REUSED how many were stored before.
    """
    with shell().read_only() as client:
        found = client.get_attempts(find(client, run))
    print_records(form, found, _ATTEMPTS, _attempt, _ATTEMPTS_IN_CSV)
    if form is None and not found:
        shell().note("it was not executed yet")


def _attempt(each: Attempt) -> tuple[str, ...]:
    return (
        str(each.attempt),
        each.outcome,
        moment(each.started_at),
        lasted(duration_of(each.started_at, each.ended_at)),
        "" if each.steps_completed is None else str(each.steps_completed),
        "" if each.steps_reused is None else str(each.steps_reused),
        "" if each.pid is None else str(each.pid),
        each.host or "",
        "" if each.error is None else str(each.error),
    )


@verb()
@run_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run has ended.")
@formats
def logs(*, run: str, follow: bool, form: str | None) -> None:
    """Print the stored log lines of a run, oldest first.

    They are stored where its program opens the engine with persist_logs=True, and by "durably run"
    and "durably work".
    """
    with shell().read_only() as client:
        found = find(client, run)
        if form == "csv":
            print_csv(client.log_lines(found)[0], _LOGS_IN_CSV)
            return
        is_any = False
        for entry in _lines(client, found, follow=follow):
            is_any = True
            if form == "json":
                print_json(entry)
            else:
                click.echo(_line(entry))
    if not is_any:
        shell().note("no log lines are stored")


def _lines(client: ReadOnlyClient, run: AnyRun, *, follow: bool) -> Iterator[LogEntry]:
    """Yield the lines; where they are followed, until the run has ended."""
    newest = 0
    while True:
        seen = client.changes.snapshot()
        # Before the lines: those that came before its end are all there then.
        now = client.get_run(run)
        lines, newest = client.log_lines(run, newest)
        yield from lines
        if not follow or now is None or now.is_terminal:
            return
        client.changes.wait(seen, _WAIT_S)


_LEVELS: Final = {"warning": "yellow", "error": "red", "debug": "bright_black"}


def _line(entry: LogEntry) -> str:
    when = entry.created_at.astimezone()
    step = "" if entry.step_name is None else f"[{entry.step_name}] "
    data = "".join(f" {name}={safe_repr(value)}" for name, value in entry.data.items())
    text = displayable(f"{step}{entry.message}{data}", 2000)
    level = styled(f"{entry.level.upper():<7}", fg=_LEVELS.get(entry.level))
    return f"{when:%m-%d %H:%M:%S}.{when.microsecond // 1000:03} {level} {text}"
