"""The supervisor: the threads of one engine, and the order in which they start and stop.

Order of a stop: nothing more is claimed; the running runs end, or stop at their next boundary and
are put back; the heartbeat continues until the last one has ended; then the threads end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock
from durably.codec import Codec
from durably.errors import ConflictError, OwnershipLost
from durably.execution.children import Family
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import Emitter
from durably.execution.known_codes import KnownCodes
from durably.execution.live_failures import LiveFailures
from durably.execution.services import Services
from durably.execution.storing import report_worker_error
from durably.execution.unseen_failures import UnseenFailures
from durably.jobs.registry import JobRegistry
from durably.settings import Settings
from durably.store.rows import RunKey
from durably.worker.claimer import Claimer, LabelsOf
from durably.worker.claiming import Claiming
from durably.worker.current_runs import CurrentRuns
from durably.worker.database_file import DatabaseFile
from durably.worker.deadlines import Deadlines
from durably.worker.dispatcher import Dispatcher
from durably.worker.executor import Executor
from durably.worker.flusher import Flusher
from durably.worker.foreign_runs import ForeignRuns
from durably.worker.heartbeat import Heartbeat
from durably.worker.in_process import InProcessWorker
from durably.worker.lifecycle import Lifecycle
from durably.worker.ownership import Ownership
from durably.worker.pool import Pool
from durably.worker.reaper import Reaper
from durably.worker.run_log import RunLog
from durably.worker.run_until_idle import RunUntilIdle
from durably.worker.service import start_thread
from durably.worker.settling import Settling
from durably.worker.state import EngineState, State
from durably.worker.timers import Timers

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.worker.callers_thread import CallersThread
    from durably.worker.sessions import Sessions

# How often the reaper checks whether an owner has died; a check costs microseconds.
REAP_INTERVAL_S: Final = 0.25


class Supervisor:
    """Start, stop and connect the threads of one engine. Usable from any thread."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        codec: Codec,
        registry: JobRegistry,
        emitter: Emitter,
        clock: Clock,
        labels_of: LabelsOf,
    ) -> None:
        self._store = store
        self._ownership = Ownership(store, clock, settings.heartbeat_interval)
        owner = self._ownership.number
        flusher = self.flusher = Flusher(
            store, codec=codec, emitter=emitter, changes=store.changes, clock=clock, owner=owner
        )
        self.family = Family()
        self.family.execute = self._execute_child
        services = self._services = Services(
            checkpoints=store.checkpoints,
            file=os.path.basename(store.path),
            path=store.path,
            codec=codec,
            emitter=emitter,
            clock=clock,
            buffers=flusher,
            # An owner counts as hung only after it has missed two heartbeats.
            longest_doubt_s=2 * settings.heartbeat_interval,
            on_duplicate_step=settings.on_duplicate_step,
            start_thread=start_thread,
            family=self.family,
            known_codes=KnownCodes(),
            begun=lambda: self._ownership.begun,
        )
        self.state = EngineState()
        self.lifecycle = Lifecycle(
            store.closing,
            self.state,
            begin=self._begin,
            end=self._end,
            is_own_thread=self._is_own_thread,
        )
        self.shutdown: object = None  # kept alive by the threads
        # If the file was only moved, the runs are put back in it at its new place.
        self.file = DatabaseFile(store, lambda: self._claimer.drain(interrupt=True))
        self._foreign = ForeignRuns(store, registry)
        self._runs = CurrentRuns(self.state, emitter, store.changes, self._ownership)
        self._pool = Pool(
            settings.max_workers,
            lambda run: self._executor.execute_in_slot(run),  # noqa: PLW0108 - it is made below
        )
        self._claimer = Claimer(
            settings.max_workers,
            state=self.state,
            store=store,
            clock=clock,
            emitter=emitter,
            registry=registry,
            runs=self._runs,
            ownership=self._ownership,
            labels_of=labels_of,
            hand_over=self._pool.hand_over,
            on_none_claimable=self._foreign.warn,
        )
        live_failures = LiveFailures()
        self.unseen_failures = UnseenFailures(live_failures.is_watched)
        run_log = self._run_log = RunLog(store, clock, live_failures.is_raised)
        settling = self._settling = Settling(
            store,
            services,
            flusher,
            self.unseen_failures,
            run_log,
            preserve_steps=settings.preserve_steps,
        )
        deadlines = Deadlines(clock, settling.expire)
        self._executor = Executor(
            services=services,
            registry=registry,
            runs=self._runs,
            claimer=self._claimer,
            settling=settling,
            live_failures=live_failures,
            run_log=run_log,
            deadlines=deadlines,
            on_error=self._on_error,
        )
        self._heartbeat = Heartbeat(
            store,
            owner=owner,
            runs=self._runs.all,
            on_unregistered=self._on_unregistered,
            check_file=self.file.check_all,
            deadlines=deadlines,
            clock=clock,
            interval_s=settings.heartbeat_interval,
            on_error=self._on_heartbeat_error,
        )
        self._reaper = Reaper(
            store,
            owner=owner,
            committed_beats=lambda: self._heartbeat.committed,
            emitter=emitter,
            changes=store.changes,
            labels_of=labels_of,
            clock=clock,
            interval_s=min(REAP_INTERVAL_S, settings.poll_interval),
            heartbeat_interval_s=settings.heartbeat_interval,
            stale_threshold_s=settings.stale_threshold,
            retain_runs=settings.retain_runs,
            max_deaths=settings.max_deaths,
            unseen_failures=self.unseen_failures,
            on_error=self._on_error,
        )
        timers = self._timers = Timers(store, clock)
        self._dispatcher = Dispatcher(
            changes=store.changes,
            has_free_slot=self._claimer.has_free_slot,
            dispatch=self._claimer.claim_for_free_slots,
            timers=timers,
            clock=clock,
            poll_interval_s=settings.poll_interval,
            on_error=self._on_error,
        )
        self._until_idle = RunUntilIdle(
            self.state,
            self._claimer,
            self._runs,
            self._dispatcher,
            timers,
            self.lifecycle,
            store.changes,
            self.file.check_in_place,
            clock,
        )
        self._claiming = Claiming(
            store=store,
            clock=clock,
            state=self.state,
            lifecycle=self.lifecycle,
            file=self.file,
            ownership=self._ownership,
            foreign=self._foreign,
            runs=self._runs,
            claimer=self._claimer,
            put_sessions_back=self._put_sessions_back,
            reaper=self._reaper,
            dispatcher=self._dispatcher,
            until_idle=self._until_idle,
        )
        # What clients in this process ask of it.
        self.local = InProcessWorker(
            self._claimer,
            self._runs,
            self._ownership,
            self._foreign,
            live_failures,
            self._callers_thread,
            self.file.check_in_place,
            flusher.flush_lines,
        )

    @cached_property
    def sessions(self) -> Sessions:
        """Return the sessions of this engine."""
        from durably.worker.sessions import Sessions  # noqa: PLC0415 - where first needed

        return Sessions(
            services=self._services,
            store=self._store,
            claimer=self._claimer,
            runs=self._runs,
            settling=self._settling,
            run_log=self._run_log,
            lifecycle=self.lifecycle,
            check_file=self.file.check_in_place,
            recover=self._reaper.recover,
        )

    def _put_sessions_back(self) -> None:
        if "sessions" in vars(self):
            self.sessions.put_all_back()

    def _callers_thread(self) -> CallersThread:
        from durably.worker.callers_thread import (  # noqa: PLC0415 - where first needed
            CallersThread,
        )

        return CallersThread(
            self.lifecycle,
            self._claimer,
            self._executor,
            self._runs,
            self._timers,
            self.file.check_in_place,
            self._reaper.recover,
        )

    # -- what others ask -----------------------------------------------------------------

    @property
    def is_inside(self) -> bool:
        """Return whether the calling thread is inside a job or a listener of this engine."""
        return self._runs.is_inside_job or self._services.emitter.is_inside_listener

    def current_runs(self) -> list[CurrentRun]:
        """Return the runs that are inside their jobs here."""
        return self._runs.all()

    def snapshot(self) -> tuple[list[CurrentRun], int]:
        """Return those runs, and how many others were inside their jobs before."""
        return self._runs.snapshot()

    # -- lifecycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Recover what dead processes left behind, then start the threads. Idempotent."""
        self._claiming.start()

    def stop(
        self,
        *,
        interrupt: bool,
        timeout_s: float | None,
        verb: str = "stop",
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for the runs in progress, then end the threads. Idempotent.

        Args:
            on_wait: called now and then during the wait.
            verb: the name of the caller's call, for messages.

        Raises:
            WaitTimeoutError: they did not end in time; they continue, and nothing new is claimed.
            ConflictError: called from inside a job or a listener.
        """
        self._raise_if_inside(verb)
        self._claiming.stop(interrupt=interrupt, timeout_s=timeout_s, on_wait=on_wait)

    def close(self) -> None:
        """Remove the owner row and release its lock, once nothing of this engine needs them."""
        self.lifecycle.close()
        # Another thread may have started it since it was stopped.
        self.stop(interrupt=False, timeout_s=None, verb="close")
        # Others may be inside run_until_idle or process_one.
        with self.lifecycle.unneeded():
            self._ownership.give_up(is_file_lost=self.file.lost is not None)

    def abandon(self, close: Callable[[], None]) -> None:
        """Stop waiting for runs that are inside a step; call *close* in a thread of its own.

        The threads of this engine then do not keep the interpreter from ending.
        """
        self.lifecycle.abandon()
        self._claimer.drain(interrupt=True)
        self._pool.leave()
        threading.Thread(target=close, name="durably-closing", daemon=True).start()

    def _raise_if_inside(self, verb: str) -> None:
        if self.is_inside:
            raise ConflictError(
                f"{verb} from inside a job or a listener would wait for itself; "
                "call it from another thread"
            )

    def _is_own_thread(self) -> bool:
        services = (self._dispatcher, self._reaper, self.flusher, self._heartbeat)
        return self._runs.thread.has_slot or any(each.is_current_thread for each in services)

    def _begin(self) -> None:
        """Start what every execution needs: the owner row, the heartbeat, the flusher, the pool."""
        if self._ownership.confirm():
            self._heartbeat.note_registered()
        self._heartbeat.start()
        self.flusher.start()
        self._pool.open()
        self._runs.forget_early_stops()

    def _end(self) -> None:
        self._dispatcher.stop()
        self._pool.end()
        self.flusher.stop()
        self._heartbeat.stop()
        self.flusher.log_errors()
        if self.file.lost is None:
            self._ownership.put_back_strays()

    # -- executing -----------------------------------------------------------------------

    def _execute_child(self, run_pk: RunKey) -> bool:
        """Execute a run for a thread that waits for it, if no thread of the engine does so."""
        return not self.state.takes_runs and self._callers_thread().execute_child(run_pk)

    def process_one(self) -> bool:
        """Claim and execute one run in the calling thread; return ``False`` if there was none."""
        return self._callers_thread().process_one()

    def run_until_idle(self, max_runs: int | None, max_wait_s: float = 0.0) -> int:
        """Execute runs on the pool until none can be claimed, and return how many."""
        self._raise_if_inside("run_until_idle")
        stops = self._until_idle.stops

        def run() -> int:
            self._reaper.recover()
            return self._until_idle.run(max_runs, stops, max_wait_s)

        return self.lifecycle.with_threads(run)

    def wait_until_idle(self) -> None:
        """Block until nothing executes here and nothing can be claimed.

        Raises:
            DatabaseError: the dispatcher cannot claim; nothing executes any more.
            ConflictError: called from inside a job or a listener.
        """
        self._raise_if_inside("waiting for all runs")
        # A handler of SIGTERM may have brought the main thread here: a run that fails because of
        # the signal goes back, once, and is executed again.
        self._runs.note_stop()
        self._until_idle.wait()

    # -- callbacks of the threads ---------------------------------------------------------

    def _on_unregistered(self) -> None:
        """Stop the runs and register again: another engine found this one dead and has its runs."""
        self._runs.stop_all(OwnershipLost)
        self._ownership.renew()
        if self.state.now is State.STARTED:
            self._ownership.announce_started()

    def _on_error(self, exc: BaseException, context: str) -> None:
        report_worker_error(self._services.emitter, exc, f"the {context} thread")

    def _on_heartbeat_error(self, exc: BaseException, context: str) -> None:
        # Emitted by another thread: a listener that blocks must not stop the heartbeat.
        self.flusher.report(exc, f"the {context} thread")
