"""The pool: executes claimed runs, a bounded number at once, and knows which are in their jobs."""

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
from durably._platform.interrupts import INTERRUPT_LOOK_S, is_interruptible, raise_if_signal
from durably._platform.latch import Wakeups
from durably.errors import DatabaseError, ForkedError, RunInterrupted, StopRun
from durably.execution.current_run import ActiveRun, Services, Slot
from durably.execution.run_execution import Execution
from durably.job_registry import JobRegistry
from durably.store.rows import Claim, Ending, RunRow
from durably.worker.contexts import ExecutionContexts
from durably.worker.flusher import Flusher
from durably.worker.service import ErrorSink
from durably.worker.threads import WorkerThreads

log = logging.getLogger("durably")

LabelsOf = Callable[[RunRow], dict[str, str]]

_FORKED_EXIT_STATUS: Final = 70
# What a thread of the pool may tell of after it has stored the end of a run.
_TOLD_AT_AN_END: Final = (
    events.RunProgressed,
    events.RunCompleted,
    events.RunFailed,
    events.RunInterrupted,
)


class _Thread(threading.local):
    """What the present thread is to this engine."""

    depth = 0  # how many of its jobs it is inside of
    active: ActiveRun | None = None  # the run of the innermost one
    has_slot = False
    is_waiting = False
    claims_since = -math.inf  # when it has last asked what to claim, by the clock


class Pool:
    """Executes runs on threads of its own, and single ones in a thread of the caller's.

    A slot is reserved before a run is claimed for it, so that nothing is claimed that cannot
    start at once. While *draining* nothing is claimed, and it drains unless somebody had it
    ``resume``; while *interrupting*, what was claimed a moment ago is put back at its first step
    boundary as well.

    Args:
        owner: the number of this engine's owner row, if it has one.
        contexts: calls each execution in a context of its own.
        on_none_claimable: called when a look has found no run to claim.
    """

    def __init__(
        self,
        max_workers: int,
        *,
        services: Services,
        registry: JobRegistry,
        flusher: Flusher,
        labels_of: LabelsOf,
        owner: Callable[[], int | None],
        contexts: ExecutionContexts,
        on_none_claimable: Callable[[], None],
        on_error: ErrorSink,
    ) -> None:
        self._max_workers = max_workers
        self._services = services
        self._registry = registry
        self._flusher = flusher
        self._labels_of = labels_of
        self._owner = owner
        self._contexts = contexts
        self._on_none_claimable = on_none_claimable
        self._on_error = on_error
        self._threads = WorkerThreads(self._work, "durably-worker", max_workers)
        self._thread = _Thread()
        # When a run leaves or a slot gets free.
        self._changed = Wakeups()
        # Guards all below. What an exception of a signal must not leave half done is one step.
        self._lock = threading.RLock()
        self._active: dict[tuple[int, int], ActiveRun] = {}
        # What was to stop before it had entered, by its place in the database.
        self._stopped_early: dict[tuple[int, int], type[StopRun]] = {}
        # Those that are taken; and of these, those that were for what is being claimed.
        self._slots: set[Slot] = set()
        self._reserved: list[Slot] = []
        # How many of the taken ones have jobs that wait for runs.
        self._waiting_slots = 0
        self._is_draining = True
        # Whether somebody has looked for a free slot in vain since the last one got free.
        self._is_slot_wanted = False
        self._is_interrupting = False
        # Whether it drains since it was asked to stop, and not for want of runs.
        self._is_told_to_stop = False
        # How many runs may still be claimed; None where they are not counted.
        self._budget: int | None = None
        self.executed = 0  # in slots
        self.entered = 0  # also in threads of callers
        # How many will have been when the budget is used up.
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
        """Whether it is one of this pool's threads that asks."""
        return self._thread.has_slot

    @property
    def is_idle(self) -> bool:
        """Whether no run is inside its job or about to be."""
        return self._has_none()

    @property
    def is_only_claiming(self) -> bool:
        """Return whether no run is inside its job, and all slots taken wait for a claim."""
        with self._lock:
            return not self._active and len(self._slots) == len(self._reserved)

    def is_idle_since(self, entered: int) -> bool:
        """Whether it is idle, and has taken in no run since ``entered`` was that."""
        with self._lock:
            return self._has_none() and self.entered == entered

    def active(self) -> list[ActiveRun]:
        """The runs that are inside their jobs here."""
        with self._lock:
            return list(self._active.values())

    @property
    def is_stuck(self) -> bool:
        """Whether every slot is taken by a job that waits for a run: none can be executed here."""
        with self._lock:
            return self._waiting_slots >= self._max_workers and not any(
                active.is_callers for active in self._active.values()
            )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark that the calling thread waits for a run, if it is that of a job in a slot."""
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
        """Have all runs stop at their next step boundary."""
        for active in self.active():
            active.stop(reason)

    def stop_run(self, row: RunRow, reason: type[StopRun]) -> None:
        """Have this attempt of a run stop at its next step boundary, if it is executed here."""
        place = row.run, row.attempt
        with self._lock:
            active = self._active.get(place)
            if active is None and row.owner is not None and row.owner == self._owner():
                # Claimed, and on its way; or it has just left, and this attempt never comes again.
                self._stopped_early[place] = reason
        if active is not None:
            active.stop(reason)

    def check_job(self, *, is_futile: bool = False) -> None:
        """Raise if the run is to stop whose job calls, and no listener: waiting is a step boundary.

        Args:
            is_futile: whether it can wait no longer; if the engine is stopping, it goes back.
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
        """Note that a stop ends a wait in a thread that may be a job's own, of whatever run.

        What it raises there is an error, which the job may keep to itself as it may a stop.
        """
        for active in self.active():
            if active.stop_reason is RunInterrupted:
                active.stop_was_raised = True

    def _is_stopping(self, active: ActiveRun) -> bool:
        """Whether nothing is claimed any more beside a run that is executed in a slot."""
        return self._is_draining and not active.is_callers

    # -- opening and draining --------------------------------------------------------------

    def open(self) -> None:
        """Make the threads, which start when they are needed."""
        self._threads.end()  # where a signal has interrupted that
        self._threads = WorkerThreads(self._work, "durably-worker", self._max_workers)
        with self._lock:
            self._stopped_early.clear()

    def leave(self) -> None:
        """Allow the interpreter to end without waiting for the threads or their runs."""
        self._threads.leave()

    def shut_down(self) -> None:
        """End the threads, which have nothing to do any more: the pool has come to rest."""
        self._threads.end()

    def resume(self, budget: int | None = None) -> None:
        """Claim again, so many runs at most."""
        with self._lock:
            self._is_draining = self._is_interrupting = self._is_told_to_stop = False
            self._budget = budget
            self._most_executed = math.inf if budget is None else self.executed + budget
        for active in self.active():
            active.drain(is_draining=False)

    def drain(self, *, interrupt: bool) -> None:
        """Claim nothing more; have what is executing stop at its next step boundary, if asked."""
        with self._lock:
            self._is_draining = True
            if interrupt:
                # Also for those that were claimed and are not inside their jobs yet.
                self._is_interrupting = True
        if interrupt:
            self.stop_runs(RunInterrupted)
        self._services.changes.notify()

    def stop(self, *, interrupt: bool) -> None:
        """``drain`` for a stop; what fails because of the signal that causes it goes back."""
        with self._lock:
            self._is_told_to_stop = True
        self.drain(interrupt=interrupt)
        self.note_stop()

    def note_stop(self) -> None:
        """Note for the runs that are inside their jobs that a signal may be ending this process."""
        for active in self.active():
            active.drain(is_draining=True)

    def end_interrupt(self) -> None:
        """What enters its job from now on may go on: the stop that interrupted is over."""
        with self._lock:
            self._is_interrupting = self._is_told_to_stop = False

    def come_to_rest(self) -> bool:
        """Claim nothing more; whether no slot is taken either, so that none will be."""
        with self._lock:
            self._is_draining = True
            return not self._slots

    def wait_until_idle(
        self, check_interrupt: Callable[[], None], deadline: float = math.inf
    ) -> bool:
        """Block until no run is inside its job; ``False`` if the time was over before.

        Args:
            check_interrupt: called every now and then; raises if there was a Ctrl-C.
            deadline: by the clock's ``monotonic``.
        """
        clock = self._services.clock
        while True:
            left_s = max(0.0, min(INTERRUPT_LOOK_S, deadline - clock.monotonic()))
            if self._changed.wait_until(self._has_none, left_s):
                return True
            if clock.monotonic() >= deadline:
                return False
            check_interrupt()

    def _has_none(self) -> bool:
        with self._lock:
            return not self._active and not self._slots

    # -- claiming --------------------------------------------------------------------------

    def claim(self, limit: int) -> Claim | None:
        """What a claim of so many runs asks for, if this engine can claim at all."""
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

        One that others have put back meanwhile is not claimed before its old job has left.
        """
        with self._lock:
            return str([active.key for active in self._active.values() if not active.is_over])

    def _claim_for_slots(self, limit: int) -> Claim | None:
        """The same for slots, void once nothing is to be claimed any more."""
        claim = self.claim(limit)
        return None if claim is None else claim._replace(is_wanted=self._takes_runs)

    def _takes_runs(self) -> bool:
        return not self._is_draining

    def can_claim(self) -> bool:
        """Whether a run is there that this engine could execute now."""
        claim = self.claim(1)
        if claim is None:
            return False
        is_there = self._services.store.has_claimable(claim)
        if not is_there:
            self._on_none_claimable()
        return is_there

    @property
    def may_claim(self) -> bool:
        """Whether runs are claimed now, as soon as there are slots."""
        return not self._is_draining and self.executed < self._most_executed

    def want_slot(self) -> None:
        """Have the next slot that gets free be claimed for, by whoever frees it."""
        with self._lock:
            self._is_slot_wanted = True

    def has_free_slot(self) -> bool:
        """Whether there is one; if not, who claims is woken when there is."""
        with self._lock:
            self._is_slot_wanted = self._is_draining or len(self._slots) >= self._max_workers
            return not self._is_slot_wanted

    def reserve_slot(self, slot: Slot) -> Claim | None:
        """Take *slot*, if one is free, and say what to claim for it; for any thread.

        ``None`` if there is none, or nothing is to be claimed. The caller, wherever
        that was interrupted, calls ``begin`` or ``return_slot``.
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
            self._services.changes.wake_claimer()

    def _free_slots(self) -> int:
        return self._max_workers - len(self._slots)

    def reserve_slots(self) -> Claim | None:
        """Take the free slots and say what to claim for them; for one thread, which claims.

        ``None`` if there are none, or nothing is to be claimed. What was claimed is handed over,
        and the other slots are returned.
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
        """Give back slots for which there was no run to claim."""
        with self._lock:
            if self._budget is not None:
                self._budget += slots
            returned = [self._reserved.pop() for _ in range(slots)]
        for slot in returned:
            self.return_slot(slot)

    def _claim_next(self) -> Claim | None:
        """What a pool thread that ends a run claims with it, if anything."""
        emitter = self._services.emitter
        if emitter.has_listeners and (
            # A listener may block, or wait for that very run: another slot may be free before.
            any(map(emitter.wants, _TOLD_AT_AN_END))
            # Its trigger is told before its start.
            or emitter.is_announcing_any
        ):
            return None
        with self._lock:
            # Where nobody has looked for a slot in vain, nothing waits for one. Where the runs
            # are counted, only the thread that counts them claims.
            if not self._is_slot_wanted or self._is_draining or self._budget is not None:
                return None
        return self._claim_for_slots(1)

    # -- executing -------------------------------------------------------------------------

    def hand_over(self, row: RunRow) -> bool:
        """Hand a claimed run to a thread of the pool, in a slot that was reserved.

        Returns:
            Whether it is; if no thread can be had, it was put back and its slot is free.
        """
        slot = self._reserved.pop()
        self.enter(row, slot)
        return self.begin(slot)

    def enter(self, row: RunRow, slot: Slot) -> None:
        """Take a claimed run into *slot*, for ``begin``."""
        slot.active = self._active_of(row)
        self._add(slot.active)

    def begin(self, slot: Slot) -> bool:
        """Execute the run of a slot, as ``hand_over`` does. Done twice, it is done once.

        A thread that a signal may interrupt makes no other threads: the one that claims does.
        """
        if slot.active is None or slot.active.is_begun:
            return True
        self._add(slot.active)
        self._threads.put(slot)
        if self._has_enough_threads():
            return True
        if is_interruptible():
            self._services.changes.wake_claimer()
            return True
        return self._make_threads_for(slot)

    def _has_enough_threads(self) -> bool:
        return len(self._threads) >= len(self._slots) - len(self._reserved)

    def make_threads(self) -> None:
        """Make those that are missing, or put back the runs for which none can be had."""
        if self._has_enough_threads():
            return
        with self._lock:
            slots = [slot for slot in self._slots if slot.active is not None]
        for slot in slots:
            if not self._make_threads_for(slot):
                return

    def _make_threads_for(self, slot: Slot) -> bool:
        try:
            with self._lock:
                size = min(self._max_workers, len(self._slots) - len(self._reserved))
            self._threads.grow(size)
        except RuntimeError as exc:
            # The interpreter is ending and lets none start, or there is no memory for another.
            log.warning("no thread can be started for a run: %s", exc)
        else:
            return True
        # One that is there may have begun it.
        if slot.active is None or not self._take(slot.active):
            return True
        try:
            self._put_back(slot.active)
        finally:
            self.return_slot(slot)
        return False

    def _take(self, active: ActiveRun) -> bool:
        """Take a run that was handed over; ``False`` if somebody has taken it before."""
        with self._lock:
            is_begun, active.is_begun = active.is_begun, True
        return not is_begun

    def execute_here(
        self, row: RunRow, let_through: Callable[[Callable[[], object]], object]
    ) -> None:
        """Execute a claimed run in the calling thread.

        Args:
            let_through: calls what may be interrupted by a Ctrl-C.
        """
        active = self._active_of(row, is_callers=True)
        try:
            self._add(active)
            let_through(lambda: self._execute(active, lambda: None))
        except BaseException:
            # Also where it came before the execution had begun, or in the storing of its end.
            self._put_back_if_possible(active)
            raise
        finally:
            try:
                self._leave(active)
            finally:
                self._leave(active)  # the other one may have been interrupted

    def _active_of(self, row: RunRow, *, is_callers: bool = False) -> ActiveRun:
        """Return a run that this thread has claimed, as the threads of the engine know it."""
        active = ActiveRun(row, self._labels_of(row), self._owner() or 0, is_callers=is_callers)
        active.current_at = self._thread.claims_since
        return active

    def _add(self, active: ActiveRun) -> None:
        """Make a run known that is about to be inside its job. Done twice, it is done once."""
        place = active.key, active.attempt
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
            self._active.pop((active.key, active.attempt), None)
        self._changed.wake_all()
        self._services.changes.notify()

    def _put_back_if_possible(self, active: ActiveRun) -> None:
        if os.getpid() != active.pid:
            return
        try:
            self._put_back(active)
        except DatabaseError as exc:
            raise_if_signal(exc)
            # The heartbeat will do so, or an engine that finds the lock of this one free.
            log.warning("could not put back run %s: %s", active.id, exc)

    def _put_back(self, active: ActiveRun) -> None:
        now_us = self._services.clock.now_us()
        ending = Ending(active.key, active.attempt, None, None, None, True, now_us)
        try:
            self._services.store.settle(ending, None)
        finally:
            self._leave(active)

    def _work(self, slot: Slot) -> None:
        """What a pool thread does: execute, and go on with the run claimed at the end."""
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
                except Exception as exc:  # noqa: BLE001 - a pool thread must give its slot back
                    self._on_error(exc, "worker")
        finally:
            self.return_slot(slot)
            self._services.changes.notify()

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
                active,
                job,
                self._services,
                claim_next,
                is_stopping=lambda: self._is_stopping(active),
            )
            claimed = execution.execute()
            if claimed is not None:
                following = self._active_of(claimed)
                self._add(following)
                following.is_begun = True
            execution.tell()
        except BaseException:
            if following is not None:
                self._put_back(following)
            raise
        finally:
            # In one step each: the thread of a caller may be interrupted by a signal.
            thread.depth, thread.active = depth, outer
            active.is_over = True
            self._leave(active)
        return following


def _end_forked_child(exc: ForkedError) -> None:
    """End a child that a job forked, in the copy of a pool thread that it woke up in.

    Coming back from here it would go on as a second pool thread of an engine that is the
    parent's, and the process would never end.
    """
    sys.stderr.write(f"durably: {exc}\n")
    sys.stderr.flush()
    os._exit(_FORKED_EXIT_STATUS)
