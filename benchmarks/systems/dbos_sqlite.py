"""DBOS Transact on SQLite, with its default settings."""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from dbos import DBOS
from dbos._dbos import _get_dbos_instance

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
    spawned_ns,
    until,
)

PATH = Path("dbos.db").resolve()

spans = Spans()
began: list[float] = []
reached: list[int] = []
entered: list[int] = []
countdown = Countdown(0)
kills = False

small_step = DBOS.step()(small)
large_step = DBOS.step()(large)


@DBOS.step()
def first_new_step(number: int) -> int:
    """The step that a recovery gets to: at the first try the process dies in it."""
    reached.append(time.monotonic_ns())
    if kills:
        die()
    return number


@DBOS.workflow()
def many_steps(count: int, size: int) -> int:
    """So many steps."""
    with spans.span():
        for number in range(count):
            if size:
                large_step(number, size)
            else:
                small_step(number)
    return count


@DBOS.workflow()
def one_step(number: int) -> int:
    """A workflow of one step."""
    value: int = small_step(number)
    countdown.down()
    return value


@DBOS.workflow()
def note_start(sent_ns: int) -> int:
    """Tells how long after its start was asked for its first line is reached."""
    began.append((time.monotonic_ns() - sent_ns) / 1e6)
    return 0


@DBOS.workflow()
def resumed(count: int) -> int:
    """Steps that are there already, and one that is not."""
    entered.append(time.monotonic_ns())
    for number in range(count):
        small_step(number)
    value: int = first_new_step(count)
    return value


def launch(threads: int) -> None:
    """Start it; where Python's SQLite is too old for it, on the one of pysqlite3."""
    engine: dict[str, Any] = {}
    if sqlite3.sqlite_version_info < (3, 42):
        import pysqlite3  # noqa: PLC0415 - installed where it is needed

        engine = {"db_engine_kwargs": {"module": pysqlite3}}
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{PATH}",
            "application_version": "1",
            "log_level": "ERROR",
            "max_executor_threads": threads,
            **engine,
        }
    )
    DBOS.launch()


def ask(sql: str) -> Any:
    """One value out of its database, through its own engine."""
    with _get_dbos_instance()._sys_db.engine.connect() as connection:
        return connection.execute(sqlalchemy.text(sql)).scalar()


def durability() -> dict[str, Any]:
    """What is really in force."""
    return {
        "journal_mode": ask("PRAGMA journal_mode"),
        "synchronous": SYNCHRONOUS[ask("PRAGMA synchronous")],
        "sqlite": ask("SELECT sqlite_version()"),
    }


def steps(*, count: int, threads: int = 1, size: int = 0) -> Outcome:
    """Checkpoints, *threads* workflows at once."""
    launch(threads)
    each = count // threads
    with Meter() as meter:
        handles = [DBOS.start_workflow(many_steps, each, size) for _ in range(threads)]
        until(lambda: _completed() == threads, 0.01)
    for handle in handles:
        handle.get_result()
    in_force = durability()
    DBOS.destroy()
    done = each * threads
    return {
        "value": done / spans.seconds,
        "bytes": meter.written / done,
        "durability": in_force,
    }


def _completed() -> int:
    return int(ask("SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'"))


def runs(*, count: int, workers: int) -> Outcome:
    """One-step workflows, from the first start to the last completion."""
    global countdown  # noqa: PLW0603 - what the workflow reports to
    countdown = Countdown(count)
    launch(workers)
    with Meter() as meter:
        for number in range(count):
            DBOS.start_workflow(one_step, number)
        countdown.wait()
        until(lambda: _completed() == count)
    in_force = durability()
    DBOS.destroy()
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": in_force,
    }


def items(*, count: int, workers: int) -> Outcome:
    """One-step workflows of a queue, so many at once; as a loop over items is written there."""
    global countdown  # noqa: PLW0603 - what the workflow reports to
    countdown = Countdown(count)
    launch(workers)
    queue = DBOS.register_queue("items", worker_concurrency=workers, polling_interval_sec=0.01)
    started = time.perf_counter()
    handles = [queue.enqueue(one_step, number) for number in range(count)]
    countdown.wait()
    until(lambda: _completed() == count, 0.01)
    seconds = time.perf_counter() - started
    assert [handle.get_result() for handle in handles] == list(range(count))
    in_force = durability()
    DBOS.destroy()
    return {"value": 1e6 * seconds / count, "durability": in_force}


def start(*, times: int) -> Outcome:
    """From ``start_workflow`` to the first line of the workflow."""
    launch(4)
    for number in range(1, times + 1):
        time.sleep(0.01)
        DBOS.start_workflow(note_start, time.monotonic_ns())
        until(lambda number=number: len(began) == number)
    in_force = durability()
    DBOS.destroy()
    return {"value": statistics.median(began), "durability": in_force}


def prepare(*, count: int) -> Outcome:
    """A file with a workflow that was killed behind so many steps."""
    global kills  # noqa: PLW0603 - the workflow dies in this process only
    kills = True
    launch(1)
    DBOS.start_workflow(resumed, count).get_result()
    return {}


def resume(*, count: int) -> Outcome:
    """From the first line of the recovered workflow to its first new step."""
    launch(1)
    until(lambda: _completed() == 1, 0.01)
    DBOS.destroy()
    return {"value": (reached[0] - entered[0]) / 1e3 / count}


def restart(*, count: int) -> Outcome:  # noqa: ARG001 - what is in the file
    """From the start of the process to the first new step."""
    launch(1)
    until(lambda: bool(reached))
    until(lambda: _completed() == 1, 0.01)
    DBOS.destroy()
    return {"value": (reached[0] - spawned_ns()) / 1e9}


def memory() -> Outcome:
    """One trivial workflow."""
    launch(4)
    DBOS.start_workflow(one_step, 1).get_result()
    DBOS.destroy()
    return {"value": peak_mib()}


if __name__ == "__main__":
    main(
        {
            "steps": steps,
            "runs": runs,
            "items": items,
            "start": start,
            "prepare": prepare,
            "resume": resume,
            "restart": restart,
            "memory": memory,
        }
    )
