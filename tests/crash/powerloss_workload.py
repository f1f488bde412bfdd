"""The power goes while an engine works: a recorded workload, and the check of what the disk holds.

``run`` is the long form of ``test_power_loss.py``.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from crash.powerloss_findings import Examiner, states
from crash.powerloss_recording import record
from powerloss import RULES, Disk, Mark


def cut_power(
    folder: Path,
    seed: int,
    *,
    synchronous: str,
    kind: str = "sequential",
    actions: int = 25,
    images: int = 100,
    believes_syncs: bool = True,
    failing_syncs: float = 0.0,
    has_files: bool = False,
) -> tuple[list[str], Counter[str]]:
    """Record a workload, cut the power at places of it, and look; what was wrong, and counts.

    Args:
        images: how many to look at, or 0 for one of each rule at every place.
        has_files: whether most results are files, whose writes and syncs count as well.
        believes_syncs: false for a disk that says that it has synced and has not.
    """
    rng = random.Random(seed)
    live = Path(tempfile.mkdtemp(dir=folder))
    log = record(
        live,
        seed,
        synchronous=synchronous,
        actions=actions,
        kind=kind,
        failing_syncs=failing_syncs,
        has_files=has_files,
    )
    shutil.rmtree(live)
    examiner = Examiner(log, states(log, folder), folder, is_full=synchronous != "normal")
    examiner.counts["writes and syncs recorded"] = sum(not isinstance(e, Mark) for e in log)
    rules = [*RULES, "nothing"]
    places = [(at, rule) for at in range(1, len(log) + 1) for rule in rules]
    if images:
        places = sorted(rng.sample(places, min(images, len(places))))
    disk = Disk(log, believes_syncs=believes_syncs)
    found = []
    for number, (at, rule) in enumerate(places):
        disk.advance(at)
        what = examiner.examine(disk, rule, rng, resumes=number % 5 == 0)
        found += [f"{rule} lost at {at} of {len(log)}: {each}" for each in what]
    return found, examiner.counts


def run(deadline: float, seed: int) -> Counter[str]:
    """Cut the power in one workload after the other until *deadline* (monotonic seconds).

    Raises:
        AssertionError: with the seed that shows it again, in its first workload.
    """
    totals: Counter[str] = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < deadline:
            synchronous = rng.choice(["full", "full", "normal"])
            kind = rng.choice(["sequential", "sequential", "threaded", "two engines"])
            # After a sync that failed "normal" promises nothing any more.
            failing_syncs = rng.choice([0.0, 0.0, 0.1]) if synchronous == "full" else 0.0
            has_files = synchronous == "full" and rng.random() < 0.5
            found, counts = cut_power(
                Path(folder),
                seed,
                synchronous=synchronous,
                kind=kind,
                images=600,
                failing_syncs=failing_syncs,
                has_files=has_files,
            )
            what = (
                f"{synchronous}, {kind}"
                + ", files" * has_files
                + ", failing syncs" * bool(failing_syncs)
            )
            assert not found, f"seed {seed}, {what}: {found[:5]}"
            totals += counts
            totals["checks passed"] += counts["images"]
            totals[f"workloads, {what}"] += 1
            seed = rng.randrange(2**32)
            rng = random.Random(seed)
    return totals
