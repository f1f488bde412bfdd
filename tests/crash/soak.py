"""The long forms of the crash tests, in turn, for as long as asked.

``python -m tests.crash.soak --minutes M --seed S`` from a checkout. Prints what it did, and, on a
finding, how to see it again: the kind and its seed. The instants at which a process is hit are
the machine's own, so a seed that has found something may take a few tries to find it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

# As pytest has it: helper modules lie beside the tests.
if (TESTS := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.insert(0, TESTS)

from crash import (
    backups,
    blobs,
    deaths,
    endings,
    failing_disk_workload,
    files,
    kernels,
    maps,
    neighbours,
    pools,
    powerloss_workload,
    processes,
    runs_here,
    short_memory_workload,
    waits,
)

Kind = Callable[[float, int], Counter[str]]

KINDS: Final[dict[str, Kind]] = {
    "killed": processes.killed,
    "killed-at-points": processes.killed_at_points,
    "stopped": processes.stopped,
    "suspended": processes.suspended,
    "tidied": processes.tidied,
    "exits": endings.exits,
    "interrupts": endings.interrupts,
    "kernels": kernels.kernels,
    "runs-here": runs_here.runs_here,
    "maps": maps.maps,
    "maps-full-disk": maps.full_disk,
    "pools": pools.killed,
    "pools-workers": pools.workers_killed,
    "pools-interrupts": pools.interrupted,
    "pools-full-disk": pools.full_disk,
    "deaths": deaths.deaths,
    "poked": neighbours.poked,
    "long-reader": neighbours.long_reader,
    "crowd": neighbours.crowd,
    "power-loss": powerloss_workload.run,
    "failing-disk": failing_disk_workload.run,
    "short-memory": short_memory_workload.run,
    "migrations": files.migrations,
    "lost": files.lost,
    "clocks": files.clocks,
    "backups": backups.backups,
    "blobs": blobs.blobs,
    "waits": waits.waits,
}

# How long one kind goes on before it is the next one's turn.
TURN_S: Final = 20.0


def soak(names: list[str], seconds: float, seed: int) -> int:
    """Run the kinds in turn; the exit status."""
    begun = time.monotonic()
    end = begun + seconds
    rng = random.Random(seed)
    totals: dict[str, Counter[str]] = {name: Counter() for name in names}
    # The first turn has the seed that was asked for, so that a finding can be seen again.
    turn_seed = seed
    while True:
        for name in names:
            now = time.monotonic()
            if now >= end:
                report(totals, time.monotonic() - begun)
                return 0
            print(f"{now - begun:7.0f} s  {name} --seed {turn_seed}", flush=True)
            turn = TURN_S if len(names) > 1 else end - now
            try:
                totals[name] += KINDS[name](min(end, now + turn), turn_seed)
            except Exception:
                traceback.print_exc()
                report(totals, time.monotonic() - begun)
                print(
                    f"\nA finding. To see it again:\n  python -m tests.crash.soak --kind {name} "
                    f"--seed {turn_seed} --minutes 1"
                )
                return 1
            turn_seed = rng.randrange(2**32)


def report(totals: dict[str, Counter[str]], seconds: float) -> None:
    """Print what was done."""
    print(f"\n{seconds / 60:.1f} minutes")
    for name, counts in totals.items():
        told = ", ".join(f"{what}: {count:,}" for what, count in sorted(counts.items()))
        print(f"  {name}: {told or 'nothing'}")
    together = sum(totals.values(), Counter())
    print(f"  together: {together['checks passed']:,} checks passed", flush=True)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="chosen at random if not given")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these; repeatable")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    return soak(given.kind or list(KINDS), given.minutes * 60, seed)


if __name__ == "__main__":
    sys.exit(main())
