"""Fail runs that no engine can execute, so that those behind them are claimed."""

import os
from contextlib import suppress
from typing import Any, Final

import apsw

from durably._platform.host import host_name
from durably.codec.json_text import dump
from durably.store import bounds, defects
from durably.store.rows import RunKey
from durably.store.sqlite.sql import queries

# A pending run that cannot be executed is claimed, if possible, and then failed. A run that cannot
# be claimed was claimed before, so that it may fail; or it has a number that no run can have.
CLAIM_UNSOUND: Final = f"""
    UPDATE durably_runs
    SET {queries.CLAIMED}, output = NULL, error = NULL, completed_at_us = NULL
    WHERE run = :run AND status = 'pending'"""

FAIL_UNSOUND: Final = f"""
    UPDATE durably_runs
    SET status = 'failed', owner = NULL, {queries.AWAKE}, keeps_attempt = 0, output = NULL,
        error = :error, completed_at_us = :now_us, updated_at_us = :now_us
    WHERE run = :run"""

CANCEL_UNSOUND: Final = f"""
    UPDATE durably_runs
    SET status = 'cancelled', owner = NULL, {queries.AWAKE}, keeps_attempt = 0, output = NULL,
        error = NULL, completed_at_us = :now_us, updated_at_us = :now_us
    WHERE run = :run"""

# The runs that were claimed just now; a heartbeat in the same microsecond adds others.
JUST_CLAIMED: Final = """
    SELECT run FROM durably_runs
    WHERE owner = :owner AND status = 'running' AND updated_at_us = :now_us"""


def fail_unclaimed(db: apsw.Connection, exc: Exception, bindings: dict[str, Any]) -> None:
    """Fail the run that could not be claimed, or could not be read after its claim.

    Raises:
        apsw.ConstraintError: *exc* is one, and the run is not the reason.
        UnicodeDecodeError: likewise.
    """
    if isinstance(exc, apsw.ConstraintError):
        # A claim can break only constraints of the run, except for that of the time.
        if is_outside(bindings["now_us"]):
            raise exc
        rows: list[Any] = db.execute(queries.FIRST_CLAIMABLE, bindings).fetchall()
        first = rows[0][0]
        if first is None:
            raise exc
        fail(db, first, defect_of(db, first, exc), bindings)
        return
    just_claimed: list[Any] = db.execute(JUST_CLAIMED, bindings).fetchall()
    found = [
        (run_pk, defect)
        for (run_pk,) in just_claimed
        if (defect := queries.defect_of(db, run_pk)) is not None
    ]
    if not found:
        raise exc
    for run_pk, defect in found:
        fail(db, run_pk, defect, bindings)


def defect_of(db: apsw.Connection, run_pk: RunKey, exc: apsw.ConstraintError) -> str:
    """Return what is wrong with a run that breaks a constraint."""
    return queries.defect_of(db, run_pk) or f"it breaks a constraint ({exc})"


def is_outside(now_us: int) -> bool:
    """Return whether no row can hold that time."""
    return not bounds.TIME.least <= now_us <= bounds.TIME.most


def fail(db: apsw.Connection, run_pk: RunKey, defect: str, bindings: dict[str, Any]) -> None:
    """Fail a run that cannot be executed, or cancel it if it has a number that no run can have."""
    row = queries.by_number(db, run_pk)
    message = f"the row of the run in the database cannot be executed: {defect}"
    error = {"type": "durably.DatabaseError", "message": message, "traceback": ""}
    given = {
        "run": run_pk,
        "owner": bindings["owner"],
        "now_us": bindings["now_us"],
        "host": host_name(),
        "pid": os.getpid(),
        "error": dump(error | {"failed_step": None}),
    }
    end = "failed"
    with suppress(apsw.ConstraintError):
        db.execute(CLAIM_UNSOUND, given)
    try:
        db.execute(FAIL_UNSOUND, given)
    except apsw.ConstraintError:
        end = "cancelled"
        db.execute(CANCEL_UNSOUND, given)
    defects.note(
        f"run {row.id!a:.80} of job {row.job_name!a:.80} cannot be executed and is {end}: "
        f"{defect}, which durably never writes; durably.testing.check finds all such rows"
    )
