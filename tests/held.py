"""A job that a test holds inside a step, and jobs whose payload says how a run ends."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Any, Final, Self

import durably

# Only guards against hanging.
DEADLINE_S: Final = 20.0


class HeldJob:
    """A job of three steps whose runs stay inside the second until they are let go.

    Its output is its payload. Enter it after the engine, so that a test that fails lets go before
    the engine waits.
    """

    def __init__(self, name: str = "held") -> None:
        self.job: Final = durably.Job(name, self.run)
        self.calls: Final[list[str]] = []
        self._entered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._let_go = threading.Semaphore(0)
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._inside = 0
        self.most_inside = 0

    def run(self, step: durably.StepContext, payload: Any = None) -> Any:
        """Execute the three steps, as the job does."""
        payload = step.run("first", self._call, "first", payload)
        payload = step.run("second", self._hold, payload)
        return step.run("third", self._call, "third", payload)

    def _call(self, name: str, payload: Any) -> Any:
        self.calls.append(name)
        return payload

    def _hold(self, payload: Any) -> Any:
        with self._lock:
            self._inside += 1
            self.most_inside = max(self.most_inside, self._inside)
        self._entered.put(payload)
        try:
            if not self._is_over.is_set():
                assert self._let_go.acquire(timeout=DEADLINE_S)
        finally:
            with self._lock:
                self._inside -= 1
        return self._call("second", payload)

    def inside(self) -> Any:
        """Wait until one more run is inside its second step; return its payload."""
        return self._entered.get(timeout=DEADLINE_S)

    @property
    def nobody_else_is_inside(self) -> bool:
        """Return whether every run that came inside was asked for."""
        return self._entered.empty()

    def let_go(self, count: int = 1) -> None:
        """Make so many runs leave their second step."""
        self._let_go.release(count)

    def let_all_go(self) -> None:
        """Make every run leave its second step, and no later one stay there."""
        self._is_over.set()
        self._let_go.release(100)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.let_all_go()


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
