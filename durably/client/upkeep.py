"""Care for the file: back it up, and make it smaller."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

import attrs

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.signals import deliver

if TYPE_CHECKING:
    from durably.store.api import Store

# How long a step of a vacuum is to take; others wait for no longer than that.
_STEP_S: Final = 0.01
# How many pages a step returns: at first, at the least and at the most.
_FIRST_PAGES: Final = 32
_LEAST_PAGES: Final = 4
_MOST_PAGES: Final = 2000


@attrs.frozen(eq=False, repr=False)
class Upkeep:
    """Care for the file of one store. Usable from any thread."""

    _store: Store
    _clock: Clock

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        """Store a copy of the database at *path*."""
        self._store.backup(path, overwrite=overwrite, now_us=self._clock.now_us())

    def vacuum(self, max_s: float | None) -> int:
        """Return free pages to the file system; return how many bytes that was."""
        ends_s = math.inf if max_s is None else self._clock.monotonic() + max_s
        pause = Latch()
        pages = _FIRST_PAGES
        returned = 0
        while self._clock.monotonic() < ends_s:
            step = self._store.shrink(pages)
            returned += step.returned_bytes
            if not step.has_more:
                break
            # As long as the step has taken, so that others come first.
            self._clock.wait(pause, step.took_s)
            deliver()
            pages = next_pages(pages, step.took_s)
        self._store.wal_checkpoint(above_bytes=0)
        return returned


def next_pages(pages: int, took_s: float) -> int:
    """Return how many pages the next step returns, if one of *pages* has taken so long."""
    # At most twice as many, because the next pages may be slower than these.
    wanted = int(pages * min(2.0, _STEP_S / max(took_s, 1e-6)))
    return max(_LEAST_PAGES, min(_MOST_PAGES, wanted))
