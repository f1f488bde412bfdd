"""Signals that are raised at chosen instructions of durably's code, or in the middle of a wait."""

from __future__ import annotations

import dis
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from engines import GRACE_S

import durably

# Where CPython checks for signals: after a call, on entering a function, on going back in a loop.
CHECKS = ("CALL", "RESUME", "JUMP_BACKWARD")
PACKAGE = str(Path(durably.__file__).parent)

# What stays at one instruction for so long waits there.
_STILL_S = 0.01


def await_wait() -> None:
    """Block until the main thread waits in durably's code. For other threads."""
    deadline = time.monotonic() + GRACE_S
    before: tuple[int, int] | None = None
    while True:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        place = (id(frame), frame.f_lasti)
        if place == before and frame.f_code.co_filename.startswith(PACKAGE):
            return
        assert time.monotonic() < deadline, "the main thread does not wait"
        before = place
        threading.Event().wait(_STILL_S)


def press_in_a_wait() -> threading.Thread:
    """Send this process a Ctrl-C as soon as the main thread waits in durably's code."""

    def press() -> None:
        await_wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


class SignalAt:
    """Raises a signal at chosen checks for signals in durably's code, in the calling thread.

    Args:
        number: the signal.
        raised: what its handlers raise.
        points: which checks, counted from 1; none to count them.
    """

    def __init__(self, number: int, raised: tuple[type[BaseException], ...], *points: int) -> None:
        self._number = number
        self._raised = raised
        self._points = points
        self._last: dict[int, str] = {}
        self.passed = 0
        self.where = "nowhere"

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) and code.co_filename != threading.__file__:
            return None
        frame.f_trace_opcodes = True
        if event != "opcode":
            self._last.pop(id(frame), None)
            return self
        last = self._last.get(id(frame), "")
        self._last[id(frame)] = dis.opname[code.co_code[frame.f_lasti]]
        if last.startswith(CHECKS):
            self.passed += 1
            if self.passed in self._points:
                self.where = f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
                signal.raise_signal(self._number)
        return self

    def during(self, scene: Callable[[], object]) -> None:
        """Execute *scene* until it ends or is interrupted."""
        # Python 3.12 reports opcodes only if that was asked for before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self)
        try:
            scene()
        except self._raised:
            assert self.where != "nowhere"
        finally:
            sys.settrace(None)
