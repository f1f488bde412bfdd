"""Maps whose process is killed at random instants, again and again, or whose disk is full."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

from children import execute
from crash.driving import Finding, alone, until

import durably
from durably.testing import check

KILLS: Final = 12
ITEMS: Final = 400  # of the map whose disk is full


def maps(deadline: float, seed: int) -> Counter[str]:
    """In the calling thread and on threads: what is stored is not executed again."""
    return alone(drive_maps, deadline, seed)


def drive_maps(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        workers = rng.choice([1, 2, 8])
        arguments = place, KILLS, rng.randrange(2**32), workers
        done = execute("killed_in_maps", *arguments, timeout_s=120)
        if done.returncode != 0:
            raise Finding(f"{workers} workers: {done.stdout}{done.stderr}")
        counts[f"SIGKILL of a map with {workers} workers"] += KILLS
        counts["checks passed"] += 1
    return counts


def full_disk(deadline: float, seed: int) -> Counter[str]:
    """No result is lost and none made twice where the disk becomes full in the middle."""
    return alone(drive_full_disk, deadline, seed)


def drive_full_disk(folder: Path, deadline: float, seed: int) -> Counter[str]:
    """One map after the other; some are killed while their disk is full."""
    counts: Counter[str] = Counter()
    for number, rng in enumerate(until(deadline, seed)):
        place = folder / str(number)
        place.mkdir()
        database, workers = place / "maps.db", rng.choice([1, 2, 8])
        arguments = database, rng.randrange(2**32), workers
        done = execute("fills_the_disk_in_a_map", *arguments, rng.choice(["room", "dies"]))
        said = f"{arguments}: {done.stdout}{done.stderr}"
        if done.returncode == -signal.SIGKILL:
            stored = Counter({item.index: 1 for item in items_of(database)})
            done = execute("fills_the_disk_in_a_map", *arguments, "never")
            said += done.stdout + done.stderr
            counts["maps killed on a full disk"] += 1
        else:
            stored = Counter(range(ITEMS))
            counts["maps on a disk that was full"] += done.stdout == "full\n"
        calls = Counter(map(int, (place / "calls").read_text().split()))
        if done.returncode != 0:
            raise Finding(said)
        if wrong := {item for item in range(ITEMS) if not 1 <= calls[item] <= 2 - stored[item]}:
            raise Finding(f"executed again, or never: {sorted(wrong)}. {said}")
        if problems := check(database):
            raise Finding(f"{problems}. {said}")
        counts["checks passed"] += 1
    return counts


def items_of(database: Path) -> list[durably.ItemRecord]:
    """Return what is stored of the only map."""
    with closing(durably.Durably(database)) as app:
        (run,) = app.get_runs()
        return app.get_items(run, "work")
