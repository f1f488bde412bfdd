"""Python programs as child processes, spoken to line by line, stopped and killed by their pid."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import apsw

import durably

ROOT: Final = Path(durably.__file__).parents[1]
TESTS: Final = Path(__file__).parent
PROGRAMS: Final = TESTS / "programs"
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
# Only guards against hanging; below the default stale_threshold of 30 s, so that a test whose
# program only works after that fails.
DEADLINE_S: Final = 20.0

Eventually = Callable[[Callable[[], object]], None]


class Child:
    """A running program. Leaving the ``with`` block kills it, stopped or not.

    Args:
        program: the name of a file in ``programs/``, without its suffix.
        has_group: whether it leads a process group, as what is started in a terminal does.
        with_errors: whether what it writes to its standard error is among its lines.
    """

    def __init__(
        self, program: str, *args: object, has_group: bool = False, with_errors: bool = False
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, PROGRAMS / f"{program}.py", *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_errors else None,
            text=True,
            start_new_session=has_group,
            env=ENVIRONMENT,
        )
        self.pid: Final = self._process.pid
        self._has_group = has_group
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line that the program prints; fails at its end."""
        line = self._lines.get(timeout=DEADLINE_S)
        assert line is not None, f"the program ended with {self._process.wait(DEADLINE_S)}"
        return line

    def expect(self, expected: str) -> None:
        """Read the next line, which must be *expected*."""
        line = self.line()
        assert line == expected, f"{line!r}, not {expected!r}"

    def say(self, line: str = "") -> None:
        """Write a line to the program's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input, which those that it has forked may read too."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End it as a power button would, and wait until the kernel has let go of it."""
        if self._has_group:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def stop(self, database: Path | None = None) -> None:
        """Stop it (``SIGSTOP``), at a moment at which it holds no lock of *database*, if given."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)
            if database is None or not is_locked(database):
                return
            os.kill(self.pid, signal.SIGCONT)
            assert time.monotonic() < deadline, "it never lets go of the database"
            time.sleep(0.003)  # let it go on; polled with a deadline

    def go_on(self) -> None:
        """Continue it (``SIGCONT``)."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        return self._process.wait(DEADLINE_S)

    def rest(self) -> list[str]:
        """Wait until it has ended by itself with status 0; the lines not read so far."""
        status = self._process.wait(60.0)
        assert status == 0, f"the program ended with {status}"
        self._reader.join()
        lines = []
        while (line := self._lines.get_nowait()) is not None:
            lines.append(line)
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # what nobody has read
            self._process.stdin.close()  # first: what it has forked may live until its input ends
        self._reader.join(DEADLINE_S)
        self._process.stdout.close()


def execute(
    program: str,
    *args: object,
    under: Sequence[object] = (),
    options: Sequence[str] = (),
    folder: Path | None = None,
    timeout_s: float = 110.0,
) -> subprocess.CompletedProcess[str]:
    """Execute a program of ``programs/`` to its end; one that hangs is killed and raises.

    Args:
        under: the command that executes it, such as ``unshare``, and its arguments.
        options: those of Python.
        folder: its working folder.
    """
    return subprocess.run(
        [*map(str, under), sys.executable, *options, PROGRAMS / f"{program}.py", *map(str, args)],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def held(*args: object) -> Iterator[tuple[Child, str]]:
    """Start ``programs/holder.py``; yield it inside its step, and the id of its run."""
    with Child("holder", *args) as child:
        word, attempt, run_id = child.line().split()
        assert (word, attempt) == ("inside", "1")
        yield child, run_id


def is_locked(database: Path) -> bool:
    """Return whether anybody is in a write transaction or holds the writers' mutex now."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    import fcntl  # noqa: PLC0415 - not on Windows

    mutex = os.open(f"{database}.writer", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(mutex)
    return False


def has_ended(pid: int) -> bool:
    """Return whether the process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def left_by_the_dead(database: str, job: str) -> str:
    """The id of a running run of *job* with one checkpoint, whose process is dead.

    For a started engine *job* must be one that it does not have: it may claim the run first.
    """
    with Child("dies", database, job) as child:
        run_id = child.line()
        assert child.wait() == 9
    return run_id
