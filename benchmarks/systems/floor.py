"""The floor: the least writes that make the same promise, on a bare apsw connection."""

from __future__ import annotations

import json
import queue
import statistics
import threading
import time
from typing import Any, cast

import apsw

from benchmarks.systems.child import (
    SYNCHRONOUS,
    Meter,
    Outcome,
    large,
    main,
    peak_mib,
    small,
    spawned_ns,
    spinning,
)

PATH = "floor.db"
FLOOR_SCHEMA = """
    CREATE TABLE steps (
        step INTEGER PRIMARY KEY, run INTEGER NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
        output TEXT, attempt INTEGER NOT NULL, started_at_us INTEGER NOT NULL,
        completed_at_us INTEGER NOT NULL, UNIQUE (run, name)) STRICT"""
FLOOR_INSERT = "INSERT INTO steps VALUES (?, 1, ?, 'completed', ?, 1, ?, ?)"
RUNS = """
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, payload TEXT,
        output TEXT, attempt INTEGER NOT NULL, created_at_us INTEGER NOT NULL,
        completed_at_us INTEGER) STRICT;
    CREATE INDEX claimable ON runs (run) WHERE status = 'pending'"""
TRIGGER = "INSERT INTO runs VALUES (NULL, ?, 'pending', '1', NULL, 0, ?, NULL)"
CLAIM = """
    UPDATE runs SET status = 'running', attempt = attempt + 1
    WHERE run = (SELECT run FROM runs WHERE status = 'pending' ORDER BY run LIMIT 1)
    RETURNING run"""
COMPLETE = "UPDATE runs SET status = 'completed', output = '1', completed_at_us = ? WHERE run = ?"
STEP = "INSERT INTO steps VALUES (NULL, ?, 'only', 'completed', '1', 1, ?, ?)"


def connect(synchronous: str) -> apsw.Connection:
    """A connection as durably's."""
    db = apsw.Connection(PATH)
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", synchronous)
    db.set_busy_timeout(10_000)
    return db


def durability(db: apsw.Connection) -> dict[str, Any]:
    """What is really in force."""
    return {
        "journal_mode": db.pragma("journal_mode"),
        "synchronous": SYNCHRONOUS[db.pragma("synchronous")],
        "sqlite": apsw.sqlite_lib_version(),
    }


def now_us() -> int:
    """The time as it is stored."""
    return time.time_ns() // 1000


def _rate_or_ms(count: int, seconds: float, spinners: int | None) -> float:
    """Beside spinners the time of one is what matters, not how many there are."""
    return count / seconds if spinners is None else 1000 * seconds / count


def steps(
    *,
    count: int,
    synchronous: str,
    size: int = 0,
    spinners: int | None = None,
    encodes: bool = False,
) -> Outcome:
    """One insert a checkpoint, each its own commit."""
    db = connect(synchronous)
    db.execute(FLOOR_SCHEMA)
    with spinning(spinners or 0), Meter() as meter:
        for number in range(count):
            value = large(number, size) if size else small(number)
            text = json.dumps(value) if encodes else str(value)
            started = now_us()
            db.execute(FLOOR_INSERT, (number, f"step-{number}", text, started, now_us()))
            if encodes:
                json.loads(text)
    return {
        "value": _rate_or_ms(count, meter.seconds, spinners),
        "bytes": meter.written / count,
        "durability": durability(db),
    }


def runs(*, count: int, synchronous: str, batch: bool) -> Outcome:
    """One-step runs: trigger, claim, checkpoint and end are a commit each.

    In a batch all are triggered in one commit, and the end claims the next run.
    """
    db = connect(synchronous)
    db.execute(FLOOR_SCHEMA)
    db.execute(RUNS)

    def claim() -> int:
        return int(db.execute(CLAIM).get)

    with Meter() as meter:
        if batch:
            with db:
                db.executemany(TRIGGER, [(f"run-{number}", now_us()) for number in range(count)])
            run = claim()
            for number in range(count):
                db.execute(STEP, (run, now_us(), now_us()))
                with db:
                    db.execute(COMPLETE, (now_us(), run))
                    if number < count - 1:
                        run = claim()
        else:
            for number in range(count):
                db.execute(TRIGGER, (f"run-{number}", now_us()))
                run = claim()
                db.execute(STEP, (run, now_us(), now_us()))
                db.execute(COMPLETE, (now_us(), run))
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": durability(db),
    }


def batch(*, count: int, synchronous: str) -> Outcome:
    """Triggers in one commit."""
    db = connect(synchronous)
    db.execute(RUNS)
    with Meter() as meter, db:
        db.executemany(TRIGGER, ((f"run-{number}", now_us()) for number in range(count)))
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": durability(db),
    }


def start(*, times: int, synchronous: str) -> Outcome:
    """A committed trigger, a thread that is woken by it, a committed claim."""
    db = connect(synchronous)
    db.execute(RUNS)
    woken: queue.SimpleQueue[bool] = queue.SimpleQueue()
    started: queue.SimpleQueue[float] = queue.SimpleQueue()

    def work() -> None:
        mine = connect(synchronous)
        while woken.get():
            mine.execute(CLAIM).fetchall()
            started.put(time.perf_counter())
        mine.close()

    worker = threading.Thread(target=work)
    worker.start()
    waits = []
    for number in range(times):
        time.sleep(0.01)
        triggered = time.perf_counter()
        db.execute(TRIGGER, (f"run-{number}", now_us()))
        woken.put(True)
        waits.append(started.get() - triggered)
    woken.put(False)
    worker.join()
    return {"value": 1000 * statistics.median(waits), "durability": durability(db)}


def prepare(*, count: int) -> Outcome:
    """A file with so many checkpoints of one run."""
    db = connect("normal")
    db.execute(FLOOR_SCHEMA)
    with db:
        rows = ((n, f"step-{n}", str(n), now_us(), now_us()) for n in range(count))
        db.executemany(FLOOR_INSERT, rows)
    return {}


def resume(*, count: int) -> Outcome:
    """Read and decode the checkpoints, and look each up by its name."""
    db = connect("full")
    with Meter() as meter:
        rows = db.execute("SELECT name, output FROM steps WHERE run = 1 ORDER BY step")
        stored: dict[Any, Any] = dict(cast("list[tuple[Any, Any]]", rows.fetchall()))
        for number in range(count):
            json.loads(stored.pop(f"step-{number}"))
    return {"value": 1e6 * meter.seconds / count, "durability": durability(db)}


def restart(*, count: int) -> Outcome:
    """The same in a process of its own, from its start to the first new checkpoint."""
    resume(count=count)
    return {"value": (time.monotonic_ns() - spawned_ns()) / 1e9}


def memory() -> Outcome:
    """One checkpoint in a file."""
    outcome = steps(count=1, synchronous="full")
    return {"value": peak_mib(), "durability": outcome["durability"]}


if __name__ == "__main__":
    main(
        {
            "steps": steps,
            "runs": runs,
            "batch": batch,
            "start": start,
            "prepare": prepare,
            "resume": resume,
            "restart": restart,
            "memory": memory,
        }
    )
