"""What is displayed while a session is open: in a script all the time, in a notebook by cells."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from durably._platform.interactive import ipython_shell, is_interactive
from durably._platform.realtime import monotonic
from durably._platform.signals import entered
from durably.execution.live import Displays, Showing, View
from durably.execution.run_view import view_of
from durably.execution.session_run import SessionRun
from durably.models import Run, RunStatus
from durably.settings import Show

# A session that has executed no step for so long is not displayed until it does.
_IDLE_S: Final = 1.0


class LiveSession:
    """The display of one session, which begins and ends several times in a notebook.

    Args:
        is_map: whether the session is one map.
    """

    def __init__(self, displays: Displays, run: SessionRun, show: Show, *, is_map: bool) -> None:
        self._displays = displays
        self._run = run
        self._show = show
        self._is_map = is_map
        self._showing: AbstractContextManager[Showing | None] | None = None
        self._shell: Any = None
        self._status: str | None = None
        # Whether the session is being left by its own object.
        self.is_leaving = False
        # When a step was seen in progress, or had ended since the view before.
        self._counts: object = None
        self._active_at_s = -math.inf
        # When this part of the display began, in a cell, and how many steps were executed before.
        self._began_at_s = -math.inf
        self._before = 0

    def begin(self) -> None:
        """Begin to display; in IPython until the cell ends, and again with each cell."""
        shell = ipython_shell()
        if not self._is_map and shell is None and is_interactive():
            return  # nothing says when a prompt waits for its user
        self._counts = self._run.count_steps(), self._run.progress
        self._enter()
        # What ends the session in another way ends the display before.
        self._run.at_end.append(self._end_early)
        if shell is not None and not self._is_map:
            shell.events.register("pre_run_cell", self._enter_cell)
            shell.events.register("post_run_cell", self._leave_cell)
            self._shell = shell

    def end(self, run: Run[None, None] | None, exc: BaseException | None) -> None:
        """End the display with how the session was left. Idempotent."""
        self._forget_cells()
        self._status = _status_of(run)
        self._exit(exc)

    def view(self) -> View:
        """Return how far the session is; nothing while it executes nothing."""
        run = self._run
        if run.prompt is not None:
            run.prompt.note_view()
            return View()
        view = view_of(run, status=self._status or "running", is_map=self._is_map)
        if self._before and view.unit == "steps":
            view = view._replace(before=self._before)
        if self._began_at_s > view.began_s:
            view = view._replace(began_s=self._began_at_s)
        if self._is_map or self._status is not None:
            return View((view,), is_map=self._is_map)
        now_s = monotonic()
        counts = run.count_steps(), run.progress
        if run.turns or counts != self._counts:
            self._counts, self._active_at_s = counts, now_s
        return View() if now_s - self._active_at_s > _IDLE_S else View((view,))

    def _enter(self) -> None:
        self._showing = self._displays.showing(self.view, self._show, is_map=self._is_map)
        shown = self._showing.__enter__()
        self._run.narrator = None if shown is None else shown.narrator

    def _exit(self, exc: BaseException | None) -> None:
        showing, self._showing = self._showing, None
        if showing is not None:
            self._run.narrator = None
            showing.__exit__(None if exc is None else type(exc), exc, None)

    def _end_early(self) -> None:
        """End it unless the session is left by its own object, which knows more."""
        if not self.is_leaving:
            self.end(None, None)

    @entered
    def _enter_cell(self, *_: object) -> None:
        if self._showing is None and not self._run.is_over:
            self._counts = self._run.count_steps(), self._run.progress
            self._status, self._active_at_s = None, -math.inf
            self._began_at_s = monotonic()
            self._before = self._run.count_steps().executed
            self._enter()

    @entered
    def _leave_cell(self, *_: object) -> None:
        self._status = "stopped" if self._run.is_over else "open"
        self._exit(None)

    def _forget_cells(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            with suppress(ValueError):
                shell.events.unregister("pre_run_cell", self._enter_cell)
                shell.events.unregister("post_run_cell", self._leave_cell)


def _status_of(run: Run[None, None] | None) -> str:
    if run is None or run.status in (RunStatus.PENDING, RunStatus.RUNNING):
        return "stopped"
    return run.status
