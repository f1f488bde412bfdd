"""Fork: a new run begins with copies of the results of another one."""

from typing import Any, Final

import apsw

from durably.errors import ConflictError
from durably.store.bounds import MOST_STEPS
from durably.store.rows import RunRow
from durably.store.sqlite.sql import blobs, by_hand, enqueue, queries

# The first question that was handed out by its ticket, so that its answer goes to the first run
# alone. What follows it may depend on that.
OPEN_TICKET: Final = """
    SELECT min(s.step) & 0xFFFFFF FROM durably_waits w JOIN durably_steps s
      ON s.run = w.run AND s.name = w.name
    WHERE w.run = :run AND w.ticket IS NOT NULL AND w.answer IS NULL AND w.closed_at_us IS NULL
      AND s.status = 'completed'"""

HAS_RESULTS: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_steps
                   WHERE step >= (:run << 24) AND step < (:run << 24) + :index
                     AND status = 'completed')
        OR EXISTS (SELECT 1 FROM durably_maps
                   WHERE run = :run AND step < (:run << 24) + :index)"""

# Its claims follow those of the other run: what it stores is newer than the copies.
FORK: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, concurrency_key, queue_place, kind, origin,
         fence, retry, timeout_us, forked_from, created_at_us, updated_at_us)
    SELECT :id, job_name, coalesce(:payload, payload), labels, :key, concurrency_key,
           CASE kind WHEN 'job' THEN concurrency_key IS NOT NULL ELSE 3 END, kind,
           CASE WHEN :has_results THEN origin END, max(fence, attempt, 1), retry, timeout_us,
           id, :now_us, :now_us
    FROM durably_runs WHERE run = :run"""

# A step without a result keeps its place.
COPY_STEPS: Final = """
    INSERT INTO durably_steps
        (step, run, name, status, output, attempt, started_at_us, completed_at_us, is_manual, code,
         outer, layer, inputs, attempts)
    SELECT (:fork << 24) + (step & 0xFFFFFF), :fork, name,
           CASE status WHEN 'completed' THEN status ELSE 'forgotten' END, output, attempt,
           started_at_us, completed_at_us, is_manual, code, outer,
           CASE status WHEN 'completed' THEN coalesce(layer, fence << 24) END, inputs,
           CASE status WHEN 'completed' THEN attempts ELSE 0 END
    FROM durably_steps WHERE step >= (:run << 24) AND step < (:run << 24) + :index"""

MAPS: Final = """
    SELECT map FROM durably_maps
    WHERE run = :run AND step < (:run << 24) + :index ORDER BY step"""

COPY_MAP: Final = """
    INSERT INTO durably_maps
        (run, step, name, is_keyed, status, error, attempt, started_at_us, completed_at_us, done,
         failed, reused, total, code, outer, layer, old_layer, items, attempts)
    SELECT :fork, (:fork << 24) + (step & 0xFFFFFF), name, is_keyed, status, error, attempt,
           started_at_us, completed_at_us, done, failed, reused, total, code, outer,
           max(coalesce(layer, 0), coalesce(fence, 0) << 24), old_layer, items, attempts
    FROM durably_maps WHERE map = :map
    RETURNING map"""

COPY_ITEMS: Final = """
    INSERT INTO durably_items
        (item, key, output, error, attempts, hash, started_at_us, completed_at_us, is_manual,
         code, layer, inputs)
    SELECT (:copy << 30) + (item & 0x3FFFFFFF), key, output, error, attempts, hash, started_at_us,
           completed_at_us, is_manual, code, layer, inputs
    FROM durably_items WHERE item >= (:map << 30) AND item < ((:map + 1) << 30)"""

# The answer of a ticket is read by a later step, which waits for it. In a fork it has no ticket.
COPY_ANSWERS: Final = """
    INSERT INTO durably_waits
        (run, name, kind, until_us, created_at_us, asked_at_us, tries, question, returns, answer,
         answer_id, answered_at_us, closed_at_us)
    SELECT :fork, w.name, w.kind, w.until_us, w.created_at_us, w.asked_at_us, w.tries, w.question,
           w.returns, w.answer, w.answer_id, w.answered_at_us, w.closed_at_us
    FROM durably_waits w JOIN durably_steps s ON s.run = :fork AND s.name = w.name
    WHERE w.run = :run AND w.kind = 'answer' AND s.status = 'completed'"""


# How often the functions of the steps were called, by executions that the fork never had.
COPY_CALLS: Final = """
    INSERT INTO durably_calls (run, name, fence, place, calls, notes)
    SELECT :fork, c.name, 0, row_number() OVER (PARTITION BY c.name ORDER BY c.fence, c.place) - 1,
           c.calls, c.notes
    FROM durably_calls c
    WHERE c.run = :run
      AND (EXISTS (SELECT 1 FROM durably_steps s
                   WHERE s.run = :fork AND s.name = c.name AND s.status = 'completed')
           OR EXISTS (SELECT 1 FROM durably_maps m WHERE m.run = :fork AND m.name = c.name))"""


def fork(
    db: apsw.Connection,
    run_id: str,
    from_step: str | None,
    new_id: str,
    payload: str | None,
    key: str | None,
    now_us: int,
) -> RunRow:
    """Store a new run with copies of the results that a run has before a step; return it.

    Args:
        payload: of the new run; ``None`` for that of the other one.
        key: the idempotency key of the new run.

    Raises:
        NotFoundError: there is no such run or step.
        ConflictError: the run is being executed, or another one has the key.
    """
    row = by_hand.idle(db, run_id, "forked")
    bindings: dict[str, Any] = {"run": row.run, "now_us": now_us, "id": new_id}
    bindings |= {"payload": payload, "key": key}
    index = MOST_STEPS if from_step is None else by_hand.step(db, row, from_step).at
    open_ticket: Any = db.execute(OPEN_TICKET, bindings).get
    bindings["index"] = index if open_ticket is None else min(index, open_ticket)
    if key is not None:
        _refuse_key(db, row, key)
    bindings["has_results"] = db.execute(HAS_RESULTS, bindings).get
    db.execute(FORK, bindings)
    bindings["fork"] = db.last_insert_rowid()
    db.execute(COPY_STEPS, bindings)
    maps: list[Any] = db.execute(MAPS, bindings).fetchall()
    for (map_pk,) in maps:
        copy: Any = db.execute(COPY_MAP, bindings | {"map": map_pk}).get
        db.execute(COPY_ITEMS, {"map": map_pk, "copy": copy})
    db.execute(COPY_CALLS, bindings)
    db.execute(COPY_ANSWERS, bindings)
    blobs.copy_references(db, row.run, bindings["fork"])
    return queries.by_number(db, bindings["fork"])


def _refuse_key(db: apsw.Connection, row: RunRow, key: str) -> None:
    taken = queries.legible_rows(
        db, enqueue.BY_IDEMPOTENCY_KEY, {"job_name": row.job_name, "key": key}
    )
    if taken:
        raise ConflictError(
            f"the key {key!r:.80} of {row.job_name!r:.80} is that of run {taken[0].id}; use "
            "another key, or delete that run"
        )
