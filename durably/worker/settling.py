"""Settling: storing how an execution ended, and emitting it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import attrs

from durably.errors import DatabaseError, OwnershipLost, StepTimeoutError, StopRun
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.storing import report_worker_error, retry_transient
from durably.execution.tries import after_failure
from durably.execution.unseen_failures import UnseenFailures, see_attempt
from durably.models import error_info
from durably.store.outcome import (
    Completed,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    Suspended,
    TriedAgain,
)
from durably.store.rows import Claim, Ended, RunRow
from durably.worker.flusher import Flusher
from durably.worker.run_log import RunLog

if TYPE_CHECKING:
    from durably.settings.retries import Retry
    from durably.store.api import Store


class Settled(NamedTuple):
    """The run that was claimed with an end, if any, and what emits the events of the end.

    The events are emitted later: a listener may block, and the heartbeat puts a claimed run back
    that no thread is known to execute, so the claimed run must be entered before. *failure* is why
    the end could not be stored.
    """

    claimed: RunRow | None
    emit: Callable[[], None]
    failure: DatabaseError | None = None

    def require_stored(self) -> None:
        """Raise the error that has kept the end from being stored, if there is one."""
        if self.failure is not None:
            raise self.failure


class Settling:
    """Stores how executions ended, and emits their events. Usable from any thread.

    Args:
        preserve_steps: whether the steps of completed runs are kept.
    """

    def __init__(
        self,
        store: Store,
        services: Services,
        flusher: Flusher,
        unseen_failures: UnseenFailures,
        run_log: RunLog,
        *,
        preserve_steps: bool,
    ) -> None:
        self._store = store
        self._services = services
        self._flusher = flusher
        self._unseen_failures = unseen_failures
        self._run_log = run_log
        self._preserve_steps = preserve_steps

    def settle(
        self, run: CurrentRun, outcome: Outcome, claim_next: Callable[[], Claim | None]
    ) -> Settled:
        """Store the outcome of a run whose job is over, and claim the next run with it.

        Args:
            claim_next: returns what to claim in the same transaction, if anything.
        """
        changes = self._store.changes
        progress = run.take_progress()
        self._flush_lines(run)
        now_us = self._services.clock.now_us()
        is_said = False
        if isinstance(outcome, Failed):
            # Before the end is stored, and a call can return it.
            self._unseen_failures.note(run.id, run.attempt)
            is_said = self._run_log.is_failure_said(run)
        ended: Ended | None = None
        failure: DatabaseError | None = None
        if not isinstance(outcome, Lost):
            text = None if progress is None else self._flusher.encoded(progress)
            try:
                ended = self._store_end(run, outcome, now_us, text, claim_next)
            except DatabaseError as exc:
                # The run stays as it is in the database, and is put back by the heartbeat, or by
                # the engine that finds this process dead.
                failure = exc
        is_effective = ended is not None and ended.is_effective
        if not is_effective:
            # Cancelled, or taken over. Either way this job has left its thread.
            self._release(run)
            if not run.is_expired:
                self._unseen_failures.see(run.id, run.attempt)
        # What a run waits for may have come, or its time.
        goes_back = isinstance(outcome, Interrupted | Lost | Suspended | TriedAgain)
        if not is_effective or goes_back or run.row.concurrency_key is not None:
            # Claimable is this run, also if others have put it back before, or the next one with
            # its key.
            changes.notify_dispatcher()
        elif self._services.emitter.has_listeners:
            # They may take their time. Without any the run leaves at once, which wakes the threads
            # that wait for it: they need the GIL, which this thread is about to give up then.
            changes.notify()

        def emit() -> None:
            if failure is None and not is_said and not run.is_expired:
                self._run_log.ended(run, outcome, is_effective=is_effective)
            if not is_effective:
                return
            # After the event of progress that is being emitted: its listener may be waiting for
            # this end, which is stored.
            with run.emitting:
                if progress is not None:
                    self._flusher.emit_progress(run, progress)
                self._emit(run, outcome, now_us)

        claimed = None if ended is None else ended.claimed
        return Settled(claimed, emit, failure)

    # -- deadlines -------------------------------------------------------------------------

    def expire(self, run: CurrentRun, retry: Retry | None) -> None:
        """End a run whose time is over, although its job is still inside a step.

        What the job does from now on is rejected. It keeps its slot, and the run its owner, until
        it comes to a step boundary. The events are emitted by the flusher's thread.

        Raises:
            DatabaseError: that could not be stored.
        """
        from durably.settings.retries import has_functions  # noqa: PLC0415 - where first needed

        if retry is not None and has_functions(retry):
            # Code of the user's: not in the thread of the heartbeat.
            self._flusher.call(lambda: self._expire(run, retry))
        else:
            self._expire(run, retry)

    def _expire(self, run: CurrentRun, retry: Retry | None) -> None:
        if run.is_over:
            return
        clock = self._services.clock
        exc = StepTimeoutError(run.said_of_timeout())
        step = next(reversed(tuple(run.turns)), None)
        end = Failed(attrs.evolve(error_info(exc), failed_step=step), step, is_inside=True)
        outcome: Failed | TriedAgain
        try:
            outcome = after_failure(run, retry, clock, exc, end)
        except Exception as raised:  # noqa: BLE001 - the user's function may raise anything
            outcome = end._replace(error=attrs.evolve(error_info(raised), failed_step=step))
        now_us = clock.now_us()
        with run.storing:
            progress = run.take_progress()
        text = None if progress is None else self._flusher.encoded(progress)
        run.is_expired = True
        if isinstance(outcome, Failed):
            self._unseen_failures.note(run.id, run.attempt)
        # The calls that it leaves without an end are stored when it comes to a step boundary.
        done = run.left()._replace(calls=())
        ended = self._store.settle(run.run_pk, run.fence, outcome, now_us, progress=text, left=done)
        if not ended.is_effective:
            run.is_expired = False
            return
        run.stop(OwnershipLost)
        self._store.changes.notify_dispatcher()

        def emit() -> None:
            self._run_log.ended(run, outcome, is_effective=True)
            with run.emitting:
                if progress is not None:
                    self._flusher.emit_progress(run, progress)
                self._emit(run, outcome, now_us)

        self._flusher.call(emit)

    def _store_end(
        self,
        run: CurrentRun,
        outcome: Outcome,
        now_us: int,
        progress: str | None,
        claim_next: Callable[[], Claim | None],
    ) -> Ended | None:
        """Store the end; return ``None`` if the run is to stop before that could be done.

        It is put back then as after a ``DatabaseError``.
        """

        def store() -> Ended:
            return self._store.settle(
                run.run_pk,
                run.fence,
                outcome,
                now_us,
                progress=progress,
                keep_steps=self._preserve_steps,
                claim_next=claim_next(),
                left=run.left(),
            )

        try:
            return retry_transient(self._services, run, "storing the end of a run", store)
        except StopRun:
            return None

    def _flush_lines(self, run: CurrentRun) -> None:
        try:
            self._flusher.flush_lines()
        except DatabaseError as exc:
            report_worker_error(self._services.emitter, exc, "storing log lines", run.id)

    def _release(self, run: CurrentRun) -> None:
        try:
            self._flusher.release(run)
        except DatabaseError as exc:
            report_worker_error(self._services.emitter, exc, "releasing a run", run.id)
            self._flusher.release_later(run)

    def _emit(self, run: CurrentRun, outcome: Outcome, now_us: int) -> None:
        emitter = self._services.emitter
        if not emitter.has_listeners:
            return
        started_at_us = run.row.started_at_us
        duration = max(0, now_us - (now_us if started_at_us is None else started_at_us)) / 1e6
        if isinstance(outcome, Completed):
            emitter.emit(
                "run:complete",
                **run.fields,
                output=outcome.value,
                duration=duration,
                unused_steps=outcome.unused_steps,
            )
        elif isinstance(outcome, Failed):
            is_heard = emitter.emit(
                "run:fail",
                **run.fields,
                error=outcome.error,
                failed_step=outcome.step,
                duration=duration,
            )
            if is_heard:
                see_attempt(run.id, run.attempt)
        elif isinstance(outcome, TriedAgain):
            emitter.emit("run:retry", **run.fields, error=outcome.error, delay=outcome.wait_s)
        elif isinstance(outcome, Interrupted):
            emitter.emit("run:interrupt", **run.fields)
