"""Lines at the bottom of a terminal, below whatever the program prints meanwhile.

What is printed by ``print``, ``logging`` and tracebacks goes through the ``write`` of the objects
``sys.stdout`` and ``sys.stderr``. While lines are on the screen, that method of these objects is
one that removes the lines, writes, and draws them again. The text itself goes where it always
went. A reference to the method that outlives the display just writes.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from durably._platform.realtime import monotonic
from durably._platform.signals import deferred

# Lines are drawn again after a print at once, but not more often than this.
_PAUSE_S: Final = 0.05
_DEFAULT_WIDTH: Final = 80
# Modules that ask a person something in the main thread.
_ASKING: Final = frozenset({"bdb", "cmd", "code", "getpass", "pdb", "prompt_toolkit"})


class Screen:
    """The lines that are drawn last on a terminal. Usable from any thread.

    Args:
        stream: what is drawn on, ``sys.stderr`` as it was at the beginning.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pid = os.getpid()
        # Reentrant: what is printed while it is held, by a destructor for one, is printed.
        self._lock = threading.RLock()
        self._write: Callable[[str], object] = stream.write
        self._hooks: list[tuple[Any, Callable[[str], int]]] = []
        self._input: Any = None
        # The lines that are to be on the screen, and how many of them are.
        self._lines: tuple[str, ...] = ()
        self._drawn = 0
        self._drawn_at_s = 0.0
        # Whether the program has left the cursor inside a line.
        self._is_inside_line = False
        # How many calls wait for a person's input.
        self._asking = 0

    @property
    def width(self) -> int:
        """Return how many cells a line may take: two are left for the ``^C`` of a terminal.

        The last one would wrap in some terminals.
        """
        with suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self._stream.fileno()).columns
            if columns > 0:
                return max(1, columns - 3)
        return _DEFAULT_WIDTH - 3

    def open(self) -> None:
        """Make what is printed from now on appear above the lines."""
        with deferred(), self._lock:
            if self._hooks:
                return
            for stream in dict.fromkeys((sys.stdout, sys.stderr, self._stream)):
                self._hook(stream)
            self._input = builtins.input
            builtins.input = self._ask

    def close(self) -> None:
        """Leave the lines as they are, and print as before. Idempotent."""
        with deferred(), self._lock:
            for stream, hook in self._hooks:
                # Another program's may have replaced it; that one passes on to this one.
                if vars(stream).get("write") is hook:
                    del stream.write
            self._hooks.clear()
            if builtins.input == self._ask:
                builtins.input = self._input
            self._lines, self._drawn = (), 0

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before, below what was printed."""
        with deferred(), self._lock:
            self._lines = tuple(lines)
            if self._asking or not is_in_foreground(self._stream) or is_asking():
                return
            if not self._is_inside_line:
                self._out(self._erasing() + self._drawing())

    def add(self, text: str) -> None:
        """Print lines that stay, above the lines that are drawn."""
        with deferred(), self._lock:
            before = "\n" if self._is_inside_line else ""
            self._is_inside_line = False
            self._out(f"{self._erasing()}{before}{text}\n{self._drawing()}")

    def leave(self) -> None:
        """Leave the lines where they are; what is printed next begins below them."""
        with deferred(), self._lock:
            self._lines = ()
            if self._drawn:
                self._drawn = 0
                self._out("\n")

    # -- what is written -----------------------------------------------------------------------

    def _erasing(self) -> str:
        """Return what removes the lines; the cursor is at the end of the last one."""
        drawn, self._drawn = self._drawn, 0
        if not drawn:
            return ""
        up = f"\x1b[{drawn - 1}A" if drawn > 1 else ""
        return f"\r{up}\x1b[J"

    def _drawing(self) -> str:
        self._drawn = len(self._lines)
        self._drawn_at_s = monotonic()
        return "\n".join(self._lines)

    def _out(self, text: str) -> None:
        if text:
            self._write(text)
            self._stream.flush()

    # -- what others write ---------------------------------------------------------------------

    def _hook(self, stream: Any) -> None:
        """Replace the ``write`` of a stream that writes on a terminal."""
        try:
            if not stream.isatty():
                return
            original = stream.write
        except (AttributeError, ValueError):
            return  # it is no stream, or a closed one

        def write(text: str) -> int:
            if os.getpid() != self._pid or not self._hooks or not isinstance(text, str):
                return original(text)  # type: ignore[no-any-return]
            with deferred(), self._lock:
                return self._pass_on(stream, original, text)

        # An object without attributes of its own is printed to as before.
        with suppress(AttributeError, TypeError):
            stream.write = write
            self._hooks.append((stream, write))

    def _pass_on(self, stream: Any, original: Callable[[str], int], text: str) -> int:
        erasing = self._erasing()
        self._out(erasing)
        try:
            return original(text)
        finally:
            if text:
                self._is_inside_line = not text.endswith("\n")
            with suppress(OSError, ValueError):
                stream.flush()  # before what is drawn next
            is_due = monotonic() - self._drawn_at_s >= _PAUSE_S
            if erasing and is_due and not self._is_inside_line and not self._asking:
                self._out(self._drawing())

    def _ask(self, *args: Any) -> Any:
        """Do what ``input`` does, with no lines on the screen."""
        if os.getpid() == self._pid:
            with deferred(), self._lock:
                self._asking += 1
                self._out(self._erasing())
        try:
            return self._input(*args)
        finally:
            self._asking -= 1


def is_in_foreground(stream: Any) -> bool:
    """Return whether this process may draw: a shell's job in the background had better not."""
    with suppress(OSError, ValueError, AttributeError):
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    return True


def is_asking() -> bool:
    """Return whether the main thread is inside a debugger, or asks for a password."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    for _ in range(12):
        if frame is None:
            return False
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _ASKING:
            return True
        frame = frame.f_back
    return False
