"""Waits: the rows of what runs wait for in their steps, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw

from durably.errors import ConflictError, NotFoundError
from durably.store.rows import NewWait, RunKey
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import blobs, queries

if TYPE_CHECKING:
    from durably.store.read_rows import Wait

_COLUMNS: Final = """
    r.id, r.job_name, w.name, w.kind, w.until_us, w.created_at_us, w.asked_at_us, w.tries,
    w.next_us, w.ticket, w.question, w.returns, w.answer, w.answer_id, w.closed_at_us"""

# The fence is in the statement: a claim that is not the current one stores nothing. The row of an
# answer that came first is completed by the question.
OPEN: Final = """
    INSERT INTO durably_waits
        (run, name, kind, until_us, created_at_us, asked_at_us, ticket, question, returns)
    SELECT run, :name, :kind, :until_us, :now_us, :now_us, :ticket, :question, :returns
    FROM durably_runs WHERE run = :run AND fence = :fence AND status = 'running'
    ON CONFLICT (run, name) DO UPDATE SET
        until_us = excluded.until_us, asked_at_us = excluded.asked_at_us, ticket = excluded.ticket,
        question = excluded.question, returns = excluded.returns
    WHERE durably_waits.asked_at_us IS NULL"""

FIND: Final = f"""
    SELECT {_COLUMNS} FROM durably_waits w JOIN durably_runs r USING (run)
    WHERE run = :run AND name = :name"""

BY_TICKET: Final = f"""
    SELECT {_COLUMNS} FROM durably_waits w JOIN durably_runs r USING (run)
    WHERE ticket = :ticket"""

NOTE_CHECK: Final = """
    UPDATE durably_waits SET tries = :tries, next_us = :next_us
    WHERE run = (SELECT run FROM durably_runs
                 WHERE run = :run AND fence = :fence AND status = 'running')
      AND name = :name"""

CLOSE: Final = """
    UPDATE durably_waits SET closed_at_us = :now_us
    WHERE run = (SELECT run FROM durably_runs
                 WHERE run = :run AND fence = :fence AND status = 'running')
      AND name = :name AND answer IS NULL AND closed_at_us IS NULL"""

# An answer that does not fit its question is as if it had never come.
DISCARD: Final = """
    UPDATE durably_waits SET answer = NULL, answer_id = NULL, answered_at_us = NULL
    WHERE run = (SELECT run FROM durably_runs
                 WHERE run = :run AND fence = :fence AND status = 'running')
      AND name = :name AND asked_at_us IS NOT NULL"""

RUN_OF: Final = "SELECT run, id, job_name, completed_at_us FROM durably_runs WHERE id = :id"

IS_COMPLETED: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_steps
                   WHERE run = :run AND name = :name AND status = 'completed')"""

ANSWER_FIRST: Final = """
    INSERT INTO durably_waits
        (run, name, kind, created_at_us, answer, answer_id, answered_at_us)
    VALUES (:run, :name, 'answer', :now_us, :answer, :answer_id, :now_us)"""

# The schema wakes the run whose question gets its answer. Here there is no row of the question, but
# the run may wait for it all the same.
WAKE: Final = f"""
    UPDATE durably_runs SET status = 'pending', {queries.AWAKE}, updated_at_us = :now_us
    WHERE run = :run AND waits_for = 'answer' AND wait_name = :name"""

ANSWER: Final = """
    UPDATE durably_waits SET answer = :answer, answer_id = :answer_id, answered_at_us = :now_us
    WHERE run = :run AND name = :name"""

QUESTIONS: Final = f"""
    SELECT {_COLUMNS} FROM durably_waits w JOIN durably_runs r USING (run)
    WHERE w.kind = 'answer' AND w.answer IS NULL AND w.closed_at_us IS NULL
      AND (w.until_us IS NULL OR w.until_us > :now_us) AND r.completed_at_us IS NULL
    ORDER BY w.created_at_us, w.run, w.name"""

# What has timed out begins anew. What a ticket was handed out for does not.
FORGET_CLOSED: Final = """
    DELETE FROM durably_waits
    WHERE run = :run AND answer IS NULL AND (closed_at_us IS NOT NULL OR kind = 'poll')
      AND NOT EXISTS (SELECT 1 FROM durably_steps s
                      WHERE s.run = durably_waits.run AND s.name = durably_waits.name
                        AND s.status = 'completed')"""


def _one(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> Wait | None:
    from durably.store.read_rows import Wait  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(sql, bindings).fetchall()
    return Wait._make(rows[0]) if rows else None


def open_wait(
    db: apsw.Connection, run_pk: RunKey, fence: int, new: NewWait, now_us: int
) -> Wait | None:
    """Store a wait, or find it; return ``None`` if this claim is no longer the current one."""
    db.execute(OPEN, new._asdict() | {"run": run_pk, "fence": fence, "now_us": now_us})
    if not db.changes() and queries.state_of(db, run_pk) != ("running", fence):
        return None
    return find(db, run_pk, new.name)


def find(db: apsw.Connection, run_pk: RunKey, name: str) -> Wait | None:
    """Return the wait of that name."""
    return _one(db, FIND, {"run": run_pk, "name": name})


@single_statement
def note_check(
    db: apsw.Connection, run_pk: RunKey, fence: int, name: str, tries: int, next_us: int
) -> bool:
    """Store how often a poll has checked, and when it does again; return whether it may."""
    bindings = {"run": run_pk, "fence": fence, "name": name, "tries": tries, "next_us": next_us}
    db.execute(NOTE_CHECK, bindings)
    return db.changes() > 0


def close_wait(
    db: apsw.Connection, run_pk: RunKey, fence: int, name: str, now_us: int
) -> Wait | None:
    """End a wait, unless its answer has come; return it, ``None`` as ``open_wait`` does."""
    bindings = {"run": run_pk, "fence": fence, "name": name, "now_us": now_us}
    db.execute(CLOSE, bindings)
    if not db.changes() and queries.state_of(db, run_pk) != ("running", fence):
        return None
    return find(db, run_pk, name)


def discard_answer(db: apsw.Connection, run_pk: RunKey, fence: int, name: str) -> bool:
    """Remove an answer; return whether this claim may."""
    db.execute(DISCARD, {"run": run_pk, "fence": fence, "name": name})
    is_removed = db.changes() > 0
    if is_removed:
        blobs.drop_unused(db, run_pk)
    return is_removed


def find_wait(
    db: apsw.Connection, run_id: str | None, name: str | None, ticket: str | None
) -> Wait | None:
    """Return the wait with that ticket, or that name of a run; ``None`` if there is none yet.

    Raises:
        NotFoundError: there is no such run, or nothing has that ticket.
    """
    if ticket is not None:
        found = _one(db, BY_TICKET, {"ticket": ticket})
        if found is None:
            raise NotFoundError(f"nothing waits for a ticket {ticket!r:.80} in this database")
        return found
    rows: list[Any] = db.execute(RUN_OF, {"id": run_id}).fetchall()
    if not rows:
        raise queries.not_found(str(run_id))
    return _one(db, FIND, {"run": rows[0][0], "name": name})


def answer(
    db: apsw.Connection,
    run_id: str,
    name: str,
    value: str,
    answer_id: str | None,
    now_us: int,
) -> RunKey | None:
    """Store an answer, and wake the run; return the run, ``None`` if it was given before.

    Raises:
        NotFoundError: there is no such run.
        ConflictError: it has another answer, its deadline has passed, or the run has ended.
    """
    rows: list[Any] = db.execute(RUN_OF, {"id": run_id}).fetchall()
    if not rows:
        raise queries.not_found(run_id)
    run_pk, _, _, completed_at_us = rows[0]
    bindings = {"run": run_pk, "name": name, "now_us": now_us}
    found = find(db, run_pk, name)
    what = f"{name!r:.80} of run {run_id}"
    if found is not None and found.answer is not None:
        if answer_id is not None and found.answer_id == answer_id:
            return None
        raise ConflictError(f"{what} was answered before; the first answer counts")
    if completed_at_us is not None:
        raise ConflictError(f"{what} cannot be answered: the run has ended")
    is_other = found is not None and found.kind != "answer"
    if is_other or (found is None and db.execute(IS_COMPLETED, bindings).get):
        raise ConflictError(f"{what} is a step that asks nothing")
    if found is not None and (
        found.closed_at_us is not None or (found.until_us is not None and found.until_us <= now_us)
    ):
        raise ConflictError(f"{what} cannot be answered any more: its deadline has passed")
    statement = ANSWER_FIRST if found is None else ANSWER
    db.execute(statement, bindings | {"answer": value, "answer_id": answer_id})
    if found is None:
        db.execute(WAKE, bindings)
    return RunKey(run_pk)


def questions(db: apsw.Connection, now_us: int) -> list[Wait]:
    """Return the open questions, the oldest first."""
    from durably.store.read_rows import Wait  # noqa: PLC0415 - where first needed

    rows: list[Any] = db.execute(QUESTIONS, {"now_us": now_us}).fetchall()
    return [Wait._make(row) for row in rows]
