"""The calls of an engine by which a person changes the results of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from durably._platform.signals import door
from durably.client.arguments import AnyRun
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

    def fork(
        self,
        run: Run[P, R] | str,
        *,
        from_step: str | None = None,
        payload: Any = ...,
        key: str | None = None,
    ) -> Run[P, R]:
        """Store a new run that begins with copies of another one's results, and return it.

        The other run stays as it is; ``Run.forked_from`` of the new one is its id. The new run has
        its labels and its concurrency key, no log lines and no attempts, and waits to be executed.
        Where a copy is the id of a run that ``step.trigger`` has triggered, it is the same run. A
        question that was prepared with ``step.prepare`` and is not answered is asked again, and
        what follows it is not copied.

        Args:
            from_step: the first step that the new run executes; the results of those before it, in
                the order of ``StepRecord.index``, are copied. Without it all results are.
            payload: of the new run, by default that of the other one.
            key: the idempotency key of the new run. It has none by default.

        Raises:
            ConflictError: the run is being executed, or another one has the key.
            NotFoundError: there is no such run or step.
            ValidationError: the payload does not fit the job, if that is registered here, or the
                key is not acceptable.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.by_hand.fork(run, from_step, payload, key)

    def set_step(self, run: AnyRun | str, name: str, value: Any) -> None:
        """Set the result of a step of which something was stored before.

        It replaces a result, an error, or what ``redo`` has forgotten. The run stays as it is:
        ``retry`` makes a failed one go on, and ``redo`` one that has completed.
        ``StepRecord.is_manual`` says that the result was set.

        Args:
            name: of the step; ``"map[key]"`` for one item of a map, as ``set_item``.
            value: what the step returns from now on. It must have a stored form; whether it fits
                the annotation of the step's function is checked when it is used.

        Raises:
            ConflictError: the run is being executed, or the step is a map.
            NotFoundError: there is no such run, or nothing was ever stored of such a step.
            SerializationError: the value cannot be stored.

        .. versionadded:: 0.2.0
        """
        self._check()
        self._client.by_hand.set_step(run, name, value)

    def set_item(self, run: AnyRun | str, name: str, key: str | int, value: Any) -> None:
        """Set the result of an item of a map, which has failed or completed before.

        As ``set_step`` does; ``ItemRecord.is_manual`` says that the result was set.

        Args:
            name: of the map.
            key: of the item, or its position in a map without keys.
            value: the result of the item from now on.

        Raises:
            ConflictError: the run is being executed, or the step is no map.
            NotFoundError: there is no such run or map, or nothing is stored of such an item.
            SerializationError: the value cannot be stored.
            ValidationError: the key is neither a ``str`` nor an ``int``.

        .. versionadded:: 0.2.0
        """
        self._check()
        self._client.by_hand.set_item(run, name, key, value)
