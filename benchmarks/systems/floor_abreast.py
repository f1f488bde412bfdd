"""The floor, in several processes on one file: bare inserts under SQLite's own lock."""

from __future__ import annotations

import sys

from benchmarks.systems.abreast import side_by_side
from benchmarks.systems.child import Outcome, main, say, small
from benchmarks.systems.floor import FLOOR_INSERT, FLOOR_SCHEMA, connect, durability, now_us


def processes(*, count: int, processes: int, synchronous: str) -> Outcome:
    """So many checkpoints in all by so many processes on one file."""
    db = connect(synchronous)
    db.execute(FLOOR_SCHEMA)
    each = count // processes
    options = [
        {"first": each * number, "count": each, "synchronous": synchronous}
        for number in range(processes)
    ]
    seconds = side_by_side(__spec__.name, "insert", options)
    return {"value": count / seconds, "durability": durability(db)}


def insert(*, first: int, count: int, synchronous: str) -> Outcome:
    """One of the processes."""
    db = connect(synchronous)
    say("ready")
    sys.stdin.readline()
    for number in range(first, first + count):
        started = now_us()
        db.execute(FLOOR_INSERT, (number, f"step-{number}", str(small(number)), started, now_us()))
    say("done")
    return {}


if __name__ == "__main__":
    main({"processes": processes, "insert": insert})
