"""Bring a certain run to its end in the calling thread: ``Durably.run``."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Final

import attrs

from durably._platform.clock import Clock, to_datetime
from durably._platform.interactive import again
from durably._platform.tracebacks import stacklevel
from durably._platform.unhandled import add_stop_note
from durably.client import messages
from durably.client.arguments import Trigger
from durably.client.handles import Handles
from durably.client.live_runs import LiveRun, said_of_retry
from durably.client.patience import Patience
from durably.client.payload_changes import changed_paths, named
from durably.client.query import Reader
from durably.client.run_options import CheckedOptions
from durably.client.submit import Accepted, Submitter
from durably.client.wait import Waiter, completed
from durably.codec import Codec
from durably.errors import (
    ConflictError,
    DatabaseError,
    NotFoundError,
    NoWorkerError,
    PayloadChangedWarning,
    RunInterrupted,
    WaitTimeoutError,
)
from durably.execution.current_run import CurrentRun
from durably.execution.live_failures import FailureWatch
from durably.jobs import Job
from durably.jobs.registry import codes_json, origins_json
from durably.models import TERMINAL, Disposition, Run, RunStatus, evolved, short_name
from durably.store.rows import Beginning, Enqueued, RunKey, RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import CallersThread, LocalWorker
    from durably.execution.live import Displays
    from durably.store.api import Store

logger = logging.getLogger("durably")

# How often a call that waits for a run of another process checks whether that process has died.
_RECOVERY_CHECK_S: Final = 0.25
# A run without a key that has waited for longer is perhaps not the one that is meant.
_OLD_US: Final = 24 * 3600 * 1_000_000


@attrs.define(eq=False, repr=False, slots=False, kw_only=True)
class Runner:
    """Bring certain runs to their end in the calling thread. Usable from any thread."""

    store: Store
    codec: Codec
    clock: Clock
    reader: Reader
    submitter: Submitter
    handles: Handles
    waiter: Waiter
    _worker: LocalWorker
    displays: Displays

    def run(self, job: Job[Any, Any] | str, payload: Any, given: CheckedOptions) -> Run[Any, Any]:
        """Create or continue a run, execute it here, and return it completed."""
        worker = self._worker.callers_thread
        if worker is None:
            raise NoWorkerError("this process executes no runs; open an engine to call run()")
        worker.raise_if_inside_job()
        registered = self.handles.find(job, "run").job
        accepted = self.submitter.accepted(
            registered,
            Trigger(
                payload,
                idempotency_key=given.key,
                concurrency_key=given.concurrency_key,
                retry=given.retry,
                labels=given.labels,
            ),
        )
        patience = self.waiter.patience(given.timeout_s)
        with self.waiter.watching() as watch:
            live = LiveRun(self.store, self._worker, self.clock)
            call = _Call(self, worker, registered, accepted, given, patience, watch, live)
            with patience.limited():
                existing = call.find_completed()
            if existing is not None:
                return existing
            with self.displays.showing(live.view, given.show) as showing:
                call.is_shown = showing is not None
                return worker.with_threads(call.bring_to_its_end)


@attrs.define(eq=False, repr=False)
class _Call:
    """One call of ``run``."""

    _runner: Runner
    _worker: CallersThread
    _job: Job[Any, Any]
    _accepted: Accepted
    _options: CheckedOptions
    _patience: Patience
    _watch: FailureWatch
    # What is displayed meanwhile.
    _live: LiveRun
    # Stored payloads that are not another one, although their text differs.
    _same_payloads: frozenset[str] = frozenset()
    # The run that is meant, once that is known, and how it was found.
    _run_pk: RunKey | None = None
    _disposition: Disposition = "continued"
    is_shown: bool = False

    # -- a run that has the key ----------------------------------------------------------------

    def find_completed(self) -> Run[Any, Any] | None:
        """Compare the payload with that of the run that has the key; return it if it is completed.

        Only reads: most calls with the key of a completed run are nightly ones that find it so.
        """
        key, options = self._options.key, self._options
        if key is None or options.fresh:
            return None
        row = self._runner.store.find_by_key(self._job.name, key)
        if row is None or row.kind != "job":
            return None
        changed = self._changed(row)
        if changed and options.on_payload_change == "refuse":
            raise messages.payload_conflict(row, named(changed))
        if changed and options.on_payload_change == "warn":
            warnings.warn(
                messages.payload_changed(row, named(changed)),
                PayloadChangedWarning,
                stacklevel=stacklevel(),
            )
        if row.status != "completed" or (changed and options.on_payload_change == "extend"):
            return None
        return self._runner.reader.run_of(row, "idempotent")

    def _changed(self, row: RunRow) -> list[str]:
        given = self._accepted.new.payload
        if row.payload == given:
            return []
        changed = changed_paths(self._runner.codec, self._job, row.payload, given)
        if not changed:
            self._same_payloads = frozenset({row.payload})
        return changed

    # -- the run -------------------------------------------------------------------------------

    def bring_to_its_end(self) -> Run[Any, Any]:
        """Execute the run here, or wait for who executes it, until it has completed."""
        while True:
            self._worker.raise_if_unusable()
            with self._patience.limited():
                self._worker.recover(self._is_shown_run)
                done, current = self._begin()
            ended = self._left(done) if current is None else self._execute(done, current)
            if ended is not None:
                return ended

    def _is_shown_run(self, row: RunRow) -> bool:
        """Return whether a run is the one of this call, which a display shows."""
        key = self._options.key
        is_same = row.idempotency_key == key and (
            key is not None or row.payload == self._accepted.new.payload
        )
        is_of_job = (row.kind, row.job_name) == ("job", self._job.name)
        return self.is_shown and (row.run == self._run_pk or (is_of_job and is_same))

    def _begin(self) -> tuple[Beginning, CurrentRun | None]:
        done, current = self._worker.begin(
            self._accepted.new,
            f"{{{origins_json(self._job)}}}",
            codes_json(self._job),
            is_fresh=self._options.fresh and self._run_pk is None,
            on_payload_change=self._options.on_payload_change,
            same_payloads=self._same_payloads,
            run_pk=self._run_pk,
        )
        if self._run_pk is None:
            self._run_pk = done.row.run
            self._disposition = "created" if done.before is None else "continued"
            if done.how == "completed":
                self._disposition = "idempotent"
            self._watch.watch_only(done.row.id)
        row = done.row
        self._live.name, self._live.key = row.job_name, row.idempotency_key
        self._live.run_id, self._live.current = row.id, current
        return done, current

    def _execute(self, done: Beginning, current: CurrentRun) -> Run[Any, Any] | None:
        """Execute the run; return it, ``None`` if another process has it now."""
        is_over = False
        try:
            is_over = self._worker.execute(
                current,
                self._job,
                announce=lambda: self._announce_start(done),
                timeout_s=self._patience.left(),
            )
        except BaseException as exc:
            self._live.status = "stopped"
            if exc is current.callers_signal:
                self._note_stop(current, exc)
            raise
        run = self._runner.reader.get(current.id)
        if run.is_terminal:
            return self._completed(run)
        if run.run_at is not None:
            self._await_next_try(run)
            return None
        self._live.status = "stopped"
        kept = f"{messages.steps_kept(run.completed_steps)}; call run() again to go on"
        if is_over:
            raise WaitTimeoutError(
                f"{messages.named(run)} was stopped after {self._options.timeout_s} s: {kept}"
            )
        if current.stop_reason is RunInterrupted:
            self._worker.raise_if_unusable()
            raise ConflictError(
                f"{messages.named(run)} was stopped, because its engine was: {kept} when that is "
                "done"
            )
        self._live.status = None
        return None

    def _await_next_try(self, run: Run[Any, Any]) -> None:
        """Block until a run that has failed may be tried again, or something else happens to it."""
        store, patience, clock = self._runner.store, self._patience, self._runner.clock
        self._live.current = None
        while True:
            seen = store.changes.snapshot()
            row = store.find_run(run.id)
            if row is None or row.status != RunStatus.PENDING or row.run_at_us is None:
                return
            left_s = (row.run_at_us - clock.now_us()) / 1e6
            if left_s <= 0:
                return
            if patience.is_over():
                raise WaitTimeoutError(
                    f"{messages.named(run)} is {said_of_retry(row)}; that is after the "
                    f"{self._options.timeout_s} s of this call. Call run() again to go on"
                )
            store.changes.wait(seen, min(left_s, patience.longest_pause()))
            self._worker.raise_if_unusable()

    def _announce(self, done: Beginning) -> None:
        """Emit what has happened to the run."""
        row, before = done.row, done.before
        how: Disposition | None = None
        if before is None:
            how = "created"
        elif before.completed_at_us is not None:
            how = "retried"
        if how is not None:
            created = to_datetime(row.created_at_us)
            self._runner.submitter.emit(Enqueued(row, how), self._accepted, created)

    def _announce_start(self, done: Beginning) -> None:
        self._announce(done)
        before, key = done.before, self._options.key
        if before is not None and key is None:
            age_us = self._runner.clock.now_us() - before.created_at_us
            if age_us > _OLD_US:
                logger.warning("%s", messages.old_run_continued(done.row, before))

    def _note_stop(self, current: CurrentRun, exc: BaseException) -> None:
        """Add to what a signal has raised what is kept and how to go on."""
        store = self._runner.store
        try:
            row = store.find_run(current.id)
            place = messages.stopped_in(store.checkpoints, current.run_pk, current.stopped_in)
        except DatabaseError:
            return  # the exception says enough
        if row is not None and row.status == "pending":
            add_stop_note(exc, messages.stopped(place, row.completed_steps))

    def _completed(self, run: Run[Any, Any]) -> Run[Any, Any]:
        self._live.status = run.status
        return completed(evolved(run, disposition=self._disposition), self._watch, again())

    # -- a run that cannot be executed here now ------------------------------------------------

    def _left(self, done: Beginning) -> Run[Any, Any] | None:
        """Return or wait for a run that was not claimed, as asked.

        Return the run, ``None`` if it may be claimed now.
        """
        options, reader = self._options, self._runner.reader
        if done.how == "completed":
            return reader.run_of(done.row, self._disposition)
        if done.how == "ended":
            return self._completed(reader.get(done.row.id))
        if done.how == "changed":
            raise messages.payload_conflict(done.row, named(self._changed(done.row)))
        if done.before is None or done.before.status != done.row.status:
            self._announce(done)
            self._runner.submitter.notify_dispatcher()
        if options.on_payload_change == "extend" and self._changed(done.row):
            raise ConflictError(
                f"{messages.where(done)} and gets no other payload meanwhile; wait for its end "
                "first"
            )
        if options.if_running == "error":
            raise ConflictError(
                f'{messages.where(done)}; if_running="wait" waits for that, "skip" returns at once'
            )
        if options.if_running == "skip":
            logger.info(
                "%s: %s; skipped", short_name(done.row.id, None, None), messages.where(done)
            )
            return reader.run_of(done.row, "skipped")
        return self._await(done)

    def _await(self, done: Beginning) -> Run[Any, Any] | None:
        """Block until the run has ended, and return it, or until it may be claimed.

        A run that is neither, although nothing of that can be seen, is checked again later.
        """
        store, patience = self._runner.store, self._patience
        self._live.where = messages.where(done)
        is_first = True
        while True:
            seen = store.changes.snapshot()
            run_id = done.row.id
            ids = [run_id] if done.holder is None else [run_id, done.holder.id]
            briefs = store.briefs(ids)
            if run_id not in briefs:
                raise NotFoundError(
                    f"{messages.name(done.row)} was deleted while it was waited for"
                )
            if briefs[run_id].status in TERMINAL:
                run = self._runner.reader.get(run_id)
                return self._completed(run)
            is_free = all(brief.owner is None for brief in briefs.values())
            # What can be seen has not changed: a thread of this engine is inside of it.
            is_same = done.holder is None and done.row.owner is None
            if is_free and not (is_same and is_first):
                return None
            is_first = False
            if patience.is_over():
                raise WaitTimeoutError(
                    f"{messages.where(done)}, still after {self._options.timeout_s} s; it continues"
                )
            store.changes.wait(seen, min(_RECOVERY_CHECK_S, patience.longest_pause()))
            self._worker.raise_if_unusable()
            with patience.limited():
                self._worker.recover(self._is_shown_run)
