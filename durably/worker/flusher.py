"""The flusher thread: stores buffered progress and log lines, a few times a second.

It has a thread of its own, apart from the heartbeat's, because it calls the listeners of
``run:progress``: one that blocks may delay progress, but never the heartbeat.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from durably._platform.clock import Clock, from_datetime
from durably._platform.safe_repr import on_one_line, safe_repr
from durably._platform.signals import raise_if_signal
from durably.codec import UNTYPED, Codec
from durably.codec.json_text import dump_any, load
from durably.errors import DatabaseError
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import Emitter
from durably.execution.storing import report_worker_error
from durably.store.change_feed import ChangeFeed
from durably.store.outcome import Lost
from durably.store.rows import LogLine
from durably.worker.service import Service

if TYPE_CHECKING:
    from durably.events import LogWritten
    from durably.models import Progress
    from durably.store.api import Store

logger = logging.getLogger("durably")

# The shortest time between two commits that store only progress and log lines.
FLUSH_INTERVAL_S: Final = 0.25


class Flusher(Service):
    """Buffer what jobs report, and store it. Usable from any thread."""

    def __init__(
        self,
        store: Store,
        *,
        codec: Codec,
        emitter: Emitter,
        changes: ChangeFeed,
        clock: Clock,
        owner: Callable[[], int],
    ) -> None:
        super().__init__("flusher", clock=clock, interval_s=None, on_error=self._on_own_error)
        self._store = store
        self._codec = codec
        self._emitter = emitter
        self._changes = changes
        self._owner = owner
        self._persists_logs = False
        self._dirty: deque[CurrentRun] = deque()
        self._lines: deque[LogLine] = deque()
        self._errors: deque[tuple[BaseException, str]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._unreleased: deque[CurrentRun] = deque()
        self._lines_lock = threading.Lock()  # one thread at a time stores lines, in order

    def progressed(self, run: CurrentRun) -> None:
        """Note that *run* has progress to store."""
        self._dirty.append(run)
        self.wake()

    def persist_logs(self) -> None:
        """Store each log line that is written from now on. Idempotent."""
        if not self._persists_logs:
            self._persists_logs = True
            self._emitter.on("log:write", self._on_log)

    def _on_log(self, event: LogWritten) -> None:
        self.logged(_stored_line(event, self._owner()))

    def logged(self, line: LogLine) -> None:
        """Buffer a line to store."""
        self._lines.append(line)
        self.wake()

    def report(self, exc: BaseException, context: str) -> None:
        """Buffer an error of a thread that may not call listeners itself."""
        self._errors.append((exc, context))
        self.wake()

    def call(self, function: Callable[[], None]) -> None:
        """Call *function* soon, which calls code of the user's that another thread may not call."""
        self._calls.append(function)
        self.wake()

    def _on_own_error(self, exc: BaseException, context: str) -> None:
        self.report(exc, f"the {context} thread")

    def release(self, run: CurrentRun) -> None:
        """Store that the job of a run that is no longer running here has left its thread."""
        now_us = self._clock.now_us()
        self._store.settle(run.run_pk, run.fence, Lost(), now_us, left=run.left())

    def release_later(self, run: CurrentRun) -> None:
        """Call ``release`` as soon as the database can be written."""
        self._unreleased.append(run)
        self.wake()

    def pause(self) -> None:
        """Wait a while after each flush, then wait for something to flush."""
        self._clock.wait(self._stopping, FLUSH_INTERVAL_S)
        if not self._stopping.is_set():
            super().pause()

    def tick(self) -> None:
        """Store and emit what was reported since the last tick."""
        self._emit_errors()
        self._make_calls()
        self.flush_lines()
        while self._dirty:
            self._emit(self._dirty.popleft())
        self._release_all()

    def log_errors(self) -> None:
        """Log errors that were reported too late to be emitted."""
        while self._errors:
            exc, context = self._errors.popleft()
            logger.warning("%s failed: %s", context, on_one_line(str(exc)))

    def finish(self) -> None:
        """Emit the errors, and release the runs, that other threads could not."""
        self._emit_errors()
        self._make_calls()
        self._release_all()

    def _make_calls(self) -> None:
        while self._calls:
            try:
                self._calls[0]()
            except DatabaseError:
                self.wake()
                raise
            self._calls.popleft()

    def _emit_errors(self) -> None:
        while self._errors:
            report_worker_error(self._emitter, *self._errors.popleft())

    def _release_all(self) -> None:
        while self._unreleased:
            try:
                self.release(self._unreleased[0])
            except DatabaseError:
                self.wake()
                raise
            self._unreleased.popleft()
            # Its concurrency key is free for the next run.
            self._changes.notify_dispatcher()

    def _emit(self, run: CurrentRun) -> None:
        if not run.emitting.acquire(blocking=False):
            return  # the event of its end is being emitted, and the progress was stored with it
        try:
            progress = self._stored(run)
            if progress is not None:
                self._changes.notify()
                self.emit_progress(run, progress)
        finally:
            run.emitting.release()

    def _stored(self, run: CurrentRun) -> Progress | None:
        """Store the run's new progress and return it; ``None`` if there is none or it is over."""
        with run.storing:
            if run.is_over:
                return None
            progress = run.take_progress()
            if progress is None:
                return None
            try:
                is_stored = self._store.set_progress(
                    [(run.run_pk, run.fence, self.encoded(progress))],
                    self._clock.now_us(),
                )
            except BaseException:
                # Kept, to be stored at the next try, or with the end of the run.
                run.has_new_progress = True
                self._dirty.append(run)
                self.wake()
                raise
            return progress if is_stored else None

    def emit_progress(self, run: CurrentRun, progress: Progress) -> None:
        """Emit ``run:progress``."""
        if self._emitter.wants("run:progress"):
            self._emitter.emit("run:progress", **run.fields, progress=progress)

    def encoded(self, progress: Progress) -> str:
        """Return *progress* as it is stored."""
        return self._codec.encode(attrs.asdict(progress), UNTYPED, what="progress")

    def flush_lines(self) -> None:
        """Store the buffered log lines; when this returns they are committed."""
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


def _stored_line(event: LogWritten, owner: int) -> LogLine:
    """Return *event* as it is stored; a value without a JSON form is stored as its ``repr``."""
    try:
        data = _dumped(event.data)
    except Exception as raised:  # noqa: BLE001 - a user's __repr__ may raise anything, and data may be circular
        raise_if_signal(raised)
        data = _dumped({key: _dumpable(value) for key, value in event.data.items()})
    return LogLine(
        run_id=event.run_id,
        owner=owner,
        level=event.level,
        message=_dumped(event.message),
        data=data,
        step_name=event.step_name,
        created_at_us=from_datetime(event.timestamp),
    )


def _dumped(data: object) -> str:
    return dump_any(data, safe_repr)


def _dumpable(value: object) -> object:
    try:
        return load(_dumped(value))
    except Exception as raised:  # noqa: BLE001 - as above: this value is the one
        raise_if_signal(raised)
        return f"<{type(value).__qualname__}>"
