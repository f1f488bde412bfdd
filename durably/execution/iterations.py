"""Loops over the items of maps, and which of them wait for the code that loops."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durably.models.records import ItemRecord


class Iteration:
    """One loop over the items of a map: its batches, from the first to the last.

    What raises in the body of a loop keeps this as long as its traceback is kept.
    """

    def __init__(self, batches: Generator[Iterator[ItemRecord]]) -> None:
        assert isinstance(batches, GeneratorType)  # noqa: S101 - which says where it is
        self.batches: GeneratorType[Iterator[ItemRecord], None, None] = batches
        self.has_begun = False
        # Whether another loop over the same map has begun since.
        self.has_given_way = False

    @property
    def is_waiting(self) -> bool:
        """Return whether it is between two items, and no thread is inside of it."""
        return self.has_begun and self.batches.gi_frame is not None and not self.batches.gi_running

    def give_way(self) -> None:
        """End it for another loop over the same map."""
        self.has_given_way = True
        self.batches.close()


class Iterations:
    """The loops of one run that somebody still has, by the map's name."""

    def __init__(self) -> None:
        self._begun: dict[str, weakref.ref[Iteration]] = {}

    def begin(self, name: str, iteration: Iteration) -> None:
        """Note that a loop executes the map of that name now."""
        iteration.has_begun = True
        self._begun[name] = weakref.ref(iteration)

    def waiting(self, name: str) -> Iteration | None:
        """Return the loop over the map of that name, if it waits for the code that loops."""
        found = self._begun.get(name)
        iteration = None if found is None else found()
        return iteration if iteration is not None and iteration.is_waiting else None
