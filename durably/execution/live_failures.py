"""The exceptions that have failed runs in this process, for the calls that wait for these runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from durably.models import Run


class FailureWatch:
    """The exceptions of one run, or of every run until it is known which one is meant.

    It is kept by the call that waits, and the exceptions with their frames go when it returns.
    """

    def __init__(self, run_id: str | None) -> None:
        self._lock = threading.Lock()  # guards the failures
        self.run_id = run_id
        self._failures: dict[str, tuple[int, BaseException]] = {}

    def watch_only(self, run_id: str) -> None:
        """Forget the other runs."""
        with self._lock:
            self.run_id = run_id
            for other in self._failures.keys() - {run_id}:
                del self._failures[other]

    def is_for(self, run_id: str) -> bool:
        """Return whether that run is watched."""
        return self.run_id in (None, run_id)

    def note(self, run_id: str, attempt: int, exc: BaseException) -> None:
        """Keep what has failed an attempt of a run, if that run is watched."""
        with self._lock:
            if self.is_for(run_id):
                self._failures[run_id] = attempt, exc

    def exception_of(self, run: Run[Any, Any]) -> BaseException | None:
        """Return what has failed the newest attempt of the run, if that was seen here."""
        with self._lock:
            attempt, exc = self._failures.get(run.id, (0, None))
        return exc if attempt == run.attempt else None


class LiveFailures:
    """Pass the exceptions that fail the runs of one engine to those that watch for them.

    Nothing is kept while nobody does: an exception keeps all frames of its traceback alive, with
    all their variables. Usable from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the watches
        self._watches: set[FailureWatch] = set()

    @contextmanager
    def watched(self, run_id: str | None) -> Iterator[FailureWatch]:
        """Watch a run within the block; ``None`` for every one until its id is known."""
        watch = FailureWatch(run_id)
        with self._lock:
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.remove(watch)

    def is_watched(self, run_id: str) -> bool:
        """Return whether a call watches this run, or one that it is about to trigger."""
        with self._lock:
            return any(watch.is_for(run_id) for watch in self._watches)

    def is_raised(self, run_id: str) -> bool:
        """Return whether a call watches exactly this run, and raises what fails it."""
        with self._lock:
            return any(watch.run_id == run_id for watch in self._watches)

    def note(self, run_id: str, attempt: int, exc: BaseException) -> None:
        """Pass on what has failed a run; called before its end is stored."""
        with self._lock:
            watches = tuple(self._watches)
        for watch in watches:
            watch.note(run_id, attempt, exc)
