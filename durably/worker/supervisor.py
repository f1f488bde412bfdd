"""The supervisor: the threads of one engine, and the order in which they start and stop.

Order of a stop: nothing more is claimed; the running runs end, or stop at their next boundary and
are put back; the heartbeat continues until the last one has ended; then the threads end.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from durably._platform.clock import Clock
from durably.codec import Codec
from durably.emitter import Emitter
from durably.errors import (
    ConflictError,
    DatabaseError,
    DatabaseLostError,
    OwnershipLost,
    WaitTimeoutError,
)
from durably.execution.current_run import ActiveRun, Services, tell_worker_error
from durably.job_registry import JobRegistry
from durably.settings import Settings
from durably.store.api import Store
from durably.store.outcome import OwnerIdle
from durably.worker.contexts import ExecutionContexts
from durably.worker.dispatcher import Dispatcher
from durably.worker.flusher import Flusher
from durably.worker.foreign_runs import ForeignRuns
from durably.worker.heartbeat import Heartbeat
from durably.worker.in_process import InProcessWorker
from durably.worker.lifecycle import Lifecycle
from durably.worker.ownership import Ownership
from durably.worker.pool import LabelsOf, Pool
from durably.worker.reaper import Reaper
from durably.worker.run_until_idle import Drain
from durably.worker.settling import Settling

log = logging.getLogger("durably")

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
        flusher = self.flusher = Flusher(
            store,
            codec=codec,
            emitter=emitter,
            changes=store.changes,
            clock=clock,
            owner=lambda: self._ownership.owner or 0,
        )
        services = self._services = Services(
            checkpoints=store.checkpoints,
            codec=codec,
            emitter=emitter,
            clock=clock,
            buffers=flusher,
            # An owner counts as hung only after it has missed two heartbeats.
            longest_doubt_s=2 * settings.heartbeat_interval,
            on_duplicate_step=settings.on_duplicate_step,
        )
        self._lifecycle = Lifecycle(
            self._store.path,
            begin=self._begin,
            end=self._end,
            is_own_thread=self._is_own_thread,
        )
        self.shutdown: object = None  # kept alive by the threads
        # Guarded by the lock of the lifecycle.
        self._is_started = False
        self.lost: DatabaseLostError | None = None
        self._ownership = Ownership(self._store, services.clock, settings.heartbeat_interval)
        self._foreign = ForeignRuns(self._store, registry)
        self._pool = Pool(
            settings.max_workers,
            store=store,
            services=services,
            settling=Settling(store, services, flusher, preserve_steps=settings.preserve_steps),
            registry=registry,
            labels_of=labels_of,
            owner=lambda: self._ownership.owner,
            contexts=ExecutionContexts(),
            on_none_claimable=self._foreign.warn,
            on_error=self._on_error,
        )
        self._heartbeat = Heartbeat(
            self._store,
            owner=self._owner,
            active=self._pool.active,
            on_unregistered=self._on_unregistered,
            look_at_file=self._look_at_file,
            clock=services.clock,
            interval_s=settings.heartbeat_interval,
            on_error=self._on_heartbeat_error,
        )
        self._reaper = Reaper(
            self._store,
            owner=self._owner,
            committed_beats=lambda: self._heartbeat.committed,
            emitter=services.emitter,
            changes=store.changes,
            labels_of=labels_of,
            clock=services.clock,
            interval_s=min(REAP_INTERVAL_S, settings.poll_interval),
            heartbeat_interval_s=settings.heartbeat_interval,
            stale_threshold_s=settings.stale_threshold,
            retain_runs=settings.retain_runs,
            on_error=self._on_error,
        )
        self._dispatcher = Dispatcher(
            self._store,
            changes=store.changes,
            has_free_slot=self._pool.has_free_slot,
            reserve_slots=self._pool.reserve_slots,
            return_slots=self._pool.return_slots,
            want_slot=self._pool.want_slot,
            hand_over=self._pool.hand_over,
            wait_for_listeners=services.emitter.wait_for_listeners,
            on_none_claimable=self._foreign.warn,
            clock=services.clock,
            poll_interval_s=settings.poll_interval,
            on_error=self._on_error,
        )
        self._drain = Drain(
            self._pool,
            self._dispatcher,
            self._lifecycle,
            store.changes,
            is_started=lambda: self._is_started,
            check_in_place=self.check_in_place,
            active=self.active,
        )
        # What clients in this process ask of it.
        self.local = InProcessWorker(
            self._pool,
            store,
            emitter,
            self._ownership,
            self._foreign,
            lambda: self.takes_runs,
            lambda: self.is_claiming,
            self.check_in_place,
        )

    # -- what others ask -----------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether ``start`` was called, and no ``stop`` has completed since."""
        return self._is_started

    @property
    def takes_runs(self) -> bool:
        """Whether this engine claims runs by itself now; not once a stop has timed out."""
        return self._is_started and not self._pool.is_draining

    @property
    def is_claiming(self) -> bool:
        """Whether it claims runs now, by itself or for a call of ``run_until_idle``."""
        return (self._is_started or self._drain.is_claiming) and self._pool.may_claim

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is inside a job or a listener of this engine."""
        return self._pool.is_inside_job or self._services.emitter.is_inside_listener

    @property
    def owner_number(self) -> int | None:
        """The number of this engine's owner row, if it has one now."""
        return self._ownership.owner

    def active(self) -> list[ActiveRun]:
        """Return the runs that are inside their jobs here."""
        return self._pool.active()

    def check_in_place(self) -> None:
        """Check that the file is in its place; if not, nothing is claimed any more.

        Raises:
            DatabaseLostError: it is not, or was not at an earlier check.
        """
        self._check(self._store.check_in_place)

    def _check(self, is_there: Callable[[], None]) -> None:
        if self.lost is not None:
            raise self.lost
        try:
            is_there()
        except DatabaseLostError as exc:
            self.lost = exc
            # If the file was only moved, the runs are put back in it at its new place.
            self._pool.drain(interrupt=True)
            raise

    # -- lifecycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Recover what dead processes left behind, then start the threads. Idempotent."""
        if self.takes_runs:
            return
        self._lifecycle.holding(self._recover_and_start)
        # Waiting threads check again whether an engine can execute their runs.
        self._store.changes.offer()

    def _recover_and_start(self) -> None:
        # Outside of the lock: listeners of a recovery may block, and call the engine.
        self._reaper.recover()
        self._foreign.warn()
        with self._lifecycle.locked():
            self._start()

    def _start(self) -> None:
        if self.takes_runs:
            return
        self._lifecycle.refuse_closed()
        if self._is_started:
            # A stop had timed out: the threads are there.
            self._ownership.announce_started()
        else:
            self._lifecycle.hold(self)
            try:
                self._ownership.announce_started()
                self._reaper.start()
                self._dispatcher.start()
            except BaseException:
                self._end_reaper()
                self._lifecycle.let_go(self)
                raise
        self._pool.resume()
        self._is_started = True

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
        self._refuse_inside(verb)
        clock = self._services.clock
        deadline = math.inf if timeout_s is None else clock.monotonic() + timeout_s
        # The engine's threads, too, wait for locks of other processes only until the deadline.
        with self._store.hurried(deadline):
            was_started = self._is_started
            self._drain.refuse_waiting()

            def look() -> None:
                on_wait()
                if not self._pool.is_draining:
                    # It was started meanwhile: drain again, so that this wait ends.
                    self._pool.stop(interrupt=interrupt)

            while True:
                self._pool.stop(interrupt=interrupt)
                if not self._pool.wait_until_idle(look, deadline):
                    self._tell_timed_out(timeout_s)
                with self._lifecycle.locked():
                    # The engine may have been started since the first check.
                    if not self._is_started or not (was_started or self._pool.is_draining):
                        break
                    # Another thread may have started it meanwhile, and claimed a run.
                    if self._pool.come_to_rest():
                        self._end_reaper()
                        self._sign_off()
                        self._is_started = False
                        self._lifecycle.let_go(self)
                        break
            self._pool.end_interrupt()

    def _tell_timed_out(self, timeout_s: float | None) -> NoReturn:
        with self._lifecycle.locked():
            if self._is_started and not self.takes_runs:
                # Threads of other processes that wait for a pending run must not rely on this
                # engine.
                self._sign_off()
        left = len(self.active())
        raise WaitTimeoutError(
            f"{left} {'run is' if left == 1 else 'runs are'} still executing after "
            f"{timeout_s} s; they continue, and nothing new is claimed until start()"
        )

    def close(self) -> None:
        """Remove the owner row and release its lock, once nothing of this engine needs them."""
        self._lifecycle.close()
        # Another thread may have started it since it was stopped.
        self.stop(interrupt=False, timeout_s=None, verb="close")
        # Others may be inside run_until_idle or process_one.
        with self._lifecycle.unneeded():
            self._ownership.give_up(is_file_lost=self.lost is not None)

    def abandon(self, close: Callable[[], None]) -> None:
        """Stop waiting for runs that are inside a step; call *close* in a thread of its own.

        The threads of this engine then do not keep the interpreter from ending.
        """
        self._lifecycle.abandon()
        self._pool.drain(interrupt=True)
        self._pool.leave()
        threading.Thread(target=close, name="durably-closing", daemon=True).start()

    @property
    def is_abandoned(self) -> bool:
        """Whether ``abandon`` was called."""
        return self._lifecycle.is_abandoned

    def _sign_off(self) -> None:
        if self.lost is None:
            self._ownership.announce_stopped()

    def _refuse_inside(self, verb: str) -> None:
        if self.is_inside:
            raise ConflictError(
                f"{verb} from inside a job or a listener would wait for itself; "
                "call it from another thread"
            )

    def _is_own_thread(self) -> bool:
        services = (self._dispatcher, self._reaper, self.flusher, self._heartbeat)
        return self._pool.is_current_thread or any(each.is_current_thread for each in services)

    def _begin(self) -> None:
        """Start what every execution needs: the owner row, the heartbeat, the flusher, the pool."""
        self._ownership.register()
        self._heartbeat.start()
        self.flusher.start()
        self._pool.open()

    def _end(self) -> None:
        self._dispatcher.stop()
        self._pool.shut_down()
        self.flusher.stop()
        self._heartbeat.stop()
        self.flusher.log_errors()
        self._put_back_strays()

    def _end_reaper(self) -> None:
        with self._lifecycle.ending():
            self._reaper.stop()

    def _put_back_strays(self) -> None:
        """Put back runs that a Ctrl-C in a caller's thread left claimed and not executed."""
        owner = self.owner_number
        if owner is None or self.lost is not None:
            return
        try:
            if self._store.owns_running(owner):
                self._store.requeue(OwnerIdle(owner), self._services.clock.now_us())
        except DatabaseError as exc:
            # The engine that finds this one's lock free will put them back.
            log.warning("could not put back what was claimed: %s", exc)

    # -- executing -----------------------------------------------------------------------

    def process_one(self) -> bool:
        """Claim and execute one run in the calling thread; return ``False`` if there was none."""
        return self._lifecycle.holding(self._process_one)

    def _process_one(self) -> bool:
        self._reaper.recover()
        claim = self._pool.claim(1)
        if claim is None or not self._pool.can_claim():
            return False
        claimed = self._store.claim(claim)
        if not claimed:
            return False
        self._pool.execute_here(claimed[0])
        return True

    def run_until_idle(self, max_runs: int | None) -> int:
        """Execute runs on the pool until none can be claimed, and return how many."""
        self._refuse_inside("run_until_idle")
        stops = self._drain.stops
        return self._lifecycle.holding(lambda: self._run_until_idle(max_runs, stops))

    def _run_until_idle(self, max_runs: int | None, stops: int) -> int:
        self._reaper.recover()
        return self._drain.run(max_runs, stops)

    def drain(self) -> None:
        """Block until nothing executes here and nothing can be claimed.

        Raises:
            DatabaseError: the dispatcher cannot claim; nothing executes any more.
            ConflictError: called from inside a job or a listener.
        """
        self._refuse_inside("waiting for all runs")
        # A handler of SIGTERM may have brought the main thread here: a run that fails because of
        # the signal goes back, once, and is executed again.
        self._pool.note_stop()
        self._drain.wait()

    # -- callbacks of the threads ---------------------------------------------------------

    def _owner(self) -> int:
        return self._ownership.owner or 0

    def _look_at_file(self) -> None:
        if self.lost is None:
            self._check(self._store.check_in_place)
            self._check(self._store.check_log)

    def _on_unregistered(self) -> None:
        """Stop the runs and register again: another engine found this one dead and has its runs."""
        self._pool.stop_runs(OwnershipLost)
        self._ownership.renew()
        if self._is_started:
            self._ownership.announce_started()

    def _on_error(self, exc: BaseException, context: str) -> None:
        tell_worker_error(self._services.emitter, exc, f"the {context} thread")

    def _on_heartbeat_error(self, exc: BaseException, context: str) -> None:
        # Emitted by another thread: a listener that blocks must not stop the heartbeat.
        self.flusher.report(exc, f"the {context} thread")
