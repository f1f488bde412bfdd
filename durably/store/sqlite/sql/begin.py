"""Begin here: find, create or continue a certain run and claim it, in one transaction.

The caller asks for this run, so it waits for no other that is only pending: neither for those that
were triggered before it, nor for those in front of it in the queue of its concurrency key, which
perhaps nothing executes. It waits for a run that is being executed and has its concurrency key.
"""

from typing import Any, Final

import apsw

from durably.errors import ConflictError, NotFoundError
from durably.store import defects
from durably.store.rows import Begin, Beginning, Executor, RunRow
from durably.store.sqlite.sql import claims, enqueue, extending, queries, requeue, runs

# The newest ones without a key, whatever their status.
NEWEST_OF_PAYLOAD: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE kind = 'job' AND idempotency_key IS NULL AND job_name = :job_name
      AND length(payload) = length(:payload) AND substr(payload, 1, 40) = substr(:payload, 1, 40)
      AND substr(payload, -40) = substr(:payload, -40) AND payload = :payload
    ORDER BY run DESC LIMIT 1"""

NEWEST_SESSION: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE kind = 'session' AND idempotency_key IS NULL AND job_name = :job_name
    ORDER BY run DESC LIMIT 1"""

HAND_KEY_ON: Final = """
    UPDATE durably_runs SET idempotency_key = NULL, updated_at_us = :now_us
    WHERE job_name = :job_name AND idempotency_key = :key"""

# The run that is executed, or in its last step, and has a concurrency key.
HOLDER: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE concurrency_key = :key AND owner IS NOT NULL"""

_OTHER_KIND: Final = {
    "session": "the key {key!r} of {name!r} is that of a session; use another key or another name",
    "job": "the key {key!r} of {name!r} is that of a run of a job; use another key or another name",
}

EXECUTOR: Final = "SELECT owner, pid, opened_at_us FROM durably_owners WHERE owner = :owner"


def begin(db: apsw.Connection, wanted: Begin) -> Beginning:
    """Claim the run that is wanted, after creating it or putting it back, if it can be claimed.

    Raises:
        ConflictError: the key is that of a run of another kind.
        NotFoundError: the run was wanted by its number, and was deleted.
        DatabaseError: the row of the run cannot be read or executed; nothing is stored.
    """
    new = wanted.new
    bindings = claims.bindings_of(wanted.claim)
    found = _find(db, wanted)
    if found is None or wanted.is_fresh:
        if wanted.is_fresh and new.idempotency_key is not None:
            key = {"job_name": new.job_name, "key": new.idempotency_key}
            db.execute(HAND_KEY_ON, key | bindings)
        return _claim(db, enqueue.insert(db, new, bindings["now_us"]), None, bindings)
    is_changed = (
        wanted.run_pk is None
        and found.payload != new.payload
        and found.payload not in wanted.same_payloads
    )
    if is_changed and wanted.on_payload_change == "refuse":
        return Beginning("changed", found, found)
    is_extended = is_changed and wanted.on_payload_change == "extend"
    if found.status == "completed" and found.kind == "job" and not is_extended:
        return Beginning("completed", found, found)
    if wanted.run_pk is not None and found.kind == "job" and found.completed_at_us is not None:
        # The caller has begun it or waited for it, and does not try again what others have ended.
        return Beginning("ended", found, found)
    # One that was cancelled, and whose code is still inside its last step, has an owner. A session
    # stays cancelled until nobody has it open.
    is_kept = is_extended or found.kind == "session"
    if found.status == "running" or (is_kept and found.owner is not None):
        return Beginning("elsewhere", found, found, _executor(db, found.owner))
    pending = _made_pending(db, found, new.payload if is_extended else None, bindings["now_us"])
    return _claim(db, pending, found, bindings)


def _find(db: apsw.Connection, wanted: Begin) -> RunRow | None:
    if wanted.run_pk is not None:
        found = queries.first_row(db, queries.BY_NUMBER, {"run": wanted.run_pk})
        if found is None:
            raise NotFoundError("the run was deleted meanwhile; call again to begin a new one")
        return found
    new = wanted.new
    bindings = {"job_name": new.job_name, "key": new.idempotency_key, "payload": new.payload}
    if new.idempotency_key is not None:
        found = queries.first_row(db, enqueue.BY_IDEMPOTENCY_KEY, bindings)
        if found is not None and found.kind != new.kind:
            raise ConflictError(
                _OTHER_KIND[found.kind].format(key=found.idempotency_key, name=found.job_name)
            )
        return found
    if wanted.is_fresh:
        return None
    newest = NEWEST_OF_PAYLOAD if new.kind == "job" else NEWEST_SESSION
    found = queries.first_row(db, newest, bindings)
    # Without a key a run that has completed is only a predecessor.
    return None if found is None or found.status == "completed" else found


def find_by_key(db: apsw.Connection, job_name: str, key: str) -> RunRow | None:
    """Return the run of the job, or the session of that name, with that key."""
    return queries.first_row(db, enqueue.BY_IDEMPOTENCY_KEY, {"job_name": job_name, "key": key})


def _made_pending(db: apsw.Connection, found: RunRow, payload: str | None, now_us: int) -> RunRow:
    """Put a run that is not running back, whatever it is waiting for, with another payload."""
    if payload is not None:
        extending.extended(db, found, payload, now_us)
    now = queries.by_number(db, found.run)
    if now.completed_at_us is not None:
        runs.retried(db, now.id, now_us, is_opened=True)
    else:
        requeue.wake(db, now.run, now_us)
    return queries.by_number(db, now.run)


def _claim(
    db: apsw.Connection, pending: RunRow, before: RunRow | None, bindings: dict[str, Any]
) -> Beginning:
    if pending.owner is not None:
        return Beginning("elsewhere", pending, before, _executor(db, pending.owner))
    if pending.concurrency_key is not None:
        holder = queries.first_row(db, HOLDER, {"key": pending.concurrency_key})
        if holder is not None:
            return Beginning("queued", pending, before, _executor(db, holder.owner), holder)
    rows = queries.all_rows(db, claims.CLAIM_ONE, bindings | {"run": pending.run})
    if not rows:
        # A thread of the caller's own engine is still inside its job.
        return Beginning("elsewhere", pending, before, _executor(db, bindings["owner"]))
    row = rows[0]._replace(completed_steps=pending.completed_steps)
    defect = defects.of_claimed(row._asdict())
    if defect is not None:
        raise defects.unreadable(f"run {row.id!a:.80}", defect)
    return Beginning("created" if before is None else "continued", row, before)


def _executor(db: apsw.Connection, owner: int | None) -> Executor | None:
    rows: list[Any] = db.execute(EXECUTOR, {"owner": owner}).fetchall()
    return Executor(*rows[0]) if rows else None
