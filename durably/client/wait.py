"""Wait for the end of runs, whatever process executes them: ``wait``, ``as_completed``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import attrs

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.signals import deferred
from durably._platform.tracebacks import remove_own_frames
from durably.client.arguments import OnLog, OnProgress, run_id_of, several
from durably.client.callbacks import Callbacks
from durably.client.live_runs import LiveRun, LiveRuns
from durably.client.patience import Patience
from durably.client.query import Reader
from durably.errors import (
    NotFoundError,
    NoWorkerError,
    RunCancelledError,
    RunFailedError,
    WaitTimeoutError,
)
from durably.execution.emitter import Emitter
from durably.execution.live_failures import FailureWatch
from durably.execution.unseen_failures import awaiting, see
from durably.models import TERMINAL, Disposition, Run, RunStatus, printable
from durably.settings import Duration, optional_timeout
from durably.store.owners import Liveness, OwnerRow
from durably.store.rows import Brief, RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker, Waiting
    from durably.execution.live import Displays
    from durably.store.api import Store
    from durably.store.change_feed import Snapshot

# A read of many runs that takes longer than this is followed by a pause.
_QUICK_READ_S: Final = 0.001
_LONGEST_REST_S: Final = 0.1


# Why nothing can execute a run that is waited for.
_NONE_STARTED: Final = (
    "no started engine, here or in another process, has this database open. Call start(), or use "
    "the engine in a with block. The run stays stored and pending."
)
_SESSION: Final = (
    "it is a session, which the program that opens it executes. Open it with durably.session()."
)
_ALL_WAIT: Final = (
    "every worker of this engine is inside a job that waits for a run, and no other process has a "
    "started engine. Raise max_workers above the number of jobs that wait, or do not wait inside "
    "a job. The run stays stored."
)


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Waiter:
    """Wait for runs. Usable from any thread; a wait blocks its own thread only."""

    _store: Store
    _reader: Reader
    _emitter: Emitter
    _worker: LocalWorker
    _clock: Clock
    _displays: Displays

    def callbacks(self, on_progress: OnProgress | None, on_log: OnLog | None) -> Callbacks:
        """Return what calls the callbacks of a wait; to be closed after it."""
        return Callbacks(self._store, self._reader, self._emitter, on_progress, on_log)

    def watching(self, run_id: str | None = None) -> AbstractContextManager[FailureWatch]:
        """Watch within the block for the exception of a run, or of one that is to be triggered."""
        return self._worker.watching(run_id)

    def patience(self, timeout_s: float | None) -> Patience:
        """Return how long a wait lasts that begins now."""
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
        callbacks = self.callbacks(on_progress, on_log)
        try:
            callbacks.skip_progress(run_id)
            with self.watching(run_id) as watch:
                return self.wait(run_id, timeout_s, callbacks, watch)
        finally:
            callbacks.close()

    def wait(
        self,
        run_id: str,
        timeout_s: float | None,
        callbacks: Callbacks,
        watch: FailureWatch,
        *,
        disposition: Disposition | None = None,
        patience: Patience | None = None,
        again: str | None = None,
        seen: Snapshot | None = None,
    ) -> Run[Any, Any]:
        """Block until the run has ended; return the completed run, with *disposition*.

        Args:
            watch: knows the exception of the run, if it fails here.
            patience: of a call that began to wait earlier.
            again: what continues a failed run, as ``RunFailedError`` says it.
            seen: the changes before the run was stored.
        """
        patience = patience or self.patience(timeout_s)
        with patience.limited(), self._worker.waiting() as worker:
            read = self._store.brief_or_ended
            if seen is not None:
                # Most runs that are waited for at once end in the meantime.
                self._pause(seen, patience, worker)
                read = self._store.find_run
            found = self._poll(read(run_id), run_id, callbacks, worker, disposition)
            if not isinstance(found, Run):
                found = self._wait_displayed(
                    run_id, timeout_s, callbacks, disposition, patience, worker
                )
            return completed(found, watch, again)

    def _wait_displayed(
        self,
        run_id: str,
        timeout_s: float | None,
        callbacks: Callbacks,
        disposition: Disposition | None,
        patience: Patience,
        worker: Waiting,
    ) -> Run[Any, Any]:
        """Block until the run has ended, and display it meanwhile."""
        live = LiveRun(self._store, self._worker, self._clock, run_id=run_id)
        with self._displays.showing(live.view):
            while True:
                seen = self._store.changes.snapshot()
                state = self._store.brief_or_ended(run_id)
                found = self._poll(state, run_id, callbacks, worker, disposition)
                if isinstance(found, Run):
                    live.status = found.status
                    return found
                # Inside a job this is a step boundary.
                worker.check_job()
                if patience.is_endless and patience.is_check_due():
                    self._require_worker([found], patience, worker)
                if patience.is_over():
                    raise WaitTimeoutError(
                        f"run {run_id} is still {found.status} after {timeout_s} s; it continues"
                    )
                self._pause(seen, patience, worker)

    def _poll(
        self,
        found: Brief | RunRow | None,
        run_id: str,
        callbacks: Callbacks,
        worker: Waiting,
        disposition: Disposition | None,
    ) -> Run[Any, Any] | Brief | RunRow:
        """Call the callbacks with what is new, and return the run once it has ended."""
        if found is None:
            raise NotFoundError(f"there is no run {run_id!r:.80} in this database (any more)")
        callbacks.call(run_id, found, worker.owners)
        if isinstance(found, RunRow) and found.status in TERMINAL:
            return self._reader.run_of(found, disposition)
        return found

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
        live = LiveRuns(self._worker, run_ids)
        showing = self._displays.showing(live.view)
        while waiting:
            with (
                deferred(),
                showing,
                patience.limited(),
                awaiting(waiting),
                self._worker.waiting() as worker,
            ):
                ended, unreadable = self._next_ended(list(waiting), patience, worker, live)
                live.ended.update((run.id, run.status) for run in ended)
                live.ended.update(dict.fromkeys(unreadable, "unreadable"))
            for run_id in unreadable:
                del waiting[run_id]
            if not ended and not unreadable:
                raise WaitTimeoutError(
                    f"{len(waiting)} of {len(run_ids)} runs have not ended after {timeout_s} s; "
                    "they continue"
                )
            for run in ended:
                del waiting[run.id]
                with deferred():
                    see(run)
                yield run

    def _next_ended(
        self, run_ids: list[str], patience: Patience, worker: Waiting, live: LiveRuns
    ) -> tuple[list[Run[Any, Any]], list[str]]:
        """Block until some of the runs have ended, or the timeout is over.

        Returns:
            Those that have ended, and the ids of those that have ended and cannot be read.
        """
        while True:
            seen = self._store.changes.snapshot()
            began = self._clock.monotonic()
            briefs = live.briefs = self._store.briefs(run_ids)
            missing = [run_id for run_id in run_ids if run_id not in briefs]
            if missing:
                raise NotFoundError(
                    f"there is no run {missing[0]!r:.80} in this database (any more)"
                )
            terminal = [run_id for run_id in run_ids if briefs[run_id].status in TERMINAL]
            ended, unreadable = self._reader.get_ended(terminal)
            # Reading thousands of runs after each change of one would leave no time for them.
            self._rest(self._clock.monotonic() - began)
            if ended or unreadable or patience.is_over():
                return ended, unreadable
            worker.check_job()
            if patience.is_endless and patience.is_check_due():
                self._require_worker(briefs.values(), patience, worker)
            self._pause(seen, patience, worker)

    def _rest(self, spent_s: float) -> None:
        if spent_s >= _QUICK_READ_S:
            self._clock.wait(Latch(), min(9 * spent_s, _LONGEST_REST_S))

    def _pause(self, seen: Any, patience: Patience, worker: Waiting) -> None:
        self._store.changes.wait(seen, patience.longest_pause())
        if self._store.is_closed:
            raise self._store.closing.error()
        worker.check_in_place()

    # -- whether anything can execute the runs -------------------------------------------------

    def _require_worker(
        self, waiting: Iterable[Brief | RunRow], patience: Patience, worker: Waiting
    ) -> None:
        """Raise ``NoWorkerError`` unless something can execute each of the runs."""
        if self._store.closing.is_replaced:
            return  # the engine has been stopped for that, and its end says more
        waiting = list(waiting)
        self._refuse_closed_session(waiting, worker)
        is_stuck = patience.is_stuck_again(is_stuck=worker.is_stuck)
        # After a stop that has timed out nothing is claimed until the next start.
        is_claiming = worker.is_claiming and not is_stuck
        # Other code has begun them under the name of a job of this engine.
        pending = [brief.id for brief in waiting if brief.status == "pending"]
        left_alone = worker.left_alone(pending)
        if is_claiming:
            waiting = [brief for brief in waiting if brief.id in left_alone]
        if not waiting:
            return
        own = worker.owner
        alive = {
            row.owner: row for row in self._store.owners() if row.owner == own or self._lives(row)
        }
        if any(row.is_started for row in alive.values() if row.owner != own):
            return
        if is_stuck and own is not None:
            del alive[own]
        for brief in waiting:
            is_executed = brief.owner in alive and brief.status == "running"
            # Read again, after the owners: it may have ended since, and its owner have left.
            if not is_executed and self._is_still(brief):
                worker.check_job(is_futile=True)
                reason = _ALL_WAIT if is_stuck else _NONE_STARTED
                raise NoWorkerError(
                    f"nothing can execute run {brief.id}: {left_alone.get(brief.id, reason)}"
                )

    def _refuse_closed_session(self, waiting: Iterable[Brief | RunRow], worker: Waiting) -> None:
        """Raise ``NoWorkerError`` for a session that no program has open."""
        for brief in waiting:
            is_closed = brief.kind == "session" and brief.status == "pending"
            if is_closed and self._is_still(brief):
                worker.check_job(is_futile=True)
                raise NoWorkerError(f"nothing can execute run {brief.id}: {_SESSION}")

    def _is_still(self, brief: Brief | RunRow) -> bool:
        now = self._store.brief(brief.id)
        return now is not None and (now.status, now.owner) == (brief.status, brief.owner)

    def _lives(self, row: OwnerRow) -> bool:
        state = self._store.liveness_of(row.token)
        return state is not Liveness.DEAD


def completed(run: Run[Any, Any], watch: FailureWatch, again: str | None = None) -> Run[Any, Any]:
    """Return a terminal run, which has completed.

    Args:
        watch: knows what has failed it, if that was here.
        again: what continues a failed run, as ``RunFailedError`` says it.

    Raises:
        RunFailedError: it has failed; from the job's own exception, if that was raised here.
        RunCancelledError: it was cancelled.
    """
    see(run)
    if run.status is RunStatus.FAILED:
        exc = watch.exception_of(run)
        if exc is not None:
            exc = printable(exc)
            remove_own_frames(exc)
        raise RunFailedError(run, again) from exc
    if run.status is RunStatus.CANCELLED:
        raise RunCancelledError(run)
    return run
