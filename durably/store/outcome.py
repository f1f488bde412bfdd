"""How an execution leaves its job, and why else a running run goes back to pending."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from durably._platform.values import Value
from durably.models import ErrorInfo
from durably.store.rows import RunKey


@attrs.frozen(eq=False, repr=False)
class Completed(Value):
    """The job has returned; *output* is JSON text, *value* what is read from it.

    Args:
        unused_steps: the names of the steps that are stored and that it has not used.
    """

    output: str
    value: Any = None
    unused_steps: tuple[str, ...] = ()


@attrs.frozen(eq=False, repr=False)
class Failed(Value):
    """The job has raised, because of the step of that name, if any.

    With *is_inside* it is still inside a step, at its deadline: the run keeps its owner.
    """

    error: ErrorInfo
    step: str | None = None
    is_inside: bool = False


@attrs.frozen(eq=False, repr=False)
class TriedAgain(Value):
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


@attrs.frozen(eq=False, repr=False)
class Interrupted(Value):
    """The job was stopped and has not come to an end: the run is pending again."""


@attrs.frozen(eq=False, repr=False)
class Suspended(Value):
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


@attrs.frozen(eq=False, repr=False)
class Lost(Value):
    """The run was cancelled or taken over meanwhile: only its owner is removed."""


Outcome = Completed | Failed | TriedAgain | Interrupted | Suspended | Lost


@attrs.frozen(eq=False, repr=False)
class NotExecuted(Value):
    """Nothing executes what was claimed."""

    run_pk: RunKey
    fence: int


@attrs.frozen(eq=False, repr=False)
class OwnerIdle(Value):
    """The owner executes none of its running runs."""

    owner: int


@attrs.frozen(eq=False, repr=False)
class OwnerHung(Value):
    """The owner lives, but its beat still is *beat*."""

    owner: int
    beat: int


@attrs.frozen(eq=False, repr=False)
class OwnerDead(Value):
    """The owner is dead: its keys are freed too, and its row is removed.

    With *beat*, only if that still is its beat. With *max_deaths*, a run whose process has died as
    often without storing another checkpoint is failed, and not put back. The restart of a machine
    is no such death.
    """

    owner: int
    beat: int | None = None
    max_deaths: int | None = None


@attrs.frozen(eq=False, repr=False)
class OwnerElsewhere(Value):
    """The owner has the file that this one is a copy of: no key and no row of it is left here."""

    owner: int


RequeueReason = NotExecuted | OwnerIdle | OwnerHung | OwnerDead | OwnerElsewhere
