"""What a call that executes a run says: which run, where it is executed, what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from durably._platform.clock import moment
from durably._platform.interactive import again
from durably._platform.safe_repr import on_one_line
from durably.codec.json_text import load
from durably.errors import ConflictError
from durably.models import Run, short_name
from durably.store import defects

if TYPE_CHECKING:
    from durably.store.api import Checkpoints
    from durably.store.rows import Beginning, RunKey, RunRow


def name(row: RunRow) -> str:
    """Return the name of a run for people: its job with its key, or the end of its id."""
    return on_one_line(f"{row.job_name} {row.idempotency_key or '…' + row.id[-4:]}")


def named(run: Run[Any, Any]) -> str:
    """Return the same of a run that was read."""
    return on_one_line(f"{run.job_name} {run.idempotency_key or '…' + run.id[-4:]}")


def where(done: Beginning) -> str:
    """Return who executes a run that cannot be executed here now, or the one it waits for."""
    row, executor = done.row, done.executor
    if done.holder is not None:
        holder = done.holder
        return (
            f"{name(row)} waits for {name(holder)}, which has its concurrency key and "
            f"{executed(holder, executor)}"
        )
    return f"{name(row)} {executed(row, executor)}"


def executed(row: RunRow, executor: Any) -> str:
    """Return where a run is executed, since when, and how far it is, as part of a sentence."""
    since_us = row.started_at_us or row.created_at_us
    process = "another process"
    if executor is not None:
        since_us = max(since_us, executor.since_us)
        process = f"process {executor.pid}"
    return f"is running since {moment(since_us)} in {process}{_progress(row)}"


def _progress(row: RunRow) -> str:
    """Return how far the run is, in brackets; empty if nothing is known."""
    try:
        progress: Any = load(row.progress or "null")
    except (ValueError, RecursionError):
        progress = None
    if not defects.is_progress(progress):
        count = row.completed_steps
        return f" ({count} {'step' if count == 1 else 'steps'} completed)" if count else ""
    total = progress["total"]
    return f" ({progress['current']} of {total})" if total is not None else ""


def steps_kept(count: int) -> str:
    """Return how many completed steps are kept."""
    return f"{count} completed step is kept" if count == 1 else f"{count} completed steps are kept"


class StoppedIn(NamedTuple):
    """The step in which a run was stopped, and what is stored of it."""

    step: str | None
    is_stored: bool = False
    # Of a map.
    items: int | None = None


def stopped_in(checkpoints: Checkpoints, run_pk: RunKey, step: str | None) -> StoppedIn:
    """Return what is stored of the step in which a run was stopped, if it was in one."""
    if step is None:
        return StoppedIn(None)
    checkpoint = checkpoints.find(run_pk, step)
    if checkpoint is not None:
        return StoppedIn(step, checkpoint[1] is not None)
    counts = checkpoints.count_items(run_pk, step)
    return StoppedIn(step, items=None if counts is None else counts[0])


def stopped(place: StoppedIn, count: int) -> str:
    """Return where a signal has stopped a run, what is kept, and how to go on."""
    step, is_stored, items = place
    where = "" if step is None else f" {'after' if is_stored else 'in'} step {step!r}"
    kept = [] if items is None else [f"{items:,} of its items"]
    if count or not kept:
        kept.append(steps_kept(count))
    else:
        kept[0] += " is kept" if items == 1 else " are kept"
    return f"stopped{where}; {' and '.join(kept)}. {again().capitalize()} to go on."


def old_run_continued(row: RunRow, before: RunRow) -> str:
    """Return that a run without a key is continued that is perhaps not the one that is meant."""
    return (
        f"{short_name(row.id, row.job_name, None)} is continued, which was begun at "
        f"{moment(before.created_at_us)}: {steps_kept(before.completed_steps)}. Pass "
        "fresh=True to begin a new run, or key= to say which one is meant"
    )


def payload_conflict(row: RunRow, paths: str) -> ConflictError:
    """Return the error that a run with this key has another payload."""
    return ConflictError(
        f"{name(row)} was started with another payload ({paths}); use another key, or "
        'on_payload_change="extend"'
    )


def payload_changed(row: RunRow, paths: str) -> str:
    """Return that a run with this key has another payload, and what becomes of that."""
    happens = (
        "Its stored result is returned"
        if row.status == "completed"
        else "It goes on with the payload it has"
    )
    return (
        f"{row.idempotency_key!r} was started with another payload ({paths}). {happens}; use "
        'another key, or on_payload_change="extend".'
    )
