"""Wait for the end of runs, whatever process executes them: ``wait``, ``as_completed``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import attrs

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.lock_timeouts import limited
from durably._platform.safe_repr import short_repr
from durably._platform.signals import deferred
from durably.client.local_worker import LocalWorker
from durably.client.query import Reader, labels_of, run_id_of, several
from durably.emitter import Emitter
from durably.errors import (
    EngineClosedError,
    NotFoundError,
    NoWorkerError,
    RunCancelledError,
    RunFailedError,
    ValidationError,
    WaitTimeoutError,
)
from durably.events import Event, LogWritten, RunProgressed
from durably.models import TERMINAL, Disposition, LogEntry, Progress, Run, RunStatus
from durably.settings import Duration, optional_timeout
from durably.store import defects
from durably.store.api import Liveness, Store
from durably.store.change_feed import ChangeFeed
from durably.store.rows import Brief, OwnerRow

# A check of many runs that takes longer than this is followed by a pause.
_QUICK_LOOK_S: Final = 0.001
_LONGEST_REST_S: Final = 0.1
# How often a waiting thread checks whether any engine can still execute its run.
_WORKER_LOOK_S: Final = 1.0

OnProgress = Callable[[Progress], object]
OnLog = Callable[[LogEntry], object]


# Why nothing can execute a run that is waited for.
_NONE_STARTED: Final = (
    "no started engine, here or in another process, has this database open. Call start(), or use "
    "the engine in a with block. The run stays stored and pending."
)
_ALL_WAIT: Final = (
    "every worker of this engine is inside a job that waits for a run, and no other process has a "
    "started engine. Raise max_workers above the number of jobs that wait, or do not wait inside "
    "a job. The run stays stored."
)


class LogTap:
    """Collect the log lines of runs executed in this process, from its opening on."""

    def __init__(self, emitter: Emitter, changes: ChangeFeed) -> None:
        self._lines: deque[LogWritten] = deque()
        self._changes = changes
        self._unsubscribe = emitter.on(LogWritten.type, self._hear)

    def _hear(self, event: LogWritten) -> None:
        self._lines.append(event)
        self._changes.notify()

    def take(self, run_id: str) -> list[LogWritten]:
        """Return the lines of one run since the last call."""
        taken: list[LogWritten] = []
        while self._lines:
            line = self._lines.popleft()
            if line.run_id == run_id:
                taken.append(line)
        return taken

    def close(self) -> None:
        """Stop collecting."""
        self._unsubscribe()


class Watch:
    """The progress and log lines that one wait has reported so far, and its callbacks."""

    def __init__(
        self,
        *,
        on_progress: OnProgress | None,
        on_log: OnLog | None,
        tap: LogTap | None,
        newest_log: int,
    ) -> None:
        self.on_progress = on_progress
        self.on_log = on_log
        self.tap = tap
        self.newest_log = newest_log
        self.progress: str | None = None
        self.known: Progress | None = None

    def close(self) -> None:
        """Stop collecting."""
        if self.tap is not None:
            self.tap.close()


class Waiter:
    """Wait for runs. Usable from any thread; every wait blocks only its own thread."""

    def __init__(
        self,
        *,
        store: Store,
        reader: Reader,
        emitter: Emitter,
        changes: ChangeFeed,
        worker: LocalWorker,
        clock: Clock,
    ) -> None:
        self._store = store
        self._reader = reader
        self._emitter = emitter
        self._changes = changes
        self._worker = worker
        self._clock = clock

    def watch(self, on_progress: OnProgress | None, on_log: OnLog | None) -> Watch:
        """Begin to collect what a wait reports to its callbacks; close it afterwards."""
        for callback, name in ((on_progress, "on_progress"), (on_log, "on_log")):
            if callback is not None and not callable(callback):
                raise ValidationError(f"{name} must be callable, not {short_repr(callback)}")
        return Watch(
            on_progress=on_progress,
            on_log=on_log,
            tap=None if on_log is None else LogTap(self._emitter, self._changes),
            newest_log=0 if on_log is None else self._store.newest_log_line(),
        )

    def skip_progress(self, run_id: str, watch: Watch) -> None:
        """Treat the run's present progress as reported."""
        if watch.on_progress is not None:
            brief = self._store.brief(run_id)
            watch.progress = None if brief is None else brief.progress

    def patience(self, timeout_s: float | None) -> Patience:
        """Return the patience of a call that begins now."""
        return Patience(self._clock, timeout_s)

    def wait_for(
        self,
        run: Run[Any, Any] | str,
        timeout: Duration | None,
        on_progress: OnProgress | None,
        on_log: OnLog | None,
    ) -> Run[Any, Any]:
        """Block until the run has ended; return the completed run, as ``Durably.wait`` does."""
        timeout_s = optional_timeout(timeout)
        run_id = run_id_of(run)
        watch = self.watch(on_progress, on_log)
        try:
            self.skip_progress(run_id, watch)
            return self.wait(run_id, timeout_s, watch)
        finally:
            watch.close()

    def wait(
        self,
        run_id: str,
        timeout_s: float | None,
        watch: Watch,
        *,
        disposition: Disposition | None = None,
        patience: Patience | None = None,
    ) -> Run[Any, Any]:
        """Block until the run has ended; return the completed run, with *disposition*.

        Args:
            patience: that of a call which has already begun to wait.
        """
        patience = patience or self.patience(timeout_s)
        with patience.limited(), self._worker.waiting():
            while True:
                seen = self._changes.look()
                brief = self._store.brief(run_id)
                if brief is None:
                    raise NotFoundError(
                        f"there is no run {run_id!r:.80} in this database (any more)"
                    )
                self._tell(run_id, brief, watch)
                if brief.status in TERMINAL:
                    run = self._reader.get(run_id)
                    if run.is_terminal:
                        return _completed(attrs.evolve(run, disposition=disposition))
                    continue
                # Inside a job it is a step boundary.
                self._worker.check_job()
                if patience.is_endless and patience.is_look_due():
                    self._require_worker([brief], patience)
                if patience.is_over():
                    raise WaitTimeoutError(
                        f"run {run_id} is still {brief.status} after {timeout_s} s; it continues"
                    )
                self._pause(seen, patience)

    def as_completed(
        self, runs: Iterable[Run[Any, Any] | str], timeout: Duration | None
    ) -> Iterator[Run[Any, Any]]:
        """Yield each run when it has ended; a mapping counts as its keys."""
        timeout_s = optional_timeout(timeout)
        keys = runs.keys() if isinstance(runs, Mapping) else runs
        return self._each_ended([run_id_of(run) for run in several(keys, "runs")], timeout_s)

    def _each_ended(self, run_ids: list[str], timeout_s: float | None) -> Iterator[Run[Any, Any]]:
        patience = Patience(self._clock, timeout_s)
        waiting = dict.fromkeys(run_ids)
        while waiting:
            with deferred(), patience.limited(), self._worker.waiting():
                ended, unreadable = self._next_ended(list(waiting), patience)
            for run_id in unreadable:
                del waiting[run_id]
            if not ended and not unreadable:
                raise WaitTimeoutError(
                    f"{len(waiting)} of {len(run_ids)} runs have not ended after {timeout_s} s; "
                    "they continue"
                )
            for run in ended:
                del waiting[run.id]
                yield run

    def _next_ended(
        self, run_ids: list[str], patience: Patience
    ) -> tuple[list[Run[Any, Any]], list[str]]:
        """Block until some of the runs have ended, or the patience is over.

        Returns:
            The runs that have ended, and the ids of those that have ended and cannot be read.
        """
        while True:
            seen = self._changes.look()
            began = self._clock.monotonic()
            briefs = self._store.briefs(run_ids)
            missing = [run_id for run_id in run_ids if run_id not in briefs]
            if missing:
                raise NotFoundError(
                    f"there is no run {missing[0]!r:.80} in this database (any more)"
                )
            in_the_end = [run_id for run_id in run_ids if briefs[run_id].status in TERMINAL]
            ended, unreadable = self._reader.get_ended(in_the_end)
            # Checking thousands of runs after each change of one would leave no time for them.
            self._rest(self._clock.monotonic() - began)
            if ended or unreadable or patience.is_over():
                return ended, unreadable
            self._worker.check_job()
            if patience.is_endless and patience.is_look_due():
                self._require_worker(briefs.values(), patience)
            self._pause(seen, patience)

    def _rest(self, spent_s: float) -> None:
        if spent_s >= _QUICK_LOOK_S:
            self._clock.wait(Latch(), min(9 * spent_s, _LONGEST_REST_S))

    def _pause(self, seen: Any, patience: Patience) -> None:
        self._changes.wait(seen, patience.longest_pause())
        if self._store.is_closed:
            raise EngineClosedError("this engine was closed during the wait")
        self._worker.check_in_place()

    def _tell(self, run_id: str, brief: Brief, watch: Watch) -> None:
        if watch.on_progress is not None and brief.progress != watch.progress:
            watch.progress = brief.progress
            progress = self._progress_of(run_id, brief)
            known, watch.known = watch.known, None
            if progress is not None and progress != known:
                self._call(run_id, watch.on_progress, progress)
        if watch.on_log is not None and watch.tap is not None:
            for event in watch.tap.take(run_id):
                self._call(run_id, watch.on_log, entry_of(event))
            # The lines of this engine were collected as they were written.
            rows = self._store.log_lines_of(
                run_id,
                after=watch.newest_log,
                except_owners=self._worker.owner_numbers,
            )
            for row in rows:
                watch.newest_log = row.log
                for entry in self._reader.entries_of([row], run_id):
                    self._call(run_id, watch.on_log, entry)

    def _progress_of(self, run_id: str, brief: Brief) -> Progress | None:
        try:
            return self._reader.progress_of(brief.progress)
        except (ValueError, RecursionError):
            # The wait continues until the run has ended, and then raises, as it cannot be read.
            defects.note(f"the progress of run {run_id!a:.80} is not valid, and is left out")
            defects.log_noted()
            return None

    def _call(self, run_id: str, callback: Callable[[Any], object], value: Any) -> None:
        # The run is read only for a callback that raises.
        self._emitter.call(callback, value, lambda: self._event_of(run_id, value))

    def _event_of(self, run_id: str, value: Progress | LogEntry) -> Event:
        """Return the event that corresponds to a callback with *value*."""
        row = self._store.find_run(run_id)
        fields: dict[str, Any] = {
            "run_id": run_id,
            "job_name": "" if row is None else row.job_name,
            "labels": {} if row is None else labels_of(row),
        }
        if isinstance(value, Progress):
            return self._emitter.make(RunProgressed, **fields, progress=value)
        return self._emitter.make(
            LogWritten,
            **fields,
            level=value.level,
            message=value.message,
            data=value.data,
            step_name=value.step_name,
        )

    # -- can it ever happen? -----------------------------------------------------------------

    def _require_worker(self, waiting: Iterable[Brief], patience: Patience) -> None:
        """Raise ``NoWorkerError`` if no engine could execute one of the runs not ended."""
        waiting = list(waiting)
        is_stuck = patience.is_still(is_stuck=self._worker.is_stuck)
        # An engine whose stop has timed out claims nothing until it is started again.
        is_claiming = self._worker.is_claiming and not is_stuck
        # Runs that other code has begun under the name of a job of this engine, which does not
        # claim them.
        pending = [brief.id for brief in waiting if brief.status == "pending"]
        left_alone = self._worker.left_alone(pending)
        if is_claiming:
            waiting = [brief for brief in waiting if brief.id in left_alone]
        if not waiting:
            return
        own = self._worker.owner_number
        alive = {
            row.owner: row for row in self._store.owners() if row.owner == own or self._lives(row)
        }
        if any(row.is_started for row in alive.values() if row.owner != own):
            return
        if is_stuck and own is not None:
            del alive[own]
        for brief in waiting:
            is_executed = brief.owner in alive and brief.status == "running"
            # Read again, after the owners: it may have ended since, and its owner may be gone.
            if not is_executed and self._is_still(brief):
                self._worker.check_job(is_futile=True)
                reason = _ALL_WAIT if is_stuck else _NONE_STARTED
                raise NoWorkerError(
                    f"nothing can execute run {brief.id}: {left_alone.get(brief.id, reason)}"
                )

    def _is_still(self, brief: Brief) -> bool:
        now = self._store.brief(brief.id)
        return now is not None and (now.status, now.owner) == (brief.status, brief.owner)

    def _lives(self, row: OwnerRow) -> bool:
        state = self._store.liveness_of(row.token)
        return state is not Liveness.DEAD


class Patience:
    """How long one wait continues, and when it checks for workers again."""

    def __init__(self, clock: Clock, timeout_s: float | None) -> None:
        self._clock = clock
        self._deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        self._next_look = clock.monotonic()
        self._was_stuck = False

    @property
    def is_endless(self) -> bool:
        """Return whether there is no timeout."""
        return self._deadline is None

    def is_still(self, *, is_stuck: bool) -> bool:
        """Return whether it was already stuck at the last check: a job may be just continuing."""
        was_stuck, self._was_stuck = self._was_stuck, is_stuck
        return was_stuck and is_stuck

    def is_over(self) -> bool:
        """Return whether the timeout has expired."""
        return self._deadline is not None and self._clock.monotonic() >= self._deadline

    def is_look_due(self) -> bool:
        """Return whether to check for workers now, and note that it is done."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _WORKER_LOOK_S
        return True

    def limited(self) -> AbstractContextManager[None]:
        """Limit the waits of the calling thread for locks to this timeout, within the block."""
        return limited(self._clock, self.left())

    def left(self) -> float | None:
        """Return the seconds that are left; ``None`` without a timeout."""
        return None if self._deadline is None else self._deadline - self._clock.monotonic()

    def longest_pause(self) -> float:
        """Return the seconds until the run must be read again at the latest."""
        if self._deadline is None:
            return _WORKER_LOOK_S
        return max(0.0, min(_WORKER_LOOK_S, self._deadline - self._clock.monotonic()))


def _completed(run: Run[Any, Any]) -> Run[Any, Any]:
    if run.status is RunStatus.FAILED:
        raise RunFailedError(run)
    if run.status is RunStatus.CANCELLED:
        raise RunCancelledError(run)
    return run


def entry_of(event: LogWritten) -> LogEntry:
    """Return the log line of *event*."""
    return LogEntry(
        level=event.level,
        message=event.message,
        data=event.data,
        step_name=event.step_name,
        created_at=event.timestamp,
    )
