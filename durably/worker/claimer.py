"""The claimer: whether runs may be claimed, how many, and who executes them."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Unpack

from durably._platform.clock import Clock
from durably._platform.fork_hooks import no_fork
from durably._platform.signals import SIGNAL_POLL_S
from durably.errors import DatabaseError
from durably.execution.current_run import CurrentRun
from durably.execution.emitter import Emitter, EventType
from durably.execution.storing import report_worker_error
from durably.jobs.registry import JobRegistry
from durably.store.outcome import NotExecuted
from durably.store.rows import (
    Begin,
    Beginning,
    BeginOptions,
    Claim,
    Enqueued,
    NewRun,
    RunKey,
    RunRow,
)
from durably.worker.current_runs import CurrentRuns
from durably.worker.ownership import Ownership
from durably.worker.slots import Slots
from durably.worker.state import EngineState, State

if TYPE_CHECKING:
    from durably.store.api import Store

logger = logging.getLogger("durably")

LabelsOf = Callable[[RunRow], dict[str, str]]

# The events that a thread of the pool may emit after it has stored the end of a run.
_EMITTED_AT_AN_END: Final[tuple[EventType, ...]] = (
    "run:progress",
    "run:complete",
    "run:fail",
    "run:retry",
    "run:interrupt",
)


class Claimer:
    """Claims runs for one engine, and hands them over. Usable from any thread.

    There are six ways: for all free slots, together with a trigger, together with the end of a run,
    and for the calling thread the first run in line, a certain one, or the child that its job waits
    for. For the first three a slot is reserved before the claim, so that nothing is claimed that
    cannot start at once.

    Args:
        hand_over: hands a run to a thread, after making threads for that many runs; raises
            ``RuntimeError`` if a thread is missing and none can be started.
        on_none_claimable: called when no run could be claimed.
    """

    def __init__(
        self,
        max_workers: int,
        *,
        state: EngineState,
        store: Store,
        clock: Clock,
        emitter: Emitter,
        registry: JobRegistry,
        runs: CurrentRuns,
        ownership: Ownership,
        labels_of: LabelsOf,
        hand_over: Callable[[CurrentRun, int], None],
        on_none_claimable: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self._emitter = emitter
        self._registry = registry
        self._runs = runs
        self._labels_of = labels_of
        self._ownership = ownership
        self._hand_over = hand_over
        self._on_none_claimable = on_none_claimable
        self._slots = Slots(max_workers, lambda: state.takes_runs, runs)

    # -- may runs be claimed ---------------------------------------------------------------

    def resume(self, budget: int | None = None) -> None:
        """Prepare for claiming again, *budget* runs at most."""
        self._slots.limit(budget)
        self._runs.resume()

    def drain(self, *, interrupt: bool) -> None:
        """Claim nothing more; with *interrupt*, stop the runs at their next step boundary."""
        self._state.drain()
        if interrupt:
            self._runs.interrupt()
        self._store.changes.notify()

    @property
    def may_claim(self) -> bool:
        """Return whether runs are claimed now, as soon as there are slots."""
        return self._takes_runs() and self._slots.has_budget

    def _takes_runs(self) -> bool:
        return self._state.takes_runs

    def can_claim(self) -> bool:
        """Return whether there is a run that this engine could execute now."""
        claim = self._claim(1)
        if claim is None:
            return False
        is_there = self._store.has_claimable(claim)
        if not is_there:
            self._on_none_claimable()
        return is_there

    def _claim(self, limit: int, is_wanted: Callable[[], bool] = lambda: True) -> Claim | None:
        """Return the claim for *limit* runs, ``None`` if this engine cannot claim.

        Args:
            is_wanted: called in the transaction: returns whether runs are still to be claimed.
        """
        claimed, owner = self._registry.claimed, self._ownership.owner
        if claimed is None or owner is None:
            return None
        return Claim(
            owner,
            claimed.jobs,
            self._clock.now_us,
            limit,
            is_wanted,
            self._runs.keys,
            claimed.origins,
            claimed.codes,
        )

    # -- slots -----------------------------------------------------------------------------

    @property
    def has_taken_slots(self) -> bool:
        """Return whether a slot has a run, or is reserved for a claim."""
        return not self._slots.are_free

    @property
    def is_idle(self) -> bool:
        """Return whether no run is inside its job or about to be."""
        return self._slots.is_idle

    def is_idle_since(self, entered: int) -> bool:
        """Return whether it is idle, and no run has entered since ``entered`` had that value."""
        return self.is_idle and self._runs.entered == entered

    @property
    def is_only_claiming(self) -> bool:
        """Return whether no run is inside its job, and all taken slots wait for a claim."""
        return self._slots.is_only_claiming

    @property
    def are_slots_waiting(self) -> bool:
        """Return whether every slot has a job that waits for a run: none can be executed here."""
        return self._runs.are_all_waiting(self._slots.number)

    def wait_until_idle(self, poll: Callable[[], None], deadline: float = math.inf) -> bool:
        """Block until no run is inside its job; return ``False`` if the deadline was before that.

        Args:
            poll: called now and then.
            deadline: by the clock's ``monotonic``.
        """
        while True:
            left_s = max(0.0, min(SIGNAL_POLL_S, deadline - self._clock.monotonic()))
            if self._runs.changed.wait_until(lambda: self.is_idle, left_s):
                return True
            if self._clock.monotonic() >= deadline:
                return False
            poll()

    def has_free_slot(self) -> bool:
        """Return whether a slot is free; if not, the dispatcher is woken when one is."""
        return self._slots.find_free()

    @property
    def executed(self) -> int:
        """Return how many runs were executed in slots, or begun to be."""
        return self._slots.executed

    def _reserve(self, limit: int | None) -> Claim | None:
        """Reserve up to *limit* free slots, and return what to claim for them.

        Return ``None`` if none is free, or nothing is to be claimed.
        """
        # A claim that a stop overtakes takes nothing.
        return self._slots.reserve(limit, lambda slots: self._claim(slots, self._takes_runs))

    def _use(self, reserved: int, claimed: int) -> None:
        """Put *claimed* runs into slots that were reserved, and free the others."""
        self._slots.use(reserved, claimed)
        if claimed < reserved:
            self._note_free_slot()

    def free_slot(self) -> None:
        """Free the slot of a run that has ended."""
        self._slots.free()
        self._note_free_slot()
        self._store.changes.notify()

    def _note_free_slot(self) -> None:
        is_wanted = self._slots.take_wish()
        self._runs.changed.wake_all()
        if is_wanted:
            self._store.changes.wake_dispatcher()

    # -- the ways of claiming --------------------------------------------------------------

    def claim_for_free_slots(self) -> bool:
        """Claim and start the runs that can start now; for one thread.

        Returns:
            ``False`` if some were put back, because no thread can be started for them.
        """
        since = self._clock.monotonic()
        claim = self._reserve(None)
        if claim is None:
            return True
        rows: list[RunRow] = []
        try:
            # This read costs microseconds and no write transaction.
            if self._store.has_claimable(claim):
                _prepare()
                # The event of a trigger comes before the one of its run's start.
                self._emitter.wait_for_listeners()
                rows = self._store.claim(claim)
            else:
                self._on_none_claimable()
        finally:
            self._use(claim.limit, len(rows))
        if len(rows) == claim.limit:
            # There may be more to claim: the thread that frees the next slot does it.
            self._slots.wish()
        failure: DatabaseError | None = None
        are_all_started = True
        for run in [self.enter(row, since) for row in rows]:
            try:
                are_all_started &= self._start(run)
            except DatabaseError as exc:
                failure = exc  # the others have slots and are started nevertheless
        if failure is not None:
            raise failure
        return are_all_started

    def enqueue_and_claim(self, new: NewRun, now_us: int) -> Enqueued | None:
        """Store a run, and claim one for a free slot in the same transaction, and start it.

        That saves a commit and a wait for the dispatcher. It claims the run that is first in line,
        which need not be the new one. Return ``None``, and do nothing, if the engine does not claim
        runs by itself.
        """
        if self._state.now is not State.STARTED:
            return None
        since = self._clock.monotonic()
        claim = self._reserve(1)
        row: RunRow | None = None
        try:
            if claim is None:
                enqueued = self._store.enqueue(new, now_us)
            else:
                _prepare()
                enqueued, row = self._store.enqueue_and_claim(new, now_us, claim)
        finally:
            if claim is not None:
                self._use(1, 0 if row is None else 1)
        run = None if row is None else self.enter(row, since)
        # The new run waits in line. Checked after the commit, and before the end of the run that
        # starts now: a thread that frees a slot from here on claims for it.
        if (run is None or run.id != new.id) and self.has_free_slot():
            self._store.changes.notify_dispatcher()
        if run is not None:
            try:
                self._start(run)
            except DatabaseError as exc:
                # Nor could the run be put back: the heartbeat will do so.
                report_worker_error(self._emitter, exc, "starting a run", run.id)
        return enqueued

    def claim_with_end(self) -> Claim | None:
        """Return what a pool thread that ends a run claims in the same transaction, if anything.

        The run that it claims gets the slot of the one that has ended.
        """
        emitter = self._emitter
        if emitter.has_listeners and (
            # A listener may block, or wait for that very run: another slot may be free before.
            any(map(emitter.wants, _EMITTED_AT_AN_END))
            # The event of a trigger comes before the one of the run's start.
            or emitter.is_announcing_any
        ):
            return None
        # If no slot was wanted, no run waits for one. A budget is counted by the dispatcher, which
        # alone claims then.
        return self._claim(1, self._takes_runs) if self._slots.is_unlimited_wish else None

    def claim_one(self, run_pk: RunKey | None = None) -> CurrentRun | None:
        """Claim the first run, or a certain one, for the calling thread, which takes no slot."""
        since = self._clock.monotonic()
        claim = self._claim(1)
        if claim is None or not (run_pk or self.can_claim()):
            return None
        _prepare()
        rows = self._store.claim_child(claim, run_pk) if run_pk else self._store.claim(claim)
        return self.enter(rows[0], since, is_callers=True) if rows else None

    def begin(
        self, new: NewRun, origins: str, codes: str = "{}", **options: Unpack[BeginOptions]
    ) -> tuple[Beginning, CurrentRun | None]:
        """Create or continue a certain run, and claim it for the calling thread, if possible.

        It takes no slot, and no other run is claimed. The threads must be needed.

        Args:
            origins: the origin of the code that executes it, and
            codes: its fingerprint, as in ``Claim``.
            options: those of ``Begin``.
        """
        since = self._clock.monotonic()
        _prepare()
        owner = self._ownership.register()
        claim = Claim(
            owner,
            "[]",
            self._clock.now_us,
            inside=self._runs.keys,
            origins=origins,
            codes=codes,
        )
        done = self._store.begin(Begin(new, claim, **options))
        if done.how not in ("created", "continued"):
            return done, None
        run = self.enter(done.row, since, is_callers=True)
        run.keeps_thread = True
        return done, run

    # -- handing over ----------------------------------------------------------------------

    def enter(self, row: RunRow, since: float, *, is_callers: bool = False) -> CurrentRun:
        """Note that a run was claimed: from now on it counts as about to start.

        Args:
            since: a moment before the claim, by the clock's ``monotonic``.
            is_callers: whether the calling thread executes it.
        """
        kind = CurrentRun
        if row.kind == "session":
            from durably.execution.session_run import SessionRun  # noqa: PLC0415 - where first needed

            kind = SessionRun
        run = kind(row, self._labels_of(row), is_callers=is_callers)
        run.current_at = since
        self._runs.enter(run)
        return run

    def _start(self, run: CurrentRun) -> bool:
        """Start a run in a slot on a thread; if none can be started, put it back."""
        try:
            self._hand_over(run, self._slots.busy)
        except RuntimeError as exc:
            # The interpreter is ending and starts none, or there is no memory for another.
            logger.warning("%s goes back, since no thread can be started: %s", run.short_name, exc)
        else:
            return True
        try:
            self.put_back(run)
        finally:
            self.free_slot()
        return False

    def put_back(self, run: CurrentRun) -> None:
        """Make a run pending again that was claimed and is not executed."""
        try:
            self._store.requeue(NotExecuted(run.run_pk, run.fence), self._clock.now_us())
        finally:
            self._runs.leave(run)

    def note_executed(self) -> None:
        """Count a run that is about to be executed in a slot."""
        self._slots.note_executed()


@functools.cache
def _prepare() -> None:
    """Import what executes a run, which an engine that claims nothing never needs."""
    with no_fork():  # a child could never import what a thread of its parent was importing
        from durably.execution import run_execution  # noqa: F401, PLC0415 - where first needed
