"""Answer what runs wait for, and list what they ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from durably._platform.clock import Clock, to_datetime
from durably._platform.safe_repr import short_repr
from durably.client.arguments import run_id_of
from durably.codec import UNTYPED, Codec
from durably.codec.type_text import type_of_text
from durably.errors import SerializationError, ValidationError
from durably.jobs.names import check_name
from durably.models import Run
from durably.models.questions import Question, QuestionList

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.store.read_rows import Wait

_LONGEST_NAME = 500


@attrs.frozen(eq=False, repr=False)
class Questions:
    """Answer runs, of whatever process, and list their questions. Usable from any thread."""

    _store: Store
    _codec: Codec
    _clock: Clock

    def answer(
        self, run: Run[Any, Any] | str, name: str, value: Any, answer_id: str | None
    ) -> None:
        """Store the answer of a run's question, which may not be asked yet."""
        run_id = run_id_of(run)
        check_name(name, "the name of a question", longest=_LONGEST_NAME)
        self._answer(run_id, name, self._store.find_wait(run_id, name, None), value, answer_id)

    def signal(self, ticket: str, value: Any, answer_id: str | None) -> None:
        """Store the answer that the holder of a ticket gives."""
        if not isinstance(ticket, str):
            raise ValidationError(f"a ticket must be its id, not {short_repr(ticket)}")
        wait = self._store.find_wait(None, None, ticket)
        if wait is not None:
            self._answer(wait.run_id, wait.name, wait, value, answer_id)

    def _answer(
        self, run_id: str, name: str, wait: Wait | None, value: Any, answer_id: str | None
    ) -> None:
        if answer_id is not None:
            check_name(answer_id, "answer_id", longest=_LONGEST_NAME)
        type_ = UNTYPED if wait is None else type_of_text(wait.returns)
        what = f"the answer to {name!r}"
        given = self._codec.structure(value, type_, what=what)
        try:
            text = self._codec.encode(given, type_, what=what, has_parts=True)
        except SerializationError as exc:
            raise ValidationError(str(exc)) from None
        if self._store.answer(run_id, name, text, answer_id, self._clock.now_us()):
            # The run is claimable, or a thread waits for it in place.
            self._store.changes.notify_dispatcher()

    def open(self) -> QuestionList:
        """Return the open questions, the oldest first."""
        return QuestionList(
            Question(
                run_id=wait.run_id,
                job_name=wait.job_name,
                name=wait.name,
                question=wait.question or "",
                returns=wait.returns,
                created_at=to_datetime(wait.created_at_us),
                deadline=None if wait.until_us is None else to_datetime(wait.until_us),
            )
            for wait in self._store.questions(self._clock.now_us())
        )
