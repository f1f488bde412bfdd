"""A terminal whose screen a test reads: a pseudo-terminal, and ``pyte`` as what it shows."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import pyte
from children import DEADLINE_S, ENVIRONMENT

# Makes the terminal that of the session, so that Ctrl-C reaches what is executed.
_LOGIN: Final = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A terminal of that size. Leaving the ``with`` block closes it.

    Attributes:
        stdout: a stream that writes on it.
        stderr: another one.
        raw: all that was written.
    """

    def __init__(self, columns: int = 100, rows: int = 40) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        self._screen = pyte.Screen(columns, rows)
        self._feed = pyte.ByteStream(self._screen)
        self.raw = b""
        self.resize(columns)
        self.stdout, self.stderr = self._stream(), self._stream()

    def _stream(self) -> IO[str]:
        return open(os.dup(self._slave), "w", encoding="utf-8", buffering=1)  # noqa: PTH123

    def resize(self, columns: int) -> None:
        """Give it another width."""
        size = struct.pack("HHHH", self._screen.lines, columns, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        self._screen.resize(columns=columns)

    def read(self, timeout_s: float = 0.0) -> bytes:
        """Show what was written since the last call; return it."""
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        written = b""
        with suppress(BlockingIOError, OSError):
            while ready and (some := os.read(self._master, 65536)):
                written += some
        self._feed.feed(written)
        self.raw += written
        return written

    @property
    def lines(self) -> list[str]:
        """The lines of the screen that are not empty."""
        self.read()
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, text: str) -> str:
        """Wait until a line of the screen contains *text*; return that line."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = [line for line in self.lines if text in line]
            if found:
                return found[-1]
            assert time.monotonic() < deadline, f"no {text!r} in {self.lines}"
            self.read(0.05)

    def press(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._master, keys.encode())

    def close(self) -> None:
        """Close both of its sides."""
        for stream in (self.stdout, self.stderr):
            stream.close()
        os.close(self._slave)
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Program(Terminal):
    """A Python program that is executed in a terminal; leaving the ``with`` block kills it."""

    def __init__(
        self, source: str, folder: Path, *, columns: int = 100, **environment: str
    ) -> None:
        super().__init__(columns)
        program = folder / "program.py"
        program.write_text(source, encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOGIN, sys.executable, program],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=folder,
            env={**ENVIRONMENT, "TERM": "xterm-256color", **environment},
        )

    def wait_until_it_reads(self) -> None:
        """Wait until its main thread is inside of a read of the terminal, where Linux says so.

        The prompt is there a moment earlier. Python does not see a signal that comes in between
        before something else wakes it.
        """
        place = Path(f"/proc/{self._process.pid}/wchan")
        deadline = time.monotonic() + DEADLINE_S
        while place.exists() and place.read_text() not in ("wait_woken", "n_tty_read"):
            assert time.monotonic() < deadline, f"it does not read: {place.read_text()}"
            time.sleep(0.01)

    def end(self) -> int:
        """Wait until it has ended by itself; return its exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self._process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, f"it goes on: {self.lines}"
        self.read()
        return self._process.returncode

    def kill(self) -> None:
        """End it as a power button would."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self.read()

    def close(self) -> None:
        """Kill it, and close the terminal."""
        self.kill()
        super().close()
