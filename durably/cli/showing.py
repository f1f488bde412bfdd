"""``durably show``: all about one run, and what to do next."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs
import click

from durably._platform.displayable import displayable, escaped
from durably._platform.safe_repr import safe_repr
from durably._platform.tracebacks import frames_in
from durably.cli.notes import due, items_of, progress_of, took, waits
from durably.cli.shell import Shell, find, run_argument, shell, short_id, verb
from durably.cli.tables import cells, colored, fitted, is_terminal, print_json, styled
from durably.cli.times import lasted, moment, since
from durably.client.arguments import AnyRun
from durably.client.read_only import MOST_FAILURES_READ, ReadOnlyClient
from durably.models import ErrorInfo, RunStatus, duration_of
from durably.models.questions import Question

if TYPE_CHECKING:
    from durably.models.records import StepRecord

_INDENT: Final = "            "
# How many of the first steps, and of the last ones, are shown.
_FIRST: Final = 3
_LAST: Final = 3
_NAME: Final = 30
_MOST_FRAMES: Final = 40
# What begins the second error of a group in the text of a traceback.
_SECOND: Final = "+---------------- 2 ----------------"
_MARKS: Final = {"completed": "✓", "failed": "✗", "cancelled": "-"}
_WIDTH: Final = 120


@verb()
@run_argument()
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object, with the steps in it.")
def show(*, run: str, is_json: bool) -> None:
    """Show a run: its steps, its error, and what to do next."""
    with shell().read_only() as client:
        found = find(client, run)
        if is_json:
            steps = client.get_steps(found)
            print_json({**attrs.asdict(found, recurse=False), "steps": steps})
            return
        for line in _card(client, found):
            click.echo(line)


def _card(client: ReadOnlyClient, run: AnyRun) -> Iterator[str]:
    yield f"{styled(displayable(run.job_name, 80), bold=True)} {run.id}"
    for name, value in _facts(client, run):
        yield f"  {name:<9} {value}"
    asked = _open_questions(client, run)
    for each in asked:
        if each.question:
            yield f"  {'question':<9} {_shown(each.question)}"
    steps = client.get_steps(run)
    yield from _steps(steps)
    yield from _open_maps(client, run)
    yield from _items(client, run, steps)
    yield from _attempts(client, run)
    if run.error is not None:
        yield from _error(run.error)
    commands = [*_next(shell(), run, steps, asked)]
    if commands:
        width = max(cells(command) for command, _ in commands)
        yield ""
        for command, purpose in commands:
            yield f"  {styled(command, bold=True)}{' ' * (width - cells(command))}  {purpose}"


def _facts(client: ReadOnlyClient, run: AnyRun) -> Iterator[tuple[str, str]]:
    attempt = f", attempt {run.attempt}" if run.attempt else ""
    yield "status", f"{colored(run.status)}{attempt}"
    if run.idempotency_key is not None:
        yield "key", _shown(run.idempotency_key)
    if run.concurrency_key is not None:
        yield "concurrency key", _shown(run.concurrency_key)
    if run.labels:
        yield "labels", _shown(", ".join(f"{key}={run.labels[key]}" for key in run.labels))
    if run.payload is not None:
        yield "payload", _shown(safe_repr(run.payload))
    if run.output is not None:
        yield "output", _shown(safe_repr(run.output))
    if run.started_at is None:
        yield "triggered", moment(run.created_at)
    elif run.duration is not None:
        yield "started", f"{moment(run.started_at)}, took {took(client, run)}"
    else:
        yield "started", f"{moment(run.started_at)}, {lasted(since(run.started_at))} ago"
    if run.status is RunStatus.RUNNING:
        executor = client.executor_of(run)
        if executor is not None:
            yield "process", str(executor.pid)
    yield from _relations(run)
    if run.progress is not None and run.status is not RunStatus.COMPLETED:
        yield "progress", _shown(progress_of(run.progress))


def _open_questions(client: ReadOnlyClient, run: AnyRun) -> list[Question]:
    """Return what a run waits to be answered, and not what it has prepared for later."""
    wait = run.waiting_for
    if wait is None or wait.kind != "answer":
        return []
    return [
        each for each in client.get_questions() if each.run_id == run.id and each.name == wait.name
    ]


def _relations(run: AnyRun) -> Iterator[tuple[str, str]]:
    if run.waiting_for is not None:
        yield "waiting", _shown(waits(run.waiting_for))
    if run.run_at is not None:
        yield "due", _shown(due(run.run_at, run))
    if run.parent_id is not None:
        yield "parent", run.parent_id
    if run.forked_from is not None:
        yield "forked", run.forked_from


def _width() -> int:
    return shutil.get_terminal_size().columns if is_terminal() else _WIDTH


def _shown(text: str) -> str:
    """Return a value on the line of its name."""
    return fitted(text, max(20, _width() - len(_INDENT)))


def _steps(steps: Sequence[StepRecord]) -> Iterator[str]:
    counts = [
        f"{sum(step.status == status for step in steps):,} {status}"
        for status in _MARKS
        if any(step.status == status for step in steps)
    ]
    yield f"  {'steps':<9} {', '.join(counts) or 'none yet'}"
    last = max(_FIRST, len(steps) - _LAST)
    width = min(_NAME, max((len(step.name) for step in steps), default=0))
    for step in steps[:_FIRST]:
        yield _step(step, width)
    if last > _FIRST:
        yield f"{_INDENT}… {last - _FIRST:,} more"
    for step in steps[last:]:
        yield _step(step, width)


def _step(step: StepRecord, name_width: int) -> str:
    name = fitted(step.name, name_width)
    padding = " " * (name_width - cells(name))
    took = lasted(duration_of(step.started_at, step.completed_at))
    begin = f"{_INDENT}{_MARKS[step.status]} {name}{padding}  {took:>9}  "
    return colored(step.status, begin) + fitted(result_of(step), max(20, _width() - cells(begin)))


def result_of(step: StepRecord) -> str:
    """Return the result of a step for a table: its error, the counts of a map, its output."""
    if step.error is not None and step.items is None:
        return str(step.error)
    if step.items is not None:
        return f"{items_of(step.items.done, step.items.total, step.items.failed)} items"
    return safe_repr(step.output) if step.status == "completed" else ""


def _open_maps(client: ReadOnlyClient, run: AnyRun) -> Iterator[str]:
    for each in client.open_maps(run):
        counted = f"{items_of(each.done, each.total, each.failed)} items so far"
        yield f"{_INDENT}▸ {fitted(each.name, _NAME)}  {counted}"


def _items(client: ReadOnlyClient, run: AnyRun, steps: Sequence[StepRecord]) -> Iterator[str]:
    """Yield the kinds of failures of the items of each map."""
    maps = {step.name: step.items.failed for step in steps if step.items is not None}
    maps |= {each.name: each.failed for each in client.open_maps(run)}
    title = "items"
    for name, failed in maps.items():
        if not failed:
            continue
        most = f" (of the first {MOST_FAILURES_READ:,})" if failed > MOST_FAILURES_READ else ""
        yield f"  {title:<9} {failed:,} failed in {fitted(name, _NAME)}{most}"
        title = ""
        for kind in client.failures_of(run, name):
            keys = ", ".join(map(str, kind.keys))
            more = ", …" if kind.times > len(kind.keys) else ""
            text = f"{kind.times:,} \N{MULTIPLICATION SIGN} {kind.type}: {kind.message}"
            line = fitted(text, max(20, _width() - len(_INDENT) - 40))
            yield f"{_INDENT}{line}  ({fitted(keys, 36)}{more})"


def _attempts(client: ReadOnlyClient, run: AnyRun) -> Iterator[str]:
    """Yield the last executions, if there was more than one."""
    attempts = client.get_attempts(run)
    if len(attempts) < 2:
        return
    title = "attempts"
    for each in attempts[-_LAST:]:
        took = lasted(duration_of(each.started_at, each.ended_at)) or "so far"
        process = "" if each.pid is None else f", process {each.pid}"
        error = "" if each.error is None else f": {each.error}"
        done = "" if each.steps_completed is None else f", {each.steps_completed} steps"
        begun = f"{each.attempt} {each.outcome}, {moment(each.started_at)}, {took}"
        text = f"{begun}{done}{process}{error}"
        yield f"  {title:<9} {_shown(text)}"
        title = ""


def _error(error: ErrorInfo) -> Iterator[str]:
    yield f"  {'error':<9} {colored('failed', fitted(str(error), _width() - len(_INDENT)))}"
    frames = frames_in(error.traceback)
    # Of a group the first error stands for all: the kinds of failures are above.
    others = (place for place, line in enumerate(frames) if _SECOND in line)
    for line in frames[: next(others, len(frames))][-_MOST_FRAMES:]:
        yield f"    {escaped(line[:500])}"
    for note in error.notes:
        yield f"    {displayable(note, 500)}"


def _next(
    shell: Shell, run: AnyRun, steps: Sequence[StepRecord], asked: Sequence[Question]
) -> Iterator[tuple[str, str]]:
    """Yield the commands that may help next, each with what it does."""
    name = short_id(run)
    has_stopped = run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
    failed = next((step.name for step in steps if step.status == "failed"), None)
    where = "" if failed is None else f" from step {displayable(failed, 40)!r}"
    if run.kind == "session" and (has_stopped or run.status is RunStatus.PENDING):
        yield "start its program again", f"go on{where}"
    elif has_stopped:
        yield shell.again(f"retry {name}"), f"go on{where}"
        first = next((step.name for step in steps if step.status == "completed"), None)
        if first is not None:
            shown = displayable(first, 80)
            step = shlex.quote(shown)
            yield shell.again(f"redo {name} --from {step}"), f"run {shown!r} and what follows again"
    for each in asked:
        of_type = "" if each.returns is None else f" with {displayable(each.returns, 40)}"
        asks = shlex.quote(displayable(each.name, 80))
        yield shell.again(f"answer {name} {asks} VALUE"), f"answer it{of_type}"
    if run.status is RunStatus.RUNNING:
        yield shell.again(f"watch {name}"), "see how it goes on"
    if run.is_active:
        is_running = run.status is RunStatus.RUNNING
        yield shell.again(f"cancel {name}"), f"stop it{' at its next step' * is_running}"
