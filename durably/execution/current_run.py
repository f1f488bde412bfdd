"""One run inside its job, with the state that the threads of its engine share.

The heartbeat, ``cancel`` and ``stop`` reach a job through it: they set a reason, and the job finds
it at its next step boundary.
"""

from __future__ import annotations

import math
import os
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from durably._platform.clock import Clock
from durably._platform.latch import Latch
from durably._platform.signalled import leading_to, tells_of_signal
from durably._platform.signals import handlers, is_from_signal, is_main_thread
from durably.errors import (
    ForkedError,
    OwnershipLost,
    RunCancelled,
    RunInterrupted,
    RunSuspended,
    StepTimeoutError,
    StopRun,
)
from durably.execution.checkpoints import StepCounts
from durably.execution.iterations import Iterations
from durably.models import Progress, short_name
from durably.store.calls import Left

if TYPE_CHECKING:
    from durably.execution.live import LoopView, Narrator
    from durably.execution.prompting import Prompt
    from durably.store.calls import OpenCalls
    from durably.store.outcome import Suspended
    from durably.store.rows import RunRow

# How long a failure that says that a signal has ended a child process waits for a stop.
STOP_GRACE_S: Final = 1.0

# Enough for a job that cleans up after a failure in steps that may fail, too.
_FAILURES_KEPT: Final = 8


def _no_steps() -> StepCounts:
    return StepCounts(0, 0)


def _no_names() -> tuple[str, ...]:
    return ()


class CurrentRun:
    """One run inside its job: its key in the database, and whether it is to stop.

    ``stop`` may be called from any thread; the first reason wins, except that losing the
    run or its cancellation outweighs an interrupt and a suspension.
    """

    # When its code was entered, by the clock's ``monotonic``.
    began_at = -math.inf
    # Whether a stop was raised into the job, in any of its threads: what the job then returns or
    # raises is not its end, because it may have swallowed the stop.
    stop_was_raised = False
    # Whether its waits keep their thread, as those of a session and of ``run`` do.
    keeps_thread = False
    # The thread that executes the job: a wait in another one keeps that.
    job_thread: int | None = None
    # What it waits for: of a stop for ``RunSuspended``, or of a wait that keeps its thread.
    suspension: Suspended | None = None
    wait: Suspended | None = None
    # The prompt in progress, which the display gives way to.
    prompt: Prompt | None = None
    # The exception of a signal in the caller's thread that a call of the job has passed on.
    callers_signal: BaseException | None = None
    # The step in which that was raised, if it was in one.
    stopped_in: str | None = None
    # When this claim was last known to be the current one, by the clock's ``monotonic``: just
    # before its claim, a heartbeat or a read of the database.
    current_at = -math.inf
    # Written by the job's threads and read by the thread that stores it. Both are single
    # assignments, so that a call costs no more than one.
    progress: tuple[Any, Any, Any] | None = None
    has_new_progress = False
    # How much of the job's own progress came from checkpoints, and whether a step has come from
    # one since the progress was reported, or one was executed.
    reused_progress: float = 0
    has_replayed = False
    has_executed = False
    # How long an execution may take, and whether it only waits now, so that its deadline is
    # postponed.
    timeout_s: float | None = None
    is_paused = False
    # Whether it was ended at its deadline, and whether the job has got to know that.
    is_expired = False
    _timeout_was_raised = False
    # The newest map that there was.
    last_loop: LoopView | None = None
    # Shows what a map says, where the run is one.
    narrator: Narrator | None = None
    # Whether the job reports progress of its own: a map then reports none.
    has_own_progress = False
    # What has failed the job, from its end until that is stored.
    failure: BaseException | None = None

    def __init__(self, row: RunRow, labels: dict[str, str], *, is_callers: bool = False) -> None:
        # Each step reads these, which are found sooner here than in the class: whether the job is
        # over, or is to stop, and when its time is over, by the clock's ``monotonic``.
        self.is_over = False
        self.stop_reason: type[StopRun] | None = None
        self.deadline_s: float | None = None
        self.run_pk = row.run
        self.attempt = row.attempt
        self.fence = row.fence
        self.id = row.id
        self.job_name = row.job_name
        self.labels = labels
        self.row = row
        # Whether it is executed in a thread of the user's, where a signal may arrive.
        self.is_callers = is_callers
        self._claimed_in = threading.get_ident()
        self._handlers = handlers() if is_callers and is_main_thread() else frozenset()
        self.pid = os.getpid()
        # The steps that are in progress, by name.
        self.turns: Mapping[str, object] = {}
        self.count_steps: Callable[[], StepCounts] = _no_steps
        # Returns the names of stored steps that this execution has not used.
        self.unused_steps: Callable[[], tuple[str, ...]] = _no_names
        self.stopped = Latch()
        self._lock = threading.Lock()  # guards the reason to stop and the two below
        self._is_stopping = False
        # How many threads wait for a stop after a failure.
        self._awaiting = 0
        # The maps in progress, the newest last.
        self.loops: list[Callable[[], LoopView]] = []
        self.iterations = Iterations()
        # Called at the end of the job, in its thread: what it has left open.
        self.at_end: list[Callable[[], None]] = []
        # The newest failures of steps: the end of the run shows which of them failed the job.
        self.failed_steps: deque[tuple[str, BaseException]] = deque(maxlen=_FAILURES_KEPT)
        # Calls of the functions of steps that have stopped with the run, by the step's name.
        self.open_calls: dict[str, OpenCalls] = {}
        # Held while progress is stored, so that the end of the run loses none; and while the events
        # of progress or of the end are emitted, so that progress comes first.
        self.storing = threading.Lock()
        self.emitting = threading.Lock()

    @property
    def short_name(self) -> str:
        """Return how log lines name the run."""
        return short_name(self.id, self.job_name, self.row.idempotency_key)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields that every event of this run has."""
        # The labels are a copy: a listener that changes them changes only its own event.
        return {"run_id": self.id, "job_name": self.job_name, "labels": dict(self.labels)}

    def left(self) -> Left:
        """Return what this execution has done, and the calls that it leaves without an end."""
        counts = self.count_steps()
        return Left(counts.executed, counts.replayed, tuple(self.open_calls.values()))

    def stop(self, reason: type[StopRun]) -> None:
        """Make the job stop at its next step boundary."""
        with self._lock:
            is_back = reason is RunInterrupted and self.stop_reason is RunSuspended
            if self.stop_reason in (None, RunInterrupted, RunSuspended) and not is_back:
                self.stop_reason = reason
        self.stopped.set()

    @property
    def can_suspend(self) -> bool:
        """Return whether a wait in the calling thread leaves it."""
        return not self.keeps_thread and self.job_thread == get_ident()

    def suspend(self, outcome: Suspended) -> NoReturn:
        """Stop the job, whose run waits for *outcome* then.

        Raises:
            StopRun: always; another reason to stop, if there is one.
        """
        with self._lock:
            if self.stop_reason is None:
                self.suspension, self.stop_reason = outcome, RunSuspended
        self.stopped.set()
        self.check()
        raise AssertionError("check raises, as the run is to stop")

    def note_stop(self, *, is_stopping: bool) -> None:
        """Note whether the engine is stopping and waits for this job's own end.

        A failure of the job that the same signal has caused is not its own end.
        """
        with self._lock:
            self._is_stopping = is_stopping
            is_awaited = self._awaiting > 0
        if is_stopping and is_awaited:
            self.stop(RunInterrupted)

    def await_stop(self, clock: Clock, exc: BaseException) -> None:
        """Stop the run, or wait for its stop, if a signal has led to *exc*.

        If it was one to the caller, of which the user's code made another exception, the run stops
        now. If it has ended a child process, it was usually sent to this process too, which is
        about to stop then: that is waited for, up to a second. It does not wait for an exception
        that failed a step before, because that step has waited.
        """
        if self.stop_reason is not None:
            return
        dealt_with = [each for _, each in tuple(self.failed_steps)]
        signalled = self.callers_signal_in(exc, dealt_with)
        if signalled is not None:
            self.stop_by_signal(signalled)
            return
        if not tells_of_signal(exc, dealt_with):
            return
        with self._lock:
            self._awaiting += 1
            is_stopping = self._is_stopping
        try:
            if is_stopping:
                self.stop(RunInterrupted)
            else:
                clock.wait(self.stopped, STOP_GRACE_S)
        finally:
            with self._lock:
                self._awaiting -= 1

    @property
    def is_in_this_thread(self) -> bool:
        """Return whether the calling thread executes it, outside of the pool."""
        return self.is_callers and self._claimed_in == threading.get_ident()

    def is_callers_signal(self, exc: BaseException) -> bool:
        """Return whether a signal in the caller's thread has raised *exc*, and not the job.

        Then the run goes back, and *exc* is raised to the caller. A handler that the job itself has
        set is code of the job.
        """
        return self.is_callers and is_from_signal(exc, self._handlers)

    def callers_signal_in(
        self, exc: BaseException, dealt_with: Iterable[BaseException] = ()
    ) -> BaseException | None:
        """Return what a signal in the caller's thread has raised and has led to *exc*, if any."""
        if not self.is_callers:
            return None
        return next(filter(self.is_callers_signal, leading_to(exc, dealt_with)), None)

    def keep_callers_signal(self, exc: BaseException) -> None:
        """Keep *exc*, which a call of the job raises, if it came from a signal to the caller.

        The job may swallow it. It is stopped nevertheless, and the exception is raised to the
        caller.
        """
        self.stop_by_signal(exc)

    def stop_by_signal(self, exc: BaseException) -> None:
        """Stop the job if *exc* came from a signal to the caller, and keep it for the caller."""
        if self.callers_signal is None and self.is_callers_signal(exc):
            self.callers_signal = exc
            self.stopped_in = self.innermost_step()
            self.stop_was_raised = True
            self.stop(RunInterrupted)

    def innermost_step(self) -> str | None:
        """Return the innermost step that the calling thread is inside of, if it is in one."""
        mine = (get_ident(),)
        turns = reversed(tuple(self.turns.items()))
        return next((name for name, turn in turns if turn == mine), None)

    def raise_callers_signal(self) -> None:
        """Raise what a signal has raised in the caller's thread, if it has stopped the job."""
        if self.callers_signal is not None:
            raise self.callers_signal

    def check(self) -> None:
        """Raise if the job is to stop, has ended, or this is a forked child."""
        if os.getpid() != self.pid:
            self.refuse_forked_child()
        reason = self.stop_reason
        if reason is not None:
            # Before the check of the end, which is set before this is read: a stop that is raised
            # before the job is over is known at its end.
            self.stop_was_raised = True
        if self.is_over:
            raise StopRun(self.said_of(StopRun))
        if self.is_expired and not self._timeout_was_raised:
            self.raise_timeout()
        if reason is not None:
            raise reason(self.said_of(reason))

    def begin_time(self, timeout_s: float, now_s: float) -> None:
        """Limit the time of this execution, which begins now."""
        self.timeout_s = timeout_s
        self.deadline_s = now_s + timeout_s

    def raise_timeout(self) -> NoReturn:
        """Raise that the time of this execution is over.

        Once the run was ended for it, this is raised once, and then a ``StopRun`` that the job
        cannot swallow.
        """
        self._timeout_was_raised = True
        raise StepTimeoutError(self.said_of_timeout())

    def said_of_timeout(self) -> str:
        """Return the message that the time of this execution is over."""
        return (
            f"the time of run {self.id} is over: an execution may take {self.timeout_s:g} s; raise "
            "the timeout of the job, or give the run less to do"
        )

    def said_of(self, reason: type[StopRun]) -> str:
        """Return the message of a stop for that reason; ``StopRun`` is that it has ended."""
        if self.is_expired and reason is OwnershipLost:
            return self.said_of_timeout()
        return _REASONS[reason].format(id=self.id)

    def refuse_forked_child(self) -> None:
        """Raise in a child that was forked inside the job.

        A child that returns from a step is a second copy of the owner's thread: whatever it stored
        would be stored twice.
        """
        if os.getpid() != self.pid:
            raise ForkedError(self.said_to_children())

    def said_to_children(self) -> str:
        """Return the message to a child that was forked inside the job."""
        return (
            f"run {self.id} is executed by the parent of this process, which a step forked; "
            "end the child with os._exit, or use subprocess"
        )

    def end(self) -> None:
        """Note that the job is over: it stores nothing, and reports no progress, from now on."""
        while self.at_end:
            self.at_end.pop()()
        with self.storing:
            self.is_over = True

    def let_go(self) -> None:
        """Forget what the execution had in memory, so that it is freed when the run leaves.

        The exceptions, because a step context that outlives its run must keep no frames alive; and
        what refers to the run, because otherwise only the garbage collector would free either.
        """
        self.failure = None
        self.failed_steps.clear()
        self.unused_steps = _no_names

    def take_progress(self) -> Progress | None:
        """Return the newest progress, ``None`` if it was taken before."""
        if not self.has_new_progress:
            return None
        self.has_new_progress = False
        assert self.progress is not None  # noqa: S101 - set before the flag is
        return Progress(*self.progress)


_REASONS: Final[dict[type[StopRun], str]] = {
    StopRun: "run {id} has ended; its step object can no longer be used",
    RunCancelled: "run {id} was cancelled",
    RunInterrupted: "the engine is stopping; run {id} goes back to pending",
    RunSuspended: "run {id} waits; it goes on when that is over",
    OwnershipLost: "run {id} was recovered by another owner",
}
