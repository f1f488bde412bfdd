"""Backups while processes write to the database and are killed; some backups are killed, too."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from crash.driving import Finding, Herd, alone, fork, status_of, until
from crash.workload import Ledger, check_what_is_left, live
from invariants import check, completed_steps

import durably
from durably.client.read_only import ReadOnlyClient
from durably.entry.read_only import open_read_only

BACKUPS = 8


def backups(deadline: float, seed: int) -> Counter[str]:
    """Each is sound, and has all that was acknowledged before it began."""
    return alone(drive_backups, deadline, seed)


def drive_backups(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """Back up again and again while four processes write, of which some are killed meanwhile."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        (place / "copies").mkdir(parents=True)
        herd = Herd(functools.partial(live, place), rng, counts)
        herd.grow(4)
        while not Ledger(place).acknowledged("returned"):
            herd.collect(-signal.SIGKILL)  # none: a life that has ended is a finding
            time.sleep(0.002)
        for copy in range(BACKUPS):
            pid = fork(back_up, place, place / "copies" / f"{copy % 3}.db", rng.randrange(2**32))
            is_killed = rng.random() < 0.2
            end = time.monotonic() + (rng.uniform(0, 0.15) if is_killed else 60)
            while time.monotonic() < end and os.waitid(os.P_PID, pid, ENDED) is None:
                if rng.random() < 0.05:
                    herd.kill(herd.any())
                herd.grow(4)
                time.sleep(0.005)
            if is_killed:
                os.kill(pid, signal.SIGKILL)
            if (status := status_of(pid)) not in ((0, -signal.SIGKILL) if is_killed else (0,)):
                raise Finding(f"a backup has ended with {status}")
            counts["backups that were killed" if status else "backups"] += 1
            counts["checks passed"] += not status
            if time.monotonic() >= deadline:
                break
        herd.end()
        check_what_is_left(place, counts)
        found = [f"{path}: {problem}" for path in copies(place) for problem in check(path)]
        if found:
            raise Finding("\n".join(found))
    return counts


ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def copies(place: Path) -> list[Path]:
    return sorted((place / "copies").glob("*.db"))


def back_up(place: Path, target: Path, seed: int) -> None:
    """Back up from a process of its own, which only reads or has an engine; look at the copy."""
    rng = random.Random(seed)
    ledger, database = Ledger(place), place / "runs.db"
    triggered = {run_id for (run_id,) in ledger.acknowledged("triggered")}
    returned = {(run, step): value for run, step, value in ledger.acknowledged("returned")}
    opened = open_read_only(database) if rng.random() < 0.5 else durably.Durably(database)
    try:
        if isinstance(opened, ReadOnlyClient):
            opened.examine()
            opened.usage()
            check(database)
        opened.backup(target, overwrite=True)
    finally:
        opened.close()
    found = check(target, is_sequential=True, is_idle=True)
    # What a killed one has left under this name is gone.
    left = [path.name for path in target.parent.glob(f"{target.name}?*")]
    found += [f"{left} is left beside the copy"] if left else []
    with open_read_only(target) as look:
        runs = {run.id: run.status for run in look.get_runs()}
    found += [f"{run_id} is not in the copy" for run_id in triggered - runs.keys()]
    found += [f"a run is {status}" for status in runs.values() if status == "running"]
    stored = completed_steps(target)
    found += [
        f"{place} is stored as {stored.get(place)}, and {value} was returned"
        for place, value in returned.items()
        if stored.get(place) != f'"{value}"'
    ]
    if found:
        raise Finding("\n".join(found[:50]))
