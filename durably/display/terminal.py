"""Display in a terminal: with the colours of rich where that is installed, else one plain line."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from durably._platform.log_lines import is_printed_by_python
from durably.display.line import MOST_RUNS, Glyphs, Part, glyphs_for, lines_of, text_of
from durably.display.meter import Frame
from durably.display.screen import Screen

# As the kinds of parts of a line are coloured.
_STYLES: Final = {
    "name": "bold",
    "reused": "bright_black",
    "done": "blue",
    "end": "bright_black",
    "failed": "red",
    "cancelled": "yellow",
    "stopped": "yellow",
    "limited": "yellow",
    "completed": "green",
    "running": "blue",
    "pending": "yellow",
    "waiting": "yellow",
    "step": "cyan",
}

Paint = Callable[[Sequence[Part]], str]


class Face(Protocol):
    """A place where frames are displayed. Called by one thread, but for ``say`` and ``freeze``."""

    # How often it is drawn.
    interval_s: float

    def draw(self, frame: Frame) -> None:
        """Show how far the runs are."""

    def pause(self) -> None:
        """Show nothing for a while; another call to the same display follows, or none."""

    def finish(self, frame: Frame, *, is_shown: bool) -> None:
        """Show the last state, which stays.

        Args:
            is_shown: whether the display has appeared; if not, only what is always shown is.
        """

    def freeze(self) -> None:
        """Leave the last state as it is: the program says what happens next."""

    def close(self) -> None:
        """Leave no trace in the program. Idempotent."""

    @property
    def has_said_all(self) -> bool:
        """Return whether a person has read how a map has ended, or that it was stopped."""


class TerminalFace:
    """Lines at the bottom of a terminal."""

    interval_s = 0.25
    has_said_all = False

    def __init__(self, stream: Any) -> None:
        self._screen = Screen(stream)
        self._glyphs = glyphs_for(getattr(stream, "encoding", None))
        self._paint = painter(stream)
        self._most = 0 if self._paint is text_of else MOST_RUNS
        self._has_heading = False

    def draw(self, frame: Frame) -> None:
        """Show how far the runs are."""
        self._screen.open()
        if frame.heading is not None and not self._has_heading:
            self._has_heading = True
            if not is_logged():
                self._screen.add(frame.heading)
        self._screen.draw(self._lines(frame))

    def pause(self) -> None:
        """Remove the lines."""
        self._screen.draw(())
        self._screen.close()

    def finish(self, frame: Frame, *, is_shown: bool) -> None:
        """Leave the totals of a map, or the last state of what was displayed."""
        self._screen.draw(())
        if frame.view.is_map and frame.totals is not None:
            self.has_said_all = True
            if not is_logged():
                self._screen.add(frame.totals)
        elif is_shown:
            lines = self._lines(frame)
            if lines:
                self._screen.add("\n".join(lines))
        self._screen.close()

    def freeze(self) -> None:
        """Leave the lines, and print below them."""
        self._screen.leave()
        self._screen.close()
        self.has_said_all = is_logged(logging.WARNING)

    def close(self) -> None:
        """Leave no trace in the program."""
        self._screen.close()

    def _lines(self, frame: Frame) -> list[str]:
        lines = lines_of(frame, self._screen.width, self._glyphs, most=self._most)
        return [self._paint(line) for line in lines]


class PlainFace:
    """Lines in a file or a pipe, every few seconds, for those who ask for them."""

    interval_s = 5.0
    has_said_all = False
    _WIDTH = 200

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._glyphs: Glyphs = glyphs_for(getattr(stream, "encoding", None))
        self._last: list[str] = []
        self._has_heading = False

    def draw(self, frame: Frame) -> None:
        """Print how far the runs are."""
        if frame.heading is not None and not self._has_heading:
            self._has_heading = True
            if not is_logged():
                self._print([frame.heading])
        self._print([text_of(line) for line in self._without_bars(frame)])

    def pause(self) -> None:
        """Print nothing."""

    def finish(self, frame: Frame, *, is_shown: bool) -> None:
        """Print the totals of a map, or the last state."""
        if frame.view.is_map and frame.totals is not None:
            if not is_logged():
                self._print([frame.totals])
        elif is_shown:
            self.draw(frame)

    def freeze(self) -> None:
        """Print nothing more."""

    def close(self) -> None:
        """Do nothing."""

    def _without_bars(self, frame: Frame) -> list[list[Part]]:
        bars = {"end", "reused", "done", "open"}
        lines = lines_of(frame, self._WIDTH, self._glyphs, most=0)
        kept = [[part for part in line if part.kind not in bars] for line in lines]
        return [_single_spaced(line) for line in kept]

    def _print(self, lines: list[str]) -> None:
        if lines != self._last:
            self._last = lines
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()


def _single_spaced(line: list[Part]) -> list[Part]:
    """Remove one of the two spaces between which a bar was."""
    return [
        part
        for index, part in enumerate(line)
        if not (part.text == " " and index and line[index - 1].text == " ")
    ]


def is_logged(level: int = logging.INFO) -> bool:
    """Return whether lines of that level are printed on a terminal by the program's logging."""
    log = logging.getLogger("durably")
    if not log.isEnabledFor(level):
        return False
    if is_printed_by_python(log, level):
        return True
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            is_open = handler.level <= level and isinstance(handler, logging.StreamHandler)
            isatty = getattr(getattr(handler, "stream", None), "isatty", None)
            if is_open and isatty is not None and isatty():
                return True
        logger = logger.parent if logger.propagate else None
    return False


def painter(stream: Any) -> Paint:
    """Return what makes the text of a line: coloured by rich, or plain without it."""
    if importlib.util.find_spec("rich") is None:
        return text_of
    from rich.console import Console  # noqa: PLC0415 - optional dependency
    from rich.text import Text  # noqa: PLC0415 - optional dependency

    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def paint(line: Sequence[Part]) -> str:
        text = Text.assemble(*[(part.text, _STYLES.get(part.kind, "")) for part in line])
        with console.capture() as captured:
            console.print(text, end="", no_wrap=True, crop=False, overflow="ignore")
        return captured.get()

    return paint
