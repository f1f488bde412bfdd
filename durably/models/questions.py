"""What runs ask, as plain values."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from durably.models.records import Record
from durably.rendering.bases import Listing

_COLUMNS: Final = (
    ("", "name", "name"),
    ("question", "message", "question"),
    ("job", "name", "job_name"),
    ("run", "short_id", "run_id"),
    ("answer", "name", "returns"),
    ("asked", "when", "created_at"),
    ("until", "when", "deadline"),
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Question(Record):
    """An open question of a run, which ``app.answer(run_id, name, value)`` answers.

    ``returns`` is the type of the answer as text, ``None`` for JSON-like data; ``deadline`` is when
    it is too late, ``None`` for never.

    .. versionadded:: 0.2.0
    """

    run_id: str
    job_name: str
    name: str
    question: str
    returns: str | None
    created_at: datetime
    deadline: datetime | None

    _columns = _COLUMNS


class QuestionList(Listing[Question]):
    """Open questions, those asked first first. A slice is a ``QuestionList``.

    .. versionadded:: 0.2.0
    """

    __slots__ = ()
    _record, _one, _columns = Question, "open question", _COLUMNS
    _counted = "job_name"
