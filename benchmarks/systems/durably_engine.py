"""durably: the workloads that the others can do as well."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from typing import Any

import apsw

import durably
from benchmarks.systems.child import (
    SYNCHRONOUS,
    Countdown,
    Meter,
    Outcome,
    Spans,
    die,
    forget_peak,
    large,
    main,
    peak_mib,
    resident_mib,
    small,
    spawned_ns,
    spinning,
    until,
)
from durably.store.sqlite.database import Database

PATH = "durably.db"

spans = Spans()
began: list[float] = []
reached: list[float] = []
countdown = Countdown(0)
kills = False


def durability(app: durably.Durably) -> dict[str, Any]:
    """What is really in force on the connection that commits."""
    database = app._store.database
    assert isinstance(database, Database)
    db = database._writer._db
    return {
        "journal_mode": db.pragma("journal_mode"),
        "synchronous": SYNCHRONOUS[db.pragma("synchronous")],
        "sqlite": apsw.sqlite_lib_version(),
    }


@durably.job("steps")
def many_steps(step: durably.StepContext, payload: dict[str, int]) -> int:
    """So many steps, with results of a size."""
    count, size = payload["count"], payload["size"]
    with spans.span():
        for number in range(count):
            if size:
                step.run(f"step-{number}", large, number, size)
            else:
                step.run(f"step-{number}", small, number)
    return count


@durably.job("only")
def one_step(step: durably.StepContext, number: int) -> int:
    """A run of one step."""
    value = step.run("only", small, number)
    countdown.down()
    return value


@durably.job("start")
def note_start(step: durably.StepContext, sent_ns: int) -> int:  # noqa: ARG001 - it has no steps
    """Tells how long after the trigger its first line is reached."""
    began.append((time.monotonic_ns() - sent_ns) / 1e6)
    return 0


def first_new_step(number: int) -> int:
    """The step that a resume gets to: at the first try the process dies in it."""
    reached.append(time.monotonic_ns())
    if kills:
        die()
    return number


@durably.job("resume")
def resumed(step: durably.StepContext, count: int) -> int:
    """Steps that are there already, and one that is not."""
    for number in range(count):
        step.run(f"step-{number}", small, number)
    return step.run("new", first_new_step, count)


JOBS: list[durably.Job[Any, Any]] = [many_steps, one_step, note_start, resumed]


def _rate_or_ms(count: int, seconds: float, spinners: int | None) -> float:
    """Beside spinners the time of one is what matters, not how many there are."""
    return count / seconds if spinners is None else 1000 * seconds / count


def steps(
    *, count: int, synchronous: str, threads: int = 1, size: int = 0, spinners: int | None = None
) -> Outcome:
    """Checkpoints, *threads* runs at once."""
    each = count // threads
    with durably.Durably(PATH, jobs=JOBS, max_workers=threads, synchronous=synchronous) as app:
        with spinning(spinners or 0), Meter() as meter:
            payload = {"count": each, "size": size}
            for run in app.jobs["steps"].batch_trigger([payload] * threads):
                app.wait(run)
        in_force = durability(app)
    done = each * threads
    return {
        "value": _rate_or_ms(done, spans.seconds, spinners),
        "bytes": meter.written / done,
        "durability": in_force,
    }


def runs(*, count: int, synchronous: str, workers: int, batch: bool = False) -> Outcome:
    """One-step runs, from the first trigger to the last completion."""
    global countdown  # noqa: PLW0603 - what the job reports to
    countdown = Countdown(count)
    with durably.Durably(PATH, jobs=JOBS, max_workers=workers, synchronous=synchronous) as app:
        handle = app.jobs["only"]
        with Meter() as meter:
            if batch:
                handle.batch_trigger(range(count))
            else:
                for number in range(count):
                    handle.trigger(number)
            countdown.wait()
            until(lambda: app.count_runs(status="completed") == count)
        in_force = durability(app)
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": in_force,
    }


def batch(*, count: int, synchronous: str) -> Outcome:
    """Triggers in one call."""
    app = durably.Durably(PATH, jobs=JOBS, synchronous=synchronous)
    with Meter() as meter:
        app.jobs["only"].batch_trigger(range(count))
    in_force = durability(app)
    app.close()
    return {
        "value": count / meter.seconds,
        "bytes": meter.written / count,
        "durability": in_force,
    }


def start(*, times: int, synchronous: str) -> Outcome:
    """From the call of ``trigger`` to the first line of the job, in an idle engine."""
    with durably.Durably(PATH, jobs=JOBS, synchronous=synchronous) as app:
        handle = app.jobs["start"]
        for number in range(1, times + 1):
            time.sleep(0.01)
            handle.trigger(time.monotonic_ns())
            until(lambda number=number: len(began) == number)
        in_force = durability(app)
    return {"value": statistics.median(began), "durability": in_force}


def start_elsewhere(*, times: int) -> Outcome:
    """The same, triggered by another process; both with their default settings."""
    with durably.Durably(PATH, jobs=JOBS) as app:
        command = [sys.executable, "-m", __spec__.name, "trigger", f'{{"times": {times}}}']
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        until(lambda: len(began) == times)
        in_force = durability(app)
    return {"value": statistics.median(began), "worst": max(began), "durability": in_force}


def trigger(*, times: int) -> Outcome:
    """The other process: triggers now and then."""
    app = durably.Durably(PATH, jobs=JOBS)
    for _ in range(times):
        time.sleep(random.uniform(0.03, 0.12))
        app.jobs["start"].trigger(time.monotonic_ns())
    app.close()
    return {}


def prepare(*, count: int) -> Outcome:
    """A file with a run that was killed behind so many checkpoints."""
    global kills  # noqa: PLW0603 - the job dies in this process only
    kills = True
    app = durably.Durably(PATH, jobs=JOBS, synchronous="normal")
    app.jobs["resume"].trigger(count)
    app.process_one()
    return {}


def resume(*, count: int) -> Outcome:
    """From the look for a run to its first new step, and the memory that this takes."""
    app = durably.Durably(PATH, jobs=JOBS)
    forget_peak()
    before = resident_mib()
    started = time.monotonic_ns()
    app.process_one()
    taken = peak_mib() - before
    app.close()
    return {"value": (reached[0] - started) / 1e3 / count, "memory": taken}


def restart(*, count: int) -> Outcome:  # noqa: ARG001 - what is in the file
    """From the start of the process to the first new step."""
    with durably.Durably(PATH, jobs=JOBS) as app:
        until(lambda: bool(reached))
        in_force = durability(app)
    return {"value": (reached[0] - spawned_ns()) / 1e9, "durability": in_force}


def memory() -> Outcome:
    """One trivial job."""
    with durably.Durably(PATH, jobs=JOBS) as app:
        app.jobs["only"].trigger_and_wait(1)
    return {"value": peak_mib()}


if __name__ == "__main__":
    main(
        {
            "steps": steps,
            "runs": runs,
            "batch": batch,
            "start": start,
            "start_elsewhere": start_elsewhere,
            "trigger": trigger,
            "prepare": prepare,
            "resume": resume,
            "restart": restart,
            "memory": memory,
        }
    )
