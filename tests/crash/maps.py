"""Processes killed at random instants of a map, again and again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from children import execute
from crash.driving import Finding, alone, until

KILLS: Final = 12


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
