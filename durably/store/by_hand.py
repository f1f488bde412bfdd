"""What a store does to a run that nothing executes because a person has asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from durably.store.rows import RunRow

if TYPE_CHECKING:
    from durably.store.item_rows import Key


class ByHand(Protocol):
    """The part of a store by which a person changes results. Usable from any thread."""

    def redo(
        self, run_id: str, from_step: str | None, only: str | None, now_us: int
    ) -> tuple[RunRow, list[RunRow]]:
        """Forget results of a run, and make it pending; return it, and what is cancelled for that.

        A step that is forgotten keeps its index. Its questions and timers are forgotten too. Its
        children are cancelled if they have not ended, and no step of the run finds them any more.

        Args:
            from_step: the name of the first step or map that is forgotten, with all that follow it
                in the order of their index; ``None`` for all of them.
            only: the name of the one that is forgotten, or ``map[key]`` for one item.

        Raises:
            NotFoundError: there is no such run, step or item.
            ConflictError: the run is being executed; the message says by which process.
        """

    def fork(
        self,
        run_id: str,
        from_step: str | None,
        new_id: str,
        payload: str | None,
        key: str | None,
        now_us: int,
    ) -> RunRow:
        """Store a new run with copies of the results of another one; return it.

        Args:
            from_step: the name of the first step whose result is not copied, nor are those that
                follow it; ``None`` for copies of all of them.
            payload: JSON text, ``None`` for that of the other run.
            key: the idempotency key of the new run.

        Raises:
            NotFoundError: there is no such run or step.
            ConflictError: the run is being executed, or another one has the key.
        """

    def set_step(self, run_id: str, name: str, output: str, now_us: int) -> RunRow:
        """Set the result of a step, or of ``map[key]``, as JSON text; return its run.

        Raises:
            NotFoundError: there is no such run, or nothing was ever stored of such a step.
            ConflictError: the run is being executed, or that is a map.
        """

    def set_item(self, run_id: str, name: str, key: Key, output: str, now_us: int) -> RunRow:
        """Set the result of an item of a map, as JSON text; return its run.

        Raises:
            NotFoundError: there is no such run or map, or nothing is stored of such an item.
            ConflictError: the run is being executed, or the step is no map.
        """

    def retry_items(
        self, run_id: str, fence: int, tried: Mapping[str, Sequence[int]], now_us: int
    ) -> list[RunRow]:
        """Retry a run as ``retry`` does; of its maps only these failed items are tried again.

        The others count as failed until the next retry.

        Args:
            fence: that the run had when the items were chosen.
            tried: the indexes of the items, by the name of their map.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it is in another state, or was executed meanwhile.
        """
