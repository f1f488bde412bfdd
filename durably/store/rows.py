"""The values of the store's interface: rows as they are stored, arguments and results of verbs."""

# Without ``from __future__ import annotations``: typing compiles each annotation of a NamedTuple
# that is a string, which takes longer than all else of the class.
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NewType, TypedDict

from durably.models import Disposition, RunKind
from durably.settings import OnPayloadChange

# The order in which runs were triggered, across processes; the public id is another one.
RunKey = NewType("RunKey", int)


class RunRow(NamedTuple):
    """A run as it is stored; payload, output, error, progress and labels are JSON text."""

    run: RunKey
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
    fence: int
    origin: str | None = None
    kind: RunKind = "job"
    # How it is tried again, and how long an execution may take, where its trigger has said so.
    retry: str | None = None
    timeout_us: int | None = None
    # How often its process has died since its last new checkpoint.
    deaths: int = 0
    failures: int = 0
    completed_steps: int = 0
    # What it waits for, of a waiting run; and when a run that is not claimable is due.
    run_at_us: int | None = None
    waits_for: str | None = None
    wait_name: str | None = None
    waits_for_id: str | None = None
    parent_id: str | None = None
    # Of a pending run whose last execution has failed.
    last_error: str | None = None
    # The id of the run with whose results it began.
    forked_from: str | None = None
    # Of a failed run: its first step with a result, as hexadecimal digits.
    first_step: str | None = None
    # Whether an execution has used a result of other code.
    code_changed: int = 0


class Brief(NamedTuple):
    """The state of a run that a waiting thread checks."""

    id: str
    status: str
    owner: int | None
    progress: str | None
    kind: RunKind = "job"


class Begun(NamedTuple):
    """A pending run with checkpoints, and the code that made them."""

    job_name: str
    origin: str
    id: str


class NewRun(NamedTuple):
    """A run that a trigger stores, and which existing run may take its place."""

    id: str
    job_name: str
    payload: str
    labels: str = "{}"
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    coalesce: bool = False
    retry_failed: bool = False
    # With ``coalesce``: whether a waiting or running run is joined as well as a pending one.
    joins_active: bool = False
    # What happens if the run with the key has another payload, and the stored payloads that are not
    # another one, although their text differs.
    on_payload_change: OnPayloadChange = "warn"
    same_payloads: frozenset[str] = frozenset()
    # When it may begin, if not at once.
    run_at_us: int | None = None
    # The origins whose checkpoints the job continues, as in ``Claim``: runs to coalesce with.
    origins: str = "{}"
    kind: RunKind = "job"
    parent: RunKey | None = None
    # How it is tried again, as JSON, and how long an execution may take; ``None``: the job decides.
    retry: str | None = None
    timeout_us: int | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether it is a job's run for now, without a parent, whose place none can take."""
        is_own = self.idempotency_key is None and not self.coalesce
        is_now = self.run_at_us is None
        is_bare = self.parent is None and not self.has_tries
        return is_own and is_now and self.kind == "job" and is_bare

    @property
    def has_tries(self) -> bool:
        """Return whether it has options of its own for its tries."""
        return self.retry is not None or self.timeout_us is not None


class Enqueued(NamedTuple):
    """How a trigger was resolved."""

    row: RunRow
    disposition: Disposition


def _always() -> bool:
    return True


def _none() -> str:
    return "[]"


class Claim(NamedTuple):
    """How many runs of which jobs an owner claims; ``jobs`` is a JSON array of names.

    The functions are called in the transaction, because their results may change until then: the
    time, so that no run begins before it was triggered; whether the runs are still wanted; and the
    keys of the runs whose jobs the owner's own threads are inside (a JSON array), which it must not
    execute a second time meanwhile.

    ``origins`` says whose checkpoints these jobs continue: a JSON object with a member for each
    origin of a job. Names occur more than once in it, and the first origin of a name is the one
    that is stored. ``true`` stands for every origin. Runs without checkpoints are claimed by all.

    ``codes`` is a JSON object with the fingerprints of the jobs' functions, by the jobs' names.
    """

    owner: int
    jobs: str
    now_us: Callable[[], int]
    limit: int = 1
    is_wanted: Callable[[], bool] = _always
    inside: Callable[[], str] = _none
    origins: str = "{}"
    codes: str = "{}"


class Begin(NamedTuple):
    """A certain run to execute now: created or continued, and claimed by the caller.

    Args:
        new: how it is stored if it is created. With an ``idempotency_key`` it is the run with that
            key, otherwise the newest run of the job that has this payload and no key, or the newest
            session of that name without a key, unless that has completed.
        claim: as whom to claim it, and the origin it has from then on, whatever it had before.
        is_fresh: whether it is created in any case. The key of an existing run passes to it.
        on_payload_change: what happens if the run with the key has another payload.
        same_payloads: stored payloads that are not another one, although their text differs.
        run_pk: the run that is wanted, whatever its key and its payload.
    """

    new: NewRun
    claim: Claim
    is_fresh: bool = False
    on_payload_change: OnPayloadChange = "warn"
    same_payloads: frozenset[str] = frozenset()
    run_pk: RunKey | None = None


class BeginOptions(TypedDict, total=False):
    """The options of ``Begin``, as type checkers see them."""

    is_fresh: bool
    on_payload_change: OnPayloadChange
    same_payloads: frozenset[str]
    run_pk: RunKey | None


class Executor(NamedTuple):
    """The engine that has a run, with the id of its process, and since when at the most."""

    owner: int
    pid: int | None
    since_us: int | None


class Beginning(NamedTuple):
    """What ``begin`` has done.

    Args:
        how: ``created`` and ``continued``: the run is claimed. ``completed``: it has ended before.
            ``elsewhere``: *executor* executes it, or is inside the last step of a run that was
            cancelled. ``queued``: *executor* executes *holder*, which has the same concurrency key.
            ``changed``: it has another payload, and that was not wanted; nothing was stored.
            ``ended``: it was wanted by its number, and has failed or was cancelled meanwhile.
        row: the run as it is now.
        before: the run as it was, ``None`` if it was created.
    """

    how: Literal["created", "continued", "completed", "elsewhere", "queued", "changed", "ended"]
    row: RunRow
    before: RunRow | None = None
    executor: Executor | None = None
    holder: RunRow | None = None


class Ended(NamedTuple):
    """The effect of an outcome: whether there was one, and the run claimed in its transaction."""

    is_effective: bool
    claimed: RunRow | None


# One stored step for a resume: its index, its output (None if it failed or was cancelled), its
# name, and the fingerprint of the function that has made it. A plain tuple as SQLite returns it,
# because a resume reads each step.
Checkpoint = tuple[int, str | None, str, int | None]

# The same under ``on_change="redo"``, with its layer, a hash of what it was made of beside the
# code, and whether a person has set it.
LayeredCheckpoint = tuple[int, str | None, str, int | None, int, int | None, int]


class Window(NamedTuple):
    """Consecutive checkpoints of a run, by name, and the index where the next window begins.

    The first window has the highest index of the run's steps and maps, -1 if there is none, and the
    index of each map by name.
    """

    checkpoints: dict[str, Any]
    next_index: int | None
    highest_index: int = -1
    maps: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed


class NewWait(NamedTuple):
    """What a step waits for, as its first call stores it; ``until_us`` is its deadline."""

    name: str
    kind: Literal["time", "poll", "answer"]
    until_us: int | None = None
    ticket: str | None = None
    question: str | None = None
    returns: str | None = None


class LogLine(NamedTuple):
    """A log line to store; message and data are JSON text, since they may contain any text."""

    run_id: str
    owner: int
    level: str
    message: str
    data: str
    step_name: str | None
    created_at_us: int


class Shrunk(NamedTuple):
    """How much was returned to the file system, and how long the database was locked for it."""

    returned_bytes: int
    has_more: bool
    took_s: float
