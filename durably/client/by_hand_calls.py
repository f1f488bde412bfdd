"""The calls of an engine by which a person changes the results of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from durably._platform.signals import door
from durably.models import Run

if TYPE_CHECKING:
    from durably.client.client import Client

P = TypeVar("P")
R = TypeVar("R")


@door
class ByHandCalls:
    """What is done to a run by hand. Each takes one that is not being executed."""

    _client: Client
    # Raises unless the engine can be used.
    _check: Callable[[], None]

    def redo(
        self, run: Run[P, R] | str, *, from_step: str | None = None, only: str | None = None
    ) -> Run[P, R]:
        """Forget results of a run, so that their steps are executed again, and return the run.

        It is pending again, also if it had completed, and keeps its keys, labels, log lines and
        attempts. Its output, error and progress are forgotten. A step that is executed again has
        the index that it had. Questions are asked again, and timers begin again. Runs that
        ``step.trigger`` has triggered in those steps are triggered again; the earlier ones are
        cancelled if they have not ended. One with an idempotency key of its own is found again
        instead.

        The run waits to be executed, as after ``retry``. A run of which nothing is stored is only
        made pending.

        Args:
            from_step: the first step to execute again, with all that follow it in the order of
                ``StepRecord.index``. Without *from_step* and *only*, all steps.
            only: the name of one step or map to execute again, or ``"map[key]"`` for one item. What
                follows keeps its results.

        Raises:
            ConflictError: the run is being executed; the message says by which process.
            NotFoundError: there is no such run or step; the message lists the nearest names.
            ValidationError: both *from_step* and *only* were given.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.by_hand.redo(run, from_step, only)
