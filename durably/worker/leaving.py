"""Log what a stop waits for, and what becomes of runs after a block was left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from durably._platform.clock import Clock
from durably.execution.current_run import CurrentRun

logger = logging.getLogger("durably")

_MOST_NAMED: Final = 3

# A stop that is shorter than this says nothing: nobody has to decide anything meanwhile.
_QUIET_S: Final = 0.5


class Notice:
    """Log once what a stop waits for, and how to end the wait, if it lasts for half a second.

    It is a warning because Python prints warnings even if no logging is configured.

    Args:
        runs: returns the runs that are inside their jobs.
        clock: says how long the stop has waited.
        interrupt: whether they stop at their next step boundary.
        again: whether there was a Ctrl-C before.
    """

    def __init__(
        self,
        runs: Callable[[], Sequence[CurrentRun]],
        clock: Clock,
        *,
        interrupt: bool,
        again: bool,
    ) -> None:
        self._runs = runs
        self._clock = clock
        self._quiet_until = clock.monotonic() + _QUIET_S
        self._interrupt = interrupt
        self._again = again
        self._is_given = False

    def __call__(self) -> None:
        """Log it, unless it was logged, or the wait has just begun."""
        if self._clock.monotonic() < self._quiet_until:
            return
        waited_for = [run for run in self._runs() if not run.is_in_this_thread]
        if self._is_given or not waited_for:
            return
        self._is_given = True
        how = "again " if self._again else ""
        logger.warning("%s; press Ctrl-C %sto leave it", self._said(waited_for), how)

    def _said(self, runs: Sequence[CurrentRun]) -> str:
        if not self._interrupt:
            return f"Waiting for {_several('job', [each.job_name for each in runs])} to end"
        steps = [name for each in runs for name in tuple(each.turns)]
        if steps:
            return f"Stopping after {_several('step', steps)}"
        jobs = _several("job", [each.job_name for each in runs])
        return f"Stopping at the next step of {jobs}"


def _several(what: str, names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:_MOST_NAMED]]
    if len(names) > _MOST_NAMED:
        shown.append(f"{len(names) - _MOST_NAMED} more")
    plural = "s" if len(names) > 1 else ""
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"{what}{plural} {listed}"


def say_left(cause: type[BaseException], put_back: int, waiting: int) -> None:
    """Log how many runs wait for the next start after an exception has left the block."""
    if put_back:
        runs = "1 run was" if put_back == 1 else f"{put_back} runs were"
        what, verb = f"{runs} put back to pending", "continue"
    elif waiting:
        runs = "1 run is" if waiting == 1 else f"{waiting} runs are"
        what, verb = f"{runs} still pending", "execute"
    else:
        return
    them = "it" if (put_back or waiting) == 1 else "them"
    logger.warning(
        "%s, since %s has left the with block; start again to %s %s",
        what,
        cause.__name__,
        verb,
        them,
    )


def say_abandoned() -> None:
    """Log what becomes of the runs whose steps are not waited for."""
    logger.warning("Left a step in progress; the next start executes it again")
