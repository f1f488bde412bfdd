"""What the execution of a run needs of its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading

    from durably._platform.clock import Clock
    from durably.codec import Codec
    from durably.execution.children import Family
    from durably.execution.current_run import CurrentRun
    from durably.execution.emitter import Emitter
    from durably.execution.known_codes import KnownCodes
    from durably.settings import OnDuplicateStep
    from durably.store.api import Checkpoints
    from durably.store.calls import BegunSteps


class Buffers(Protocol):
    """Where progress goes until the next commit stores it."""

    def progressed(self, run: CurrentRun) -> None:
        """Store the new progress of the run soon."""


class Services(NamedTuple):
    """The parts of an engine that the execution of a run needs."""

    checkpoints: Checkpoints
    # The name of the database file, for people, and its real path.
    file: str
    path: str
    codec: Codec
    emitter: Emitter
    clock: Clock
    buffers: Buffers
    # How old the last sign that a claim is the current one may be before it must be read.
    longest_doubt_s: float
    on_duplicate_step: OnDuplicateStep
    # Starts a thread of that name, which it is to end by itself.
    start_thread: Callable[[str, Callable[[], None]], threading.Thread]
    # Triggers and executes the children of runs.
    family: Family
    known_codes: KnownCodes
    # Returns where the steps that are in progress are noted; ``None`` while nothing owns runs.
    begun: Callable[[], BegunSteps | None]
