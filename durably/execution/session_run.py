"""The run of a session, whose code is the program that has opened it."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from typing import Final

from durably._platform.interactive import Cell, executing_cell
from durably.errors import OwnershipLost, RunCancelled, RunInterrupted, StopRun
from durably.execution.current_run import CurrentRun
from durably.execution.nested_steps import NestedSteps


class SessionRun(CurrentRun):
    """A session that is open in this process."""

    # Whether the same program has opened it again, and goes on with another object.
    is_handed_over = False
    # Called with what a signal has raised inside a step, and the name of the step.
    on_interrupt: Callable[[BaseException, str], None] | None = None
    # Raises ``DatabaseLostError`` if the database file is not in its place.
    check_file: Callable[[], None] | None = None

    def check(self) -> None:
        """Raise if the session is to stop, has ended, has lost its file, or was forked."""
        # All runs stop when the file is found lost.
        if self.stop_reason is RunInterrupted and not self.is_over and self.check_file is not None:
            self.check_file()
        super().check()

    def executed_step(self) -> str | None:
        """Return the innermost step whose function is called in the calling thread, if one is.

        A map is none while it waits for the body of a loop over its items.
        """
        mine, waiting = (get_ident(),), self.iterations.waiting
        turns = reversed(tuple(self.turns.items()))
        return next((name for name, turn in turns if turn == mine and waiting(name) is None), None)

    def keep_callers_signal(self, exc: BaseException) -> None:
        """Call ``on_interrupt``, and do not stop the session.

        The exception goes on to the program's own code, which decides whether to go on with the
        session.
        """
        step = self.innermost_step()
        if step is not None and self.on_interrupt is not None and self.is_callers_signal(exc):
            self.on_interrupt(exc, step)

    def stop_by_signal(self, exc: BaseException) -> None:
        """Do nothing: what other threads have in progress goes on."""

    def said_of(self, reason: type[StopRun]) -> str:
        """Return the message of a stop for that reason; ``StopRun`` is that it is not open."""
        if reason is StopRun and self.is_handed_over:
            return _HANDED_OVER.format(name=self.job_name)
        return _REASONS[reason].format(name=self.job_name)

    def said_to_children(self) -> str:
        """Return the message to a child that was forked while the session was open."""
        return (
            f"session {self.job_name!r} is open in the parent of this process; open another one "
            "in the child, or use subprocess"
        )


_HANDED_OVER: Final = (
    "session {name!r} was opened again in this process, and goes on there; use the new object"
)
_REASONS: Final[dict[type[StopRun], str]] = {
    StopRun: "session {name!r} is closed; open it again to go on",
    RunCancelled: "session {name!r} was cancelled; open it again to go on",
    RunInterrupted: "the program is ending; session {name!r} goes on when it is opened again",
    OwnershipLost: (
        "session {name!r} was recovered by another process, because this one gave no sign of life "
        "for too long; open it again to go on"
    ),
}


class CellSteps(NestedSteps):
    """Which cell of a notebook has used which step.

    A cell that is executed again uses its names again. That does not count as a second use, other
    than in one execution of the cell, or in another cell.
    """

    advice = (
        'give each step a name of its own, such as f"batch-{i}", or open the session again if the '
        "step is now in another cell"
    )

    def __init__(self) -> None:
        super().__init__()
        self._used_in: dict[str, Cell] = {}
        # The last of them: a cell may hold a long source, and use thousands of steps.
        self._cell: Cell | None = None

    def cell(self) -> Cell | None:
        """Return the cell that is executed."""
        return executing_cell()

    def note(self, name: str) -> None:
        """Note that the calling thread has used the step."""
        super().note(name)
        cell = executing_cell()
        if cell is None:
            self._used_in.pop(name, None)
            return
        last = self._cell
        if cell == last:
            cell = last
        else:
            self._cell = cell
        self._used_in[name] = cell

    def is_retried(self, name: str) -> bool:
        """Return whether this use repeats one of an earlier execution of the same cell."""
        if super().is_retried(name):
            return True
        before, now = self._used_in.get(name), executing_cell()
        return (
            before is not None
            and now is not None
            and before.cell == now.cell
            and before.execution != now.execution
        )
