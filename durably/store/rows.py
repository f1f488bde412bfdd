"""What passes the store's door: rows as they are stored, and what the verbs take and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from durably.models import Disposition


class RunRow(NamedTuple):
    """A run as it is stored; payload, output, error, progress and labels are JSON text."""

    run: int
    id: str
    job_name: str
    status: str
    payload: str
    output: str | None
    error: str | None
    progress: str | None
    labels: str
    idempotency_key: str | None
    concurrency_key: str | None
    owner: int | None
    attempt: int
    created_at_us: int
    started_at_us: int | None
    completed_at_us: int | None
    updated_at_us: int
    heartbeat_at_us: int | None
    origin: str | None = None
    completed_steps: int = 0


class Brief(NamedTuple):
    """What a waiter looks at."""

    id: str
    status: str
    owner: int | None
    progress: str | None


class Begun(NamedTuple):
    """A pending run with checkpoints, and which code has made them."""

    job_name: str
    origin: str
    id: str


class Filters(NamedTuple):
    """What to list; ``None`` for no restriction, JSON text for the others."""

    statuses: str | None = None
    jobs: str | None = None
    labels: str | None = None


class NewRun(NamedTuple):
    """What a trigger stores, and how it is to be resolved against what is there."""

    id: str
    job_name: str
    payload: str
    labels: str = "{}"
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    coalesce: bool = False
    retry_failed: bool = False
    # Whose checkpoints the job takes, as in ``runs.Claim``: what a trigger may coalesce into.
    origins: str = "{}"

    @property
    def is_plain(self) -> bool:
        """Whether nothing in the file can stand in for it."""
        return self.idempotency_key is None and not self.coalesce


class Enqueued(NamedTuple):
    """How a trigger was resolved."""

    row: RunRow
    disposition: Disposition


def _always() -> bool:
    return True


def _none() -> str:
    return "[]"


class Claim(NamedTuple):
    """Who wants how many runs of which jobs; ``jobs`` is a JSON array of names.

    What may have changed on the way is asked in the transaction: the time, so that no run has
    begun before it was triggered; whether they are wanted still; and inside which runs the owner's
    own threads are (a JSON array of keys), since it must not execute those a second time meanwhile.

    ``origins`` says whose checkpoints these jobs take: a JSON object with a member for each origin
    of a job, so that names come more than once, the first of which is the one that is stored.
    ``true`` stands for every origin. Runs that have no checkpoints are taken by all.
    """

    owner: int
    jobs: str
    now_us: Callable[[], int]
    limit: int = 1
    is_wanted: Callable[[], bool] = _always
    inside: Callable[[], str] = _none
    origins: str = "{}"


class Ending(NamedTuple):
    """The end of one execution of a run: with an output, an error, or neither (an interrupt)."""

    run: int
    attempt: int
    output: str | None
    error: str | None
    progress: str | None
    keep_steps: bool
    now_us: int


class Ended(NamedTuple):
    """Whether an ending took effect, and the run claimed in its transaction, if any."""

    is_effective: bool
    claimed: RunRow | None


class StepRow(NamedTuple):
    """One stored step, whole."""

    step_index: int
    name: str
    status: str
    output: str | None
    error: str | None
    started_at_us: int
    completed_at_us: int
    attempt: int


# What a resume needs of one stored step, as SQLite gives it, since a resume pays for each: its
# index, its output (none if it failed or was cancelled) and its name.
Checkpoint = tuple[int, str | None, str]


class Window(NamedTuple):
    """A stretch of a run's checkpoints by name, in order, and where the next one begins, if any."""

    checkpoints: dict[str, Checkpoint]
    next_index: int | None


class LogLine(NamedTuple):
    """A line to store; message and data are JSON text, since they may hold any text at all."""

    run_id: str
    owner: int
    level: str
    message: str
    data: str
    step_name: str | None
    created_at_us: int


class LogRow(NamedTuple):
    """A stored line."""

    log: int
    level: str
    message: str
    data: str
    step_name: str | None
    created_at_us: int


class OwnerRow(NamedTuple):
    """An engine as the others see it."""

    owner: int
    token: str
    heartbeat_interval_us: int
    is_started: int
    beat: int
    has_runs: int


class Beat(NamedTuple):
    """What a heartbeat learned: whether the owner row stands, and which runs are its own."""

    is_registered: bool
    running: frozenset[tuple[int, int]]
