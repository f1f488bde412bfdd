"""dura with its own workers, with its default settings."""

from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from dura import DurableEngine
from dura.workers import run_worker

from benchmarks.systems.child import (
    SYNCHRONOUS,
    Countdown,
    Meter,
    Outcome,
    Spans,
    die,
    large,
    main,
    peak_mib,
    small,
    until,
)

PATH = "dura.db"

spans = Spans()
began: list[float] = []
reached: list[int] = []
entered: list[int] = []
countdown = Countdown(0)
kills = False


def many_steps(engine: DurableEngine, task: Any) -> int:
    """So many checkpoints."""
    count, size = task.params
    with spans.span():
        for number in range(count):
            engine.checkpoint(
                task_id=task.task_id,
                step_name=f"step-{number}",
                fn=lambda number=number: large(number, size) if size else small(number),
            )
    return int(count)


def one_step(engine: DurableEngine, task: Any) -> int:
    """A task of one checkpoint."""
    value: int = engine.checkpoint(
        task_id=task.task_id, step_name="only", fn=lambda: small(task.params)
    )
    countdown.down()
    return value


def note_start(engine: DurableEngine, task: Any) -> int:  # noqa: ARG001 - dura's signature
    """Tells how long after it was spawned its first line is reached."""
    began.append((time.monotonic_ns() - task.params) / 1e6)
    return 0


def first_new_step(number: int) -> int:
    """The step that a retry gets to: at the first try the process dies in it."""
    reached.append(time.monotonic_ns())
    if kills:
        die()
    return number


def resumed(engine: DurableEngine, task: Any) -> int:
    """Checkpoints that are there already, and one that is not."""
    entered.append(time.monotonic_ns())
    count = task.params
    for number in range(count):
        engine.checkpoint(
            task_id=task.task_id, step_name=f"step-{number}", fn=lambda number=number: small(number)
        )
    value: int = engine.checkpoint(
        task_id=task.task_id, step_name="new", fn=lambda: first_new_step(count)
    )
    return value


HANDLERS = {"steps": many_steps, "only": one_step, "start": note_start, "resume": resumed}


@contextmanager
def working(engine: DurableEngine, workers: int) -> Iterator[None]:
    """So many of its worker threads."""
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=run_worker,
            args=(engine,),
            kwargs={"handlers": HANDLERS, "worker_id": f"worker-{number}", "stop_event": stop},
        )
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def completed(engine: DurableEngine) -> int:
    """How many tasks have ended."""
    return int(engine.task_counts_by_state().get("completed", 0))


def durability(engine: DurableEngine) -> dict[str, Any]:
    """What is really in force."""
    db = engine._conn()
    return {
        "journal_mode": db.execute("PRAGMA journal_mode").fetchone()[0],
        "synchronous": SYNCHRONOUS[db.execute("PRAGMA synchronous").fetchone()[0]],
        "sqlite": sqlite3.sqlite_version,
    }


def steps(*, count: int, threads: int = 1, size: int = 0) -> Outcome:
    """Checkpoints, *threads* tasks at once."""
    engine = DurableEngine(PATH)
    each = count // threads
    with Meter() as meter:
        for _ in range(threads):
            engine.spawn_task(name="steps", params=[each, size])
        with working(engine, threads):
            until(lambda: completed(engine) == threads, 0.01)
    done = each * threads
    return {
        "value": done / spans.seconds,
        "bytes": meter.written / done,
        "durability": durability(engine),
    }


def runs(*, count: int, workers: int) -> Outcome:
    """One-step tasks, from the first to be spawned to the last completion."""
    global countdown  # noqa: PLW0603 - what the handler reports to
    countdown = Countdown(count)
    engine = DurableEngine(PATH)
    with working(engine, workers), Meter() as meter:
        for number in range(count):
            engine.spawn_task(name="only", params=number)
        countdown.wait()
        until(lambda: completed(engine) == count)
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": durability(engine),
    }


def start(*, times: int) -> Outcome:
    """From ``spawn_task`` to the first line of the handler."""
    engine = DurableEngine(PATH)
    with working(engine, 4):
        for number in range(1, times + 1):
            time.sleep(0.01)
            engine.spawn_task(name="start", params=time.monotonic_ns())
            until(lambda number=number: len(began) == number)
    return {"value": statistics.median(began), "durability": durability(engine)}


def prepare(*, count: int) -> Outcome:
    """A file with a task that was killed behind so many checkpoints."""
    global kills  # noqa: PLW0603 - the handler dies in this process only
    kills = True
    engine = DurableEngine(PATH)
    engine.spawn_task(name="resume", params=count)
    with working(engine, 1):
        until(lambda: completed(engine) == 1)
    return {}


def resume(*, count: int) -> Outcome:
    """From the first line of the handler to its first new checkpoint.

    Of another day by the engine's clock: the dead worker's claim would hold for two minutes.
    """
    engine = DurableEngine(PATH, clock=lambda: datetime.now(UTC) + timedelta(days=1))
    with working(engine, 1):
        until(lambda: completed(engine) == 1, 0.01)
    return {"value": (reached[0] - entered[0]) / 1e3 / count}


def memory() -> Outcome:
    """One trivial task."""
    engine = DurableEngine(PATH)
    engine.spawn_task(name="only", params=1)
    with working(engine, 4):
        until(lambda: completed(engine) == 1, 0.01)
    return {"value": peak_mib()}


if __name__ == "__main__":
    main(
        {
            "steps": steps,
            "runs": runs,
            "start": start,
            "prepare": prepare,
            "resume": resume,
            "memory": memory,
        }
    )
