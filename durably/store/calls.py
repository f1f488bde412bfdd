"""Calls of the functions of steps that are in progress, or were left without an end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from durably.store.rows import RunKey


class OpenCalls(NamedTuple):
    """Calls of a step's function that were begun by an execution and have no end.

    ``reused`` is how many steps the execution had taken from checkpoints when it began them.
    """

    name: str
    calls: int
    notes: str = "[]"
    reused: int | None = None


class Left(NamedTuple):
    """What an execution has done and left when it leaves its job.

    How many steps it has completed, how many returned from checkpoints, and the calls of functions
    of steps that it has begun and not ended.
    """

    steps_completed: int | None = None
    steps_reused: int | None = None
    calls: tuple[OpenCalls, ...] = ()


class BegunSteps(Protocol):
    """Notes of the steps that are in progress, which a death of the process leaves to others.

    Each is one call and no commit. Usable from any thread.
    """

    def begin(self, run_pk: RunKey, fence: int, name: str, calls: int, reused: int) -> int:
        """Note that a step begins; return its slot."""

    def end(self, slot: int) -> None:
        """Free the slot of a step that has a result, or whose execution is over."""

    def forget(self, slot: int) -> None:
        """Free the slot of a step whose failure is stored."""
