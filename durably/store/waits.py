"""What a step and a client ask of the store about what runs wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from durably.store.rows import Claim, Enqueued, NewRun, NewWait, RunKey, RunRow

if TYPE_CHECKING:
    from durably.store.read_rows import Wait


class WaitCheckpoints(Protocol):
    """The part of a store that a step which waits needs. Usable from any thread."""

    def open_wait(self, run_pk: RunKey, fence: int, new: NewWait, now_us: int) -> Wait | None:
        """Store a wait, or find the one of that name, whose deadline stays.

        Return ``None`` if this claim is not the current one.
        """

    def find_wait(self, run_pk: RunKey, name: str) -> Wait | None:
        """Return the wait of that name, ``None`` if there is none."""

    def find_run(self, run_id: str) -> RunRow | None:
        """Return the run with that id, ``None`` if there is none."""

    def note_check(self, run_pk: RunKey, fence: int, name: str, tries: int, next_us: int) -> bool:
        """Store how often a poll has checked and when it checks again.

        Return ``False`` if this claim is not the current one.
        """

    def close_wait(self, run_pk: RunKey, fence: int, name: str, now_us: int) -> Wait | None:
        """End a wait without an answer, unless one has come; return it as it is then.

        No answer takes effect afterwards. Return ``None`` if this claim is not the current one.
        """

    def answer(
        self, run_id: str, name: str, value: str, answer_id: str | None, now_us: int
    ) -> bool:
        """Store an answer that was given here, as ``Answers.answer`` does."""

    def discard_answer(self, run_pk: RunKey, fence: int, name: str) -> bool:
        """Remove an answer that does not fit; return ``False`` as ``note_check`` does."""


class Parents(Protocol):
    """The part of a store that runs with children need. Usable from any thread."""

    def spawn(self, fence: int, new: NewRun, now_us: int) -> Enqueued | None:
        """Store a child, or find the run of its id, or the one that its keys lead to.

        Return ``None`` if *fence* is not that of the parent's current claim.
        """

    def claim_child(self, wanted: Claim, run_pk: RunKey) -> list[RunRow]:
        """Claim a certain run, if it is pending and no other is before it with its key."""


class Answers(Protocol):
    """The part of a store by which runs that wait are answered. Usable from any thread."""

    def answer(
        self, run_id: str, name: str, value: str, answer_id: str | None, now_us: int
    ) -> bool:
        """Store an answer, and make a run that waits for it pending.

        Return ``False`` if the same answer, by its id, was given before.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: there is another answer, the deadline has passed, or the run has ended.
        """

    def find_wait(self, run_id: str | None, name: str | None, ticket: str | None) -> Wait | None:
        """Return the wait with that ticket, or that name of a run; ``None`` if there is none yet.

        Raises:
            NotFoundError: there is no such run, or nothing has that ticket.
        """

    def questions(self, now_us: int) -> list[Wait]:
        """Return the open questions of runs that have not ended, the oldest first."""
