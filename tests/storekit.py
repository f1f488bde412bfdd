"""A store for tests to play with, a clock that they move, and short ways to put things in."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from durably._platform.clock import Clock
from durably.models import ErrorInfo
from durably.store.outcome import Completed, Failed, Interrupted, Outcome, Suspended
from durably.store.rows import Claim, Ended, NewRun, RunRow
from durably.store.sqlite.connection.connections import configure
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import claims, owners, queries, runs, schema, settle, steps
from durably.store.sqlite.sql import enqueue as enqueueing

_numbers = itertools.count(1)
_TO_TOKEN = str.maketrans("ILOU-", "110VZ")


class FakeClock(Clock):
    """Both readings stand still until they are moved; a wait moves them to its end."""

    def __init__(self, now_us: int = 1_000_000_000) -> None:
        self.us = now_us
        self.seconds = 500.0

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)
        self.seconds += seconds

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        if not event.is_set():
            if timeout_s is None:
                return event.wait(10.0)
            self.advance(timeout_s)
        return event.is_set()


def connect(path: Path | str) -> apsw.Connection:
    """A connection set up as the store's own, whatever the file holds."""
    db = apsw.Connection(str(path))
    db.set_busy_timeout(10_000)
    db.pragma("journal_mode", "wal")
    configure(db, "normal")
    db.pragma("synchronous", "off")  # no test here cuts the power
    return db


def begin(db: apsw.Connection) -> Callable[[], None]:
    """What ``migrate`` asks for."""
    return lambda: db.execute("BEGIN IMMEDIATE") and None


def fresh(path: Path | str, scripts: list[str] | None = None) -> apsw.Connection:
    """A connection to a new database at the newest version, or made by some scripts."""
    if scripts is None:
        put_new_database(Path(path))
        return connect(path)
    db = connect(path)
    schema.migrate(db, str(path), begin(db), scripts)
    return db


def put_new_database(path: Path) -> None:
    """Make a file as the migrations leave it, without executing them again."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(_new_database())


@functools.cache
def _new_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "new.db")
        db = connect(path)
        schema.migrate(db, str(path), begin(db))
        db.close()
        return path.read_bytes()


def query(store: Database, sql: str, *bindings: Any) -> list[Any]:
    """The rows of a query."""
    return store.read(lambda db: db.execute(sql, bindings).fetchall())


def insert(db: apsw.Connection, table: str, **values: Any) -> None:
    """One row, as it is given."""
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


# -- through the verbs ---------------------------------------------------------------------


def token_of(name: str) -> str:
    """Return what durably could have made as the token of an owner, another one for each name."""
    return name.upper().translate(_TO_TOKEN).rjust(26, "0")


def given_owner(store: Database, token: str | None = None, **values: Any) -> int:
    """The number of a new owner row."""
    given = {
        "token": token_of(token or f"{next(_numbers)}"),
        "boot_id": "boot",
        "pid": 1,
        "heartbeat_interval_us": 5_000_000,
        "now_us": 1,
    }
    return store.write(owners.register, **(given | values))


def trigger(store: Database, job: str = "job", now_us: int = 10, **options: Any) -> RunRow:
    """A new run's row."""
    new = NewRun(options.pop("id", f"run-{next(_numbers)}"), job, "1", **options)
    return store.write(enqueueing.enqueue, new, now_us).row


def claim(
    store: Database, owner: int, *jobs: str, limit: int = 1, now_us: int = 20
) -> list[RunRow]:
    """The rows of the runs that a claim got."""
    return store.write(
        claims.claim, Claim(owner, json.dumps(jobs or ["job"]), lambda: now_us, limit)
    )


def given_running(store: Database, owner: int, job: str = "job", **options: Any) -> RunRow:
    """A run of that owner that no other pending run of the job precedes."""
    run = trigger(store, job, **options)
    (row,) = claim(store, owner, job)
    assert row.id == run.id
    return row


def finish(
    store: Database,
    row: RunRow,
    *,
    output: str | None = None,
    error: str | None = None,
    progress: str | None = None,
    keep_steps: bool = True,
    now_us: int = 30,
    claim_next: Claim | None = None,
) -> Ended:
    """End an execution: completed with an output, failed with a type of error, or interrupted."""
    outcome: Outcome = Interrupted()
    if output is not None:
        outcome = Completed(output)
    elif error is not None:
        outcome = Failed(ErrorInfo(error, "", ""))
    return store.write(
        settle.settle_and_claim,
        row.run,
        row.fence,
        outcome,
        now_us,
        progress,
        keep_steps,
        claim_next,
    )


def suspend(store: Database, row: RunRow, outcome: Suspended, now_us: int = 30) -> RunRow:
    """Return a run whose execution has ended so."""
    assert store.write(settle.settle, row.run, row.fence, outcome, now_us)
    return stored(store, row)


def checkpoint(store: Database, row: RunRow, name: str, index: int = 0, output: str = "1") -> bool:
    """Return whether the result of a step was stored."""
    return store.write(steps.complete, row.run, row.fence, index, name, output, 21, 22, None, None)


def stored(store: Database, row: RunRow) -> RunRow:
    """The run as it is now."""
    return store.read(queries.get, row.id)


def place(store: Database, row: RunRow) -> int:
    """The run's place in the queue of its concurrency key."""
    ((queue_place,),) = query(store, "SELECT queue_place FROM durably_runs WHERE run = ?", row.run)
    return int(queue_place)


def enqueue(
    store: Database, run_id: str, now_us: int = 10, **options: object
) -> enqueueing.Enqueued:
    """How a trigger of that id was resolved."""
    return store.write(enqueueing.enqueue, NewRun(run_id, "job", "1", **options), now_us)


def bring_to(store: Database, row: RunRow, state: str) -> None:
    """Take a pending run, the first of its job, to another status."""
    if state == "pending":
        return
    (running,) = claim(store, given_owner(store))
    assert running.id == row.id
    checkpoint(store, running, "s")
    if state == "completed":
        finish(store, running, output="2")
    elif state == "failed":
        finish(store, running, error="{}")
    elif state == "cancelled":
        store.write(runs.cancel, row.id, 30)


def stored_status(store: Database, run_id: str) -> str:
    """The run's status as it is now."""
    return store.read(queries.get, run_id).status
