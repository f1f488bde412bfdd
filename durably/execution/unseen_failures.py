"""The failures of runs that nobody has seen: no call has returned them, no listener was called.

A call of any engine of this process counts, since the one that executes a run need not be the one
that waits for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from durably._platform.fork_hooks import ForkParticipant, watch_forks
from durably.models import Run, RunStatus

# So many failures are kept for each engine, a few hundred KiB; earlier ones are only counted.
MOST_KEPT: Final = 1000

# Changed by single calls, so that no lock is needed, which a fork could copy in its taken state.
_everywhere: Final[dict[int, weakref.ref[UnseenFailures]]] = {}
_awaited: Final[dict[object, Collection[str]]] = {}


class Unseen(NamedTuple):
    """What nobody has seen: the attempts of runs by their id, the newest first."""

    attempts: dict[str, int]
    forgotten: int
    """How many earlier ones were only counted."""


class UnseenFailures(ForkParticipant):
    """The failures of the runs of one engine that nobody has seen. Usable from any thread.

    Memory is bounded: of more than ``MOST_KEPT`` failures the oldest are only counted, and the
    count is forgotten when all others have been seen.

    Args:
        is_watched: returns whether a call waits for a run to raise its failure.
    """

    def __init__(self, is_watched: Callable[[str], bool]) -> None:
        self._is_watched = is_watched
        self._lock = threading.Lock()  # guards the two below
        self._attempts: dict[str, int] = {}
        self._forgotten = 0
        key = id(self)
        _everywhere[key] = weakref.ref(self, lambda _: _everywhere.pop(key, None))
        watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget all: these runs are the parent's. Replace the lock, which a thread may hold."""
        self._lock = threading.Lock()
        self._attempts = {}
        self._forgotten = 0

    def note(self, run_id: str, attempt: int) -> None:
        """Note that an attempt fails; called before its end is stored and anybody can see it."""
        with self._lock:
            self._attempts.pop(run_id, None)  # the newest one goes to the end
            self._attempts[run_id] = attempt
            if len(self._attempts) > MOST_KEPT:
                del self._attempts[next(iter(self._attempts))]
                self._forgotten += 1

    def see(self, run_id: str, attempt: int) -> None:
        """Note that somebody has seen the failure of this attempt, or of a later one."""
        with self._lock:
            if self._attempts.get(run_id, attempt + 1) <= attempt:
                del self._attempts[run_id]
                if not self._attempts:
                    self._forgotten = 0

    def attempt_of(self, run_id: str) -> int:
        """Return the attempt whose failure nobody has seen, 0 for none."""
        with self._lock:
            return self._attempts.get(run_id, 0)

    def unseen(self) -> Unseen:
        """Return what nobody has seen."""
        with self._lock:
            return Unseen(dict(reversed(self._attempts.items())), self._forgotten)

    def are_awaited(self) -> bool:
        """Return whether a call in another thread is about to return one of them."""
        awaited = tuple(_awaited.values())
        return any(
            self._is_watched(run_id) or any(run_id in each for each in awaited)
            for run_id in self.unseen().attempts
        )


def see(run: Run[Any, Any]) -> None:
    """Note that a call returns the run, or raises an error with it."""
    if run.status is RunStatus.FAILED:
        see_attempt(run.id, run.attempt)


def see_attempt(run_id: str, attempt: int) -> None:
    """Note that somebody has seen the failure of this attempt of a run."""
    for failures in _of_all_engines():
        failures.see(run_id, attempt)


def unseen_attempt(run_id: str) -> int:
    """Return the attempt of a run whose failure nobody has seen, 0 for none."""
    return max((failures.attempt_of(run_id) for failures in _of_all_engines()), default=0)


def _of_all_engines() -> list[UnseenFailures]:
    found = [reference() for reference in tuple(_everywhere.values())]
    return [failures for failures in found if failures is not None]


@contextmanager
def awaiting(run_ids: Collection[str]) -> Iterator[None]:
    """Mark that the block waits for the ends of these runs, to return them."""
    call = object()
    _awaited[call] = run_ids
    try:
        yield
    finally:
        _awaited.pop(call, None)
