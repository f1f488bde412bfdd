"""The part of the store's door that knows which code has made what is stored."""

from __future__ import annotations

from typing import Protocol

from durably.store.rows import RunKey


class CodeCheckpoints(Protocol):
    """The fingerprints of the functions whose results are stored. Usable from any thread."""

    def name_code(self, code: int, name: str) -> None:
        """Store the name of the function with that fingerprint, with its next result."""

    def note_code_changed(self, run_pk: RunKey) -> bool:
        """Store that an execution of the run has used a result of other code."""

    def last_code(self, run_pk: RunKey) -> tuple[int, int | None] | None:
        """Return the attempt before the newest execution, and the code of its job's function.

        Return ``None`` if there was none.
        """

    def stored_at(self, run_pk: RunKey, name: str) -> int | None:
        """Return when a step or a map was stored, ``None`` if nothing of it is."""

    def unused_steps(
        self, run_pk: RunKey, unused: list[int], executed: list[int], limit: int
    ) -> list[str]:
        """Return the names of the completed steps and maps at the *unused* indexes.

        Those inside of another step are left out unless that one is at an *executed* index.
        """
