"""The flusher thread: stores buffered progress and log lines, a few times a second.

A thread of its own and not the heartbeat's, since it calls the listeners of ``run:progress``:
one that blocks may hold up progress, but never the heartbeat.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

import attrs

from durably._platform.clock import Clock
from durably.codec import UNTYPED, Codec
from durably.errors import DatabaseError
from durably.events import Emitter, RunProgressed
from durably.execution.current_run import ActiveRun, tell_worker_error
from durably.models import Progress
from durably.store.api import Store
from durably.store.change_feed import ChangeFeed
from durably.store.rows import LogLine
from durably.worker.service import ErrorSink, Service

log = logging.getLogger("durably")

# At most this often progress and log lines cause a commit of their own.
FLUSH_INTERVAL_S: Final = 0.25


class Flusher(Service):
    """Takes what jobs report between commits. Usable from any thread."""

    def __init__(
        self,
        store: Store,
        *,
        codec: Codec,
        emitter: Emitter,
        changes: ChangeFeed,
        clock: Clock,
        on_error: ErrorSink,
    ) -> None:
        super().__init__("flusher", clock=clock, interval_s=None, on_error=on_error)
        self._store = store
        self._codec = codec
        self._emitter = emitter
        self._changes = changes
        self._dirty: deque[ActiveRun] = deque()
        self._lines: deque[LogLine] = deque()
        self._errors: deque[tuple[BaseException, str]] = deque()
        self._unreleased: deque[ActiveRun] = deque()
        self._lines_lock = threading.Lock()  # one thread at a time stores lines, in order

    def progressed(self, active: ActiveRun) -> None:
        """Remember that *active* has progress to store."""
        self._dirty.append(active)
        self.wake()

    def logged(self, line: LogLine) -> None:
        """Remember a line to store."""
        self._lines.append(line)
        self.wake()

    def report(self, exc: BaseException, context: str) -> None:
        """Remember an error of a thread that may not call listeners itself."""
        self._errors.append((exc, context))
        self.wake()

    def release(self, active: ActiveRun) -> None:
        """Store that the job of a run that is not its own any more has left its thread."""
        self._store.release(active.key, active.attempt, active.owner, self._clock.now_us())

    def release_later(self, active: ActiveRun) -> None:
        """``release`` as soon as the database can be written."""
        self._unreleased.append(active)
        self.wake()

    def pause(self) -> None:
        """Let some time pass after each flush, then wait for something to flush."""
        self._clock.wait(self._stopping, FLUSH_INTERVAL_S)
        if not self._stopping.is_set():
            super().pause()

    def tick(self) -> None:
        """Store and tell what has come since the last time."""
        self._tell_errors()
        self.flush_lines()
        while self._dirty:
            self._tell(self._dirty.popleft())
        self._release_all()

    def log_errors(self) -> None:
        """Log what has come too late to be told."""
        while self._errors:
            exc, context = self._errors.popleft()
            log.warning("%s: %s", context, exc)

    def finish(self) -> None:
        """Tell what other threads could not, and release what they could not."""
        self._tell_errors()
        self._release_all()

    def _tell_errors(self) -> None:
        while self._errors:
            tell_worker_error(self._emitter, *self._errors.popleft())

    def _release_all(self) -> None:
        while self._unreleased:
            try:
                self.release(self._unreleased[0])
            except DatabaseError:
                self.wake()
                raise
            self._unreleased.popleft()
            # The next one with its concurrency key.
            self._changes.offer()

    def _tell(self, active: ActiveRun) -> None:
        if not active.telling.acquire(blocking=False):
            return  # its end is being told, which has taken the progress along
        try:
            progress = self._stored(active)
            if progress is not None:
                self._changes.notify()
                self.told(active, progress)
        finally:
            active.telling.release()

    def _stored(self, active: ActiveRun) -> Progress | None:
        """Store the run's progress; what was, if it is not over and has new one."""
        with active.storing:
            if active.is_over:
                return None
            progress = active.take_progress()
            if progress is None:
                return None
            try:
                is_stored = self._store.set_progress(
                    [(active.key, active.attempt, self.encoded(progress))],
                    self._clock.now_us(),
                )
            except BaseException:
                # Not lost: stored at the next try, or with the end of the run.
                active.has_new_progress = True
                self._dirty.append(active)
                self.wake()
                raise
            return progress if is_stored else None

    def told(self, active: ActiveRun, progress: Progress) -> None:
        """Emit ``run:progress``."""
        if self._emitter.wants(RunProgressed):
            self._emitter.emit(RunProgressed, **active.fields, progress=progress)

    def encoded(self, progress: Progress) -> str:
        """*progress* as it is stored."""
        return self._codec.encode(attrs.asdict(progress), UNTYPED, what="progress")

    def flush_lines(self) -> None:
        """Store the log lines written so far; when this returns they are committed."""
        if not self._lines:
            return
        with self._lines_lock:
            taken: list[LogLine] = []
            while self._lines:
                taken.append(self._lines.popleft())
            try:
                self._store.append_log_lines(taken)
            except BaseException:
                self._lines.extendleft(reversed(taken))
                raise
        self._changes.notify()
