"""Processes that store and purge the same large results, and are killed at it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from crash.driving import GRACE_S, Finding, alone, fork, status_of, until
from invariants import check

import durably
from durably.store.sqlite import checkpoints
from durably.store.sqlite.blobs import filing

LIVES = 3
ROUNDS = 6
# So that thousands are stored in a second.
LARGE = 2000
CONTENTS = 4


@durably.job
def store(step: durably.StepContext, payload: int) -> int:
    """Store some of few contents, in several places; each comes back as it was."""
    for number in range(3):
        which = (payload + number) % CONTENTS
        text = step.run(f"step-{number}", lambda which=which: str(which) * LARGE * 2)
        assert text == str(which) * LARGE * 2
    binary = step.run("binary", lambda: {"part": str(payload % CONTENTS).encode() * LARGE * 2})
    assert binary == {"part": str(payload % CONTENTS).encode() * LARGE * 2}
    items = step.map("map", lambda n: str(n % CONTENTS) * LARGE * 2, range(4))
    assert [item[0] for item in items] == list("0123")
    return payload


@contextmanager
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filing, "LARGE", LARGE)
        patch.setattr(checkpoints, "LARGE", LARGE)
        yield


def blobs(deadline: float, seed: int) -> Counter[str]:
    """No file is missing that a run refers to, and none stays that nothing does."""
    return alone(drive_blobs, deadline, seed)


def drive_blobs(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Kill one process after the other, and look at what is left when none is there any more."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        database = folder / str(number) / "runs.db"
        database.parent.mkdir()
        lives = [fork(live, database, rng.randrange(2**32)) for _ in range(LIVES)]
        for _ in range(ROUNDS):
            await_runs(database)
            time.sleep(rng.uniform(0, 0.05))
            dead = lives.pop(rng.randrange(LIVES))
            _kill(dead)
            counts["kills"] += 1
            lives.append(fork(live, database, rng.randrange(2**32)))
        for pid in lives:
            _kill(pid)
        with small_files():
            examine(database, counts)
        counts["checks passed"] += 1
    return counts


def await_runs(database: Path) -> None:
    """Wait until some more runs have ended."""
    ended = database.with_name("ended")
    before = ended.stat().st_size if ended.exists() else 0
    end = time.monotonic() + GRACE_S
    while not ended.exists() or ended.stat().st_size < before + 3:
        if time.monotonic() > end:
            raise Finding("no run ends any more")
        time.sleep(0.002)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    if (status := status_of(pid)) != -signal.SIGKILL:
        raise Finding(f"a life has ended with {status}")


def live(database: Path, seed: int) -> None:
    """Execute runs, and delete those that have ended, until killed."""
    rng = random.Random(seed)
    ended = os.open(database.with_name("ended"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with small_files(), durably.Durably(database, jobs=[store], synchronous="normal") as app:
        while True:
            run = app.trigger(store, rng.randrange(CONTENTS))
            if rng.random() < 0.7:
                with suppress(durably.NotFoundError):  # another one has purged it
                    run.wait(timeout=60)
                os.write(ended, b".")
            if rng.random() < 0.5:
                app.purge_runs(older_than=0)
            if rng.random() < 0.2:
                app._store.sweep_files()


def examine(database: Path, counts: Counter[str]) -> None:
    """Whether the files are there, and whether they go with their runs."""
    found = check(database)
    if found:
        raise Finding("\n".join(map(str, found)))
    place = database.with_name(database.name + ".blobs")
    with durably.Durably(database, jobs=[store], synchronous="normal") as app:
        for run in app.get_runs():
            counts["results read"] += len(app.get_steps(run.id))
        app.run_until_idle()
        app.purge_runs(older_than=0)
        counts["files left by the dead"] += len([*place.glob("*")])
        for path in place.glob("*"):
            os.utime(path, (1, 1))
        app._store.sweep_files()
    left = [path.name for path in place.glob("*")]
    if left:
        raise Finding(f"{left} are of no run")
