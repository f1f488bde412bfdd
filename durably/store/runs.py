"""Runs: one function per change of state, each a single transaction, and the reads.

The verbs are the state machine's: enqueue, claim, complete, fail, cancel, interrupt, release,
recover, retry, delete. Each says whether it took effect.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import apsw

from durably.errors import ConflictError, NotFoundError
from durably.models import Disposition
from durably.store.operations import single_statement

_COLUMNS: Final = """
    run, id, job_name, status, payload, output, error, progress, labels, idempotency_key,
    concurrency_key, owner, attempt, created_at_us, started_at_us, completed_at_us,
    updated_at_us, heartbeat_at_us"""

# Only completed steps count; a claim and a trigger do not need the number.
_COUNTED: Final = f"""{_COLUMNS},
    (SELECT count(*) FROM durably_steps s
     WHERE s.step >= (r.run << 24) AND s.step < ((r.run + 1) << 24) AND s.status = 'completed')"""

ENQUEUE: Final = """
    INSERT INTO durably_runs
        (id, job_name, payload, labels, idempotency_key, concurrency_key, queue_place,
         created_at_us, updated_at_us)
    VALUES (?, ?, ?, ?, ?, ?6, ?6 IS NOT NULL, ?7, ?7)"""

# So many runs in one statement: a statement on a table with triggers has a savepoint of its own,
# which costs more than the row. Fewer runs get a statement each.
BLOCK: Final = 128
# What a block binds stays in memory until the next one; a long text is worth its own statement.
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
    SELECT {_COUNTED} FROM durably_runs r
    WHERE job_name = :job_name AND idempotency_key = :key"""

PENDING_OF_KEY: Final = f"""
    SELECT {_COUNTED} FROM durably_runs r
    WHERE job_name = :job_name AND concurrency_key = :key AND status = 'pending'
    ORDER BY run LIMIT 1"""

BY_ID: Final = f"SELECT {_COUNTED} FROM durably_runs r WHERE id = :id"

# One index look-up per known job, whatever else waits in the file.
_FIRST_CLAIMABLE: Final = """
    SELECT min(first) FROM (
        SELECT (SELECT run FROM durably_runs
                WHERE job_name = jobs.value AND status = 'pending' AND owner IS NULL
                  AND queue_place = 0
                ORDER BY run LIMIT 1) AS first
        FROM json_each(:jobs) AS jobs)"""

FIRST_CLAIMABLE: Final = _FIRST_CLAIMABLE

# A trigger and its claim in one, if nothing is before it in line. An owner that others took for
# dead claims nothing until it has registered anew.
START: Final = f"""
    INSERT INTO durably_runs
        (id, job_name, status, payload, labels, owner, attempt, created_at_us, started_at_us,
         heartbeat_at_us, updated_at_us)
    SELECT :id, :job_name, 'running', :payload, :labels, :owner, 1, :now_us, :now_us, :now_us,
           :now_us
    WHERE ({_FIRST_CLAIMABLE}) IS NULL
      AND EXISTS (SELECT 1 FROM durably_owners WHERE owner = :owner)"""

IS_REGISTERED: Final = "SELECT EXISTS (SELECT 1 FROM durably_owners WHERE owner = :owner)"

CLAIM: Final = f"""
    UPDATE durably_runs
    SET status = 'running', owner = :owner, attempt = attempt + 1,
        started_at_us = coalesce(started_at_us, :now_us), heartbeat_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = ({_FIRST_CLAIMABLE})
    RETURNING {_COLUMNS}"""

COMPLETE: Final = """
    UPDATE durably_runs
    SET status = 'completed', owner = NULL, output = :output,
        progress = coalesce(:progress, progress), completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND attempt = :attempt"""

FAIL: Final = """
    UPDATE durably_runs
    SET status = 'failed', owner = NULL, error = :error,
        progress = coalesce(:progress, progress), completed_at_us = :now_us,
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND attempt = :attempt"""

INTERRUPT: Final = """
    UPDATE durably_runs
    SET status = 'pending', owner = NULL, progress = coalesce(:progress, progress),
        updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND attempt = :attempt"""

# A job that was cancelled has left its last step: the key it held is free. The run may
# have been retried meanwhile, and is then pending with its old owner.
RELEASE: Final = """
    UPDATE durably_runs SET owner = NULL, updated_at_us = :now_us
    WHERE run = :run AND owner = :owner AND attempt = :attempt
      AND status IN ('cancelled', 'pending')"""

CANCEL: Final = f"""
    UPDATE durably_runs
    SET status = 'cancelled', completed_at_us = :now_us, updated_at_us = :now_us
    WHERE id = :id AND status IN ('pending', 'running')
    RETURNING {_COLUMNS}"""

RETRY: Final = f"""
    UPDATE durably_runs
    SET status = 'pending', error = NULL, completed_at_us = NULL, updated_at_us = :now_us
    WHERE id = :id AND status IN ('failed', 'cancelled')
    RETURNING {_COLUMNS}"""

RECOVER: Final = f"""
    UPDATE durably_runs SET status = 'pending', owner = NULL, updated_at_us = :now_us
    WHERE owner = :owner AND status = 'running'
    RETURNING {_COLUMNS}"""

HAS_RUNNING: Final = """
    SELECT EXISTS (SELECT 1 FROM durably_runs WHERE owner = :owner AND status = 'running')"""

RELEASE_ALL: Final = """
    UPDATE durably_runs SET owner = NULL, updated_at_us = :now_us WHERE owner = :owner"""

BEAT_OF: Final = "SELECT beat FROM durably_owners WHERE owner = :owner"

FORGET_OWNER: Final = "DELETE FROM durably_owners WHERE owner = :owner"

DELETE: Final = "DELETE FROM durably_runs WHERE run = :run"

DELETE_STEPS: Final = """
    DELETE FROM durably_steps WHERE step >= (:run << 24) AND step < ((:run + 1) << 24)"""

PURGE: Final = f"""
    DELETE FROM durably_runs WHERE run IN (
        SELECT run FROM durably_runs
        WHERE completed_at_us IS NOT NULL AND completed_at_us < :before_us AND owner IS NULL
        ORDER BY completed_at_us LIMIT :limit)
    RETURNING {_COLUMNS}"""

SET_PROGRESS: Final = """
    UPDATE durably_runs SET progress = :progress, updated_at_us = :now_us
    WHERE run = :run AND status = 'running' AND attempt = :attempt"""

BRIEF: Final = "SELECT id, status, owner, progress FROM durably_runs WHERE id = :id"

BRIEF_OF_MANY: Final = """
    SELECT id, status, owner, progress FROM durably_runs
    WHERE id IN (SELECT value FROM json_each(:ids))"""

_FILTER: Final = """
    WHERE (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
      AND (:jobs IS NULL OR job_name IN (SELECT value FROM json_each(:jobs)))
      AND (:labels IS NULL OR NOT EXISTS (
            SELECT 1 FROM json_each(:labels) AS wanted
            WHERE NOT EXISTS (
                SELECT 1 FROM durably_labels l
                WHERE l.run = r.run AND l.key = wanted.key AND l.value = wanted.value)))"""

FIND: Final = f"""
    SELECT {_COUNTED} FROM durably_runs r {_FILTER}
    ORDER BY run DESC LIMIT :limit OFFSET :offset"""

COUNT: Final = f"SELECT count(*) FROM durably_runs r {_FILTER}"

STATE_OF: Final = "SELECT status, attempt FROM durably_runs WHERE run = :run"


class RunRow(NamedTuple):
    """A run as it is stored; payload, output, error, progress and labels are JSON text."""

    run: int
    id: str
    job_name: str
    status: str
    payload: str
    output: str | None
    error: str | None
    progress: str | None
    labels: str
    idempotency_key: str | None
    concurrency_key: str | None
    owner: int | None
    attempt: int
    created_at_us: int
    started_at_us: int | None
    completed_at_us: int | None
    updated_at_us: int
    heartbeat_at_us: int | None
    completed_steps: int = 0


class NewRun(NamedTuple):
    """What a trigger stores, and how it is to be resolved against what is there."""

    id: str
    job_name: str
    payload: str
    labels: str = "{}"
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    coalesce: bool = False
    retry_failed: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing in the file can stand in for it."""
        return self.idempotency_key is None and not self.coalesce


# How many fields of a new run are stored, the first ones.
_STORED: Final = 6


class Enqueued(NamedTuple):
    """How a trigger was resolved."""

    row: RunRow
    disposition: Disposition


class Brief(NamedTuple):
    """What a waiter looks at."""

    id: str
    status: str
    owner: int | None
    progress: str | None


class Filters(NamedTuple):
    """What to list; ``None`` for no restriction, JSON text for the others."""

    statuses: str | None = None
    jobs: str | None = None
    labels: str | None = None


class Ending(NamedTuple):
    """The end of one execution of a run: with an output, an error, or neither (an interrupt)."""

    run: int
    attempt: int
    output: str | None
    error: str | None
    progress: str | None
    keep_steps: bool
    now_us: int


class Claim(NamedTuple):
    """Who wants how many runs of which jobs; ``jobs`` is a JSON array of names."""

    owner: int
    jobs: str
    now_us: int
    limit: int = 1


def _all(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> list[RunRow]:
    rows: list[Any] = db.execute(sql, bindings).fetchall()
    return [RunRow(*row) for row in rows]


def _one(db: apsw.Connection, sql: str, bindings: dict[str, Any]) -> RunRow | None:
    rows = _all(db, sql, bindings)
    return rows[0] if rows else None


def _insert(db: apsw.Connection, new: NewRun, now_us: int) -> RunRow:
    db.execute(ENQUEUE, (*new[:_STORED], now_us))
    return _created(db.last_insert_rowid(), new, now_us)


def _fits_block(new: NewRun) -> bool:
    return new.is_plain and len(new.payload) + len(new.labels) <= LONGEST_IN_BLOCK


def _insert_block(db: apsw.Connection, block: Sequence[NewRun], now_us: int) -> list[RunRow]:
    bindings: list[str | int | None] = [now_us]
    for new in block:
        bindings += new[:_STORED]
    db.execute(ENQUEUE_BLOCK, bindings)
    # AUTOINCREMENT counts on from row to row, and nobody else writes meanwhile.
    first = db.last_insert_rowid() - len(block) + 1
    return [_created(run, new, now_us) for run, new in enumerate(block, first)]


def _created(run: int, new: NewRun, now_us: int) -> RunRow:
    return RunRow(
        run=run,
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
        created_at_us=now_us,
        started_at_us=None,
        completed_at_us=None,
        updated_at_us=now_us,
        heartbeat_at_us=None,
    )


@single_statement
def enqueue_plain(db: apsw.Connection, new: NewRun, now_us: int) -> Enqueued:
    """Store a run that nothing in the file can stand in for: no key, no coalescing."""
    return Enqueued(_insert(db, new, now_us), "created")


def enqueue(db: apsw.Connection, new: NewRun, now_us: int) -> Enqueued:
    """Store a run, or find the one that its keys lead to."""
    if new.idempotency_key is not None:
        existing = _one(
            db, BY_IDEMPOTENCY_KEY, {"job_name": new.job_name, "key": new.idempotency_key}
        )
        if existing is not None:
            if new.retry_failed and existing.status in ("failed", "cancelled"):
                retried = _retried(db, existing.id, now_us)
                return Enqueued(
                    retried._replace(completed_steps=existing.completed_steps), "retried"
                )
            return Enqueued(existing, "idempotent")
    if new.coalesce:
        pending = _one(db, PENDING_OF_KEY, {"job_name": new.job_name, "key": new.concurrency_key})
        if pending is not None:
            return Enqueued(pending, "coalesced")
    return Enqueued(_insert(db, new, now_us), "created")


def enqueue_and_claim(
    db: apsw.Connection, new: NewRun, now_us: int, wanted: Claim
) -> tuple[Enqueued, RunRow | None]:
    """``enqueue``, and if there is a pending run more for it, ``claim`` whichever is the first."""
    enqueued = enqueue(db, new, now_us)
    claimed: list[RunRow] = []
    if enqueued.disposition in ("created", "retried") and is_registered(db, wanted.owner):
        claimed = claim(db, wanted)
    return enqueued, claimed[0] if claimed else None


@single_statement
def start(
    db: apsw.Connection, new: NewRun, now_us: int, wanted: Claim
) -> tuple[Enqueued, RunRow] | None:
    """``enqueue_plain`` and ``claim`` in one; ``None`` if another run is before it in line.

    Nothing is stored then.
    """
    bindings = {
        "id": new.id,
        "job_name": new.job_name,
        "payload": new.payload,
        "labels": new.labels,
        "owner": wanted.owner,
        "jobs": wanted.jobs,
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
        started_at_us=now_us,
        heartbeat_at_us=now_us,
    )
    return Enqueued(row, "created"), running


def is_registered(db: apsw.Connection, owner: int) -> bool:
    """Whether the owner may claim: others have not taken it for dead and forgotten it."""
    return bool(db.execute(IS_REGISTERED, {"owner": owner}).get)


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


def has_claimable(db: apsw.Connection, jobs: str) -> bool:
    """Whether a claim for these jobs (a JSON array of names) would find a run."""
    return db.execute(FIRST_CLAIMABLE, {"jobs": jobs}).get is not None


def claim(db: apsw.Connection, wanted: Claim) -> list[RunRow]:
    """Take up to ``limit`` runs for an owner, those triggered first."""
    claimed: list[RunRow] = []
    bindings = {"owner": wanted.owner, "jobs": wanted.jobs, "now_us": wanted.now_us}
    while len(claimed) < wanted.limit:
        row = _one(db, CLAIM, bindings)
        if row is None:
            break
        claimed.append(row)
    return claimed


class Ended(NamedTuple):
    """Whether an ending took effect, and the run claimed in its transaction, if any."""

    is_effective: bool
    claimed: RunRow | None


@single_statement
def end(db: apsw.Connection, ending: Ending) -> bool:
    """Complete, fail or interrupt a run whose steps are kept; whether it took effect."""
    bindings: dict[str, Any] = {
        "run": ending.run,
        "attempt": ending.attempt,
        "progress": ending.progress,
        "now_us": ending.now_us,
    }
    if ending.output is not None:
        db.execute(COMPLETE, bindings | {"output": ending.output})
    elif ending.error is not None:
        db.execute(FAIL, bindings | {"error": ending.error})
    else:
        db.execute(INTERRUPT, bindings)
    return db.changes() > 0


def finish(db: apsw.Connection, ending: Ending, claim_next: Claim | None) -> Ended:
    """``end`` a run, and ``claim`` the next one in the same transaction."""
    is_effective = end(db, ending)
    if is_effective and ending.output is not None and not ending.keep_steps:
        db.execute(DELETE_STEPS, {"run": ending.run})
    claimed = claim(db, claim_next) if claim_next is not None else []
    return Ended(is_effective, claimed[0] if claimed else None)


@single_statement
def release(db: apsw.Connection, run: int, attempt: int, owner: int, now_us: int) -> bool:
    """Say that the job of a run that was cancelled has left its thread."""
    db.execute(RELEASE, {"run": run, "attempt": attempt, "owner": owner, "now_us": now_us})
    return db.changes() > 0


def cancel(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """A pending or running run to cancelled; it keeps its owner until its job has stopped."""
    row = _one(db, CANCEL, {"id": run_id, "now_us": now_us})
    if row is None:
        raise _refused(db, run_id, "cancelled", "only a pending or running run can be cancelled")
    return row


def _retried(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    row = _one(db, RETRY, {"id": run_id, "now_us": now_us})
    if row is None:
        raise _refused(db, run_id, "retried", "only a failed or cancelled run can be retried")
    return row


def retry(db: apsw.Connection, run_id: str, now_us: int) -> RunRow:
    """A failed or cancelled run to pending, its checkpoints kept."""
    _retried(db, run_id, now_us)
    return get(db, run_id)


def delete(db: apsw.Connection, run_id: str) -> RunRow:
    """Delete a terminal run with its steps, logs and labels."""
    row = get(db, run_id)
    if row.completed_at_us is None:
        raise _refused(db, run_id, "deleted", "cancel it first, or wait for its end")
    if row.owner is not None:
        raise ConflictError(
            f"run {run_id} was cancelled but its job is still inside a step; "
            "delete it when that has ended"
        )
    db.execute(DELETE, {"run": row.run})
    return row


def _refused(db: apsw.Connection, run_id: str, verb: str, advice: str) -> Exception:
    row = get(db, run_id)
    return ConflictError(f"run {run_id} is {row.status} and cannot be {verb}: {advice}")


def purge(db: apsw.Connection, before_us: int, limit: int) -> list[RunRow]:
    """Delete up to *limit* terminal runs that ended before *before_us*, oldest first."""
    return _all(db, PURGE, {"before_us": before_us, "limit": limit})


def recover_dead(
    db: apsw.Connection, owner: int, now_us: int, *, beat: int | None = None
) -> list[RunRow]:
    """Put back the running runs of an owner that is dead, free its keys, forget it.

    With *beat*, only if that still is its beat.
    """
    if beat is not None and db.execute(BEAT_OF, {"owner": owner}).get != beat:
        return []
    recovered = _all(db, RECOVER, {"owner": owner, "now_us": now_us})
    db.execute(RELEASE_ALL, {"owner": owner, "now_us": now_us})
    db.execute(FORGET_OWNER, {"owner": owner})
    return recovered


def has_running(db: apsw.Connection, owner: int) -> bool:
    """Whether the owner has a running run."""
    return bool(db.execute(HAS_RUNNING, {"owner": owner}).get)


def put_back(db: apsw.Connection, owner: int, now_us: int) -> list[RunRow]:
    """Put back the running runs of an owner that knows of no job of them."""
    return _all(db, RECOVER, {"owner": owner, "now_us": now_us})


def recover_hung(db: apsw.Connection, owner: int, beat: int, now_us: int) -> list[RunRow]:
    """Put back the running runs of an owner whose beat still is *beat*."""
    if db.execute(BEAT_OF, {"owner": owner}).get != beat:
        return []
    return _all(db, RECOVER, {"owner": owner, "now_us": now_us})


def set_progress(db: apsw.Connection, updates: Sequence[tuple[int, int, str]], now_us: int) -> int:
    """Store progress, given as (run, attempt, JSON text); say how many took effect.

    Stale attempts change nothing.
    """
    changed = 0
    for run, attempt, progress in updates:
        db.execute(
            SET_PROGRESS, {"run": run, "attempt": attempt, "progress": progress, "now_us": now_us}
        )
        changed += db.changes()
    return changed


def find(db: apsw.Connection, run_id: str) -> RunRow | None:
    """The run with that id."""
    return _one(db, BY_ID, {"id": run_id})


def get(db: apsw.Connection, run_id: str) -> RunRow:
    """The run with that id.

    Raises:
        NotFoundError: there is none.
    """
    row = find(db, run_id)
    if row is None:
        raise NotFoundError(f"there is no run {run_id!r:.80} in this database")
    return row


def brief(db: apsw.Connection, run_id: str) -> Brief | None:
    """How the run stands."""
    rows = db.execute(BRIEF, {"id": run_id}).fetchall()
    return Brief._make(rows[0]) if rows else None


def briefs(db: apsw.Connection, run_ids: Sequence[str]) -> dict[str, Brief]:
    """How each of the runs stands that exists."""
    rows = db.execute(BRIEF_OF_MANY, {"ids": json.dumps(list(run_ids))}).fetchall()
    found = (Brief._make(row) for row in rows)
    return {brief.id: brief for brief in found}


def state_of(db: apsw.Connection, run: int) -> tuple[str, int] | None:
    """Status and attempt of a run, ``None`` if it was deleted."""
    rows: list[Any] = db.execute(STATE_OF, {"run": run}).fetchall()
    return (rows[0][0], rows[0][1]) if rows else None


def find_many(
    db: apsw.Connection, filters: Filters, limit: int | None, offset: int
) -> list[RunRow]:
    """The runs that fit, newest first."""
    bindings = filters._asdict() | {"limit": -1 if limit is None else limit, "offset": offset}
    return _all(db, FIND, bindings)


def count(db: apsw.Connection, filters: Filters) -> int:
    """How many runs fit."""
    return int(db.execute(COUNT, filters._asdict()).get)
