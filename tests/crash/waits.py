"""Runs that ask, poll and have children, in processes that are killed at random instants."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from crash.driving import GRACE_S, Finding, alone, fork, status_of, until

import durably
from durably.testing import check

_WORKERS = 2
_RUNS = 4
_KILLS = 6


def waits(deadline: float, seed: int) -> Counter[str]:
    """Workers are killed while others answer; each run ends with all that it has waited for."""
    return alone(drive_waits, deadline, seed)


def drive_waits(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One file after the other."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        path = folder / f"{number}.db"
        with closing(open_on(path)) as app:
            app.jobs["parent"].batch_trigger(list(range(_RUNS)))
        workers = [fork(work, path) for _ in range(_WORKERS)]
        kills = _KILLS
        ends = time.monotonic() + GRACE_S
        try:
            while not is_over(path, rng, counts):
                if time.monotonic() > ends:
                    raise Finding("runs that wait do not come to their end")
                if kills and rng.random() < 0.3:
                    kills -= 1
                    victim = rng.randrange(_WORKERS)
                    end(workers[victim])
                    workers[victim] = fork(work, path)
                    counts["kills"] += 1
        finally:
            for pid in workers:
                end(pid)
        look_at_the_end(path, counts)
    return counts


def end(pid: int) -> None:
    """Kill a worker, and wait for that."""
    os.kill(pid, signal.SIGKILL)
    status_of(pid)


def open_on(path: Path) -> durably.Durably:
    """Return an engine that has the jobs."""
    return durably.Durably(path, jobs=[durably.Job("parent", parent), durably.Job("child", child)])


def parent(step: durably.StepContext, number: int) -> int:
    """Wait for all that can be waited for."""
    ticket = step.prepare("ticket", returns=int)
    step.run("hand out", str, ticket.id)
    runs = [step.trigger(f"child {n}", "child", n, concurrency_key="k") for n in range(2)]
    step.sleep_until("nap", 0.01)
    polled = step.poll("poll", lambda: number + 1, every=0.01)
    asked = step.ask("ask", returns=int)
    return polled + asked + step.wait_for(ticket) + sum(step.wait_for(runs))


def child(step: durably.StepContext, number: int) -> int:
    """Return the number, in a step."""
    return step.run("number", int, number)


def work(path: Path) -> None:
    """Execute what there is until somebody kills this process."""
    with open_on(path):
        signal.pause()


def is_over(path: Path, rng: random.Random, counts: Counter[str]) -> bool:
    """Answer some of what is asked; return whether nothing is left to do."""
    with closing(open_on(path)) as app:
        for question in app.get_questions():
            if rng.random() < 0.5:
                for _ in range(rng.randrange(1, 3)):
                    app.answer(question.run_id, question.name, 10, answer_id="one")
                with suppress(durably.ConflictError):
                    app.answer(question.run_id, question.name, 99)
                    raise Finding("a second answer was accepted")
                counts["answers"] += 1
        app._store.changes.wait(app._store.changes.snapshot(), rng.random() / 10)
        return not app.count_runs(status=["pending", "running", "waiting"])


def look_at_the_end(path: Path, counts: Counter[str]) -> None:
    """Each run has its result, and each parent two children."""
    with closing(open_on(path)) as app:
        for run in app.get_runs(job_name="parent"):
            if run.status != "completed" or run.output != run.payload + 22:
                raise Finding(f"{run!r} has ended with {run.output!r}, {run.error}")
            if len(app.get_runs(parent=run)) != 2:
                raise Finding(f"{run!r} has {len(app.get_runs(parent=run))} children")
            counts["runs"] += 1
        if app.count_runs() != 3 * _RUNS:
            raise Finding(f"there are {app.count_runs()} runs")
    if found := check(path):
        raise Finding(str(found))
    counts["checks passed"] += 1
