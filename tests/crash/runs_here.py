"""Ctrl-C again and again while ``app.run`` executes one run after the other in the main thread."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from calls import names_of_threads
from crash.driving import Finding, alone, fork, status_of, until
from crash.kernels import Interrupted
from crash.workload import Ledger, check_what_is_left

import durably

# What is executed, with a certain run each time; ``number`` is the one of those that are completed.
CALLS = {
    "with a key": "app.run(job, key=f'k{number}')",
    "without a key": "app.run(job)",
    "with a timeout": "app.run(job, key=f'k{number}', timeout=random.random() * 0.02)",
    "with a concurrency key": "app.run(job, key=f'k{number}', concurrency_key='c')",
    "in one line": "durably.run(job, db=path, key=f'k{number}', synchronous='normal')",
    "on a started engine": "app.start(); app.run(job, key=f'k{number}'); app.stop()",
}


def runs_here(deadline: float, seed: int) -> Counter[str]:
    """Each call is interrupted at random instants, by a timer and from outside."""
    return alone(drive_runs_here, deadline, seed)


def drive_runs_here(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One process after the other."""
    counts: Counter[str] = Counter()
    # A child has no handler of its own at first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        end = min(deadline, time.monotonic() + 10)
        pid = fork(caller, place, rng.randrange(2**32), end)
        with sending(pid, rng) as sent:
            status = status_of(pid)
        if status != 0:
            raise Finding(f"a process that executes runs has ended with {status}")
        counts["SIGINT from outside"] += len(sent)
        for hits, *call in Ledger(place).acknowledged("interrupted"):
            counts[f"interrupts of a run {' '.join(call)}"] += int(hits)
        check_what_is_left(place, counts)
    return counts


@contextlib.contextmanager
def sending(pid: int, rng: random.Random) -> Any:
    """Send SIGINT to a process within the block, at instants that its own timers do not choose."""
    over = threading.Event()
    sent: list[None] = []

    def send() -> None:
        while not over.wait(rng.choice([0.0005, 0.003, 0.02]) * rng.random()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
                sent.append(None)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def caller(folder: Path, seed: int, end: float) -> None:
    """Call until the time is over; see after each interrupt that nothing is left behind."""
    rng = random.Random(seed)
    random.seed(seed)
    ledger, path = Ledger(folder), folder / "runs.db"
    job = ledger.job(rng.choice([0.0, 0.0002, 0.002]))
    app = durably.Durably(
        path, jobs=[job], synchronous="normal", raise_failed=False, max_deaths=100_000
    )
    ledger.listen(app)
    interrupted = Interrupted(rng)
    names: dict[str, Any] = {
        "app": app,
        "durably": durably,
        "job": job,
        "number": 0,
        "path": path,
        "random": random,
    }
    while time.monotonic() < end:
        call = rng.choice(list(CALLS))
        hits = 0
        with contextlib.suppress(durably.WaitTimeoutError):
            hits = interrupted.execute(CALLS[call], names)
        if not hits:
            names["number"] += rng.choice([0, 1])
        else:
            ledger.leave("interrupted", hits, call)
        if app._supervisor.state.is_started:
            app.stop()
        if running := app.get_runs(status="running"):
            raise Finding(f"after a call {call}, interrupted {hits} times: {running}")
        if left := names_of_threads():
            raise Finding(f"after a call {call}, interrupted {hits} times: threads {left}")
    app.close()
