"""How an execution leaves its job, and why else a running run goes back to pending."""

# Without ``from __future__ import annotations``, as in ``store.rows``.
from typing import Any, Literal, NamedTuple

from durably.models import ErrorInfo
from durably.store.rows import RunKey


class Completed(NamedTuple):
    """The job has returned; *output* is JSON text, *value* what is read from it.

    Args:
        unused_steps: the names of the steps that are stored and that it has not used.
    """

    output: str
    value: Any = None
    unused_steps: tuple[str, ...] = ()


class Failed(NamedTuple):
    """The job has raised, because of the step of that name, if any.

    With *is_inside* it is still inside a step, at its deadline: the run keeps its owner.
    """

    error: ErrorInfo
    step: str | None = None
    is_inside: bool = False


class TriedAgain(NamedTuple):
    """The job has failed, and the run is pending again, after a wait.

    Args:
        wait_s: that wait, and *run_at_us* its end; ``None`` for at once.
        is_failure: whether it counts as one; it does not if the job has asked to be called later.
        is_inside: as of ``Failed``.
    """

    error: ErrorInfo
    step: str | None
    wait_s: float
    run_at_us: int | None
    is_failure: bool = True
    is_inside: bool = False


class Interrupted:
    """The job was stopped and has not come to an end: the run is pending again."""


class Suspended(NamedTuple):
    """The run waits for a time, an answer or the end of another run, and holds nothing meanwhile.

    Args:
        name: the step that waits; only a wait for a run may have none.
        until_us: when the run continues at the latest, required for a time.
        run_pk: the run that is waited for.
    """

    waits_for: Literal["time", "answer", "run"]
    name: str | None = None
    until_us: int | None = None
    run_pk: RunKey | None = None


class Lost:
    """The run was cancelled or taken over meanwhile: only its owner is removed."""


Outcome = Completed | Failed | TriedAgain | Interrupted | Suspended | Lost


class NotExecuted(NamedTuple):
    """Nothing executes what was claimed."""

    run_pk: RunKey
    fence: int


class OwnerIdle(NamedTuple):
    """The owner executes none of its running runs."""

    owner: int


class OwnerHung(NamedTuple):
    """The owner lives, but its beat still is *beat*."""

    owner: int
    beat: int


class OwnerDead(NamedTuple):
    """The owner is dead: its keys are freed too, and its row is removed.

    With *beat*, only if that still is its beat. With *max_deaths*, a run whose process has died as
    often without storing another checkpoint is failed, and not put back. The restart of a machine
    is no such death.
    """

    owner: int
    beat: int | None = None
    max_deaths: int | None = None


class OwnerElsewhere(NamedTuple):
    """The owner has the file that this one is a copy of: no key and no row of it is left here."""

    owner: int


RequeueReason = NotExecuted | OwnerIdle | OwnerHung | OwnerDead | OwnerElsewhere
