"""The supervisor: the pool, the threads around it, and the order in which they start and stop.

Order of a stop: no more claims; the running runs end, or stop at their next boundary and are
put back; the heartbeat goes on until the last one has ended; then the threads end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
from ulid import ULID

from durably.active import ActiveRun, Services, tell_worker_error
from durably.clock import Clock
from durably.errors import (
    ConflictError,
    DatabaseError,
    DatabaseLostError,
    EngineClosedError,
    ForkedError,
    OwnershipLost,
    RunInterrupted,
    StopRun,
    WaitTimeoutError,
)
from durably.jobs import Registry
from durably.settings import Settings
from durably.store import owners, runs
from durably.store.database import Database
from durably.store.runs import Claim, Ending, RunRow
from durably.worker import liveness
from durably.worker.dispatcher import Dispatcher
from durably.worker.execution import Execution
from durably.worker.flusher import Flusher
from durably.worker.heartbeat import Heartbeat
from durably.worker.liveness import OwnerLock
from durably.worker.reaper import Reaper

# How often the reaper looks whether an owner has died; looking costs microseconds.
REAP_INTERVAL_S = 0.25
_DRAIN_LOOK_S = 0.05
_FORKED_EXIT_STATUS = 70

log = logging.getLogger("durably")

T = TypeVar("T")


@attrs.frozen
class _Registration:
    """This engine's row in the database and the lock that proves it alive."""

    owner: int
    lock: OwnerLock


class _Inside(threading.local):
    """What of this engine the present thread is inside of: jobs, and calls that execute runs."""

    depth = 0
    holds = 0


class Supervisor:
    """Runs the threads of one engine. Usable from any thread."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        registry: Registry,
        flusher: Flusher,
        labels_of: Callable[[RunRow], dict[str, str]],
    ) -> None:
        self._settings = settings
        self._services = services
        self._registry = registry
        self._flusher = flusher
        self._labels_of = labels_of
        self._database: Database = services.database
        self._clock: Clock = services.clock
        # Serialises starting and ending the threads. Never taken by one of them. Guards the
        # holds and whether it is closed; notified when a hold ends.
        self._lifecycle = threading.Condition(threading.RLock())
        # Serialises registering; the heartbeat thread registers anew.
        self._registering = threading.Lock()
        self._registration: _Registration | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._holds = 0
        self._is_closed = False
        # Guards all below down to the budget; notified when a run leaves or a slot gets free.
        self._state = threading.Condition()
        self._active: dict[tuple[int, int], ActiveRun] = {}
        self._busy_slots = 0
        self._is_started = False
        self._is_draining = False
        self._is_interrupting = False
        self._executed = 0
        self._budget: int | None = None
        self._inside = _Inside()
        self.lost: DatabaseLostError | None = None
        self._heartbeat = Heartbeat(
            self._database,
            owner=self._owner,
            active=self.active,
            on_unregistered=self._on_unregistered,
            look_at_file=self._look_at_file,
            clock=self._clock,
            interval_s=settings.heartbeat_interval,
            on_error=self._on_heartbeat_error,
        )
        self._reaper = Reaper(
            self._database,
            owner=self._owner,
            committed_beats=lambda: self._heartbeat.committed,
            emitter=services.emitter,
            changes=services.changes,
            labels_of=labels_of,
            clock=self._clock,
            interval_s=min(REAP_INTERVAL_S, settings.poll_interval),
            heartbeat_interval_s=settings.heartbeat_interval,
            stale_threshold_s=settings.stale_threshold,
            retain_runs=settings.retain_runs,
            on_error=self._on_error,
        )
        self._dispatcher = Dispatcher(
            self._database,
            changes=services.changes,
            reserve_slots=self._reserve_slots,
            free_slots=self._return_slots,
            hand_over=self._hand_over,
            clock=self._clock,
            poll_interval_s=settings.poll_interval,
            on_error=self._on_error,
        )

    # -- what others ask -----------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether this engine claims runs by itself."""
        return self._is_started

    @property
    def is_draining(self) -> bool:
        """Whether nothing is claimed although the engine was started: a stop timed out."""
        return self._is_draining

    def active(self) -> list[ActiveRun]:
        """The runs that are inside their jobs here."""
        with self._state:
            return list(self._active.values())

    def is_executing(self, run_id: str) -> bool:
        """Whether that run is inside its job here, or its end is still being told.

        One that was taken over ends elsewhere, however long its job goes on here.
        """
        return any(
            active.id == run_id and active.stop_reason is not OwnershipLost
            for active in self.active()
        )

    @property
    def owner_number(self) -> int | None:
        """The number of this engine's owner row, if it has one now."""
        registration = self._registration
        return None if registration is None else registration.owner

    def stop_run(self, run_id: str, reason: type[StopRun]) -> None:
        """Have the run stop at its next step boundary, if it is executed here."""
        for active in self.active():
            if active.id == run_id:
                active.stop(reason)

    def check_in_place(self) -> None:
        """Notice that the file is gone; then nothing is claimed any more.

        Raises:
            DatabaseLostError: now, or at an earlier look.
        """
        if self.lost is not None:
            raise self.lost
        try:
            self._database.check_in_place()
        except DatabaseLostError as exc:
            self.lost = exc
            with self._state:
                self._is_draining = True
            # What they stored goes with the file, if it was only moved: put back there.
            for active in self.active():
                active.stop(RunInterrupted)
            self._services.changes.notify()
            raise

    def _look_at_file(self) -> None:
        if self.lost is None:
            self.check_in_place()

    # -- lifecycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Recover what dead processes left behind, then start the threads. Idempotent."""
        with self._lifecycle:
            if self._is_started and not self._is_draining:
                return
            if self._is_started:
                # A stop had timed out: the threads are there.
                self._database.write(owners.set_started, self._owner(), is_started=True)
            else:
                self._start_threads()
            with self._state:
                self._is_draining = self._is_interrupting = False
                self._is_started = True
                self._budget = None
            self._dispatcher.wake()

    def _start_threads(self) -> None:
        self._begin()
        try:
            self._database.write(owners.set_started, self._owner(), is_started=True)
            self._reaper.start()
            self._dispatcher.start()
        except BaseException:
            self._dispatcher.stop()
            self._reaper.stop()
            self._end()
            raise

    def stop(self, *, interrupt: bool, timeout_s: float | None, verb: str = "stop") -> None:
        """Wait for the runs in progress, then end the threads. Idempotent.

        Args:
            verb: what the caller was asked to do, for the message of a refusal.

        Raises:
            WaitTimeoutError: they did not end in time; they go on, and nothing new is claimed.
            ConflictError: called from inside a job or a listener.
        """
        self._refuse_inside(verb)
        with self._state:
            was_started = self._is_started
            self._is_draining = True
            if interrupt:
                # Also for those that were claimed and are not inside their jobs yet.
                self._is_interrupting = True
        if interrupt:
            for active in self.active():
                active.stop(RunInterrupted)
        self._services.changes.notify()
        if not self._wait_until_idle(timeout_s):
            if was_started:
                # Who waits for a pending run elsewhere must not count on this engine.
                self._write_if_possible(owners.set_started, self._owner(), is_started=False)
            left = len(self.active())
            raise WaitTimeoutError(
                f"{left} {'run is' if left == 1 else 'runs are'} still executing after "
                f"{timeout_s} s; they go on, and nothing new is claimed until start()"
            )
        with self._lifecycle:
            if was_started and self._is_started:
                self._dispatcher.stop()
                self._reaper.stop()
                self._write_if_possible(owners.set_started, self._owner(), is_started=False)
                with self._state:
                    self._is_started = False
                self._end()
        with self._state:
            self._is_interrupting = False

    def close(self) -> None:
        """Give up the owner row and its lock, once nothing of this engine needs them any more."""
        with self._lifecycle:
            self._is_closed = True
        # Another thread may have started it since it was stopped.
        self.stop(interrupt=False, timeout_s=None, verb="close")
        with self._lifecycle:
            # Other threads may be inside run_until_idle or process_one. This one as well, if
            # a signal handler of it closes the engine: it must not wait for itself.
            self._lifecycle.wait_for(lambda: self._holds <= self._inside.holds)
            registration, self._registration = self._registration, None
            if registration is None:
                return
            is_removed = self.lost is not None
            try:
                if not is_removed:
                    is_removed = bool(self._write_if_possible(owners.remove, registration.owner))
            finally:
                if is_removed:
                    registration.lock.release()
                else:
                    # A run that could not be put back is recovered by whoever sees the lock
                    # free, and so is a row that could not be removed.
                    registration.lock.abandon()

    def _write_if_possible(self, operation: Callable[..., T], *args: Any, **kw: Any) -> T | None:
        """Sign off; others find it out by themselves in the end, so failing at it stops nobody."""
        if self.lost is not None:
            return None
        try:
            return self._database.write(operation, *args, **kw)
        except DatabaseError as exc:
            log.warning("could not sign off: %s", exc)
            return None

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is inside a job or a listener of this engine."""
        return self._inside.depth > 0 or self._services.emitter.is_inside_listener

    def _refuse_inside(self, verb: str) -> None:
        if self.is_inside:
            raise ConflictError(
                f"{verb} was called from inside a job or a listener, and would wait for itself; "
                "call it from another thread"
            )

    def _wait_until_idle(self, timeout_s: float | None) -> bool:
        with self._state:
            return self._state.wait_for(
                lambda: not self._active and not self._busy_slots, timeout_s
            )

    def _begin(self) -> None:
        """Start what every execution needs: an owner, its heartbeat, the flusher, the pool."""
        with self._lifecycle:
            if self._is_closed:
                raise EngineClosedError(
                    f"this engine on {self._database.path!r} is closed; open a new one"
                )
            self._holds += 1
            if self._holds > 1:
                return
            try:
                self._register()
                self._heartbeat.start()
                self._flusher.start()
                self._pool = ThreadPoolExecutor(
                    self._settings.max_workers, thread_name_prefix="durably-worker"
                )
                self._reaper.recover()
            except BaseException:
                self._end()
                raise

    def _end(self) -> None:
        with self._lifecycle:
            try:
                if self._holds > 1:
                    return
                if self._pool is not None:
                    self._pool.shutdown(wait=True)
                    self._pool = None
                self._flusher.stop()
                self._heartbeat.stop()
            finally:
                self._holds -= 1
                self._lifecycle.notify_all()

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._begin()
        self._inside.holds += 1
        try:
            yield
        finally:
            self._inside.holds -= 1
            self._end()

    def _register(self) -> None:
        with self._registering:
            if self._registration is None:
                self._registration = self._registered()

    def _registered(self) -> _Registration:
        token = str(ULID())
        # The lock first: a row whose lock is free belongs to the dead.
        lock = OwnerLock.acquire(self._database.path, token)
        try:
            owner = self._database.write(
                owners.register,
                token=token,
                boot_id=liveness.current_boot_id(),
                pid=os.getpid(),
                heartbeat_interval_us=max(1, int(self._settings.heartbeat_interval * 1e6)),
                now_us=self._clock.now_us(),
            )
        except BaseException:
            lock.release()
            raise
        return _Registration(owner, lock)

    def _owner(self) -> int:
        registration = self._registration
        return 0 if registration is None else registration.owner

    def _on_unregistered(self) -> None:
        """Others took this engine for dead: what it was executing is theirs now."""
        for active in self.active():
            active.stop(OwnershipLost)
        with self._registering:
            old, self._registration = self._registration, None
            if old is not None:
                old.lock.release()
            self._registration = self._registered()
        if self._is_started:
            self._database.write(owners.set_started, self._owner(), is_started=True)

    def _on_error(self, exc: BaseException, context: str) -> None:
        tell_worker_error(self._services.emitter, exc, f"the {context} thread")

    def _on_heartbeat_error(self, exc: BaseException, context: str) -> None:
        # Told by another thread: a listener that blocks must not stop the heartbeat.
        self._flusher.report(exc, f"the {context} thread")

    # -- executing -----------------------------------------------------------------------

    def _reserve_slots(self) -> Claim | None:
        """Take every free slot and say what to claim for them, if anything is to be claimed."""
        with self._state:
            free = self._settings.max_workers - self._busy_slots
            if self._budget is not None:
                free = min(free, self._budget)
            if free <= 0 or self._is_draining:
                return None
            claim = self._claim(free)
            if claim is not None:
                self._busy_slots += free
                if self._budget is not None:
                    self._budget -= free
            return claim

    def _return_slots(self, slots: int) -> None:
        """Give back slots for which there was no run to claim."""
        with self._state:
            if self._budget is not None:
                self._budget += slots
        self._free_slots(slots)

    def _free_slots(self, slots: int) -> None:
        with self._state:
            self._busy_slots -= slots
            self._state.notify_all()

    def _claim(self, limit: int) -> Claim | None:
        names = self._registry.names
        if not names or self._registration is None:
            return None
        return Claim(self._owner(), json.dumps(names), self._clock.now_us(), limit)

    def _claim_next(self) -> Claim | None:
        """What a pool thread that ends a run claims with it."""
        with self._state:
            # Where the runs are counted only the thread that counts them claims.
            if self._is_draining or self._budget is not None:
                return None
        return self._claim(1)

    def _hand_over(self, row: RunRow) -> None:
        active = self._enter(row)
        pool = self._pool
        try:
            if pool is not None:
                pool.submit(self._work, active)
                return
        except RuntimeError:
            # The interpreter is ending and takes no more work.
            log.debug("run %s was claimed too late to be executed", active.id)
        try:
            self._put_back(active)
        finally:
            self._free_slots(1)

    def _put_back(self, active: ActiveRun) -> None:
        ending = Ending(active.key, active.attempt, None, None, None, True, self._clock.now_us())
        try:
            self._database.write(runs.finish, ending, None)
        finally:
            self._leave(active)

    def _enter(self, row: RunRow, *, is_callers: bool = False) -> ActiveRun:
        active = ActiveRun(row, self._labels_of(row), self._owner(), is_callers=is_callers)
        with self._state:
            self._active[active.key, active.attempt] = active
            self._executed += 1
            if self.lost is not None or (self._is_interrupting and not is_callers):
                active.stop(RunInterrupted)
        return active

    def _leave(self, active: ActiveRun) -> None:
        with self._state:
            del self._active[active.key, active.attempt]
            self._state.notify_all()
        self._services.changes.notify()

    def _work(self, active: ActiveRun) -> None:
        """What a pool thread does: execute, and go on with the run claimed at the end."""
        following: ActiveRun | None = active
        try:
            while following is not None:
                current, following = following, None
                try:
                    following = self._execute(current, self._claim_next)
                except ForkedError as exc:
                    _end_forked_child(exc)
                except Exception as exc:  # noqa: BLE001 - a pool thread must give its slot back
                    self._on_error(exc, "worker")
        finally:
            self._free_slots(1)
            self._services.changes.notify()

    def _execute(
        self, active: ActiveRun, claim_next: Callable[[], Claim | None]
    ) -> ActiveRun | None:
        following: ActiveRun | None = None
        self._inside.depth += 1
        try:
            job = self._registry.require(active.job_name)
            execution = Execution(active, job, self._services, self._flusher, claim_next)
            claimed = execution.execute()
            if claimed is not None:
                following = self._enter(claimed)
            execution.tell()
        except BaseException:
            if following is not None:
                self._put_back(following)
            raise
        finally:
            self._inside.depth -= 1
            active.is_over = True
            if os.getpid() == active.pid:
                self._leave(active)
        return following

    def process_one(self) -> bool:
        """Claim and execute one run in the calling thread; ``False`` if there was none."""
        with self._held():
            claim = self._claim(1)
            if claim is None or not self._database.read(runs.has_claimable, claim.jobs):
                return False
            claimed = self._database.write(runs.claim, claim)
            if not claimed:
                return False
            self._execute(self._enter(claimed[0], is_callers=True), lambda: None)
            return True

    def run_until_idle(self, max_runs: int | None) -> int:
        """Execute runs on the pool until none can be claimed; say how many."""
        self._refuse_inside("run_until_idle")
        with self._held():
            with self._state:
                before = self._executed
                if not self._is_started:
                    self._is_draining = self._is_interrupting = False
                    self._budget = max_runs
            try:
                self.drain(lambda: max_runs is not None and self._executed - before >= max_runs)
            except BaseException:
                self._interrupt_unless_started()
                raise
            finally:
                with self._state:
                    self._budget = None
            return self._executed - before

    def _interrupt_unless_started(self) -> None:
        """A Ctrl-C: what was begun for the caller goes back, and is waited for."""
        if self._is_started:
            return
        with self._state:
            self._is_draining = self._is_interrupting = True
        for active in self.active():
            active.stop(RunInterrupted)
        self._wait_until_idle(None)

    def drain(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Block until nothing executes here and nothing can be claimed, or it is enough."""
        while True:
            self.check_in_place()
            seen = self._services.changes.look()
            if not is_enough() and not self._is_draining:
                self._dispatcher.dispatch()
            with self._state:
                is_idle = not self._active and not self._busy_slots
                is_over = self._is_draining or is_enough()
            if is_idle and (is_over or not self._can_claim()):
                return
            # Not for long: a slot that another thread had reserved in vain is told to nobody.
            self._services.changes.wait(seen, _DRAIN_LOOK_S)

    def _can_claim(self) -> bool:
        claim = self._claim(1)
        return claim is not None and self._database.read(runs.has_claimable, claim.jobs)


def _end_forked_child(exc: ForkedError) -> None:
    """End a child that a job forked, in the copy of a pool thread that it woke up in.

    Coming back from here it would go on as a second pool thread of an engine that is the
    parent's, and the process would never end.
    """
    sys.stderr.write(f"durably: {exc}\n")
    sys.stderr.flush()
    os._exit(_FORKED_EXIT_STATUS)
