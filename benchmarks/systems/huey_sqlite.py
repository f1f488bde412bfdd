"""huey with SqliteHuey and its consumer's threads, with its default settings. It has no steps."""

from __future__ import annotations

import logging
import sqlite3
import statistics
import time
from typing import Any

from huey import SqliteHuey
from huey.consumer import Consumer
from huey.signals import SIGNAL_COMPLETE

from benchmarks.systems.child import (
    SYNCHRONOUS,
    Countdown,
    Meter,
    Outcome,
    main,
    peak_mib,
    small,
    until,
)

PATH = "huey.db"

logging.getLogger("huey").setLevel(logging.ERROR)
huey = SqliteHuey(filename=PATH)
began: list[float] = []
countdown = Countdown(0)
one_task = huey.task()(small)


@huey.task()
def note_start(sent_ns: int) -> int:
    """Tells how long after it was enqueued its first line is reached."""
    began.append((time.monotonic_ns() - sent_ns) / 1e6)
    return 0


@huey.signal(SIGNAL_COMPLETE)
def completed(signal: str, task: Any) -> None:  # noqa: ARG001 - huey's signature
    """After the result of a task was stored."""
    countdown.down()


def consume(workers: int) -> Consumer:
    """Start the consumer in this process."""
    consumer = huey.create_consumer(workers=workers, periodic=False)
    consumer.start()
    return consumer


def durability() -> dict[str, Any]:
    """What is really in force."""
    return {
        "journal_mode": huey.storage.sql("PRAGMA journal_mode", results=True)[0][0],
        "synchronous": SYNCHRONOUS[huey.storage.sql("PRAGMA synchronous", results=True)[0][0]],
        "sqlite": sqlite3.sqlite_version,
    }


def runs(*, count: int, workers: int) -> Outcome:
    """Tasks, from the first call to the last stored result."""
    global countdown  # noqa: PLW0603 - what the signal reports to
    countdown = Countdown(count)
    consumer = consume(workers)
    with Meter() as meter:
        for number in range(count):
            one_task(number)
        countdown.wait()
    consumer.stop(graceful=True)
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": durability(),
    }


def start(*, times: int) -> Outcome:
    """From the call to the first line of the task."""
    consumer = consume(4)
    for number in range(1, times + 1):
        time.sleep(0.01)
        note_start(time.monotonic_ns())
        until(lambda number=number: len(began) == number)
    consumer.stop(graceful=True)
    return {"value": statistics.median(began), "durability": durability()}


def memory() -> Outcome:
    """One trivial task."""
    consumer = consume(4)
    one_task(1).get(blocking=True)
    consumer.stop(graceful=True)
    return {"value": peak_mib()}


if __name__ == "__main__":
    main({"runs": runs, "start": start, "memory": memory})
