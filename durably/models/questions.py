"""What runs ask, as plain values."""

from __future__ import annotations

from datetime import datetime

import attrs

from durably._platform.values import Value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Question(Value):
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
