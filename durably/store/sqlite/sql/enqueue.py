"""Store the run of a trigger, or find the existing run that takes its place.

Each function is a single transaction.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import apsw

from durably._platform.ids import child_id
from durably.errors import ConflictError
from durably.store.rows import Claim, Enqueued, NewRun, RunKey, RunRow
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.sql import claims, extending, queries, runs

ENQUEUE: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, concurrency_key, queue_place,
         created_at_us, updated_at_us)
    VALUES (?, ?, ?, ?, ?, ?6, ?6 IS NOT NULL, ?7, ?7)"""

# It joins the queue of its key when it is due.
ENQUEUE_LATER: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, concurrency_key, queue_place,
         created_at_us, updated_at_us, run_at_us)
    VALUES (?, ?, ?, ?, ?, ?6, ?6 IS NOT NULL, ?7, ?7, ?8)"""

# A session is in no line: no claim finds it.
ENQUEUE_SESSION: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, kind, queue_place, created_at_us,
         updated_at_us)
    VALUES (?, ?, ?, ?, ?, 'session', 3, ?6, ?6)"""

# How many runs one statement stores: a statement on a table with triggers has a savepoint of its
# own, which costs more than the row. Fewer runs get a statement each.
BLOCK: Final = 128
# The values of a block stay in memory until the next one, so a long text gets its own statement.
LONGEST_IN_BLOCK: Final = 4096

ENQUEUE_BLOCK: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, concurrency_key, queue_place,
         created_at_us, updated_at_us)
    VALUES """ + ", ".join(
    f"(?{n}, ?{n + 1}, ?{n + 2}, ?{n + 3}, ?{n + 4}, ?{n + 5}, ?{n + 5} IS NOT NULL, ?1, ?1)"
    for n in range(2, 2 + 6 * BLOCK, 6)
)

BY_IDEMPOTENCY_KEY: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE job_name = :job_name AND idempotency_key = :key"""

# The first run of all origins' queues: each origin has a queue of its own.
PENDING_OF_KEY: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE run = (SELECT run FROM (
        SELECT run, min(coalesce(place, run)) FROM durably_runs
        WHERE concurrency_key = :key AND job_name = :job_name AND status = 'pending'
          AND run_at_us IS NULL AND queue_place <> 1
          AND (origin IS NULL OR EXISTS (
              SELECT 1 FROM json_each(:origins)
              WHERE key = :job_name AND value IN (origin, true)))))"""

# The run of a job that is executed, or in its last step, and has that key.
RUNNING_OF_KEY: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE concurrency_key = :key AND owner IS NOT NULL AND +job_name = :job_name
      AND +status = 'running'"""

# The first run that is not due yet, or that has begun and waits.
AWAY_OF_KEY: Final = f"""
    SELECT {queries.COUNTED} FROM durably_runs r
    WHERE run = (SELECT min(run) FROM durably_runs
        WHERE concurrency_key = :key AND job_name = :job_name
          AND (status = 'waiting' OR run_at_us IS NOT NULL)
          AND (:joins_active OR +status = 'pending')
          AND (origin IS NULL OR EXISTS (
              SELECT 1 FROM json_each(:origins)
              WHERE key = :job_name AND value IN (origin, true))))"""

# A trigger and its claim in one statement, if no run is before it in line. An owner that another
# engine found dead claims nothing until it has registered again.
START: Final = f"""
    INSERT INTO durably_runs
        (id, job_name, status, payload, labels, owner, attempt, fence, created_at_us, started_at_us,
         heartbeat_at_us, claimed_at_us, host, pid, updated_at_us, origin, code)
    SELECT :id, :job_name, 'running', :payload, :labels, :owner, 1, 1, :now_us, :now_us, :now_us,
           :now_us, :host, :pid, :now_us, {queries.ORIGIN_OF.format(job=":job_name")},
           {queries.CODE_OF.format(job=":job_name")}
    WHERE ({queries.FIRST_CLAIMABLE}) IS NULL
      AND EXISTS (SELECT 1 FROM durably_owners WHERE owner = :owner)"""


SET_PARENT: Final = "UPDATE durably_runs SET parent = :parent WHERE run = :run"

SET_TRIES: Final = """
    UPDATE durably_runs SET retry = :retry, timeout_us = :timeout_us WHERE run = :run"""

# How many fields of a new run are stored: the first ones.
_STORED: Final = 6


def insert(db: apsw.Connection, new: NewRun, now_us: int) -> RunRow:
    """Store a run; part of a transaction."""
    if new.run_at_us is not None:
        db.execute(ENQUEUE_LATER, (*new[:_STORED], now_us, new.run_at_us))
    elif new.kind == "job":
        db.execute(ENQUEUE, (*new[:_STORED], now_us))
    else:
        db.execute(ENQUEUE_SESSION, (*new[: _STORED - 1], now_us))
    run_pk = db.last_insert_rowid()
    if new.parent is not None:
        db.execute(SET_PARENT, {"run": run_pk, "parent": new.parent})
    if new.has_tries:
        tries = {"run": run_pk, "retry": new.retry, "timeout_us": new.timeout_us}
        db.execute(SET_TRIES, tries)
    return _created(run_pk, new, now_us)


def spawn(db: apsw.Connection, fence: int, new: NewRun, now_us: int) -> Enqueued | None:
    """Store the child of a run, or find it by its id, or the run that its keys lead to.

    Return ``None`` if the claim of the parent is no longer the current one.
    """
    assert new.parent is not None  # noqa: S101 - a child has one
    if queries.state_of(db, new.parent) != ("running", fence):
        return None
    while (existing := queries.find(db, new.id)) is not None:
        if existing.parent_id is not None:
            return Enqueued(existing, "idempotent")
        # The step was executed before it was forgotten, and let go of that child.
        new = new._replace(id=child_id(existing.id, "again"))
    return enqueue(db, new, now_us)


def _fits_block(new: NewRun) -> bool:
    return new.is_plain and len(new.payload) + len(new.labels) <= LONGEST_IN_BLOCK


def _insert_block(db: apsw.Connection, block: Sequence[NewRun], now_us: int) -> list[RunRow]:
    bindings: list[str | int | None] = [now_us]
    for new in block:
        bindings += new[:_STORED]
    db.execute(ENQUEUE_BLOCK, bindings)
    # AUTOINCREMENT counts up from row to row, and no other process writes meanwhile.
    first = db.last_insert_rowid() - len(block) + 1
    return [_created(run_pk, new, now_us) for run_pk, new in enumerate(block, first)]


def _created(run_pk: int, new: NewRun, now_us: int) -> RunRow:
    return RunRow(
        run=RunKey(run_pk),
        id=new.id,
        job_name=new.job_name,
        status="pending",
        payload=new.payload,
        output=None,
        error=None,
        progress=None,
        labels=new.labels,
        idempotency_key=new.idempotency_key,
        concurrency_key=new.concurrency_key,
        owner=None,
        attempt=0,
        fence=0,
        kind=new.kind,
        created_at_us=now_us,
        started_at_us=None,
        completed_at_us=None,
        updated_at_us=now_us,
        heartbeat_at_us=None,
        run_at_us=new.run_at_us,
        retry=new.retry,
        timeout_us=new.timeout_us,
    )


@single_statement
def enqueue_plain(db: apsw.Connection, new: NewRun, now_us: int) -> Enqueued:
    """Store a run whose place no existing run can take: no key, no coalescing."""
    db.execute(ENQUEUE, (*new[:_STORED], now_us))
    return Enqueued(_created(db.last_insert_rowid(), new, now_us), "created")


def enqueue(db: apsw.Connection, new: NewRun, now_us: int) -> Enqueued:
    """Store a run, or find the one that its keys lead to."""
    if new.idempotency_key is not None:
        existing = queries.first_row(
            db, BY_IDEMPOTENCY_KEY, {"job_name": new.job_name, "key": new.idempotency_key}
        )
        if existing is not None:
            if _is_changed(existing, new):
                if new.on_payload_change == "refuse":
                    raise _refused(existing, "was triggered with another payload")
                if existing.status == "running" or existing.owner is not None:
                    raise _refused(existing, "is being executed and gets no other payload")
                row = extending.extended(db, existing, new.payload, now_us)
                has_ended = existing.completed_at_us is not None
                return Enqueued(row, "retried" if has_ended else "idempotent")
            if new.retry_failed and existing.status in ("failed", "cancelled"):
                retried = runs.retried(db, existing.id, now_us)
                return Enqueued(
                    retried._replace(completed_steps=existing.completed_steps), "retried"
                )
            return Enqueued(existing, "idempotent")
    if new.coalesce:
        key = {
            "job_name": new.job_name,
            "key": new.concurrency_key,
            "origins": new.origins,
            "joins_active": new.joins_active,
        }
        running = (RUNNING_OF_KEY,) if new.joins_active else ()
        for statement in (PENDING_OF_KEY, *running, AWAY_OF_KEY):
            joined = queries.first_row(db, statement, key)
            if joined is not None:
                return Enqueued(joined, "coalesced")
    return Enqueued(insert(db, new, now_us), "created")


def _is_changed(existing: RunRow, new: NewRun) -> bool:
    return (
        new.on_payload_change != "warn"
        and existing.kind == new.kind
        and existing.payload != new.payload
        and existing.payload not in new.same_payloads
    )


def _refused(existing: RunRow, why: str) -> ConflictError:
    return ConflictError(
        f"the run with the idempotency key {existing.idempotency_key!r} of job "
        f"{existing.job_name!r} {why}"
    )


def enqueue_and_claim(
    db: apsw.Connection, new: NewRun, now_us: int, wanted: Claim
) -> tuple[Enqueued, RunRow | None]:
    """Store or find a run as ``enqueue`` does, and claim the first run in line if it is pending."""
    enqueued = enqueue(db, new, now_us)
    claimed: list[RunRow] = []
    if enqueued.disposition in ("created", "retried") and queries.is_registered(db, wanted.owner):
        claimed = claims.claim(db, wanted)
    return enqueued, claimed[0] if claimed else None


@single_statement
def start(
    db: apsw.Connection, new: NewRun, now_us: int, wanted: Claim
) -> tuple[Enqueued, RunRow] | None:
    """Store a run and claim it in one statement.

    Store nothing and return ``None`` if another run is before it in line.
    """
    bindings = claims.bindings_of(wanted) | {
        "id": new.id,
        "job_name": new.job_name,
        "payload": new.payload,
        "labels": new.labels,
        "now_us": now_us,
    }
    db.execute(START, bindings)
    if not db.changes():
        return None
    row = _created(db.last_insert_rowid(), new, now_us)
    running = row._replace(
        status="running",
        owner=wanted.owner,
        attempt=1,
        fence=1,
        started_at_us=now_us,
        heartbeat_at_us=now_us,
    )
    return Enqueued(row, "created"), running


def enqueue_many(db: apsw.Connection, new_runs: Sequence[NewRun], now_us: int) -> list[Enqueued]:
    """Store or find all of *new_runs*, in order; all of them or none."""
    enqueued: list[Enqueued] = []
    for fits, several in groupby(new_runs, _fits_block):
        group = list(several)
        in_blocks = len(group) - len(group) % BLOCK if fits else 0
        for first in range(0, in_blocks, BLOCK):
            rows = _insert_block(db, group[first : first + BLOCK], now_us)
            enqueued += [Enqueued(row, "created") for row in rows]
        enqueued += [enqueue(db, new, now_us) for new in group[in_blocks:]]
    return enqueued
