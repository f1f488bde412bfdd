"""Child runs: what the step context asks of those who trigger, execute and read runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from durably.models import Run
    from durably.store.rows import RunKey


class ChildRuns(Protocol):
    """Triggers and reads the children of runs. Usable from any thread."""

    def trigger(
        self,
        parent: RunKey,
        fence: int,
        run_id: str,
        job: Any,
        payload: Any,
        options: dict[str, Any],
    ) -> str | None:
        """Trigger a run, unless there is one of that id; return the id of the run that counts.

        Return ``None`` if the claim of the parent is not the current one.
        """

    def read(self, run_id: str) -> Run[Any, Any]:
        """Return the run.

        Raises:
            NotFoundError: it was deleted.
        """

    def ended(self, run_id: str) -> Run[Any, Any]:
        """Return the run, which has ended, if it has completed.

        Raises:
            RunFailedError: it has failed.
            RunCancelledError: it was cancelled.
        """


class Family:
    """What the runs of one engine use for their children; the wiring sets both."""

    # Only a run that has children needs it.
    runs: Callable[[], ChildRuns]
    # Executes a pending run in the calling thread, if nothing else here claims runs; returns
    # whether it did.
    execute: Callable[[RunKey], bool]
