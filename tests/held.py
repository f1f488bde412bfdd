"""Jobs that a test holds inside a step, and a payload that ends a run as the test wants it."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Any, Final, Self

import durably

# Only guards against hanging.
DEADLINE_S: Final = 20.0


class HeldJob:
    """A job whose runs stay inside their one step until they are let go.

    Enter it after the engine, so that a test that fails lets go before the engine waits.
    """

    def __init__(self, name: str = "held") -> None:
        self.job: Final = durably.Job(name, self._run)
        self._entered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._let_go = threading.Semaphore(0)
        self._is_over = False
        self._lock = threading.Lock()
        self._inside = 0
        self.most_inside = 0

    def _run(self, step: durably.StepContext, payload: Any) -> Any:
        return step.run("held", self._hold, payload)

    def _hold(self, payload: Any) -> Any:
        with self._lock:
            self._inside += 1
            self.most_inside = max(self.most_inside, self._inside)
        self._entered.put(payload)
        try:
            if not self._is_over:
                assert self._let_go.acquire(timeout=DEADLINE_S)
        finally:
            with self._lock:
                self._inside -= 1
        return payload

    def inside(self) -> Any:
        """Wait until one more run is inside its step; its payload."""
        return self._entered.get(timeout=DEADLINE_S)

    @property
    def nobody_else_is_inside(self) -> bool:
        """Return whether every run that came inside was asked for."""
        return self._entered.empty()

    def let_go(self, count: int = 1) -> None:
        """Let so many runs leave their step."""
        self._let_go.release(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._let_go.release(100)


@durably.job
def finish(step: durably.StepContext, payload: Any) -> Any:
    """Do one step, then return the payload, or fail if it says so."""
    step.run("first", int)
    if payload == "fail":
        raise ValueError("as it was told")
    return payload


@durably.job
def other(step: durably.StepContext, payload: Any) -> Any:
    """Return the payload."""
    return payload


@durably.job(origin="any")
def told(step: durably.StepContext, payload: Any) -> Any:
    """The job of the other process, should it be executed here."""
    return "here"
