"""Decide whether and where a call displays what it waits for, and do so in a thread meanwhile."""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from durably._platform.displayable import displayable
from durably._platform.interactive import executing_cell, ipython_shell, kernel
from durably._platform.latch import Latch
from durably._platform.realtime import monotonic
from durably._platform.safe_repr import on_one_line
from durably._platform.signals import deliver_overdue, is_main_thread
from durably.settings import Show, show_by_environment

if TYPE_CHECKING:
    from durably.display.meter import Frame
    from durably.display.terminal import Face
    from durably.execution.live import GetView, Showing

logger = logging.getLogger("durably")

# What takes no longer is not displayed.
_DELAY_S: Final = 0.5
# How often it is checked whether there is something to display.
_POLL_S: Final = 0.25

# A line of what a map says is not longer.
_LONGEST: Final = 1000

# The display in progress, by the id of the process: there is one at a time.
_current: Final[dict[int, Live]] = {}


class LiveDisplays:
    """Open displays for the calls of one engine. Usable from any thread.

    Args:
        show: the engine's option.
    """

    def __init__(self, show: Show = None) -> None:
        self._show = show

    def showing(
        self, get_view: GetView, show: Show = None, *, is_map: bool = False
    ) -> AbstractContextManager[Showing | None]:
        """Display what *get_view* returns within the block, if anything is to be displayed.

        What is returned may be entered again, which goes on with the same display.
        """
        if _current and os.getpid() in _current:
            return nullcontext()
        wanted = self._show if show is None else show
        if wanted is None:
            wanted = show_by_environment()
        face = None if wanted is False else _face(wanted)
        return nullcontext() if face is None else Live(get_view, face, is_map=is_map)


def _face(wanted: Show) -> Face | None:
    """Return where to display, ``None`` for nowhere. What displays is imported only then."""
    if wanted is not None and not isinstance(wanted, bool):
        from durably.display.sinks import SinkFace  # noqa: PLC0415 - where first needed

        return SinkFace(wanted)
    if wanted is None and not is_main_thread():
        return None
    shell = ipython_shell()
    if kernel() is not None:
        if wanted is None and executing_cell() is None:
            return None
        from durably.display.notebook import NotebookFace  # noqa: PLC0415 - where first needed

        return NotebookFace(shell)
    stream = sys.stderr
    is_terminal = _is_terminal(stream)
    if stream is None or not (is_terminal or wanted):
        return None
    from durably.display import terminal  # noqa: PLC0415 - where first needed

    return terminal.TerminalFace(stream) if is_terminal else terminal.PlainFace(stream)


def _is_terminal(stream: Any) -> bool:
    """Return whether lines of a stream can be replaced."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False  # there is none, or it is closed


class Live:
    """A display in progress, and the thread that draws it. It implements ``Showing``.

    The thread ends before the block does, however that ends.
    """

    def __init__(self, get_view: GetView, face: Face, *, is_map: bool) -> None:
        from durably.display.meter import Meter  # noqa: PLC0415 - where first needed

        self._get_view = get_view
        self._face = face
        self._is_map = is_map
        self._meter = Meter(monotonic())
        self._is_shown = False
        self._pid = os.getpid()
        self._stopping = Latch()
        # As that of a service: set by the thread as its last action.
        self._ended = Latch(poll=deliver_overdue)
        self._thread: threading.Thread | None = None
        # Whether an exception ends the block.
        self._is_left = False
        # What a map says: its beginning, and its end.
        self._said: list[str] = []
        self._is_frozen = False

    # -- the block -----------------------------------------------------------------------------

    def __enter__(self) -> Live | None:
        if _current.setdefault(os.getpid(), self) is not self:
            return None
        self._stopping.clear()
        self._ended.clear()
        # With the variables of this thread: by them a notebook knows which cell displays.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work,),
            name="durably-display",
            daemon=True,
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None  # the process can have no more threads, or is ending
            del _current[os.getpid()]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return
        self._is_left = kind is not None
        self._stopping.set()
        try:
            self._ended.wait()
            thread.join()
        finally:
            self._thread = None
            _current.pop(self._pid, None)
        if exc is not None and self._is_map and self._face.has_said_all:
            vars(exc)["_durably_is_said"] = True  # for the hook that would print it

    # -- what a map says -----------------------------------------------------------------------

    @property
    def narrator(self) -> Live | None:
        """Return what shows the lines of a map, if this is the display of one."""
        return self if self._is_map else None

    def say(self, text: str) -> None:
        """Show what a map says of its beginning or its end."""
        self._said.append("\n".join(displayable(line, _LONGEST) for line in text.splitlines()))

    def stop(self) -> None:
        """Show nothing more: the map is stopping, and says so below the display."""
        self._is_frozen = True
        self._face.freeze()

    # -- the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._display()
        except Exception as exc:  # noqa: BLE001 - a terminal that is gone, or a sink, may raise anything
            logger.warning("progress is not displayed any more: %s", on_one_line(str(exc)))
        finally:
            self._face.close()
            self._ended.set()

    def _display(self) -> None:
        if self._is_shown or not self._stopping.wait(_DELAY_S):
            while True:
                self._draw()
                if self._stopping.wait(self._face.interval_s if self._is_shown else _POLL_S):
                    break
        if self._is_frozen:
            return
        frame = self._frame()
        view = frame.view
        if view.is_several and view.done != view.total and not self._is_left:
            self._face.pause()
        else:
            self._face.finish(frame._replace(is_last=True), is_shown=self._is_shown)

    def _draw(self) -> None:
        frame = self._frame()
        if not self._is_frozen and (frame.runs or frame.view.is_several):
            self._is_shown = True
            self._face.draw(frame)
        elif self._is_shown:
            self._face.pause()

    def _frame(self) -> Frame:
        frame = self._meter.frame(self._get_view(), monotonic())
        if not self._said:
            return frame
        totals = self._said[-1] if len(self._said) > 1 else None
        return frame._replace(heading=self._said[0], totals=totals)
