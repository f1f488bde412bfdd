"""Which part executes the items of a map that has an executor. Imported when the first one has."""

from __future__ import annotations

import os
from collections.abc import Callable

from durably._platform.latch import Latch
from durably.execution.loops.committer import Committer, StartThread
from durably.execution.loops.executors import Executors
from durably.execution.loops.options import LoopOptions
from durably.execution.loops.outside import Kit, Outside
from durably.execution.loops.processes import Processes
from durably.execution.loops.tasks import ItemRunner, Task
from durably.execution.pacing import Pace


def workers(
    options: LoopOptions,
    runner: ItemRunner,
    committer: Committer,
    pace: Pace,
    *,
    go_back: Callable[[Task], None],
    wake: Callable[[], None],
    ending: Latch,
    start: StartThread,
) -> Outside:
    """Return what executes the items of a map elsewhere.

    Raises:
        ValidationError: the function cannot travel, or the executor does not suit.
    """
    kit = Kit(
        options, runner, committer, pace, go_back=go_back, wake=wake, ending=ending, start=start
    )
    if options.executor == "process":
        return Processes(kit, options.max_workers or _cpus())
    return Executors(kit, options.executor, options.max_workers)


def _cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
