"""Processes that are killed, stopped and suspended, and whose lock files are deleted."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from crash.driving import Finding, Herd, alone, until
from crash.workload import (
    Ledger,
    check_what_is_left,
    check_while_others_live,
    live,
)

from durably.store.sqlite import opening
from durably.store.sqlite.database import Database

POINTS = ("write", "before commit", "committed")

# Short enough to be reached all the time, and far above what a busy machine delays a thread.
BEAT_S, THRESHOLD_S = 0.05, 0.5


def killed(deadline: float, seed: int) -> Counter[str]:
    """Three or four processes with several threads each, killed at random instants."""
    return alone(drive_killed, deadline, seed)


def drive_killed(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Kill again and again; look at what is left after a few dozen."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live, place), rng, counts)
        size = rng.choice([3, 4])
        for _ in range(rng.randrange(5, 40)):
            herd.grow(size)
            # From the middle of the first opening to well into the work.
            time.sleep(rng.choice([0.002, 0.01, 0.05, 0.15]) * rng.uniform(0.2, 2))
            herd.kill(herd.any())
            if rng.random() < 0.05:
                check_while_others_live(place)
                counts["checks passed"] += 1
            if time.monotonic() >= deadline:
                break
        if rng.random() < 0.5:
            herd.end()
        else:
            herd.end_by_force()
        check_what_is_left(place, counts)
    return counts


def killed_at_points(deadline: float, seed: int) -> Counter[str]:
    """Three processes, each of which kills itself at a named point of the write path."""
    return alone(drive_points, deadline, seed)


def drive_points(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Start lives that end themselves; check what is left after a few dozen."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live_to_a_point, place), rng, counts)
        for _ in range(rng.randrange(10, 40)):
            herd.grow(3)
            before = len(herd.alive)
            patience = time.monotonic() + 20
            while len(herd.alive) == before:
                herd.collect(-signal.SIGKILL)
                time.sleep(0.001)
                if time.monotonic() > patience:
                    raise Finding("no life has reached its point")
            if time.monotonic() >= deadline:
                break
        herd.end_by_force()
        for (point,) in Ledger(place).acknowledged("died-at"):
            counts[f"SIGKILL at '{point.replace('-', ' ')}'"] += 1
        check_what_is_left(place, counts)
    return counts


def live_to_a_point(folder: Path, seed: int, ending: int) -> None:
    """A life that ends when a point has been reached a random number of times."""
    rng = random.Random(seed)
    name, left = rng.choice(POINTS), rng.choice([1, 2, 5, 20, 60]) * rng.randrange(1, 4)
    ledger = Ledger(folder)

    def reached(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left <= 0:
                ledger.leave("died-at", name.replace(" ", "-"))
                os.kill(os.getpid(), signal.SIGKILL)

    opening.Database = functools.partial(Database, fault_point=reached)
    live(folder, seed, ending)


def stopped(deadline: float, seed: int) -> Counter[str]:
    """Three processes, stopped past the threshold wherever they are, and continued later."""
    return alone(drive_stopped, deadline, seed)


def drive_stopped(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Stop and continue, kill some; look at what is left."""
    counts: Counter[str] = Counter()
    options = {"heartbeat_interval": BEAT_S, "stale_threshold": THRESHOLD_S}
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live, place, pause_s=0.02, **options), rng, counts)
        for _ in range(rng.randrange(2, 6)):
            herd.grow(3)
            time.sleep(rng.uniform(0.05, 0.3))
            pids = rng.sample(herd.alive, rng.choice([1, 1, 2]))
            for pid in pids:
                herd.stop(pid)
            time.sleep(rng.uniform(0.5, 3) * THRESHOLD_S)
            for pid in pids:
                if rng.random() < 0.15:
                    herd.kill(pid)
                else:
                    herd.go_on(pid)
            if time.monotonic() >= deadline:
                break
        herd.end()
        check_what_is_left(place, counts, has_zombies=True, **options)
    return counts


def suspended(deadline: float, seed: int) -> Counter[str]:
    """All processes stopped at once, as by a machine that sleeps: no run changes its owner."""
    return alone(drive_suspended, deadline, seed)


def drive_suspended(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Suspend for longer than the threshold."""
    counts: Counter[str] = Counter()
    # Twenty heartbeats, so that a process that gets no time for a while is no finding.
    options = {"heartbeat_interval": 0.1, "stale_threshold": 2.0}
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live, place, pause_s=0.02, **options), rng, counts)
        herd.grow(3)
        time.sleep(rng.uniform(0.3, 0.8))
        for pid in herd.alive:
            herd.stop(pid)
        time.sleep(rng.uniform(2.2, 3.5))
        for pid in rng.sample(herd.alive, len(herd.alive)):
            herd.go_on(pid)
        counts["suspended"] += 1
        time.sleep(rng.uniform(0.3, 1.5))
        herd.end()
        if taken := Ledger(place).acknowledged("recovered"):
            raise Finding(f"a suspended machine has cost runs their owner: {taken}")
        check_what_is_left(place, counts)
    return counts


def tidied(deadline: float, seed: int) -> Counter[str]:
    """Lock files deleted beside working processes, some of which are killed after that."""
    return alone(drive_tidied, deadline, seed)


def drive_tidied(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Delete what a tidy user would; look at what is left."""
    counts: Counter[str] = Counter()
    options = {"heartbeat_interval": BEAT_S, "stale_threshold": THRESHOLD_S}
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        herd = Herd(functools.partial(live, place, pause_s=0.005, **options), rng, counts)
        for _ in range(rng.randrange(5, 15)):
            herd.grow(3)
            time.sleep(rng.uniform(0.05, 0.2))
            for path in place.glob("runs.db.owner-*"):
                if rng.random() < 0.5:
                    path.unlink(missing_ok=True)
                    counts["lock files deleted"] += 1
            if rng.random() < 0.2:
                (place / "runs.db.writer").unlink(missing_ok=True)
                counts["lock files deleted"] += 1
            if rng.random() < 0.5:
                herd.kill(herd.any())
            if time.monotonic() >= deadline:
                break
        herd.end()
        check_what_is_left(place, counts, has_zombies=True, **options)
    return counts
