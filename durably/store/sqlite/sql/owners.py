"""Owners: the engines that have the file open, and their heartbeats."""

from collections.abc import Callable
from typing import Any, Final

import apsw

from durably.store.owners import Beat, OwnerRow
from durably.store.sqlite.connection.write_request import single_statement

REGISTER: Final = """
    INSERT INTO durably_owners
        (token, boot_id, pid, heartbeat_interval_us, beat_at_us, opened_at_us)
    VALUES (:token, :boot_id, :pid, :heartbeat_interval_us, :now_us, :now_us)"""

SET_STARTED: Final = "UPDATE durably_owners SET is_started = :is_started WHERE owner = :owner"

BEAT_OWNER: Final = """
    UPDATE durably_owners SET beat = beat + 1, beat_at_us = :now_us WHERE owner = :owner"""

# A row that breaks a constraint that another program has turned off must not keep the others from
# being marked.
BEAT_RUNS: Final = """
    UPDATE OR IGNORE durably_runs SET heartbeat_at_us = :now_us
    WHERE owner = :owner AND status = 'running'
    RETURNING run, fence"""

LIST: Final = """
    SELECT owner, CAST(token AS BLOB), heartbeat_interval_us, is_started, beat,
           EXISTS (SELECT 1 FROM durably_runs r WHERE r.owner = o.owner) AS has_runs
    FROM durably_owners o"""

WITH_NUMBER: Final = "SELECT token FROM durably_owners WHERE owner = :owner"

REMOVE: Final = """
    DELETE FROM durably_owners
    WHERE owner = :owner AND NOT EXISTS (SELECT 1 FROM durably_runs WHERE owner = :owner)"""


@single_statement
def register(
    db: apsw.Connection,
    *,
    token: str,
    boot_id: str,
    pid: int,
    heartbeat_interval_us: int,
    now_us: int,
) -> int:
    """Store an owner row, whose lock must be held already, and return its number."""
    db.execute(
        REGISTER,
        {
            "token": token,
            "boot_id": boot_id,
            "pid": pid,
            "heartbeat_interval_us": heartbeat_interval_us,
            "now_us": now_us,
        },
    )
    return db.last_insert_rowid()


@single_statement
def set_started(db: apsw.Connection, owner: int, *, is_started: bool) -> None:
    """Store whether this engine claims runs by itself, for waiting threads of other processes."""
    db.execute(SET_STARTED, {"owner": owner, "is_started": int(is_started)})


def beat(db: apsw.Connection, owner: int, now_us: Callable[[], int]) -> Beat:
    """Mark the owner and all its running runs as alive; return the runs as (run, fence).

    The time is read in the transaction, so that no run was last alive before it began.
    """
    bindings = {"owner": owner, "now_us": now_us()}
    db.execute(BEAT_OWNER, bindings)
    is_registered = db.changes() > 0
    rows: list[Any] = db.execute(BEAT_RUNS, bindings).fetchall()
    return Beat(is_registered, frozenset((run, fence) for run, fence in rows))


def list_all(db: apsw.Connection) -> list[OwnerRow]:
    """Return every owner whose row was not removed.

    Also an owner whose token is not text; no engine has its lock.
    """
    rows: list[Any] = db.execute(LIST).fetchall()
    return [OwnerRow(row[0], row[1].decode(errors="replace"), *row[2:]) for row in rows]


@single_statement
def remove(db: apsw.Connection, owner: int) -> bool:
    """Delete the row of an owner that has no runs any more."""
    db.execute(REMOVE, {"owner": owner})
    return db.changes() > 0


def token_of(db: apsw.Connection, owner: int) -> str | None:
    """Return the token of an owner; ``None`` if it is no longer there."""
    try:
        token: str | None = db.execute(WITH_NUMBER, {"owner": owner}).get
    except UnicodeDecodeError:
        return None  # another program has written it
    return token
