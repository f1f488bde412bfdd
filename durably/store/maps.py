"""The verbs of a store that read maps and their items, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from durably.store.item_rows import FailureKind, ItemOfMap, MapState


class Maps(Protocol):
    """The part of a store that shows what maps have done. Usable from any thread."""

    def items_of(
        self, run_id: str, name: str, status: str | None, limit: int | None, offset: int
    ) -> list[ItemOfMap] | None:
        """Return items of the run's map of that name, in the order of their index.

        ``None`` if nothing of such a map is stored.
        """

    def open_maps(self, run_id: str) -> list[MapState]:
        """Return the maps of the run that have not ended: in progress, or interrupted."""

    def failures_of(self, run_id: str, name: str, most: int) -> list[FailureKind]:
        """Return the kinds of failures among the first *most* failed items of a map."""

    def count_items_by_time(
        self, run_id: str, name: str, width_us: int
    ) -> list[tuple[int, int, int]]:
        """Return when stretches of *width_us* began, and how many items completed or failed then.

        The items are those of the run's map of that name. Stretches without any are left out.
        """
