"""The slots of an engine: how many runs its pool executes at once, and how many more it may."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from durably.store.rows import Claim
from durably.worker.current_runs import CurrentRuns


class Slots:
    """Count the slots that have a run, or are reserved for a claim. Usable from any thread.

    Args:
        number: of all slots.
        takes_runs: returns whether the engine claims runs now.
        runs: those that are executed, also in no slot.

    Attributes:
        executed: how many runs were executed in slots, or begun to be.
    """

    def __init__(self, number: int, takes_runs: Callable[[], bool], runs: CurrentRuns) -> None:
        self.number = number
        self._runs = runs
        self._takes_runs = takes_runs
        self._lock = threading.Lock()  # guards all below
        self._busy = 0
        self._reserved = 0
        # Whether a slot was wanted and none was free, since the last one got free.
        self._is_wanted = False
        # How many runs may still be claimed; None for no limit.
        self._budget: int | None = None
        self.executed = 0
        # The number at which the budget is used up.
        self._most_executed = math.inf

    def limit(self, budget: int | None) -> None:
        """Allow only *budget* more runs to be claimed; ``None`` for no limit."""
        with self._lock:
            self._budget = budget
            self._most_executed = math.inf if budget is None else self.executed + budget

    @property
    def has_budget(self) -> bool:
        """Return whether more runs may be executed."""
        return self.executed < self._most_executed

    @property
    def are_free(self) -> bool:
        """Return whether no slot has a run, or is reserved for a claim."""
        with self._lock:
            return not self._busy and not self._reserved

    @property
    def is_idle(self) -> bool:
        """Return whether no run is inside its job or about to be, also in no slot."""
        with self._lock:
            return not self._busy and not self._reserved and self._runs.are_none

    @property
    def is_only_claiming(self) -> bool:
        """Return whether no run is inside its job, and all taken slots wait for a claim."""
        with self._lock:
            return not self._busy and self._runs.are_none

    @property
    def busy(self) -> int:
        """Return how many slots have a run."""
        with self._lock:
            return self._busy

    @property
    def is_unlimited_wish(self) -> bool:
        """Return whether a slot is wanted, and the number of runs has no limit."""
        with self._lock:
            return self._is_wanted and self._budget is None and self._takes_runs()

    def find_free(self) -> bool:
        """Return whether a slot is free for a run; if not, one is wanted from now on."""
        with self._lock:
            self._is_wanted = not self._takes_runs() or self._free() <= 0
            return not self._is_wanted

    def _free(self) -> int:
        return self.number - self._busy - self._reserved

    def reserve(self, limit: int | None, claim_for: Callable[[int], Claim | None]) -> Claim | None:
        """Reserve up to *limit* free slots, and return the claim that *claim_for* makes for them.

        Return ``None`` and reserve nothing if none is free, or there is no claim.
        """
        with self._lock:
            slots = self._free() if limit is None else min(limit, self._free())
            if self._budget is not None:
                slots = min(slots, self._budget)
            if slots <= 0 or not self._takes_runs():
                self._is_wanted = True
                return None
            claim = claim_for(slots)
            if claim is not None:
                self._reserved += slots
                if self._budget is not None:
                    self._budget -= slots
            return claim

    def use(self, reserved: int, claimed: int) -> None:
        """Put *claimed* runs into slots that were reserved, and free the others."""
        with self._lock:
            self._reserved -= reserved
            self._busy += claimed
            if self._budget is not None:
                self._budget += reserved - claimed

    def free(self) -> None:
        """Free the slot of a run that has ended."""
        with self._lock:
            self._busy -= 1

    def wish(self) -> None:
        """Note that a slot is wanted."""
        with self._lock:
            self._is_wanted = True

    def take_wish(self) -> bool:
        """Return whether a slot was wanted; none is from now on."""
        with self._lock:
            is_wanted, self._is_wanted = self._is_wanted, False
            return is_wanted

    def note_executed(self) -> None:
        """Count a run that is about to be executed in a slot."""
        with self._lock:
            self.executed += 1
