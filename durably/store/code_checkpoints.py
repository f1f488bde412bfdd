"""The part of the store's door that knows which code has made what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from durably.store.rows import RunKey


class CodeCheckpoints(Protocol):
    """The fingerprints of the functions whose results are stored. Usable from any thread."""

    def name_code(self, code: int, name: str) -> None:
        """Store the name of the function with that fingerprint, with its next result."""

    def note_code_changed(self, run_pk: RunKey) -> bool:
        """Store that an execution of the run has used a result of other code."""

    def note_inputs(self, run_pk: RunKey, fence: int, name: str, inputs: int) -> bool:
        """Store a hash of what a step's result stands for, of which none is known.

        Return ``False``, and store nothing, if there is one, or this claim is not current.
        """

    def note_item_inputs(
        self,
        run_pk: RunKey,
        fence: int,
        map_pk: int,
        inputs: int,
        hashes: Sequence[tuple[int, int | None]],
    ) -> bool:
        """Store the index of each of these items of a map, and a hash of the item itself."""

    def note_items(self, run_pk: RunKey, fence: int, map_pk: int, items: int) -> bool:
        """Store a hash of which items a map has."""

    def last_code(self, run_pk: RunKey) -> tuple[int, int | None] | None:
        """Return the attempt before the newest execution, and the code of its job's function.

        Return ``None`` if there was none.
        """

    def stored_at(self, run_pk: RunKey, name: str) -> int | None:
        """Return when a step or a map was stored, ``None`` if nothing of it is."""

    def origin(
        self, run_pk: RunKey, name: str, index: int | None
    ) -> tuple[int | None, bool] | None:
        """Return when the result of a step was stored, and whether by hand.

        Args:
            index: of an item, whose result it is then.
        """

    def unused_steps(
        self, run_pk: RunKey, unused: list[int], executed: list[int], limit: int
    ) -> list[str]:
        """Return the names of the completed steps and maps at the *unused* indexes.

        Those inside of another step are left out unless that one is at an *executed* index.
        """
