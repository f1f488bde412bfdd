"""Steps that end their process, fork it, or take all of its memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crash.driving import GRACE_S, Finding, alone, fork, status_of, until
from crash.workload import Ledger, check_what_is_left

import durably


def deaths(deadline: float, seed: int) -> Counter[str]:
    """A step that ends its process in the middle of others, or does to it what it likes."""
    return alone(drive_deaths, deadline, seed)


def drive_deaths(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One life after the other; look at what is left after a few."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        for name in rng.sample(list(DEEDS), len(DEEDS)):
            deed, expected = DEEDS[name]
            status = status_of(fork(live, place, deed, rng.randrange(2**32)))
            if status != expected:
                raise Finding(f"a life with {name} has ended with {status}, not {expected}")
            counts[name] += 1
        check_what_is_left(place, counts)
    return counts


def live(folder: Path, deed: Callable[[], object], seed: int) -> None:
    """Execute runs beside one in whose step it is done; once, if the process survives it."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    done = threading.Event()

    def step_of(step: durably.StepContext, name: str):
        if step.attempt == 1 and name == "step-2" and not done.is_set():
            done.set()
            deed()
        return ledger.effect(step.run_id, name, step.attempt)

    def work(step: durably.StepContext, payload=None):
        for n in range(5):
            name = f"step-{n}"
            value = step.run(name, step_of, step, name)
            ledger.leave("returned", step.run_id, name, value)
        return 5

    app = durably.Durably(
        folder / "runs.db",
        # Continued by the job of the same steps that the ledger makes.
        jobs=[durably.Job("work", work, origin="any")],
        max_workers=rng.choice([1, 3]),
        max_deaths=100_000,
        synchronous="normal",
    )
    ledger.listen(app)
    # Before the start: a trigger for which there is no memory would be rejected.
    for _ in range(rng.randrange(1, 6)):
        ledger.leave("triggered", app.jobs["work"].trigger().id)
    with app:
        if not done.wait(GRACE_S):
            raise Finding("no run came to its step")


def exit_at_once() -> None:
    os._exit(7)


def crash() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork_and_wait() -> None:
    """The child ends itself, as it should."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        raise Finding("the forked child has failed")


def fork_and_return() -> None:
    """The child comes back from the step: a second copy of its thread, which must end."""
    pid = os.fork()
    if not pid:
        return
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        raise Finding("the copy of a job has gone on to its end")


def in_processes(method: str) -> Callable[[], None]:
    """What a job that uses multiprocessing does."""

    def deed() -> None:
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            if pool.map(abs, [-1, 2, -3]) != [1, 2, 3]:
                raise Finding("the pool has miscounted")

    return deed


def exhaust_memory() -> None:
    """No memory is left for a while, for whatever thread asks; then there is some again."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20, before[1]))
    taken = []
    try:
        for size in (2**20, 2**14, 2**8):
            try:
                while True:
                    taken.append(bytearray(size))
            except MemoryError:
                continue
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


# What is done, and how the process ends that does it.
DEEDS: dict[str, tuple[Callable[[], object], int]] = {
    "os._exit": (exit_at_once, 7),
    "native crash": (crash, -signal.SIGSEGV),
    "abort": (abort, -signal.SIGABRT),
    "SIGKILL in a step": (die, -signal.SIGKILL),
    "fork": (fork_and_wait, 0),
    "fork that comes back": (fork_and_return, 0),
    "multiprocessing, fork": (in_processes("fork"), 0),
    "multiprocessing, spawn": (in_processes("spawn"), 0),
    "memory exhausted": (exhaust_memory, 0),
}
if sys.platform == "darwin":
    del DEEDS["memory exhausted"]
