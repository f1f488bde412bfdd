"""Display in a notebook: one output of the cell that waits, which is updated and stays."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from durably.display.html import html_of
from durably.display.line import Glyphs, lines_of, text_of
from durably.display.meter import Frame

_WIDTH = 100


class NotebookFace:
    """An output of a cell. Made in the thread that executes the cell."""

    interval_s = 0.25
    has_said_all = False

    def __init__(self, shell: Any) -> None:
        self._publish = shell.display_pub.publish
        self._id = uuid4().hex
        self._is_published = False
        self._last: dict[str, str] = {}

    def draw(self, frame: Frame) -> None:
        """Show how far the runs are, if that has changed."""
        # As text too the line has the name of a map.
        named = frame._replace(view=frame.view._replace(is_map=False))
        lines = lines_of(named, _WIDTH, Glyphs())
        text = "\n".join(text_of(line) for line in lines)
        if frame.totals is not None:
            text = frame.totals
        data = {"text/html": html_of(frame), "text/plain": text}
        if data == self._last or not text:
            return
        self._publish(
            data=data,
            metadata={},
            transient={"display_id": self._id},
            update=self._is_published,
        )
        self._last, self._is_published = data, True

    def pause(self) -> None:
        """Leave what is shown."""

    def finish(self, frame: Frame, *, is_shown: bool) -> None:
        """Show the last state, which is saved with the notebook."""
        if is_shown or self._is_published:
            self.draw(frame)

    def freeze(self) -> None:
        """Leave what is shown until the end."""

    def close(self) -> None:
        """Do nothing."""
