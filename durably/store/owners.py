"""The verbs of a store that are about its owners: who executes runs, and whether it is alive."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from durably.store.calls import BegunSteps
    from durably.store.rows import RunKey


class OwnerRow(NamedTuple):
    """An engine's owner row, as other engines read it."""

    owner: int
    token: str
    heartbeat_interval_us: int
    is_started: int
    beat: int
    has_runs: int


class Beat(NamedTuple):
    """The result of a heartbeat: whether the owner row exists, and the running runs it owns."""

    is_registered: bool
    running: frozenset[tuple[RunKey, int]]


class Liveness(enum.Enum):
    """What an owner's lock says about its process."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    # The lock file is missing or cannot be opened: treated as if the lock were held.
    UNKNOWN = enum.auto()


class OwnerLock(Protocol):
    """A lock that the kernel holds for as long as this process lives."""

    @property
    def begun(self) -> BegunSteps:
        """Return the notes of the steps in progress, which last as long as the lock's file."""

    def release(self) -> None:
        """Remove the lock: the owner row is gone."""

    def abandon(self) -> None:
        """Release the lock and leave its file, so that others find the owner dead."""


class Owners(Protocol):
    """The part of a store that knows the engines which execute runs, and proves which are alive."""

    def register_owner(self, token: str, heartbeat_interval_us: int, now_us: int) -> int:
        """Store an owner row, whose lock must be held already; return its number."""

    def set_owner_started(self, owner: int, *, is_started: bool) -> None:
        """Store whether an engine claims runs by itself, for the waiting threads of others."""

    def beat(self, owner: int, now_us: Callable[[], int]) -> Beat:
        """Mark the owner and all its running runs as alive. Waits for no long write.

        Args:
            now_us: returns the time; called inside the transaction.
        """

    def owners(self) -> list[OwnerRow]:
        """Return every owner that has not left in order."""

    def is_registered(self, owner: int) -> bool:
        """Return whether the owner row is there, so that no other engine has found it dead."""

    def owns_running(self, owner: int) -> bool:
        """Return whether the owner has a running run."""

    def remove_owner(self, owner: int) -> bool:
        """Delete the row of an owner that has no runs any more; return whether it is gone."""

    def lock_owner(self, token: str) -> OwnerLock:
        """Take the lock that proves that the owner with that token is alive."""

    def liveness_of(self, token: str) -> Liveness:
        """Return whether the process that took the lock of that token is alive."""

    def remove_owner_lock(self, token: str) -> None:
        """Remove what is left of the lock of an owner that is dead."""

    def sweep_owner_locks(self, known: Collection[str], *, older_than_s: float) -> None:
        """Remove the locks of owners that died before their row was stored."""
