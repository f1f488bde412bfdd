"""Which part executes the items of a map that has an executor. Imported when the first one has."""

from __future__ import annotations

import os

from durably.execution.loops.executors import Executors
from durably.execution.loops.outside import Outside
from durably.execution.loops.processes import Processes
from durably.execution.loops.workers import Kit


def workers(kit: Kit) -> Outside:
    """Return what executes the items of a map elsewhere.

    Raises:
        ValidationError: the function cannot travel, or the executor does not suit.
    """
    options = kit.options
    if options.executor == "process":
        return Processes(kit, options.max_workers or _cpus())
    return Executors(kit, options.executor, options.max_workers)


def _cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
