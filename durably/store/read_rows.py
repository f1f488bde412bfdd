"""The values of the store's interface that only reads take and return, as they are stored."""

# Without ``from __future__ import annotations``, as in ``store.rows``.
from typing import Literal, NamedTuple

from durably.models import RunKind


class Filters(NamedTuple):
    """The runs to list; ``None`` for no restriction, the others as JSON text."""

    statuses: str | None = None
    jobs: str | None = None
    labels: str | None = None
    kind: RunKind | None = None
    # Those to which anything has happened since then.
    since_us: int | None = None
    # The children of the run with that id.
    parent: str | None = None


class StatusCount(NamedTuple):
    """How many runs with that name have that status."""

    job_name: str
    status: str
    runs: int


class StepRow(NamedTuple):
    """One stored step with all its columns."""

    step_index: int
    name: str
    status: str
    output: str | None
    error: str | None
    started_at_us: int
    completed_at_us: int
    attempt: int
    # Of a map: how many of its items are done, failed and reused, and how many there are.
    counts: tuple[int, int, int, int | None] | None = None
    # Whether a person has set the result.
    is_manual: int = 0
    # How often its function was called, and what the calls have noted: a JSON array.
    attempts: int = 1
    notes: str | None = None


class Wait(NamedTuple):
    """What a step waits for; the answer is JSON text, and ``returns`` says which type it has.

    ``asked_at_us`` is ``None`` while there is only an answer.
    """

    run_id: str
    job_name: str
    name: str
    kind: Literal["time", "poll", "answer"]
    until_us: int | None
    created_at_us: int
    asked_at_us: int | None
    tries: int
    next_us: int | None
    ticket: str | None
    question: str | None
    returns: str | None
    answer: str | None
    answer_id: str | None
    closed_at_us: int | None


class AttemptRow(NamedTuple):
    """One execution of a run as it is stored; the error is JSON text.

    ``started_at_us`` is ``None`` of an execution that an earlier version has stored, and the two
    counts of one of which nobody knows them.
    """

    attempt: int
    outcome: str
    host: str | None
    pid: int | None
    started_at_us: int | None
    ended_at_us: int | None
    error: str | None
    steps_completed: int | None = None
    steps_reused: int | None = None
    # A JSON array of the names of the steps that were stored and not used.
    unused_steps: str | None = None


class CodeRow(NamedTuple):
    """A step whose result is stored: the fingerprint of its code, and the names of functions of it.

    A map has one for each version of its function that has made items.
    """

    step_index: int
    name: str
    stored_at_us: int
    code: int | None
    names: tuple[str, ...]


class LogRow(NamedTuple):
    """A stored log line."""

    log: int
    level: str
    message: str
    data: str
    step_name: str | None
    created_at_us: int
