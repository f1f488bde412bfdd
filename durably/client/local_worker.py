"""What a client asks of the worker in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from durably.errors import StopRun
from durably.execution.current_run import Slot
from durably.store.rows import Claim, RunRow


class LocalWorker(Protocol):
    """The worker of this process, as submitting and waiting see it. Usable from any thread."""

    # -- starting a run with its trigger -------------------------------------------------------

    @property
    def takes_runs(self) -> bool:
        """Return whether this engine claims runs by itself now."""

    def reserve_slot(self, slot: Slot) -> Claim | None:
        """Take *slot* if one is free; return what to claim for it, ``None`` for nothing."""

    def enter(self, row: RunRow, slot: Slot) -> None:
        """Note that a run was claimed for *slot*: from now on it counts as about to start."""

    def begin(self, slot: Slot) -> None:
        """Execute the run of *slot*. Idempotent."""

    def return_slot(self, slot: Slot) -> None:
        """Return *slot*, for which there was no run. Idempotent."""

    def offer_if_free(self) -> None:
        """Wake the dispatcher now, or as soon as a slot is free."""

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Make this attempt of a run stop at its next step boundary, if it is executed here."""

    # -- waiting for a run ---------------------------------------------------------------------

    def waiting(self) -> AbstractContextManager[None]:
        """Mark, while the block is executed, that the calling thread waits for a run."""

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if this is a job's thread and its run is to stop.

        Args:
            is_futile: whether the wait cannot succeed; the run goes back if the engine is stopping.
        """

    def is_executing(self, run_id: str) -> bool:
        """Return whether that run is inside its job here, or the events of its end are due.

        A run that was cancelled has ended, and one that another engine recovered ends there,
        however long its job continues here.
        """

    def check_in_place(self) -> None:
        """Raise ``DatabaseLostError`` if the database file is not in its place any more."""

    @property
    def is_claiming(self) -> bool:
        """Return whether runs are claimed now, by itself or for a call of run_until_idle."""

    @property
    def is_stuck(self) -> bool:
        """Return whether this is a job's thread, and every slot has a job that waits for a run."""

    def left_alone(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return those of the runs that this engine leaves to other code, and why, by id."""

    @property
    def owner_number(self) -> int | None:
        """Return the number of this engine's owner row, if it has one now."""

    @property
    def owner_numbers(self) -> tuple[int, ...]:
        """Return the number of each owner row that this engine has had."""
