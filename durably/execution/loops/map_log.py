"""What the logger ``durably`` says of a map: how it begins, waits, is stopped and ends.

A map that goes well is two lines. Nothing is read or formatted for a line that no handler gets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

from durably._platform.clock import Clock
from durably._platform.interactive import again
from durably._platform.log_lines import pass_on
from durably._platform.spans import limited_text
from durably._platform.spans import span as _shown
from durably.execution.current_run import CurrentRun
from durably.execution.loops.failures import Kind

logger = logging.getLogger("durably")

_TIMES: Final = "\N{MULTIPLICATION SIGN}"


class MapLog:
    """Log what happens to one map. Used by the thread that drives it.

    Args:
        file: the name of the database, for people.
        total: how many items there are, if that is known.
        workers: how many items are executed at once.
    """

    def __init__(
        self,
        name: str,
        run: CurrentRun,
        clock: Clock,
        *,
        file: str,
        total: int | None,
        workers: int,
    ) -> None:
        self._name = name
        self._run = run
        self._extra = {"run_id": run.id, "step_name": name}
        self._clock = clock
        self._file = file
        self._total = total
        self._workers = workers
        self._began_s = clock.monotonic()
        # Until when the last line said that nothing begins.
        self._limited_until_s = -math.inf

    def begins(self, count: Callable[[], tuple[int, int]]) -> None:
        """Log how many items there are, and what an earlier execution has left.

        Args:
            count: returns how many results and failures of items are stored.
        """
        if not self._is_heard:
            return
        done, failed = count()
        parts = [f"{done:,} done before"]
        if self._total is not None:
            # Items that are not asked for any more are stored as well.
            parts = [_items(self._total), f"{min(done, self._total):,} done before"]
        if failed:
            parts.append(f"{failed:,} failed before and tried again")
        self._say_and_show(", ".join(parts))

    def rate_limited(self, wait_s: float) -> None:
        """Log that no item begins for so long, unless the last line says about the same."""
        until_s = self._clock.monotonic() + wait_s
        if until_s <= self._limited_until_s + max(1.0, wait_s / 10):
            return
        self._limited_until_s = until_s
        if logger.isEnabledFor(logging.INFO):
            self._say(logging.INFO, limited_text(self._workers, wait_s))

    def stopping(self, calls: int, done: int) -> None:
        """Warn, after a signal, what a stop waits for, and how many items have a result.

        It is a warning because Python prints warnings even if no logging is configured.
        """
        if not calls or not logger.isEnabledFor(logging.WARNING):
            return
        if self._run.narrator is not None:
            self._run.narrator.stop()
        what = "1 call" if calls == 1 else f"{calls:,} calls"
        how = again()
        how = "start the script again" if how == "start it again" else how
        kept = _items(done) if self._total is None else f"{done:,} of {self._total:,}"
        are = "is" if done == 1 else "are"
        text = f"Stopping: waiting for {what} in progress. {kept} {are} in {self._file}"
        pass_on(logger, logging.WARNING, "%s; %s to go on.", text, how, extra=self._extra)

    def ended(
        self, done: int, total: int, *, reused: int, failed: int, kinds: Sequence[Kind]
    ) -> None:
        """Log how a map has ended, and what has failed, a line for each kind."""
        if not self._is_heard:
            return
        took = _shown(self._clock.monotonic() - self._began_s, brief_s=0)
        lines = [f"{done:,} of {total:,} done ({reused:,} before), {failed:,} failed, {took}"]
        for kind in kinds:
            message = f": {kind.message}" if kind.message else ""
            lines.append(
                f"  {kind.count:,} {_TIMES} {kind.name}{message}  ({kind.shown_keys('…')})"
            )
        self._say_and_show("\n".join(lines))

    @property
    def _is_heard(self) -> bool:
        return self._run.narrator is not None or logger.isEnabledFor(logging.INFO)

    def _say_and_show(self, what: str) -> None:
        if self._run.narrator is not None:
            self._run.narrator.say(f"{self._name}: {what}")
        if logger.isEnabledFor(logging.INFO):
            self._say(logging.INFO, what)

    def _say(self, level: int, what: str) -> None:
        pass_on(logger, level, "%s: %s", self._name, what, extra=self._extra)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"
