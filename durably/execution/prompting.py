"""Ask the person in front of the terminal or the notebook, where a run keeps the thread."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from durably._platform.clock import Clock
from durably._platform.displayable import displayable
from durably._platform.interactive import executing_cell, ipython_shell
from durably._platform.latch import Latch
from durably._platform.signals import is_main_thread, let_through
from durably.errors import ValidationError

# How long the display, which draws a few times a second, is waited for until it is hidden.
_HIDE_S: Final = 1.0
_LONGEST: Final = 500
_WORDS: Final = {"y": True, "yes": True, "n": False, "no": False}


class Prompt:
    """A prompt in progress, during which the display of the run is hidden."""

    def __init__(self) -> None:
        self.is_hidden = Latch()
        self._views = 0

    def note_view(self) -> None:
        """Note a view of the display: at the second one it has removed what it showed."""
        self._views += 1
        if self._views > 1:
            self.is_hidden.set()

    def ask(
        self, clock: Clock, question: str, type_: Any, checked: Callable[[Any], str]
    ) -> str | None:
        """Return the answer that a person types, as *checked* returns it; ``None`` for none.

        Args:
            checked: raises ``ValidationError`` for an answer that does not fit; it is asked again.
        """
        clock.wait(self.is_hidden, _HIDE_S)
        while True:
            try:
                typed = let_through(input, f"{displayable(question, _LONGEST)} ")
            except (KeyboardInterrupt, EOFError):
                sys.stdout.write("\n")
                return None
            try:
                return checked(_value(typed, type_))
            except ValidationError as exc:
                sys.stdout.write(f"{exc}\n")


def _value(typed: str, type_: Any) -> Any:
    if type_ is str:
        return typed
    if type_ is bool and typed.strip().lower() in _WORDS:
        return _WORDS[typed.strip().lower()]
    try:
        return json.loads(typed)
    except ValueError:
        return typed


def can_ask_here() -> bool:
    """Return whether a person can type into this thread: on a terminal, or below a cell."""
    if not is_main_thread():
        return False
    kernel = getattr(ipython_shell(), "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False)) and executing_cell() is not None
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False  # there is none, or it is closed
