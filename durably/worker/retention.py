"""Find the time before which runs are old enough to be deleted, if the clock can be right.

A wall clock that jumps ahead (a machine that starts with a wrong one, a restored snapshot) makes
every run seem old. So the clock is compared with the newest row of the database before a deletion.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock, to_datetime

if TYPE_CHECKING:
    from durably.store.api import Store

logger = logging.getLogger("durably")

# How far the clock may be ahead of the newest time in the database.
TOLERANCE_US: Final = 86_400_000_000


class Retention:
    """Decide which runs may be deleted by age. Used by one thread at a time.

    The clock counts as right up to a day after the newest time that this engine found in the
    database when it began, plus the time that has passed since, or after the newest trigger. The
    times that this engine itself stores meanwhile (a claim, a heartbeat, an end) prove nothing,
    because they come from the same clock.

    Args:
        keep: how long a run that has ended is kept.
    """

    def __init__(self, store: Store, clock: Clock, keep: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._keep_us = keep // timedelta(microseconds=1)
        self._began_s: float | None = None
        # The newest time in the database when this engine began, if there was any.
        self._known_us: int | None = None
        self._is_warned = False

    def begin(self) -> None:
        """Read the newest time that is stored, before this engine stores any. Idempotent."""
        if self._began_s is None:
            self._known_us = self._store.newest_time_us()
            self._began_s = self._clock.monotonic()

    def before_us(self) -> int | None:
        """Return the instant before which a run must have ended to be deleted now.

        Return ``None`` while nothing may be deleted because the clock is ahead.
        """
        now_us = self._clock.now_us()
        before_us = now_us - self._keep_us
        if not self._store.has_ended_before(before_us) or self._is_sound(now_us):
            self._is_warned = False
            return before_us
        return None

    def _is_sound(self, now_us: int) -> bool:
        newest_us = self._store.newest_trigger_us()
        if self._known_us is not None and self._began_s is not None:
            passed_us = int((self._clock.monotonic() - self._began_s) * 1e6)
            newest_us = max(newest_us, self._known_us + passed_us)
        if now_us - newest_us <= TOLERANCE_US:
            return True
        if not self._is_warned:
            self._is_warned = True
            logger.warning(
                "retain_runs deletes nothing from %s: the clock says %s, over a day later than "
                "anything in the database (%s). Set the clock if it is wrong; if it is right, "
                "deleting continues with the next trigger.",
                self._store.path,
                _shown(now_us),
                _shown(newest_us),
            )
        return False


def _shown(us: int) -> str:
    try:
        return f"{to_datetime(us):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return f"{us} us after 1970"
