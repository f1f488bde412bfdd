"""The calls of an engine by which people and other programs answer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durably._platform.signals import door
from durably.client.arguments import AnyRun

if TYPE_CHECKING:
    from durably.client.client import Client
    from durably.models.questions import QuestionList


@door
class AnswerCalls:
    """The calls of an engine about what runs wait for. A base class of engines."""

    _client: Client
    _check: Callable[[], None]

    def answer(
        self, run: AnyRun | str, name: str, value: Any, *, answer_id: str | None = None
    ) -> None:
        """Answer the question *name* of a run, which goes on with it; the answer is then stored.

        It may come before the question is asked. No engine needs to be started.

        Args:
            value: of the type that the question ``returns``, or data that structures into it.
            answer_id: identifies the answer, so that it may be given again, after a crash.

        Raises:
            ValidationError: the value does not fit what the question returns. Nothing is stored.
            ConflictError: there is an answer without this *answer_id*, the deadline has passed, or
                the run has ended.
            NotFoundError: there is no such run.

        .. versionadded:: 0.2.0
        """
        self._check()
        self._client.questions.answer(run, name, value, answer_id)

    def signal(self, ticket: str, value: Any, *, answer_id: str | None = None) -> None:
        """Answer as ``answer`` does, by the ``id`` of what ``step.prepare`` has returned.

        Raises:
            NotFoundError: nothing has that ticket.
            ValidationError: the value does not fit. Nothing is stored.
            ConflictError: as in ``answer``.

        .. versionadded:: 0.2.0
        """
        self._check()
        self._client.questions.signal(ticket, value, answer_id)

    def get_questions(self) -> QuestionList:
        """Return the open questions of all runs, the oldest first.

        Those past their deadline, and those of runs that have ended, are not open.

        .. versionadded:: 0.2.0
        """
        self._check()
        return self._client.questions.open()
