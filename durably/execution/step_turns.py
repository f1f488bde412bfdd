"""Whose turn a step is: its name, its index and the thread that executes it, and those of maps."""

from __future__ import annotations

import itertools
import threading
import warnings
from typing import TYPE_CHECKING, Final

from durably._platform.latch import Wakeups
from durably._platform.tracebacks import stacklevel
from durably.errors import ConflictError, DuplicateStepError, DuplicateStepWarning, ValidationError
from durably.execution.checkpoints import CheckpointReader
from durably.execution.current_run import CurrentRun
from durably.execution.deadlines import check_deadline
from durably.execution.nested_steps import NestedSteps
from durably.execution.services import Services
from durably.execution.step_checks import LONGEST_STEP_NAME, needs_name
from durably.execution.step_log import current_step
from durably.execution.step_recorder import StepRecorder
from durably.jobs.names import check_name
from durably.settings import OnDuplicateStep
from durably.store.bounds import MOST_STEPS

if TYPE_CHECKING:
    from durably.store.rows import Checkpoint

# So many names of steps that a run does not use any more are stored.
_MOST_UNUSED: Final = 1000

# How often a thread that waits for another one's step checks whether the run is to stop.
_STOP_POLL_S: Final = 0.1


class StepTurns:
    """The names that one run uses, once each, and the threads that do. A base of the step runner.

    Usable from any thread, as long as the run is executed.
    """

    def __init__(
        self,
        run: CurrentRun,
        services: Services,
        *,
        on_duplicate_step: OnDuplicateStep,
        nested: NestedSteps | None,
        is_layered: bool,
    ) -> None:
        self._run = run
        self._services = services
        self._reuses_results = on_duplicate_step == "reuse"
        self.nested = self._nested = NestedSteps() if nested is None else nested
        self._checkpoints = CheckpointReader(
            services.checkpoints,
            run.run_pk,
            is_first_claim=run.fence == 1,
            is_layered=is_layered,
        )
        # A step that needs no other thread takes no lock: each use of these is one call.
        self._free_indexes = itertools.count(self._checkpoints.first_new_index)
        # The thread that executes each step, by the step's name, in a tuple of its own.
        self._turns: dict[str, tuple[int]] = {}
        run.turns = self._turns
        run.count_steps = self._checkpoints.count
        run.unused_steps = self._unused
        self.recorder = self._recorder = StepRecorder(run, services)
        # The index of each step that is inside of its function, by name.
        self._inside: dict[str, int] = {}
        # The maps of this run by name, and whether this execution has completed each.
        self._maps = dict.fromkeys(self._checkpoints.maps, False)
        # Woken when a step has ended.
        self._turn_ended = Wakeups()

    def _repeated(self, name: str) -> bool:
        """Raise or warn because the name of a completed step is used again.

        Return whether it is not: a retry or a cell of a notebook executes all of it again.
        """
        if self._nested.is_retried(name):
            return True
        if self._reuses_results:
            warnings.warn(
                f"step {name!r} was used twice in run {self._run.id}; the second use returns "
                'the first one\'s result. Give each step a name of its own, such as f"batch-{i}"',
                DuplicateStepWarning,
                stacklevel=stacklevel(),  # the job's line
            )
            return False
        raise DuplicateStepError(
            f"step {name!r} was used twice in run {self._run.id}; {self._nested.advice}"
        )

    def _index_of(self, name: str, checkpoint: Checkpoint | None) -> int:
        if checkpoint is not None:
            return checkpoint[0]
        if self._maps and name in self._maps:
            self._refuse_other_kind(name, "step.map")
        if self._recorder.indexes:
            known = self._recorder.indexes.get(name)
            if known is not None:
                return known
        index = next(self._free_indexes)
        if index >= MOST_STEPS:
            raise ValidationError(
                f"run {self._run.id} has {MOST_STEPS} steps, the most a run can have; "
                "make the steps larger, or trigger several runs"
            )
        return index

    def _await_turn(self, name: str, turn: tuple[int]) -> None:
        """Wait while another thread executes a step of this name, then take the turn.

        If that step completes, this is a second use of its name; if it fails, it is executed again.
        A loop over a map that an exception has left in this thread ends, so that it can begin anew.
        """
        while (other := self._turns.setdefault(name, turn)) is not turn:
            if other == turn:
                left = self._run.iterations.waiting(name)
                if left is not None:
                    left.give_way()
                    continue
                raise ConflictError(
                    f"step {name!r} of run {self._run.id} is used inside itself; "
                    "give the inner one a name of its own"
                )
            self._turn_ended.wait_until(lambda: name not in self._turns, _STOP_POLL_S)
            self._run.check()

    def end_turn(self, name: str) -> None:
        """End the turn of the calling thread, so that another one can use the name."""
        del self._turns[name]
        self._recorder.end(name)
        self._turn_ended.wake_all()

    def outer(self) -> int | None:
        """Return the index of the step or the map that the calling thread is inside of."""
        name = current_step.get()
        if name is None:
            return None
        index = self._inside.get(name)
        return self._checkpoints.maps.get(name) if index is None else index

    def _unused(self) -> tuple[str, ...]:
        """Return the names of completed steps that this execution has not used."""
        return tuple(self._recorder.read(self._checkpoints.unused, _MOST_UNUSED))

    # -- maps ----------------------------------------------------------------------------------

    def begin_map(self, name: str) -> int:
        """Take the turn for a map of that name; return its index. ``end_turn`` must follow.

        Raises:
            DuplicateStepError: this execution has completed a step or a map of that name.
            ConflictError: a step of that name is stored, or it is used inside itself.
            ValidationError: it cannot be a name.
        """
        self._run.check()
        check_deadline(self._run, self._services.clock)
        if callable(name) and not isinstance(name, str):
            raise ValidationError(needs_name(name, "step.map"))
        check_name(name, "a step's name", longest=LONGEST_STEP_NAME)
        turn = (threading.get_ident(),)
        if self._turns.setdefault(name, turn) is not turn:
            self._await_turn(name, turn)
        try:
            if self._maps.get(name):
                self._repeated(name)
            checkpoint = None
            if name not in self._maps and self._checkpoints.may_hold(name):
                checkpoint, _ = self._recorder.read(self._checkpoints.find, name)
                # A step without a result leaves its place to a map.
                if checkpoint is not None and checkpoint[1] is not None:
                    self._refuse_other_kind(name, "step.run")
            index = self._checkpoints.maps.get(name)
            if index is None:
                index = self._checkpoints.maps[name] = self._index_of(name, checkpoint)
            self._recorder.begin(name, self._checkpoints.replayed)
            self._checkpoints.note_begun(index)
        except BaseException:
            self.end_turn(name)
            raise
        return index

    def note_map(self, name: str) -> None:
        """Note that items of a map may be stored."""
        self._maps.setdefault(name, False)

    def map_completed(self, name: str, index: int, *, is_executed: bool) -> None:
        """Note that this execution has completed a map, or found all of it stored."""
        self._maps[name] = True
        self._checkpoints.note_map(index, is_executed=is_executed)
        self._nested.note(name)

    def may_hold_map(self, name: str) -> bool:
        """Return whether items of a map of that name may be stored."""
        return name in self._maps

    def _refuse_other_kind(self, name: str, kind: str) -> None:
        if self._maps.get(name):
            self._repeated(name)
        raise ConflictError(
            f"the results of step {name!r} of run {self._run.id} were stored by {kind}; "
            "give the step another name"
        )
