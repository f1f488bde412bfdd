"""The work that is disturbed, what its steps and callers saw, and the look at what is left."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crash.driving import Finding, Threads, in_child
from invariants import check, check_history

import durably

STEPS = 5
MANY = 100_000  # deaths: those of a run are the test's, and not its own fault


class Ledger:
    """Lines in a file: what was done and acknowledged, whatever becomes of the process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def leave(self, *words: object) -> None:
        """Append a line, unless the process is killed in the middle of that.

        A full stop ends it, and the next one begins with an end of line of its own.
        """
        os.write(self._fd, ("\n" + " ".join(map(str, words)) + " .").encode())

    def lines(self) -> list[str]:
        """All lines that are whole."""
        lines = self.path.read_text().splitlines()
        return [line.removesuffix(" .") + "\n" for line in lines if line.endswith(" .")]

    def acknowledged(self, what: str) -> list[list[str]]:
        """The words of the lines that begin with *what*, without it."""
        return [words[1:] for line in self.lines() if (words := line.split())[0] == what]

    def effect(self, run_id: str, name: str, attempt: int) -> str:
        """What a step does: it cannot be done twice unseen."""
        value = f"{attempt}.{os.getpid()}.{time.monotonic_ns()}"
        self.leave("effect", run_id, name, value)
        return value

    def job(self, pause_s: float = 0.0) -> durably.Job[Any, Any]:
        """A job of ``STEPS`` steps in a row, with a pause in each."""

        def effect(step: durably.StepContext, name: str):
            value = self.effect(step.run_id, name, step.attempt)
            if pause_s:
                time.sleep(pause_s)
            return value

        def work(step: durably.StepContext, payload=None):
            for n in range(STEPS):
                name = f"step-{n}"
                value = step.run(name, effect, step, name)
                self.leave("returned", step.run_id, name, value)
                step.progress(n, STEPS)
            return STEPS

        return durably.Job("work", work, origin="any")

    def listen(self, app: durably.Durably) -> None:
        """Note every end, which is emitted after its commit, and what was taken over."""
        app.on("run:complete", lambda event: self.leave("completed", event.run_id))
        app.on("run:recover", lambda event: self.leave("recovered", event.run_id, event.reason))

    def caller(self, app: durably.Durably, seed: int, threads: Threads, most: int = 30) -> None:
        """Trigger in every way, cancel and retry, until it is over; note what was acknowledged."""
        rng = random.Random(seed)
        handle = app.jobs["work"]
        while not threads.over.wait(rng.expovariate(1 / 0.004)):
            if app.count_runs(status="pending") >= most:
                continue
            chance = rng.random()
            if chance < 0.4:
                self.leave("triggered", handle.trigger().id)
            elif chance < 0.6:
                key = f"key-{rng.randrange(3)}"
                is_coalesced = rng.random() < 0.3
                run = handle.trigger(concurrency_key=key, coalesce=is_coalesced)
                self.leave("triggered", run.id)
            elif chance < 0.75:
                key = f"once-{rng.randrange(20)}"
                run = handle.trigger(idempotency_key=key, retry_failed=True)
                self.leave("triggered", run.id)
                self.leave("keyed", key, run.id)
            elif chance < 0.9:
                items = [None, durably.Trigger(None, labels={"of": "batch"}), None]
                for run in handle.batch_trigger(items):
                    self.leave("triggered", run.id)
            else:
                self._cancel_one(app, rng)

    def _cancel_one(self, app: durably.Durably, rng: random.Random) -> None:
        runs = app.get_runs(status=["pending", "running"], limit=5)
        if not runs:
            return
        run = rng.choice(runs)
        try:
            app.cancel(run)
            if rng.random() < 0.8:
                app.retry(run)
        except durably.ConflictError:
            return  # it has ended meanwhile, or another caller was quicker


def live(
    folder: Path,
    seed: int,
    ending: int,
    pause_s: float = 0.0,
    listener: Callable[[Any], object] | None = None,
    **options: Any,
) -> None:
    """A life: an engine with callers, until it is to end."""
    rng = random.Random(seed)
    ledger = Ledger(folder)
    synchronous = rng.choice(["full", "normal"])
    settings = {"max_workers": 3, "synchronous": synchronous, "poll_interval": 0.1} | options
    app = durably.Durably(
        folder / "runs.db", jobs=[ledger.job(pause_s)], max_deaths=MANY, **settings
    )
    ledger.listen(app)
    if listener is not None:
        app.on("*", listener)
    app.start()
    threads = Threads()
    for _ in range(2):
        threads.start(ledger.caller, app, rng.randrange(2**32), threads)
    os.read(ending, 1)
    threads.join()
    app.stop(interrupt=rng.random() < 0.5)
    app.close()


def drain(folder: Path, **options: Any) -> None:
    """Execute all that is left, in a process of its own."""
    in_child(_drain, folder, options)


def _drain(folder: Path, options: dict[str, Any]) -> None:
    ledger = Ledger(folder)
    database = folder / "runs.db"
    for path in folder.glob("runs.db.owner-*"):
        os.utime(path, (0, 0))  # younger ones might be in the making
    app = durably.Durably(database, jobs=[ledger.job()], max_workers=3, max_deaths=MANY, **options)
    ledger.listen(app)
    with app:
        for run in app.get_runs(status="cancelled"):
            app.retry(run)
        app._supervisor._reaper._sweep()
        # Not only until nothing can be claimed: an owner without a lock file is only found
        # dead by its heartbeats.
        for run in app.as_completed(app.get_runs(), timeout=50):
            if run.status != "completed":
                raise Finding(f"{run.id} has ended as {run.status}: {run.error}")


def check_while_others_live(folder: Path) -> None:
    """The invariants, at any moment."""
    in_child(_check_now, folder)


def _check_now(folder: Path) -> None:
    # Killed in the middle of the very first opening, a process has left no tables.
    if Ledger(folder).lines() and (found := check(folder / "runs.db", is_sequential=True)):
        raise Finding("\n".join(found))


def check_what_is_left(
    folder: Path, counts: Counter[str], *, has_zombies: bool = False, **options: Any
) -> None:
    """Drain, then make sure that nothing acknowledged is lost and nothing was done again.

    Args:
        has_zombies: processes were stopped past the threshold: the step that one was about to
            execute it executes when it goes on, and its result is rejected.
    """
    drain(folder, **options)
    in_child(_check_left, folder, has_zombies)
    counts["checks passed"] += 1
    ledger = Ledger(folder)
    counts["steps executed"] += len(ledger.acknowledged("effect"))
    counts["runs completed"] += len({run_id for (run_id,) in ledger.acknowledged("completed")})
    counts["runs recovered"] += len(ledger.acknowledged("recovered"))


def _check_left(folder: Path, has_zombies: bool) -> None:
    database, ledger = folder / "runs.db", Ledger(folder)
    found = check(database, is_sequential=True, is_idle=True, is_finished=True)
    history = [line for line in ledger.lines() if line.startswith(("effect", "returned"))]
    found += history_with_zombies(history) if has_zombies else check_history(history)
    app = durably.Durably(database)
    try:
        runs = {run.id: run for run in app.get_runs()}
        found += [
            f"{run.id} is {run.status} with {run.completed_steps} steps and {run.output}"
            for run in runs.values()
            if (run.status, run.output, run.completed_steps) != ("completed", STEPS, STEPS)
            or run.duration is None
            or run.duration < 0
        ]
        found += [
            f"{run_id} was acknowledged as {what} and is not there"
            for what in ("triggered", "completed")
            for (run_id,) in ledger.acknowledged(what)
            if run_id not in runs
        ]
        found += [
            f"{run_id} was acknowledged with the key {key}, and is without it"
            for key, run_id in ledger.acknowledged("keyed")
            if run_id in runs and runs[run_id].idempotency_key != key
        ]
        stored = {
            (run_id, step.name): step.output for run_id in runs for step in app.get_steps(run_id)
        }
    finally:
        app.close()
    returned = {(run, step): value for run, step, value in ledger.acknowledged("returned")}
    found += [
        f"{place} is stored as {stored.get(place)}, and {value} was returned"
        for place, value in returned.items()
        if stored.get(place) != value
    ]
    executed = {(run, step, value) for run, step, value in ledger.acknowledged("effect")}
    found += [
        f"{place} is stored as {value}, which no execution has returned"
        for place, value in stored.items()
        if (*place, value) not in executed
    ]
    if found:
        raise Finding("\n".join(found[:50]))


def history_with_zombies(lines: Iterable[str]) -> list[str]:
    """What is wrong in the order of effects where stopped processes have gone on.

    The step that such a process was about to execute, by an attempt that is not the run's any
    more, may come after the checkpoint of the one that has taken over; nothing else may.
    """
    found: list[str] = []
    returned: dict[tuple[str, str], str] = {}
    for line in lines:
        kind, run, step, value = line.split()
        known = returned.get((run, step))
        if kind == "returned":
            if known not in (None, value):
                found.append(f"another result: {run} {step} {value}, was {known}")
            returned[run, step] = value
        elif known is not None and int(value.split(".")[0]) >= int(known.split(".")[0]):
            found.append(f"executed again after its checkpoint: {run} {step} {value}")
    return found
