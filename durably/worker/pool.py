"""The pool executes claimed runs, a bounded number at once, and knows which are in their jobs."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from durably import events
from durably._platform.latch import Wakeups
from durably._platform.signals import LOOK_S
from durably.errors import DatabaseError, ForkedError, RunInterrupted, StopRun
from durably.execution.current_run import ActiveRun, Services, Slot
from durably.execution.run_execution import Execution
from durably.job_registry import JobRegistry
from durably.store.api import Store
from durably.store.rows import Claim, RunRow
from durably.worker.contexts import ExecutionContexts
from durably.worker.service import ErrorSink
from durably.worker.settling import Settling
from durably.worker.threads import WorkerThreads

log = logging.getLogger("durably")

LabelsOf = Callable[[RunRow], dict[str, str]]

_FORKED_EXIT_STATUS: Final = 70
# The events that a thread of the pool may emit after it has stored the end of a run.
_TOLD_AT_AN_END: Final = (
    events.RunProgressed,
    events.RunCompleted,
    events.RunFailed,
    events.RunInterrupted,
)


class _Thread(threading.local):
    """The state of the current thread in this engine."""

    depth = 0  # how many of the engine's jobs it is inside
    active: ActiveRun | None = None  # the run of the innermost one
    has_slot = False
    is_waiting = False
    claims_since = -math.inf  # when it last began a claim, by the clock


class Pool:
    """Execute runs on threads of its own, and single ones in the caller's thread.

    A slot is reserved before a run is claimed for it, so that nothing is claimed that cannot
    start at once. While it is *draining* nothing is claimed; it drains until ``resume`` is called.
    While it is *interrupting*, a run that was claimed a moment ago is put back at its first step
    boundary as well.

    Args:
        owner: returns the number of this engine's owner row, if it has one.
        contexts: calls each execution in a context of its own.
        on_none_claimable: called when no run could be claimed.
    """

    def __init__(
        self,
        max_workers: int,
        *,
        store: Store,
        services: Services,
        settling: Settling,
        registry: JobRegistry,
        labels_of: LabelsOf,
        owner: Callable[[], int | None],
        contexts: ExecutionContexts,
        on_none_claimable: Callable[[], None],
        on_error: ErrorSink,
    ) -> None:
        self._max_workers = max_workers
        self._store = store
        self._changes = store.changes
        self._services = services
        self._settling = settling
        self._registry = registry
        self._labels_of = labels_of
        self._owner = owner
        self._contexts = contexts
        self._on_none_claimable = on_none_claimable
        self._on_error = on_error
        self._threads = WorkerThreads(self._work, "durably-worker", max_workers)
        self._thread = _Thread()
        # Woken when a run leaves or a slot gets free.
        self._changed = Wakeups()
        # Guards all below. A change that an exception of a signal must not leave half done is one
        # atomic operation.
        self._lock = threading.RLock()
        self._active: dict[tuple[int, int], ActiveRun] = {}
        # The reasons to stop runs that have not entered yet, by run and fence.
        self._stopped_early: dict[tuple[int, int], type[StopRun]] = {}
        # The slots that are taken; and of these, those that are reserved for the current claim.
        self._slots: set[Slot] = set()
        self._reserved: list[Slot] = []
        # How many of the taken slots have jobs that wait for runs.
        self._waiting_slots = 0
        self._is_draining = True
        # Whether a slot was wanted and none was free, since the last one got free.
        self._is_slot_wanted = False
        self._is_interrupting = False
        # Whether it drains because of a stop, and not because there are no runs.
        self._is_told_to_stop = False
        # How many runs may still be claimed; None for no limit.
        self._budget: int | None = None
        self.executed = 0  # in slots
        self.entered = 0  # also in threads of callers
        # The value of ``executed`` when the budget is used up.
        self._most_executed = math.inf

    # -- what it is doing ------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        """Whether nothing is claimed."""
        return self._is_draining

    @property
    def is_inside_job(self) -> bool:
        """Whether the calling thread is inside a job of this engine."""
        return self._thread.depth > 0

    @property
    def is_current_thread(self) -> bool:
        """Whether the calling thread is one of this pool's."""
        return self._thread.has_slot

    @property
    def is_idle(self) -> bool:
        """Whether no run is inside its job or about to be."""
        return self._has_none()

    @property
    def is_only_claiming(self) -> bool:
        """Whether no run is inside its job, and all taken slots wait for a claim."""
        with self._lock:
            return not self._active and len(self._slots) == len(self._reserved)

    def is_idle_since(self, entered: int) -> bool:
        """Return whether it is idle, and no run has entered since ``entered`` had that value."""
        with self._lock:
            return self._has_none() and self.entered == entered

    def active(self) -> list[ActiveRun]:
        """Return the runs that are inside their jobs here."""
        with self._lock:
            return list(self._active.values())

    @property
    def is_stuck(self) -> bool:
        """Whether every slot has a job that waits for a run, so that none can be executed here."""
        with self._lock:
            return self._waiting_slots >= self._max_workers and not any(
                active.is_callers for active in self._active.values()
            )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark that the calling thread waits for a run, if it executes a job in a slot."""
        thread = self._thread
        if not thread.has_slot or thread.is_waiting:
            try:
                yield
            except BaseException as exc:
                if thread.active is not None:
                    thread.active.keep_callers_signal(exc)
                raise
            return
        thread.is_waiting = True
        with self._lock:
            self._waiting_slots += 1
        try:
            yield
        finally:
            thread.is_waiting = False
            with self._lock:
                self._waiting_slots -= 1

    def stop_runs(self, reason: type[StopRun]) -> None:
        """Stop all runs at their next step boundary."""
        for active in self.active():
            active.stop(reason)

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Stop this claim of a run at its next step boundary, if it is executed here."""
        place = row.run, row.fence
        with self._lock:
            active = self._active.get(place)
            if active is None and row.owner is not None and row.owner == self._owner():
                # It was claimed and is about to enter; or it has just left, and this claim never
                # enters again.
                self._stopped_early[place] = reason
        if active is not None:
            active.stop(reason)

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if the calling thread executes a job whose run is to stop.

        Waiting for a run is a step boundary of the job. A listener's call raises nothing.

        Args:
            is_futile: whether the wait cannot succeed; the run goes back if the engine is stopping.
        """
        active = self._thread.active
        if self._services.emitter.is_inside_listener:
            return
        if active is None:
            if is_futile:
                self._note_futile_wait()
            return
        if is_futile and self._is_stopping(active):
            active.stop(RunInterrupted)
        active.check()

    def _note_futile_wait(self) -> None:
        """Note that a stop ends a wait in a thread that a job of any run may have started.

        The wait raises an error there, which the job may swallow as it may swallow a stop.
        """
        for active in self.active():
            if active.stop_reason is RunInterrupted:
                active.stop_was_raised = True

    def _is_stopping(self, active: ActiveRun) -> bool:
        """Return whether the run is in a slot and nothing else is claimed any more."""
        return self._is_draining and not active.is_callers

    # -- opening and draining --------------------------------------------------------------

    def open(self) -> None:
        """Make the pool of threads, which start when they are needed."""
        self._threads.end()  # a signal may have interrupted the last end
        self._threads = WorkerThreads(self._work, "durably-worker", self._max_workers)
        with self._lock:
            self._stopped_early.clear()

    def leave(self) -> None:
        """Allow the interpreter to end without waiting for the threads or their runs."""
        self._threads.leave()

    def shut_down(self) -> None:
        """End the threads, which must have nothing left to do."""
        self._threads.end()

    def resume(self, budget: int | None = None) -> None:
        """Claim again, at most *budget* runs."""
        with self._lock:
            self._is_draining = self._is_interrupting = self._is_told_to_stop = False
            self._budget = budget
            self._most_executed = math.inf if budget is None else self.executed + budget
        for active in self.active():
            active.drain(is_draining=False)

    def drain(self, *, interrupt: bool) -> None:
        """Claim nothing more; with *interrupt*, stop the runs at their next step boundary."""
        with self._lock:
            self._is_draining = True
            if interrupt:
                # Also for runs that were claimed and are not inside their jobs yet.
                self._is_interrupting = True
        if interrupt:
            self.stop_runs(RunInterrupted)
        self._changes.notify()

    def stop(self, *, interrupt: bool) -> None:
        """Drain because of a stop; a run that fails of the same signal goes back to pending."""
        with self._lock:
            self._is_told_to_stop = True
        self.drain(interrupt=interrupt)
        self.note_stop()

    def note_stop(self) -> None:
        """Note in the runs that are inside their jobs that a signal may be ending this process."""
        for active in self.active():
            active.drain(is_draining=True)

    def end_interrupt(self) -> None:
        """End the interruption: runs that enter their jobs from now on are not stopped."""
        with self._lock:
            self._is_interrupting = self._is_told_to_stop = False

    def come_to_rest(self) -> bool:
        """Claim nothing more, and return whether no slot is taken, so that none will be."""
        with self._lock:
            self._is_draining = True
            return not self._slots

    def wait_until_idle(self, look: Callable[[], None], deadline: float = math.inf) -> bool:
        """Block until no run is inside its job; return ``False`` if the deadline was before that.

        Args:
            look: called now and then.
            deadline: by the clock's ``monotonic``.
        """
        clock = self._services.clock
        while True:
            left_s = max(0.0, min(LOOK_S, deadline - clock.monotonic()))
            if self._changed.wait_until(self._has_none, left_s):
                return True
            if clock.monotonic() >= deadline:
                return False
            look()

    def _has_none(self) -> bool:
        with self._lock:
            return not self._active and not self._slots

    # -- claiming --------------------------------------------------------------------------

    def claim(self, limit: int) -> Claim | None:
        """Return the claim for *limit* runs, ``None`` if this engine cannot claim."""
        claimed, owner = self._registry.claimed, self._owner()
        if claimed is None or owner is None:
            return None
        self._thread.claims_since = self._services.clock.monotonic()
        return Claim(
            owner,
            claimed.jobs,
            self._services.clock.now_us,
            limit,
            inside=self._inside,
            origins=claimed.origins,
        )

    def _inside(self) -> str:
        """Return the keys of the runs whose jobs are executed here, as a JSON array.

        A run that others have put back meanwhile is not claimed before its old job has left.
        """
        with self._lock:
            return str([active.run_pk for active in self._active.values() if not active.is_over])

    def _claim_for_slots(self, limit: int) -> Claim | None:
        """Return a claim for slots, which claims nothing once the pool drains."""
        claim = self.claim(limit)
        return None if claim is None else claim._replace(is_wanted=self._takes_runs)

    def _takes_runs(self) -> bool:
        return not self._is_draining

    def can_claim(self) -> bool:
        """Return whether there is a run that this engine could execute now."""
        claim = self.claim(1)
        if claim is None:
            return False
        is_there = self._store.has_claimable(claim)
        if not is_there:
            self._on_none_claimable()
        return is_there

    @property
    def may_claim(self) -> bool:
        """Whether runs are claimed now, as soon as there are slots."""
        return not self._is_draining and self.executed < self._most_executed

    def want_slot(self) -> None:
        """Make the thread that frees the next slot claim a run for it."""
        with self._lock:
            self._is_slot_wanted = True

    def has_free_slot(self) -> bool:
        """Return whether a slot is free; if not, the dispatcher is woken when one is."""
        with self._lock:
            self._is_slot_wanted = self._is_draining or len(self._slots) >= self._max_workers
            return not self._is_slot_wanted

    def reserve_slot(self, slot: Slot) -> Claim | None:
        """Take *slot*, if one is free, and return what to claim for it; for any thread.

        Return ``None`` if none is free, or nothing is to be claimed. The caller then calls
        ``begin`` or ``return_slot``, wherever a signal may have interrupted it.
        """
        with self._lock:
            if self._budget is not None or self._is_draining or not self._free_slots():
                self._is_slot_wanted = True
                return None
            claim = self._claim_for_slots(1)
            if claim is not None:
                self._slots.add(slot)
            return claim

    def return_slot(self, slot: Slot) -> None:
        """Return *slot* to the pool, if it was taken."""
        with self._lock:
            if slot not in self._slots:
                return
            self._slots.discard(slot)
            is_wanted, self._is_slot_wanted = self._is_slot_wanted, False
        self._changed.wake_all()
        if is_wanted:
            self._changes.wake_claimer()

    def _free_slots(self) -> int:
        return self._max_workers - len(self._slots)

    def reserve_slots(self) -> Claim | None:
        """Take the free slots and return what to claim for them; for one thread, which claims.

        Return ``None`` if none is free, or nothing is to be claimed. The caller hands over the
        claimed runs, and returns the other slots.
        """
        with self._lock:
            free = self._free_slots()
            if self._budget is not None:
                free = min(free, self._budget)
            if free <= 0 or self._is_draining:
                self._is_slot_wanted = True
                return None
            claim = self._claim_for_slots(free)
            if claim is not None:
                self._reserved = [Slot() for _ in range(claim.limit)]
                self._slots.update(self._reserved)
                if self._budget is not None:
                    self._budget -= claim.limit
            return claim

    def return_slots(self, slots: int) -> None:
        """Return slots for which there was no run to claim."""
        with self._lock:
            if self._budget is not None:
                self._budget += slots
            returned = [self._reserved.pop() for _ in range(slots)]
        for slot in returned:
            self.return_slot(slot)

    def _claim_next(self) -> Claim | None:
        """Return what a pool thread that ends a run claims in the same transaction, if anything."""
        emitter = self._services.emitter
        if emitter.has_listeners and (
            # A listener may block, or wait for that very run: another slot may be free before.
            any(map(emitter.wants, _TOLD_AT_AN_END))
            # The event of a trigger comes before the one of the run's start.
            or emitter.is_announcing_any
        ):
            return None
        with self._lock:
            # If no slot was wanted, no run waits for one. A budget is counted by the dispatcher,
            # which alone claims then.
            if not self._is_slot_wanted or self._is_draining or self._budget is not None:
                return None
        return self._claim_for_slots(1)

    # -- executing -------------------------------------------------------------------------

    def hand_over(self, row: RunRow) -> bool:
        """Hand a claimed run to a thread of the pool, in a slot that was reserved.

        Returns:
            Whether it was; if no thread can be started, it was put back and its slot is free.
        """
        slot = self._reserved.pop()
        self.enter(row, slot)
        return self.begin(slot)

    def enter(self, row: RunRow, slot: Slot) -> None:
        """Put a claimed run into *slot*, for ``begin``."""
        slot.active = self._active_of(row)
        self._add(slot.active)

    def begin(self, slot: Slot) -> bool:
        """Execute the run of a slot, as ``hand_over`` does. Idempotent."""
        if slot.active is None or slot.active.is_begun:
            return True
        self._add(slot.active)
        self._threads.put(slot)
        if self._has_enough_threads():
            return True
        return self._make_threads_for(slot)

    def _has_enough_threads(self) -> bool:
        return len(self._threads) >= len(self._slots) - len(self._reserved)

    def _make_threads_for(self, slot: Slot) -> bool:
        try:
            with self._lock:
                size = min(self._max_workers, len(self._slots) - len(self._reserved))
            self._threads.grow(size)
        except RuntimeError as exc:
            # The interpreter is ending and starts none, or there is no memory for another.
            log.warning("no thread can be started for a run: %s", exc)
        else:
            return True
        # An existing thread may have begun it.
        if slot.active is None or not self._take(slot.active):
            return True
        try:
            self._put_back(slot.active)
        finally:
            self.return_slot(slot)
        return False

    def _take(self, active: ActiveRun) -> bool:
        """Take a run that was handed over; return ``False`` if another thread took it before."""
        with self._lock:
            is_begun, active.is_begun = active.is_begun, True
        return not is_begun

    def execute_here(self, row: RunRow) -> None:
        """Execute a claimed run in the calling thread."""
        active = self._active_of(row, is_callers=True)
        try:
            self._add(active)
            self._execute(active, lambda: None)
        except BaseException:
            # Also if it came before the execution began, or while its end was stored.
            self._put_back_if_possible(active)
            raise
        finally:
            self._leave(active)

    def _active_of(self, row: RunRow, *, is_callers: bool = False) -> ActiveRun:
        """Return the ``ActiveRun`` of a run that this thread has claimed."""
        active = ActiveRun(row, self._labels_of(row), is_callers=is_callers)
        active.current_at = self._thread.claims_since
        return active

    def _add(self, active: ActiveRun) -> None:
        """Add a run that is about to be inside its job. Idempotent."""
        place = active.run_pk, active.fence
        with self._lock:
            if active.is_begun:
                return
            if place not in self._active:
                self.entered += 1
                self._active[place] = active
            stop_reason = self._stopped_early.get(place)
            if stop_reason is None and self._is_interrupting and not active.is_callers:
                stop_reason = RunInterrupted
            is_draining = self._is_told_to_stop and not active.is_callers
        if is_draining:
            active.drain(is_draining=True)
        if stop_reason is not None:
            active.stop(stop_reason)
            self._stopped_early.pop(place, None)

    def _leave(self, active: ActiveRun) -> None:
        if os.getpid() != active.pid:
            return
        with self._lock:
            self._active.pop((active.run_pk, active.fence), None)
        self._changed.wake_all()
        self._changes.notify()

    def _put_back_if_possible(self, active: ActiveRun) -> None:
        if os.getpid() != active.pid:
            return
        try:
            self._put_back(active)
        except DatabaseError as exc:
            # The heartbeat will put it back, or an engine that finds this one's lock free.
            log.warning("could not put back run %s: %s", active.id, exc)

    def _put_back(self, active: ActiveRun) -> None:
        try:
            self._settling.put_back(active)
        finally:
            self._leave(active)

    def _work(self, slot: Slot) -> None:
        """Execute the run of a slot in a pool thread, then each run that its end has claimed."""
        active = slot.active
        if active is None or not self._take(active):
            return
        self._thread.has_slot = True
        following: ActiveRun | None = active
        try:
            while following is not None:
                current, following = following, None
                self.executed += 1
                try:
                    following = self._execute(current, self._claim_next)
                except ForkedError as exc:
                    _end_forked_child(exc)
                except Exception as exc:  # noqa: BLE001 - a pool thread must return its slot
                    self._on_error(exc, "worker")
        finally:
            self.return_slot(slot)
            self._changes.notify()

    def _execute(
        self, active: ActiveRun, claim_next: Callable[[], Claim | None]
    ) -> ActiveRun | None:
        return self._contexts.call(lambda: self._execute_here(active, claim_next))

    def _execute_here(
        self, active: ActiveRun, claim_next: Callable[[], Claim | None]
    ) -> ActiveRun | None:
        following: ActiveRun | None = None
        thread = self._thread
        outer, depth = thread.active, thread.depth
        try:
            thread.active, thread.depth = active, depth + 1
            job = self._registry.require(active.job_name)
            execution = Execution(
                active, job, self._services, is_stopping=lambda: self._is_stopping(active)
            )
            settled = self._settling.settle(active, execution.execute(), claim_next)
            if settled.claimed is not None:
                following = self._active_of(settled.claimed)
                self._add(following)
                following.is_begun = True
            settled.emit()
            active.raise_callers_signal()
        except BaseException:
            if following is not None:
                self._put_back(following)
            raise
        finally:
            # Assigned, not counted down: a signal may interrupt the thread of a caller anywhere.
            thread.depth, thread.active = depth, outer
            active.is_over = True
            self._leave(active)
        return following


def _end_forked_child(exc: ForkedError) -> None:
    """End a child that a job forked, in its copy of a pool thread.

    If this returned, the child would continue as a second pool thread of the parent's engine, and
    would never end.
    """
    sys.stderr.write(f"durably: {exc}\n")
    sys.stderr.flush()
    os._exit(_FORKED_EXIT_STATUS)
