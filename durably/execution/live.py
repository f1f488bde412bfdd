"""What a display shows of runs: numbers that are there anyway, read while the runs are executed.

A call that waits hands a display a function that returns a ``View``. Nothing calls it where
nothing is displayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from durably.models import RunStatus
from durably.settings import Show


class LoopView(NamedTuple):
    """A map as it is now; the numbers are of items."""

    name: str
    done: int
    failed: int
    reused: int
    total: int | None
    workers: int
    # For how long no item begins, in seconds.
    limited_s: float


class RunView(NamedTuple):
    """A run as it is now."""

    id: str
    name: str
    key: str | None = None
    # A status of a run; "stopped" for one that a call has left, "open" for a session.
    status: str = "running"
    # When its code was entered here, by the monotonic clock.
    began_s: float = -math.inf
    # How much has a result, that from checkpoints included, and how much of it comes from there.
    done: float = 0
    reused: float = 0
    # What has died while it executed the run before, "process" or "kernel"; empty if nothing has.
    died: str = ""
    total: float | None = None
    failed: int = 0
    # How much was done before the call that is displayed, by another cell.
    before: float = 0
    # What is counted: "steps", "items", or "" for what the job counts itself.
    unit: str = "steps"
    # How many may be executed at once.
    workers: int = 1
    # The step that is executed, and what the job says of its progress.
    step: str | None = None
    message: str | None = None
    # For how long nothing begins, in seconds.
    limited_s: float = 0.0
    # Whether this process executes it: only then can a rate be known.
    is_here: bool = True

    @property
    def is_over(self) -> bool:
        """Return whether nothing executes it any more."""
        return self.status not in (RunStatus.RUNNING, RunStatus.PENDING, "waiting")


class View(NamedTuple):
    """What is displayed: one run, or several with their totals, the slowest first."""

    runs: tuple[RunView, ...] = ()
    is_several: bool = False
    # Of several runs: how many have ended, how many of those failed, how many there are.
    done: int = 0
    failed: int = 0
    total: int | None = None
    workers: int = 1
    # Whether the one run is a map whose name a line above says: ``durably.map``.
    is_map: bool = False


GetView = Callable[[], View]


class Narrator(Protocol):
    """Gets what a map says, in the thread that drives it."""

    def say(self, text: str) -> None:
        """Show what is said of the beginning or the end of a map."""

    def stop(self) -> None:
        """Show nothing more: the map is stopping, and says so."""


class Showing(Protocol):
    """A display in progress."""

    @property
    def narrator(self) -> Narrator | None:
        """Return what shows the lines of a map, ``None`` if nothing does."""


class Displays(Protocol):
    """Opens displays. Usable from any thread."""

    def showing(
        self, get_view: GetView, show: Show = None, *, is_map: bool = False
    ) -> AbstractContextManager[Showing | None]:
        """Display what *get_view* returns in the block, if anything is to be displayed.

        Another thread calls it now and then, and a last time at the end of the block.

        Args:
            show: as the user's argument of that name; ``None`` for the engine's.
            is_map: whether the block is ``durably.map``, whose beginning and end are said.
        """


class NoDisplays:
    """Displays nothing."""

    @contextmanager
    def showing(
        self,
        get_view: GetView,  # noqa: ARG002 - of the protocol
        show: Show = None,  # noqa: ARG002
        *,
        is_map: bool = False,  # noqa: ARG002
    ) -> Iterator[Showing | None]:
        """Execute the block."""
        yield None
