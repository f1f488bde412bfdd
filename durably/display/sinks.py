"""Display by what the user has given as ``show=``, such as a bar of tqdm."""

from __future__ import annotations

from durably._platform.displayable import displayable
from durably.display.meter import Frame
from durably.settings import ProgressSink


class SinkFace:
    """A sink of the user's."""

    interval_s = 0.25
    has_said_all = False

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink

    def draw(self, frame: Frame) -> None:
        """Report the numbers."""
        view = frame.view
        if view.is_several:
            self._sink.update(view.done, view.total, reused=0, failed=view.failed, name="runs")
        for shown in () if view.is_several else frame.runs:
            run = shown.run
            self._sink.update(
                run.done,
                run.total,
                reused=run.reused,
                failed=run.failed,
                name=displayable(run.name, 80),
            )

    def pause(self) -> None:
        """Report nothing for a while."""

    def finish(self, frame: Frame, *, is_shown: bool) -> None:
        """Report the last numbers, and close the sink."""
        if is_shown:
            self.draw(frame)
            self._sink.close()

    def freeze(self) -> None:
        """Leave it as it is."""

    def close(self) -> None:
        """Do nothing."""
