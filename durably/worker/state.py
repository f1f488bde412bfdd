"""The state of an engine, and the table of its changes."""

from __future__ import annotations

import enum
import threading
from typing import Final


class State(enum.Enum):
    """What an engine does, and may be asked to do."""

    OPEN = "open"
    """It was not started yet: it claims runs only for a call that asks for it."""

    STARTED = "started"
    """It claims runs by itself."""

    DRAINING = "draining"
    """It was started and is being stopped: it claims nothing, and its runs end."""

    STOPPED = "stopped"
    """As ``OPEN``, after a stop."""

    CLOSED = "closed"
    """No call can use it any more; what it has begun ends."""


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.OPEN: frozenset({State.STARTED, State.CLOSED}),
    State.STARTED: frozenset({State.DRAINING, State.CLOSED}),
    State.DRAINING: frozenset({State.STARTED, State.STOPPED, State.CLOSED}),
    State.STOPPED: frozenset({State.STARTED, State.CLOSED}),
    State.CLOSED: frozenset(),
}


class EngineState:
    """The state of one engine. Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards changing the state
        self.now = State.OPEN
        # Whether runs are claimed for a call of ``run_until_idle``, which starts nothing by itself.
        self.claims_for_calls = False

    @property
    def takes_runs(self) -> bool:
        """Return whether runs are claimed, by the engine itself or for a call."""
        return self.now is State.STARTED or self.claims_for_calls

    @property
    def is_started(self) -> bool:
        """Return whether the engine was started, and no stop has completed since."""
        return self.now in (State.STARTED, State.DRAINING)

    @property
    def is_closed(self) -> bool:
        """Return whether no call can use the engine any more."""
        return self.now is State.CLOSED

    def become(self, state: State) -> bool:
        """Change to *state*; return ``False`` if the table has no such change."""
        with self._lock:
            if state not in TRANSITIONS[self.now]:
                return False
            self.now = state
            return True

    def drain(self) -> None:
        """Take nothing new from now on; idempotent."""
        self.claims_for_calls = False
        self.become(State.DRAINING)
