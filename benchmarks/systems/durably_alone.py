"""durably: the workloads that the others have no counterpart of."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import apsw

import durably
from benchmarks.systems.abreast import side_by_side
from benchmarks.systems.child import Outcome, Spans, main, say, small, until
from benchmarks.systems.durably_engine import durability
from durably.store.rows import Claim
from durably.store.sqlite.sql import claims, owners, queries

PATH = "durably.db"

spans = Spans()
inside: list[int] = []
go_on = threading.Event()

# A completed run with one step, as often as asked for; what a triggered one looks like.
FINISHED = """
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
    INSERT INTO durably_runs
        (id, job_name, status, payload, output, attempt, created_at_us, started_at_us,
         completed_at_us, updated_at_us, heartbeat_at_us)
    SELECT printf('FINISHED%018d', n), 'empty', 'completed', '1', '1', 1, n, n, n, n, n FROM n"""
THEIR_STEPS = """
    INSERT INTO durably_steps
        (step, run, name, status, output, attempt, started_at_us, completed_at_us)
    SELECT run << 24, run, 'only', 'completed', '"what a step has returned"', 1, 1, 1
    FROM durably_runs WHERE status = 'completed'"""


@durably.job("empty")
def empty(step: durably.StepContext, number: int) -> int:  # noqa: ARG001 - it has no steps
    """A run that does nothing."""
    return number


@durably.job("other")
def other(step: durably.StepContext, number: int) -> int:  # noqa: ARG001 - never executed
    """A job that the measured engine does not know."""
    return number


@durably.job("waiting")
def waiting(step: durably.StepContext, number: int) -> int:
    """A run that is inside a step until it may go on."""

    def wait() -> int:
        inside.append(number)
        go_on.wait()
        return number

    return step.run("wait", wait)


@durably.job("drained")
def drained(step: durably.StepContext, count: int) -> int:
    """So many steps, in whatever process."""
    for number in range(count):
        step.run(f"step-{number}", small, number)
    return count


def fill(count: int, *, with_steps: bool = False) -> None:
    """Put finished runs into the file, past the engine: a million triggers take their time."""
    durably.Durably(PATH).close()
    db = apsw.Connection(PATH)
    with db:
        db.execute(FINISHED, {"count": count})
        if with_steps:
            db.execute(THEIR_STEPS)
    db.close()


def claim(*, finished: int = 0, behind: int = 0, unknown: int = 0, times: int) -> Outcome:
    """One look for a run and its claim, in a file where much else is."""
    if finished:
        fill(finished)
    if unknown:
        app = durably.Durably(PATH, jobs=[other], synchronous="normal")
        app.jobs["other"].batch_trigger(range(unknown))
        app.close()
    app = durably.Durably(PATH, jobs=[empty], synchronous="normal")
    handle = app.jobs["empty"]
    handle.trigger(0)
    app.process_one()  # makes the owner
    owner = app._supervisor.local.owner
    assert owner is not None
    database = app._store.database
    wanted = Claim(owner, '["empty"]', lambda: 1)
    if behind:
        busy = [durably.Trigger(number, concurrency_key="busy") for number in range(behind)]
        handle.batch_trigger(busy)
        assert len(database.write(claims.claim, wanted)) == 1
    handle.batch_trigger(range(times))
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        database.read(queries.has_claimable, wanted.jobs)
        claimed = database.write(claims.claim, wanted)
        taken.append(time.perf_counter() - started)
        assert len(claimed) == 1
    in_force = durability(app)
    app.close()
    return {"value": 1e6 * statistics.median(taken), "durability": in_force}


def beat(*, running: int, times: int) -> Outcome:
    """One heartbeat of an engine with so many running runs."""
    with durably.Durably(PATH, jobs=[waiting], max_workers=running) as app:
        app.jobs["waiting"].batch_trigger(range(running))
        until(lambda: len(inside) == running)
        owner = app._supervisor.local.owner
        assert owner is not None
        taken = []
        for number in range(times):
            started = time.perf_counter()
            marked = app._store.database.beat(owners.beat, owner, lambda number=number: number + 1)
            taken.append(time.perf_counter() - started)
            assert len(marked.running) == running
        go_on.set()
    return {"value": 1000 * statistics.median(taken), "worst": 1000 * max(taken)}


def idle(*, running: int, seconds: float) -> Outcome:
    """How much of a core an engine takes in which nothing happens."""
    with durably.Durably(PATH, jobs=[waiting], max_workers=max(running, 1)) as app:
        if running:
            app.jobs["waiting"].batch_trigger(range(running))
            until(lambda: len(inside) == running)
        time.sleep(1)  # what the start has caused is over
        before = time.process_time()
        time.sleep(seconds)
        used = time.process_time() - before
        go_on.set()
    return {"value": 100 * used / seconds}


@durably.job("telling")
def telling(step: durably.StepContext, payload: dict[str, int]) -> float:
    """Calls in an inner loop: how many a second."""
    count = payload["count"]
    started = time.perf_counter()
    if payload["logs"]:
        for number in range(count):
            step.log.info("a line", number=number)
    else:
        for number in range(count):
            step.progress(number, count)
    return count / (time.perf_counter() - started)


def tell(*, count: int, logs: bool) -> Outcome:
    """``step.progress`` or ``step.log.info``, nobody listening."""
    with durably.Durably(PATH, jobs=[telling]) as app:
        run = app.jobs["telling"].trigger_and_wait({"count": count, "logs": int(logs)})
    return {"value": run.output}


@durably.job("beside")
def beside(step: durably.StepContext, number: int) -> float:
    """Checkpoints for as long as it takes; the longest wait for one, in milliseconds."""
    longest = 0.0
    while not go_on.is_set():
        started = time.perf_counter()
        step.run(f"step-{number}", small, number)
        longest = max(longest, time.perf_counter() - started)
        number += 1
    return 1000 * longest


def purge(*, finished: int, deletes: bool) -> Outcome:
    """The longest wait for a commit while finished runs are deleted, or not."""
    fill(finished, with_steps=True)
    before = Path(PATH).stat().st_size
    with durably.Durably(PATH, jobs=[beside, empty]) as app:
        run = app.jobs["beside"].trigger(0)
        until(lambda: app.count_runs(status="running") == 1)
        started = time.perf_counter()
        deleted = 0
        if deletes:
            while some := app.purge_runs(older_than=timedelta(days=1)):
                deleted += some
        else:
            time.sleep(2)
        seconds = time.perf_counter() - started
        go_on.set()
        longest = app.wait(run).output
        in_force = durability(app)
    return {
        "value": longest,
        "deleted": deleted,
        "seconds": seconds,
        "bytes_before": before,
        "bytes_after": Path(PATH).stat().st_size,
        "durability": in_force,
    }


def processes(*, count: int, processes: int, runs: int, workers: int, synchronous: str) -> Outcome:
    """So many checkpoints in so many runs, drained by so many processes on one file."""
    app = durably.Durably(PATH, jobs=[drained], synchronous=synchronous)
    app.jobs["drained"].batch_trigger([count // runs] * runs)
    app.close()
    options = {"workers": workers, "synchronous": synchronous}
    seconds = side_by_side(__spec__.name, "drain", [options] * processes)
    app = durably.Durably(PATH, jobs=[drained], synchronous=synchronous)
    assert app.count_runs(status="completed") == runs
    in_force = durability(app)
    app.close()
    return {"value": count / seconds, "durability": in_force}


def drain(*, workers: int, synchronous: str) -> Outcome:
    """One of the processes: executes what there is until there is nothing more."""
    app = durably.Durably(PATH, jobs=[drained], max_workers=workers, synchronous=synchronous)
    say("ready")
    sys.stdin.readline()
    executed = app.run_until_idle()
    say("done")
    app.close()
    return {"executed": executed}


if __name__ == "__main__":
    main(
        {
            "claim": claim,
            "beat": beat,
            "idle": idle,
            "tell": tell,
            "purge": purge,
            "processes": processes,
            "drain": drain,
        }
    )
