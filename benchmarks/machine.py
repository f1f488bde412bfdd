"""The machine that is measured on, and its disk."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# File systems in memory: what is synced there is lost with the power all the same.
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
SYNCS = 60


def describe(folder: Path) -> dict[str, Any]:
    """What must be known of the machine to read the figures."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "folder_file_system": file_system(folder),
        "sync_ms": sync_ms(folder),
        "switch_interval_ms": 1000 * sys.getswitchinterval(),
        "load_before": os.getloadavg(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_system(folder: Path) -> str:
    """The type of the file system that *folder* is on, as far as the kernel tells."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    inside = [
        (len(point), kind)
        for _, point, kind, *_ in mounts
        if folder.resolve().is_relative_to(point)
    ]
    return max(inside, default=(0, "unknown"))[1]


def sync_ms(folder: Path) -> dict[str, float]:
    """What it takes to get a page that was appended to a file onto the disk."""
    path = folder / "sync"
    taken = []
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        for number in range(SYNCS):
            os.pwrite(descriptor, b"x" * 4096, number * 4096)
            started = time.perf_counter()
            os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)
            taken.append(1000 * (time.perf_counter() - started))
    finally:
        os.close(descriptor)
        path.unlink()
    return {
        "median": round(statistics.median(taken), 3),
        "worst": round(max(taken), 3),
    }


def require_disk(folder: Path) -> None:
    """Make sure that a sync in *folder* is one.

    Raises:
        SystemExit: the folder is in memory.
    """
    kind = file_system(folder)
    if kind in IN_MEMORY:
        raise SystemExit(
            f"{folder} is a {kind}: nothing there is ever synced, and every figure would be wrong. "
            "Name a folder on a disk with --folder."
        )


def load() -> tuple[float, float, float]:
    """How many processes want to run, over the last minutes."""
    return os.getloadavg()
