"""The files that this process has open."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


def descriptors(folder: Path | None = None) -> Counter[str]:
    """Return what this process has open, or what of it lies below a folder.

    What other tests have left is collected at any moment: compare what is new, or below the
    test's own folder.
    """
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile, or the folder that was listed itself
            continue
        if folder is None or target.startswith(f"{folder}/"):
            found[target] += 1
    return found
